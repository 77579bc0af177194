"""hf-transfer train: a signal ends it with a checkpoint, an exit code and the command that resumes it."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from hf_transfer.cli import main
from hf_transfer.trainer.trainer import TransferTrainer
from tests.helpers.checkpoints import save_vit
from tests.helpers.image_files import write_classes


@pytest.mark.slow
def test_sigterm_then_the_printed_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the second step: exit code 143, and the command in the message finishes the run."""
    for split, count in (("train", 4), ("validation", 2)):
        write_classes(tmp_path / "photos" / split, dict.fromkeys(("ant", "bee", "cat", "dog"), count), count)
    model = save_vit(tmp_path / "tiny-vit")
    output = tmp_path / "out"
    required = ["--model_name_or_path", str(model), "--dataset", str(tmp_path / "photos"), "--output_dir", str(output)]
    flags = [
        "--recipe",
        "linear_probe",
        "--solver",
        "none",
        "--per_device_train_batch_size",
        "4",
        "--num_train_epochs",
        "1",
    ]
    original = TransferTrainer.training_step

    def step(trainer: TransferTrainer, *args: Any) -> Any:
        if trainer.state.global_step == 1 and not trainer.args.resume_from_checkpoint:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(trainer, *args)

    monkeypatch.setattr(TransferTrainer, "training_step", step)
    assert main(["train", *required, *flags, "--overwrite_output_dir"]) == 143
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "Stopped by SIGTERM at step 2; checkpoint-2" in message
    command = shlex.split(message.partition("Resume with: ")[2])
    assert command[:2] == ["hf-transfer", "train"] and "--overwrite_output_dir" not in command
    assert main(command[1:]) == 0
    assert (output / "run.json").is_file()
