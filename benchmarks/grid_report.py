"""What the grid says: a table of its cases, what weights to keep, and the rule "which candidate first" judged.

    python benchmarks/grid_report.py --rows benchmarks/results/grid.jsonl --document benchmarks/RESULTS.md

The rule: of the candidates, the one of the largest expected gain over the solved probe on the last layer, at this
number of images of each class. The gain expected for a case is the mean over the *other* families of data sets, so
that no case has a part in its own choice; all networks of a family are left out together. Points are of balanced
accuracy, on test images that decided nothing. Without `--document` the report is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Case = tuple[str, int, str]
Gains = dict[Case, dict[str, float]]

PROBES = ("probe_last", "probe_best_depth", "probe_all_depths")
BASE = "probe_last"
CANDIDATES = (
    *PROBES, "half_3e-4", "half_1e-3", "half_light", "all_3e-4", "all_1e-3", "bias_only", "norm_only", "fine_tune",
)  # fmt: skip
BINS = ((0, 20, "up to 20"), (20, 80, "21 to 80"), (80, math.inf, "more than 80"))
FEWEST_FAMILIES = 2


@dataclass(frozen=True)
class Choice:
    """What the rule chooses for a case, in points."""

    case: Case
    chosen: str
    best: str
    regret: float
    error: float
    over_base: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/results/grid.jsonl"))
    parser.add_argument("--document", type=Path, help="Markdown file; what is between the two marks is replaced.")
    options = parser.parse_args()
    text = report([json.loads(line) for line in options.rows.read_text().splitlines()])
    if options.document is None:
        print(text)
        return
    from automatic import replace_section

    replace_section(options.document, "grid_report.py", text)


def report(rows: list[Row]) -> str:
    """All tables as Markdown."""
    families = {case_of(row): row["family"] for row in rows}
    points = {case: {name: 100 * value for name, value in found.items()} for case, found in means(rows).items()}
    lines = [coverage(rows), "", *cases_table(rows), "", "Gains over the probe on the last layer, in points:", ""]
    lines += [*gains_table(points, families), "", "What other weights of the same training would have given:", ""]
    lines += [*weights_table(rows), "", "Worse than the solved head that the training began with:", ""]
    lines += [*below_start_table(rows), "", *judgement(rows, points, families)]
    return "\n".join(lines)


def case_of(row: Row) -> Case:
    """Data set, images of each class, and network."""
    return row["data_set"], row["per_class"], row["network"]


def means(rows: list[Row], metric: str = "balanced_accuracy") -> Gains:
    """The mean over the seeds, by case and candidate."""
    values: dict[Case, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values[case_of(row)][row["candidate"]].append(row["test"][metric])
    return {
        case: {name: statistics.mean(found) for name, found in by_candidate.items()}
        for case, by_candidate in values.items()
    }


def coverage(rows: list[Row]) -> str:
    """What was run."""
    seeds: dict[tuple[Case, str], set[int]] = defaultdict(set)
    for row in rows:
        seeds[case_of(row), row["candidate"]].add(row["seed"])
    cases = {case for case, _ in seeds}
    trained = {case for case, name in seeds if name not in PROBES}
    hours = sum(row["cpu_seconds"] for row in rows) / 3600
    return (
        f"{len(rows)} runs of {len(cases)} cases, {len(trained)} of them with trainings; "
        f"{sum(len(each) > 1 for each in seeds.values())} of {len(seeds)} cells have more than one seed; {hours:.1f} "
        "CPU hours of training."
    )


def cases_table(rows: list[Row]) -> list[str]:
    """Accuracy (balanced) and log loss of each candidate in each case with trainings."""
    accuracy, loss = means(rows), means(rows, "log_loss")
    lines = [
        "Balanced accuracy / log loss on the test images; the best of a case is bold; empty: not run.",
        "",
        f"| data set | images a class | network | {' | '.join(CANDIDATES)} |",
        f"|---|---:|---|{'---:|' * len(CANDIDATES)}",
    ]
    for case in sorted(accuracy):
        found = accuracy[case]
        if found.keys() <= set(PROBES):
            continue
        best = max(found.values())
        cells = []
        for name in CANDIDATES:
            mark = "**" if found.get(name) == best else ""
            cells.append(f"{mark}{found[name]:.3f}{mark} / {loss[case][name]:.2f}" if name in found else "")
        lines.append(f"| {case[0]} | {case[1]} | {case[2]} | {' | '.join(cells)} |")
    return lines


def bin_of(size: int) -> str:
    """The words for a number of images of each class."""
    return next(words for low, high, words in BINS if low < size <= high)


def by_family(points: Gains, families: dict[Case, str], bin_: str, leave: str | None = None) -> dict[str, list[float]]:
    """Gains over the probe for each candidate, one number for each family of data sets."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for case, values in points.items():
        if families[case] != leave and bin_of(case[1]) == bin_ and BASE in values:
            for name, value in values.items():
                found[name][families[case]].append(value - values[BASE])
    return {name: [statistics.mean(gains) for gains in own.values()] for name, own in found.items()}


