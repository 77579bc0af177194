"""hf-transfer inspect: layer groups of any model, without its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import hf_transfer as ht
from hf_transfer.cli import main
from hf_transfer.cli.inspect import notes
from tests.helpers import every_transformers_class

_TRAINING = {"datasets", "pandas", "sklearn", "matplotlib", "transformers.trainer"}


@pytest.mark.parametrize("name", ["timm:resnet18", "transformers:vit", "transformers:deit"])
def test_inspect_takes_bare_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of an architecture needs no weights; JSON has the points of truncation, too."""
    assert main(["inspect", name]) == 0
    assert name in capsys.readouterr().out
    assert main(["inspect", name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["groups"][-1]["role"] == "head"
    assert set(shown["truncation_points"]) <= {group["name"] for group in shown["groups"]}
    assert shown["truncation_points"]


def test_inspect_tells_what_the_table_does_not_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parameters without a gradient and modules that run several times are named, as text and as JSON."""
    every_transformers_class.make("PerceiverForImageClassificationLearned").save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    assert "Run several times in a forward pass, with the same weights: perceiver.enc" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["reused_modules"][0] == "perceiver.encoder.self_attends.0"
    assert (shown["unused_parameters"], shown["shared_parameters"]) == ([], {})
    assert main(["inspect", "transformers:siglip"]) == 0
    assert "No forward pass uses: vision_model.head.probe" in capsys.readouterr().out


def test_shared_parameters_are_told() -> None:
    """A tied weight is named with its other names."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].weight = model[1].weight
    assert [note for note in notes(ht.wrap(model)) if note.startswith("Shared: 1.weight is also 2.weight")]


@pytest.mark.parametrize(
    ("name", "needless", "shown"),
    [
        ("timm:resnet18", _TRAINING | {"transformers", "accelerate"}, "layer4.1"),
        ("transformers:vit", _TRAINING, "layers.11"),
    ],
)
def test_inspect_imports_only_what_it_needs(name: str, needless: set[str], shown: str) -> None:
    """Layer groups need torch and the library that has the architecture, and nothing that data or training need."""
    code = (
        f"import sys; from hf_transfer.cli import main; assert main(['inspect', {name!r}]) == 0; "
        f"found = {needless!r} & set(sys.modules); assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
