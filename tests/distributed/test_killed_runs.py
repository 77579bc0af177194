"""A run that is killed (SIGKILL) ten times and resumed ends where the run that was left alone ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed import killed

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("processes", "tolerance"), [(1, 0.0), (2, 1e-6)])
@pytest.mark.parametrize("kind", ["plain", "augmented", "transformed", "cached"])
def test_resumed_after_kills(kind: str, processes: int, tolerance: float, tmp_path: Path) -> None:
    """Inside every phase, at borders and while saving; AdamW, dropout, accumulation, two checkpoints kept.

    With random augmentation, of the data set's and ours, and with stored views of images, also amid epochs.
    """
    done = subprocess.run(
        [sys.executable, killed.__file__, str(tmp_path), str(processes), kind],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("KILLED") == (killed.MOMENTS if kind == "plain" else 4)
    ended, whole = (torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("killed", "whole"))
    for name, value in whole.items():
        assert torch.allclose(ended[name], value, rtol=0, atol=tolerance), name
    assert not list((tmp_path / "killed").glob(".*"))
