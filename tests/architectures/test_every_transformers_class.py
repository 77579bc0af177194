"""Every image classifier that transformers registers: each check of class_checks on a tiny model of each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.utils import is_natten_available

import hf_transfer as ht
from hf_transfer.errors import UnknownArchitectureError
from scripts import make_architectures_doc
from scripts.architecture_tables import transformers_table
from tests.helpers import every_transformers_class
from tests.helpers.class_checks import CHECKS, NEED_FORWARD, SLOW, Items, case
from tests.helpers.training import arguments

WITHOUT_LABELS = (
    "DeiTForImageClassificationWithTeacher",
    "LevitForImageClassificationWithTeacher",
    "PPLCNetForImageClassification",
)


# Each kind of architecture is trained and truncated in the fast tests, too: flat, staged with and without batch
# norms, several heads, other inputs than images, timm.
FAST = ("CLIP", "LevitForImageClassificationWithTeacher", "PoolFormer", "ResNet", "Siglip2", "TimmWrapper")


def _case(name: str, check: str) -> Any:
    """Slow are the trainings and truncations of most, and all of a Perceiver on images of 224 x 224 pixels."""
    slow = (check in SLOW and not name.startswith(FAST)) or name.endswith(("Fourier", "ConvProcessing"))
    return pytest.param(name, check, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    ("name", "check"), [_case(name, check) for name in every_transformers_class.OPTIONS for check in CHECKS]
)
def test_every_class(name: str, check: str) -> None:
    """The check, which says in one line what it proves, holds for the class."""
    if name.startswith("Dinat") and check in NEED_FORWARD and not is_natten_available():
        pytest.skip("DiNAT runs only with the package natten")
    CHECKS[check](case(name))


def test_no_class_is_left_out() -> None:
    """What AutoModelForImageClassification knows is tested, or refused with a reason."""
    registered = every_transformers_class.registered_classes()
    assert set(registered) == {*every_transformers_class.OPTIONS, *every_transformers_class.REFUSED}
    assert set(registered.values()) <= set(ht.list_wrappers())


def test_shieldgemma_is_refused() -> None:
    """A language model that answers in words has no head to train, and the message says so."""
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.ShieldGemma2Config(text_config=text | {"head_dim": 16}, vision_config=vision)
    with torch.device("meta"):
        model = transformers.ShieldGemma2ForImageClassification(config)
    with pytest.raises(UnknownArchitectureError, match="cannot be trained as an image classifier: it has no class"):
        ht.wrap(model)


@pytest.mark.parametrize("name", WITHOUT_LABELS)
def test_models_that_take_no_labels(name: str, tmp_path: Path) -> None:
    """Their predictions are the logits alone, with and without labels, and the loss is that of these logits."""
    one = case(name)
    data: Any = Items(one.batch)
    trainer = ht.TransferTrainer(one.model, arguments(tmp_path, use_cpu=True), eval_dataset=data)
    with torch.no_grad():
        outputs = one.model.eval()(**one.batch)
    logits = outputs.last_hidden_state if name.startswith("PPLCNet") else outputs.logits
    told = trainer.predict(data)
    torch.testing.assert_close(torch.as_tensor(told.predictions), logits)
    expected = torch.nn.functional.cross_entropy(logits, data.columns["labels"])
    assert told.metrics["test_loss"] == pytest.approx(float(expected), rel=1e-5)
    del data.columns["labels"]
    torch.testing.assert_close(torch.as_tensor(trainer.predict(data).predictions), logits)


@pytest.mark.slow
def test_the_document_is_current() -> None:
    """docs/architectures.md names the installed versions, each class, and the numbers of groups that it has now."""
    text = make_architectures_doc.DOCUMENT.read_text(encoding="utf-8")
    section = make_architectures_doc.read_sections(text)["transformers"]
    again = "run python scripts/make_architectures_doc.py transformers"
    assert transformers_table.versions() in section, again
    rows = {row[0]: row for line in section.splitlines() if len(row := transformers_table.cells(line)) > 2}
    registered = every_transformers_class.registered_classes()
    assert set(registered) <= set(rows), again
    for name in every_transformers_class.OPTIONS:
        assert rows[name][: len(transformers_table.facts(name))] == transformers_table.facts(name), again
