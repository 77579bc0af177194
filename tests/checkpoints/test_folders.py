"""hf_transfer.checkpoints.folders: whenever a run is killed, the last complete checkpoint is there to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_transfer.checkpoints.folders import clear_staging, last_complete, move_into_place
from hf_transfer.run_files import STAGING, TRAINER_STATE

NAME = "checkpoint-4"


def _write(folder: Path, content: str) -> None:
    folder.mkdir(parents=True)
    (folder / TRAINER_STATE).write_text(content)


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_while_a_checkpoint_is_replaced_loses_none(
    renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and between the two renames of a replacement: the step's checkpoint is found, and staging is cleared."""
    _write(tmp_path / NAME, "old")
    _write(tmp_path / STAGING / NAME, "new")
    done, rename = [], Path.rename

    def killed(path: Path, target: Any) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        move_into_place(tmp_path, NAME)
    found = last_complete(tmp_path)
    assert found == tmp_path / NAME
    assert (found / TRAINER_STATE).read_text() == ("new" if renames else "old")
    clear_staging(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_clearing_does_not_remove_the_only_one(tmp_path: Path) -> None:
    """A new run in the folder of a killed one puts the checkpoint back before it clears."""
    _write(tmp_path / STAGING / f"old-{NAME}", "old")
    clear_staging(tmp_path)
    assert (tmp_path / NAME / TRAINER_STATE).read_text() == "old"
    assert not (tmp_path / STAGING).exists()
