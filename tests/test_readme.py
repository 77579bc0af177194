"""README.md: the Python that it prints runs as it is printed, without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_example_runs_as_printed(tmp_path: Path) -> None:
    """The first screen's example trains, evaluates and saves a model that transformers loads."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[0]], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    accuracy = float(re.findall(r"^(0\.\d+)$", done.stdout, re.MULTILINE)[-1])
    assert accuracy > 0.5 and (tmp_path / "results" / "model.safetensors").is_file()


def test_the_other_snippets_run() -> None:
    """What builds a plan needs no data."""
    for snippet in SNIPPETS[1:]:
        exec(snippet, {})
    assert len(SNIPPETS) == 2
