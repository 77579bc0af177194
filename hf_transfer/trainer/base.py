"""`BaseTrainer`: transformers' `Trainer` without a plan, mended in loss, evaluation, checkpoints and publishing."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from hf_transfer.checkpoints.folders import (
    checkpoint_name,
    checkpoint_steps,
    clear_staging,
    last_complete,
    move_into_place,
    note_best,
)
from hf_transfer.checkpoints.portable import unpacked
from hf_transfer.checkpoints.weights import restore_weights
from hf_transfer.errors import NonFiniteLossError
from hf_transfer.hub import Publication, TrainingPush
from hf_transfer.models.timm_interop import complete_timm_config, is_timm_wrapper, strip_timm_prefix
from hf_transfer.run_files import STAGING, TRAINER_STATE
from hf_transfer.trainer.args import TransferOptions
from hf_transfer.trainer.checks import check_steps
from hf_transfer.trainer.evaluation_rows import filled, keeping_all, without_filling
from hf_transfer.trainer.loss import LossScaling, keys_beside_logits, weighted
from hf_transfer.trainer.publishing import RunPublisher
from hf_transfer.trainer.record import facts_without_plan, step_facts


class BaseTrainer(Trainer):
    """`Trainer` with a loss that is scaled rightly, whole checkpoints, and our way of publishing; no plan.

    Args:
        model: As for `Trainer`.
        args: As for `Trainer`.
        **trainer_arguments: All other arguments of `transformers.Trainer`, by name.

    Attributes:
        losses: What each micro-batch weighs in the loss of a step.
        publisher: Pushes to the Hub, and writes the card.
        training_began: When `train` was called last, in seconds since the epoch; None before that.
        is_trying: Whether steps are made on trial, which may break.
    """

    args: TrainingArguments
    data_collator: Any
    train_dataset: Any
    eval_dataset: Any
    hub_model_id: str | None

    def __init__(self, model: nn.Module | None, args: TrainingArguments, **trainer_arguments: Any) -> None:
        self.training_began: float | None = None
        self.is_trying = False
        self._is_saving = False
        self._broken_loss: float | None = None
        self.publisher = RunPublisher(self)  # before Trainer's own set-up, which makes the repository on the Hub
        super().__init__(model, args, **trainer_arguments)
        self.losses = LossScaling(self)

    # --- what subclasses with a plan say ---

    @property
    def options(self) -> TransferOptions:
        """The settings of transfer learning; their defaults where `args` are plain `TrainingArguments`."""
        return TransferOptions.of(self.args)

    @property
    def follows_plan(self) -> bool:
        """Whether a plan says what is trained."""
        return False

    @property
    def has_trained(self) -> bool:
        """Whether there was a training that a card could describe."""
        return self.optimizer is not None

    @property
    def made_schedule(self) -> bool:
        """Whether the arguments say what the schedule was; False for a scheduler that was given."""
        return bool(self._created_lr_scheduler)

    def facts(self) -> dict[str, Any]:
        """What was trained and how, for the record."""
        return step_facts(self) | facts_without_plan(self)

    def place_in_plan(self) -> str:
        """Where the run is, for messages; empty without a plan."""
        return ""

    def complete_checkpoint(self, folder: Path) -> None:
        """Add files to a checkpoint before it is moved into its place; called in the process that saves."""

    # --- training ---

    def train(
        self,
        resume_from_checkpoint: str | os.PathLike[str] | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: Any = None,
    ) -> Any:
        """Train as Trainer does; a checkpoint may also be one that was published, without pickles.

        Raises:
            NonFiniteLossError: The loss became NaN or infinite; checkpoints saved before are kept.
            ValueError: `resume_from_checkpoint` is True, and there is no complete checkpoint.
        """
        self.training_began, self._broken_loss = time.time(), None
        try:
            with unpacked(self.find_checkpoint(resume_from_checkpoint)) as checkpoint:
                return super().train(checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.is_in_train = False
            # Also after an interrupt: nobody else would report a push that failed.
            self.publisher.finish(make_up=False)

    def find_checkpoint(self, given: str | os.PathLike[str] | bool | None) -> str | None:
        """The checkpoint that `resume_from_checkpoint` means; True takes the last one that is complete.

        Raises:
            ValueError: There is none.
        """
        if given is True:
            given = last_complete(self.args.output_dir)
            if given is None:
                raise self.no_checkpoint()
        return os.fspath(given) if given else None

    def no_checkpoint(self) -> Exception:
        """The error for a run without a complete checkpoint to resume from; here in Trainer's own words."""
        return ValueError(f"No valid checkpoint found in output directory ({self.args.output_dir})")

    def set_initial_training_values(self, args: TrainingArguments, dataloader: Any) -> Any:
        """Count epochs and steps as Trainer does.

        Raises:
            ArgumentError: There is no step to train.
        """
        values = super().set_initial_training_values(args, dataloader)
        check_steps(args, dataloader, values)
        return values

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Collect the batches of one optimizer step, and note what part of it each one is."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self.losses.begin_step(batches, num_items)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the loss as Trainer does, weighting micro-batches of different size by their number of images."""
        weight = self.losses.next_weight(self.is_in_train and model.training)
        if weight == 0.0:
            return self.losses.no_loss(model, inputs, return_outputs)
        return weighted(super().compute_loss(model, inputs, return_outputs, num_items_in_batch), weight)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run one forward and backward pass; a loss that is not finite stops the run before the weights are hurt.

        Gradients are averaged over the processes, so that a loss of one of them hurts all. They decide together,
        before the optimizer's step.

        Raises:
            NonFiniteLossError: In all processes.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.is_trying or not self.options.stop_on_non_finite_loss:
            return loss
        if not torch.isfinite(loss).all():
            self._broken_loss = float(loss)
        alone = self.args.world_size == 1
        if not alone and not self.accelerator.sync_gradients:
            return loss  # the next micro-batches wait for this process
        if self.any_process(self._broken_loss is not None):
            value, self._broken_loss = self._broken_loss, None
            raise self._non_finite("loss", value, self.state.global_step + 1)
        return loss

    def any_process(self, flag: bool) -> bool:
        """Whether a flag is set in any process of the run; all must ask."""
        if self.args.world_size == 1:
            return flag
        if flag:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())

    # --- evaluation ---

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Make the loader of evaluation data, which leaves out no image."""
        with keeping_all(self.args):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Make the loader of test data, which leaves out no image."""
        with keeping_all(self.args):
            return super().get_test_dataloader(test_dataset)

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as Trainer does; what was predicted after the training is kept for the card."""
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        if not self.is_in_train and kwargs.get("metric_key_prefix") == "eval":
            self.publisher.keep_evaluation(output)
        return output

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate as Trainer does; during training, a loss that is not finite stops the run before it is saved.

        Raises:
            NonFiniteLossError: In all processes, which hold the same metrics.
        """
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        loss = metrics.get(f"{metric_key_prefix}_loss")
        guarded = self.is_in_train and self.options.stop_on_non_finite_loss
        if guarded and isinstance(loss, float) and not math.isfinite(loss):
            raise self._non_finite(f"{metric_key_prefix}_loss", loss, self.state.global_step)
        return metrics

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """Predict the logits as Trainer does, without the images that fill the last batch of several processes."""
        ignore_keys = keys_beside_logits(self.model) if ignore_keys is None else ignore_keys
        if self.accelerator.num_processes == 1:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        some, real, rows = without_filling(self.accelerator, inputs)
        # Models that divide their loss by the number of labels take that of this process, whose mean it is.
        averaged, self.args.average_tokens_across_devices = self.args.average_tokens_across_devices, False
        try:
            loss, *outputs = super().prediction_step(model, some, prediction_loss_only, ignore_keys)
        finally:
            self.args.average_tokens_across_devices = averaged
        logits, labels = filled(outputs, real, rows)
        return loss, logits, labels

    def _non_finite(self, what: str, value: float | None, step: int) -> NonFiniteLossError:
        # A checkpoint of the present step holds the very weights that gave this loss.
        earlier = sorted(n for n in checkpoint_steps(self.args.output_dir) if n < self.state.global_step)
        kept = (
            f"The last good checkpoint is checkpoint-{earlier[-1]}" if earlier else "No good checkpoint had been saved"
        )
        found = "not finite in another process" if value is None else str(value)
        return NonFiniteLossError(
            f"The {what} became {found} at step {step} (epoch {self.state.epoch or 0:.2f}{self.place_in_plan()}). "
            f"{kept} in {self.args.output_dir}. Lower the learning rate, or look for broken images or labels in the "
            "data. stop_on_non_finite_loss=False trains on all the same."
        )

    # --- checkpoints: written whole or not at all, and loaded with every weight ---

    def _get_output_dir(self, trial: Any) -> str:
        """Where checkpoints go; while one is being written, its staging folder."""
        run_folder = super()._get_output_dir(trial)
        return str(Path(run_folder) / STAGING) if self._is_saving else run_folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save as Trainer does, but in a folder of its own that is renamed when it is complete."""
        run_folder, name = Path(self._get_output_dir(trial)), checkpoint_name(self.state.global_step)
        if self.args.should_save:
            clear_staging(run_folder)
        self.accelerator.wait_for_everyone()
        push, self.args.push_to_hub, self._is_saving = self.args.push_to_hub, False, True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.push_to_hub, self._is_saving = push, False
        note_best(self.state, run_folder, name)
        if self.args.should_save:
            staged = run_folder / STAGING / name
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
        """Save as Trainer does; a timm model so that timm can load it, too, and never with a token."""
        complete_timm_config(self.model, self.processing_class)
        folder = Path(output_dir or self.args.output_dir or ".")
        replaces = self.publisher.begin_save(folder)
        token, self.args.hub_token = self.args.hub_token, None  # Trainer pickles its arguments into the folder
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        if replaces:
            self.publisher.replace_card()
        if self.args.should_save and is_timm_wrapper(self.model):
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

    # --- publishing ---

    @property
    def training_push(self) -> TrainingPush | None:
        """What is pushed during the training; None where nothing is to be pushed, or in other processes."""
        return self.publisher.push

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Check login, rights and visibility before training, and make the repository if it is not there.

        Args:
            token: Refused.
            private: None takes `hub_private_repo`, and a private repository if that says nothing.

        Raises:
            ArgumentError: A token was given, or `hub_model_id` is no id.
            PublishError: Nothing could be published there.
        """
        self.publisher.open_repo(token, private)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **options: Any,
    ) -> Publication | None:
        """Publish model and card in one commit, and load them back from the Hub in a fresh process.

        Args:
            commit_message: Title of the commit.
            blocking: Must be True: a push that nobody waits for can fail unheard.
            token: Refused; log in, or set HF_TOKEN.
            revision: Refused: a repository that holds something already gets a pull request.
            private: As in `init_hf_repo`; where the repository was made before training, it must be what that one is.
            **options: `verify`, `license`, `limitations`, `include_examples`, `include_checkpoint`, `widget_images`,
                `benchmark_task` of `hf_transfer.publish`.

        Returns:
            What was published; None in other processes than the first.

        Raises:
            ArgumentError: An argument is refused, or the card is not valid.
            OutputError: The files hold something private.
            PublishError: It did not work; the model is in `output_dir`, and the message says how to try again.
        """
        self.publisher.check_push(blocking, token, revision, private)
        self.save_model(_internal_call=True)
        return self.publisher.publish(commit_message or "End of training", options)

    def create_model_card(
        self, *, license: str | None = None, dataset: str | list[str] | None = None, **others: Any
    ) -> None:
        """Write record, figures and card of the training into `output_dir`, from what the trainer knows.

        The evaluation is the last one after the training; where there was none, `eval_dataset` is evaluated now.

        Args:
            license: The Hub's identifier of the model's licence. Default: the base model's.
            dataset: Name of the data, for the card.
            **others: Trainer's other arguments are left out with a word: the card states what is known of the run.
        """
        self.publisher.write_card_of_script(license, dataset, [name for name, value in others.items() if value])

    def write_missing_card(self, folder: Path) -> None:
        """Write record and card where they are missing; see `RunPublisher.write_missing_card`."""
        self.publisher.write_missing_card(folder)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Save metrics as Trainer does; those of an earlier run in the same folder are not combined with them."""
        self.publisher.set_aside_earlier_run()
        super().save_metrics(split, metrics, combined)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint in the background; a failure is noted, and training continues."""
        self.publisher.push_checkpoint(Path(checkpoint_folder))

    def _finish_current_push(self) -> None:
        """Wait for a push in the background, and send what failed; if that fails, too, the run does not end."""
        self.publisher.finish(make_up=True)
