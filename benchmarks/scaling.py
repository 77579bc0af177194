"""The scaling of features that a solved head chooses, against fixed scalings and against scikit-learn.

    python benchmarks/scaling.py --animals animals.npz --cache DIR --output_dir benchmarks/results \
        --document benchmarks/RESULTS.md

Features of the frozen EfficientNet-Lite0 at 96 pixels for tasks as in `candidates.py`, and the pixels of
scikit-learn's digits. On each task `solve` runs with every `scaling`, and scikit-learn's `LogisticRegressionCV`
(cross-validated C by log loss, 5 folds or as many as a class has images) on standardised and on plain features.
Accuracies are on test images that nothing was chosen by. Rows that are in the file already are not run again; features
are kept in `--cache`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegressionCV
from sklearn.preprocessing import StandardScaler

from hf_transfer.solvers import solve

DATA_SETS = ("digits", "fashion_mnist", "animals")
SIZES = (2, 5, 10, 30, 200)
SEEDS = (0, 1, 2)
OURS = ("auto", "sqrt", "none", "standard")
THEIRS = {"sklearn_standard": True, "sklearn_plain": False}
Row = dict[str, Any]


def task(name: str, size: int, seed: int, options: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """Training features and labels, test features and labels."""
    if name == "digits":
        features, labels = load_digits(return_X_y=True)
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(labels))
        train = np.concatenate([order[labels[order] == label][: min(size, 100)] for label in range(10)])
        test = np.setdiff1d(np.arange(len(labels)), train)
        return features[train].astype(np.float32), labels[train], features[test].astype(np.float32), labels[test]
    path = options.cache / f"{name}_{size}_{seed}.npz"
    if not path.exists():
        options.cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, **extracted(name, size, seed, options))
    stored = np.load(path)
    return stored["train"], stored["train_labels"], stored["test"], stored["test_labels"]


def extracted(name: str, size: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What the head of EfficientNet-Lite0 reads; of the test images, which all tasks of a data set share, once."""
    from transfer_tasks import load_lite0, make_task

    import hf_transfer as ht
    from hf_transfer.data import eval_transform

    made = make_task(name, size, seed, options.animals)
    loaded = load_lite0(made.label_names, 0)
    transform = eval_transform(loaded.processor)

    def features(images: Any) -> Any:
        rows = images.with_transform(transform)
        return ht.extract_features(loaded.model, rows, loaded.processor, "last", cache=False, progress=False)["last"]

    known = sorted(options.cache.glob(f"{name}_*.npz"))
    test = np.load(known[0])["test"] if known else features(made.test)
    labels = {"train_labels": np.asarray(made.train["label"]), "test_labels": np.asarray(made.test["label"])}
    return labels | {"train": features(made.train), "test": test}


def run(name: str, size: int, seed: int, way: str, options: argparse.Namespace) -> Row:
    """One way on one task."""
    train, labels, test, theirs = task(name, size, seed, options)
    started = time.process_time()
    if way in OURS:
        solved = solve(train, labels, scaling=way)  # type: ignore[arg-type]
        right = solved.head.scores(test).argmax(axis=1) == theirs
        found: Row = {"chosen": solved.details["scaling"], "held_out": solved.accuracy}
        found["standard_error"] = solved.standard_error
    else:
        right = plain(train, labels, test, THEIRS[way]) == theirs
        found = {}
    seconds = time.process_time() - started
    case = {"data_set": name, "per_class": size, "seed": seed, "way": way}
    return case | found | {"test": float(right.mean()), "cpu_seconds": seconds}


def plain(train: Any, labels: Any, test: Any, standardise: bool) -> Any:
    """What scikit-learn's cross-validated logistic regression says."""
    if standardise:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    folds = min(5, int(np.bincount(labels).min()))
    model = LogisticRegressionCV(
        Cs=np.logspace(-4, 3, 8), cv=folds, scoring="neg_log_loss", max_iter=500, l1_ratios=(0,),
        use_legacy_attributes=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(train, labels).predict(test)


def cases() -> Iterator[tuple[str, int, int, str]]:
    """The small ones first; of 200 a class one sample."""
    for size, name, seed in product(SIZES, DATA_SETS, SEEDS):
        if size < 200 or seed == 0:
            yield from ((name, size, seed, way) for way in (*OURS, *THEIRS))


def table(rows: list[Row]) -> str:
    """Markdown: means over the samples."""
    lines = [
        f"| data | images a class | samples | {' | '.join((*OURS, *THEIRS))} | behind sklearn's better | held out |",
        "|---|---:|---:|" + "---:|" * (len(OURS) + len(THEIRS) + 2),
    ]
    for name, size in product(DATA_SETS, SIZES):
        own = [row for row in rows if (row["data_set"], row["per_class"]) == (name, size)]
        ways = {way: [row["test"] for row in own if row["way"] == way] for way in (*OURS, *THEIRS)}
        if not all(ways.values()) or len({len(found) for found in ways.values()}) > 1:
            continue
        means = {way: statistics.mean(found) for way, found in ways.items()}
        behind = max(means[way] for way in THEIRS) - means["auto"]
        held_out = statistics.mean(row["held_out"] for row in own if row["way"] == "auto")
        cells = " | ".join(f"{mean:.3f}" for mean in means.values())
        lines.append(f"| {name} | {size} | {len(ways['auto'])} | {cells} | {100 * behind:+.1f} | {held_out:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--animals", type=Path)
    parser.add_argument("--document", type=Path, help="Write the table into this file, too.")
    options = parser.parse_args()
    path = options.output_dir / "scaling.json"
    rows: list[Row] = json.loads(path.read_text())["rows"] if path.exists() else []
    known = {(row["data_set"], row["per_class"], row["seed"], row["way"]) for row in rows}
    for case in cases():
        if case not in known and (options.animals or case[0] != "animals"):
            rows.append(run(*case, options))
            write(path, rows)
    print(table(rows))
    if options.document:
        from automatic import replace_section

        replace_section(options.document, "scaling.py", table(rows))


def write(path: Path, rows: list[Row]) -> None:
    from hf_transfer.utils.environment import collect_hardware, collect_versions

    found = {"rows": rows, "versions": collect_versions(), "hardware": collect_hardware()}
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
