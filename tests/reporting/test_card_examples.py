"""The examples of a card run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from hf_transfer.data import Preprocessing
from hf_transfer.models.loading import load_for_training
from hf_transfer.models.timm_interop import strip_timm_prefix
from hf_transfer.reporting.card import render_card
from tests.helpers.card_records import changed, record, section
from tests.helpers.checkpoints import save_timm_resnet, save_vit

LABELS = ("ant", "bee", "cat")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("save", [save_vit, save_timm_resnet])
def test_examples_load_models_of_any_images(
    save: Any, channels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a model for grey images, for RGB and for images with opacity, each example runs and prints a label."""
    loaded = load_for_training(str(save(tmp_path / "base")), LABELS, num_channels=channels)
    loaded.model.save_pretrained(tmp_path / "out")
    library = "timm" if save is save_timm_resnet else "transformers"
    if library == "timm":
        strip_timm_prefix(tmp_path / "out")
    else:
        loaded.processor.save_pretrained(tmp_path / "out")
    PIL.Image.new("RGB", (40, 48), (90, 20, 200)).save(tmp_path / "image.png")
    preprocessing = Preprocessing.from_processor(loaded.processor).to_dict()
    card = render_card(changed(record(), preprocessing=preprocessing, base_model={"library": library}))
    examples = re.findall(r"```python\n(.*?)```", section(card, "How to use"), re.DOTALL)
    assert len(examples) == (2 if library == "timm" else 1)
    for example in examples:
        code = example.replace("path/to/this/folder", str(tmp_path / "out"))
        exec(code.replace("path/to/image.jpg", str(tmp_path / "image.png")), {})
        printed = capsys.readouterr().out
        assert any(label in printed for label in LABELS)