def gains_table(points: Gains, families: dict[Case, str]) -> list[str]:
    """Mean gain over the families, its standard error, and how many there are."""
    names = CANDIDATES[1:]
    lines = [f"| images a class | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for *_, words in BINS:
        found = by_family(points, families, words)
        cells = [_mean_and_error(found.get(name, [])) for name in names]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return lines


def choose(points: Gains, families: dict[Case, str], case: Case) -> str | None:
    """The candidate of the largest gain on other families, of those that were run in all of these.

    Means over different families cannot be compared. None where there are too few of them.
    """
    found = by_family(points, families, bin_of(case[1]), leave=families[case])
    all_ = len(found.get(BASE, []))
    known = {name: statistics.mean(own) for name, own in found.items() if name in points[case] and len(own) == all_}
    return max(known, key=lambda name: known[name]) if all_ >= FEWEST_FAMILIES else None


def judge(
    rows: list[Row], points: Gains, families: dict[Case, str], rule: Callable[[Case], str | None]
) -> list[Choice]:
    """The rule's choices in all cases in which anything was trained that it could have chosen."""
    choices = []
    for case, values in sorted(points.items()):
        if values.keys() <= set(PROBES) or BASE not in values or (chosen := rule(case)) not in values:
            continue
        best = max(values, key=lambda name: values[name])
        error = paired_error(rows, case, str(chosen), best)
        regret = values[best] - values[str(chosen)]
        choices.append(Choice(case, str(chosen), best, regret, error, values[str(chosen)] - values[BASE]))
    return choices


def judgement(rows: list[Row], points: Gains, families: dict[Case, str]) -> list[str]:
    """The rule against rules that know nothing."""
    rules: dict[str, Callable[[Case], str | None]] = {
        "largest expected gain, leave one family out": lambda case: choose(points, families, case),
        **{f"always {name}": lambda case, name=name: name for name in CANDIDATES},
    }
    lines = [
        "Which candidate first, against the best of all that were run in the case (points of balanced accuracy):",
        "",
        "| rule | cases | mean regret | worst | within 1 point | within 1 point or 1 paired error | below the probe |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rule in rules.items():
        if choices := judge(rows, points, families, rule):
            lines.append(f"| {name} | {len(choices)} | {_figures(choices)} |")
    lines += [
        "",
        "A rule is judged in the cases in which its candidate was run, so that rows of different numbers of cases "
        "cannot be compared. The best of several candidates is the best on these very test images, which makes every "
        "regret larger than it is.",
    ]
    lines += ["", "Choices of the rule that are more than a point behind:", ""]
    for each in judge(rows, points, families, rules["largest expected gain, leave one family out"]):
        if each.regret > 1:
            lines.append(
                f"- {' '.join(map(str, each.case))}: {each.chosen}, {each.regret:.1f} ± {each.error:.1f} points "
                f"behind {each.best}; {each.over_base:+.1f} over the probe."
            )
    return lines


def paired_error(rows: list[Row], case: Case, first: str, second: str) -> float:
    """Standard error of the difference of two candidates on the same images, in points; seeds count as independent."""
    variances = []
    bits = {(r["candidate"], r["seed"]): _bits(r) for r in rows if case_of(r) == case}
    seeds = {seed for name, seed in bits if name == first} & {seed for name, seed in bits if name == second}
    for seed in seeds:
        pairs = zip(bits[first, seed], bits[second, seed], strict=True)
        differences = [int(a) - int(b) for a, b in pairs]
        variances.append(statistics.pvariance(differences) / len(differences))
    return 100 * math.sqrt(sum(variances)) / len(seeds) if seeds else 0.0


def weights_table(rows: list[Row]) -> list[str]:
    """Against the end of the training: points of balanced accuracy, and the ratio of log losses (median)."""
    lines = [
        "| candidate | runs | a quarter | half | three quarters | mean of two thirds | mixture .25 | .5 | .75 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in CANDIDATES[len(PROBES) :]:
        own = [row for row in rows if row["candidate"] == name]
        if not own:
            continue
        kinds: list[list[tuple[Row, Row]]] = [[] for _ in range(7)]
        for row in own:
            for place, other in enumerate(_other_weights(row)):
                if other is not None:
                    kinds[place].append((other, row["test"]))
        lines.append(f"| {name} | {len(own)} | {' | '.join(_against_end(pairs) for pairs in kinds)} |")
    return lines


def below_start_table(rows: list[Row]) -> list[str]:
    """In how many runs weights have less balanced accuracy, or a log loss 5 % above, that of the start."""
    starts = {(case_of(row), row["seed"]): row["test"] for row in rows if row["candidate"] == BASE}
    lines = ["| candidate | weights | runs | accuracy below | log loss 5 % above |", "|---|---|---:|---:|---:|"]
    for name in CANDIDATES[len(PROBES) :]:
        own = [r for r in rows if r["candidate"] == name and "mixtures" in r and (case_of(r), r["seed"]) in starts]
        pairs = [([row["test"], *_other_weights(row)[3:]], starts[case_of(row), row["seed"]]) for row in own]
        for place, words in enumerate(("end", "mean of two thirds", "mixture .25", ".5", ".75") if pairs else ()):
            judged = [(found[place], start) for found, start in pairs]
            lower = [found["balanced_accuracy"] < start["balanced_accuracy"] for found, start in judged if found]
            worse = [found["log_loss"] > 1.05 * start["log_loss"] for found, start in judged if found]
            lines.append(f"| {name} | {words} | {len(own)} | {sum(lower)} | {sum(worse)} |")
    return lines


def _other_weights(row: Row) -> list[Row | None]:
    """Metrics of a quarter, half and three quarters of the way, of the mean, and of the three mixtures."""
    way = [row["by_epoch"][epoch] for epoch in sorted(row["by_epoch"], key=int)]
    mixtures = row.get("mixtures", {})
    # Where there are too few epochs, some points fall together.
    points = way if len(way) == 3 else [None] * 3
    return [*points, row["mean"], *(mixtures.get(share) for share in ("0.25", "0.5", "0.75"))]


def _against_end(pairs: list[tuple[Row, Row]]) -> str:
    if not pairs:
        return ""
    gains = [100 * (other["balanced_accuracy"] - end["balanced_accuracy"]) for other, end in pairs]
    ratios = [other["log_loss"] / max(end["log_loss"], 1e-6) for other, end in pairs]
    return f"{statistics.mean(gains):+.1f}, ×{statistics.median(ratios):.2f}"


def _figures(choices: list[Choice]) -> str:
    regrets = [each.regret for each in choices]
    close = [each.regret <= 1 for each in choices]
    equal = [each.regret <= max(1.0, each.error) for each in choices]
    below = [each.over_base < 0 for each in choices]
    return f"{statistics.mean(regrets):.1f} | {max(regrets):.1f} | {_share(close)} | {_share(equal)} | {_share(below)}"


def _share(flags: Iterable[bool]) -> str:
    flags = list(flags)
    return f"{sum(flags)} of {len(flags)}"


def _mean_and_error(values: list[float]) -> str:
    if not values:
        return ""
    error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.1f}{error} ({len(values)})"


def _bits(row: Row) -> str:
    digits = row["test"]["right"]
    return f"{int(digits, 16):0{4 * len(digits)}b}"[: row["test_images"]]


if __name__ == "__main__":
    main()
