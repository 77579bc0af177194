"""`Trainer` whose checkpoints are written whole or not at all, and restore every weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from hf_transfer.checkpoints.folders import (
    STAGING,
    TRAINER_STATE,
    checkpoint_name,
    clear_staging,
    move_into_place,
    note_best,
)
from hf_transfer.checkpoints.portable import unpacked
from hf_transfer.checkpoints.weights import restore_weights
from hf_transfer.models.timm_interop import complete_timm_config, is_timm_wrapper, strip_timm_prefix


class CheckpointTrainer(Trainer):
    """`Trainer` with our way of saving; `TransferTrainer` adds plans."""

    args: TrainingArguments
    _is_saving = False

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> Any:
        """Train as Trainer does; a checkpoint may also be one that was published, without pickles."""
        with unpacked(resume_from_checkpoint) as checkpoint:
            return super().train(checkpoint, trial, ignore_keys_for_eval)

    def complete_checkpoint(self, folder: Path) -> None:
        """Add files to a checkpoint before it is moved into its place; called in the process that saves."""

    def _get_output_dir(self, trial: Any) -> str:
        """Where checkpoints go; while one is being written, the folder beside that."""
        run_folder = super()._get_output_dir(trial)
        return str(Path(run_folder) / STAGING) if self._is_saving else run_folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save as Trainer does, but in a folder of its own that is renamed when it is complete."""
        run_folder = Path(self._get_output_dir(trial))
        name = checkpoint_name(self.state.global_step)
        if self.args.should_save:
            clear_staging(run_folder)
        self.accelerator.wait_for_everyone()
        push, self.args.push_to_hub, self._is_saving = self.args.push_to_hub, False, True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.push_to_hub, self._is_saving = push, False
        note_best(self.state, run_folder, name)
        staged = run_folder / STAGING / name
        if self.args.should_save:
            self.complete_checkpoint(staged)
            self.state.save_to_json(str(staged / TRAINER_STATE))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            move_into_place(run_folder, name)
        self.accelerator.wait_for_everyone()
        if self.is_local_process_zero():
            move_into_place(run_folder, name)  # of a machine with a disk of its own
        if self.args.should_save:
            limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
            rotate_checkpoints(str(run_folder), save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)
        if push:
            self._push_from_checkpoint(str(run_folder / name))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save as Trainer does; a timm model so that timm can load it, too."""
        complete_timm_config(self.model, self.processing_class)
        token, self.args.hub_token = self.args.hub_token, None  # Trainer pickles its arguments beside the weights
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        if is_timm_wrapper(self.model):
            strip_timm_prefix(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights; Trainer's own way leaves out those that are stored under the names of transformers 4."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        restore_weights(self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        """Load the best checkpoint; see `_load_from_checkpoint`."""
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            restore_weights(self.model, self.state.best_model_checkpoint)
