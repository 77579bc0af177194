"""The `evaluate` library: our metrics gather over ranks, and its metrics can be added to a Trainer's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation import make_compute_metrics
from hf_transfer.evaluation.scores import SCALARS, score_images

pytestmark = pytest.mark.slow  # `import evaluate` takes seconds

RANK = """
import json, sys
import numpy as np
from hf_transfer.evaluation import metrics

data, cache, rank = np.load(sys.argv[1]), sys.argv[2], int(sys.argv[3])
logits, labels = data["logits"], data["labels"]
own = np.arange(len(labels)) % 2 == rank
metric = metrics.ClassificationScores(num_process=2, process_id=rank, experiment_id="two", cache_dir=cache)
for part in np.array_split(np.flatnonzero(own), 3):
    metric.add_batch(predictions=logits[part], references=labels[part])
print(json.dumps(metric.compute()))
"""

FOREIGN = """
import datasets
import evaluate
from sklearn.metrics import {function}

class {name}(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=datasets.Features(
            {{{inputs!r}: datasets.Value("int64"), "references": datasets.Value("int64")}}))

    def _compute(self, {inputs}, references, **options):
        return {{"{key}": {function}(references, {inputs}, **options), "list": [1, 2]}}
"""


def made_up(images: int = 41, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    labels = generator.integers(classes, size=images)
    logits = generator.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), labels] += 1.5
    return logits, labels


def foreign(folder: Path, name: str, function: str, key: str, inputs: str = "predictions") -> str:
    """A metric of the evaluate library as a local folder."""
    place = folder / name
    place.mkdir()
    script = FOREIGN.format(function=function, name=name.title(), key=key, inputs=inputs)
    (place / f"{name}.py").write_text(script, encoding="utf-8")
    return str(place)


def test_two_ranks_give_the_result_of_one(tmp_path: Path) -> None:
    """Two processes, each with half of the images, give on rank 0 what one process gives, and None on rank 1."""
    from hf_transfer.evaluation.metrics import ClassificationScores

    logits, labels = made_up()
    np.savez(tmp_path / "data.npz", logits=logits, labels=labels)
    command = [sys.executable, "-c", RANK, str(tmp_path / "data.npz"), str(tmp_path / "cache")]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    first, second = (json.loads(rank.communicate(timeout=110)[0].splitlines()[-1]) for rank in ranks)
    alone = ClassificationScores(keep_in_memory=True).compute(predictions=logits, references=labels)
    assert second is None
    assert first == pytest.approx(alone, abs=1e-12)
    scores = score_images(logits, labels)
    assert alone == pytest.approx({name: score(scores) for name, score in SCALARS.items()}, abs=1e-12)


def test_single_scores_combine(tmp_path: Path) -> None:
    """Each class gives its own score, and `evaluate.combine` takes them."""
    import evaluate

    from hf_transfer.evaluation import metrics

    logits, labels = made_up()
    names = ("Accuracy", "BalancedAccuracy", "Top5Accuracy", "MacroF1", "LogLoss", "Ece", "BrierScore")
    kinds = [getattr(metrics, name) for name in names]
    together = evaluate.combine([kind(cache_dir=str(tmp_path)) for kind in kinds])
    scores = score_images(logits, labels)
    expected = {name: score(scores) for name, score in SCALARS.items()}
    assert together.compute(predictions=logits, references=labels) == pytest.approx(expected)


def test_foreign_metrics_join(tmp_path: Path) -> None:
    """Local folders of the library are called plainly or with macro averaging; names that clash are told apart."""
    logits, labels = made_up()
    sources = [
        foreign(tmp_path, "kappa", "cohen_kappa_score", "kappa"),
        foreign(tmp_path, "f1", "f1_score", "f1"),
        foreign(tmp_path, "mine", "balanced_accuracy_score", "accuracy"),
    ]
    compute = make_compute_metrics([str(i) for i in range(7)], extra_metrics=sources)
    result = compute(SimpleNamespace(predictions=logits, label_ids=labels))
    predicted = logits.argmax(axis=1)
    assert result["f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert 0 < result["kappa"] < 1
    assert result["accuracy"] == np.mean(predicted == labels)
    assert result["mine_accuracy"] != result["accuracy"]
    assert "list" not in result


def test_foreign_metric_with_other_inputs_is_refused(tmp_path: Path) -> None:
    """A metric that does not take classes and references is refused before training, by its name."""
    source = foreign(tmp_path, "odd", "accuracy_score", "odd", inputs="prediction_scores")
    with pytest.raises(ArgumentError, match="odd.*takes prediction_scores, references"):
        make_compute_metrics(["a", "b"], extra_metrics=[source])


def test_failing_foreign_metric_is_refused(tmp_path: Path) -> None:
    """A metric that fails however it is called is refused before training, with its own reason."""
    source = foreign(tmp_path, "broken", "accuracy_score", "broken")
    script = Path(source) / "broken.py"
    script.write_text(
        script.read_text().replace('return {"broken"', "raise ValueError('no way')\n        return {\"x\"")
    )
    with pytest.raises(ArgumentError, match="broken.*no way"):
        make_compute_metrics(["a", "b"], extra_metrics=[source])


def test_examples_in_the_docs_run(tmp_path: Path) -> None:
    """Every Python example of docs/evaluation.md runs as printed, and prints an accuracy."""
    docs = Path(__file__).parents[2] / "docs" / "evaluation.md"
    examples = re.findall(r"```python\n(.*?)```", docs.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        environment = os.environ | {"HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", example], env=environment, capture_output=True, text=True, check=True
        )
        assert "accuracy" in done.stdout.lower()
