"""Fixtures of the tests that run commands; what else a module trains on has its own name there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.checkpoints import save_vit
from tests.helpers.quick_train import write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of four classes, in three splits."""
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT with random weights."""
    return save_vit(tmp_path_factory.mktemp("models") / "tiny-vit")
