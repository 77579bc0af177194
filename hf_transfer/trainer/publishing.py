"""`Trainer` that publishes by our rules: no pickle, no token in an argument, no failure that nobody hears of."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy, SaveStrategy

from hf_transfer.errors import ArgumentError, PublishError, TransferError
from hf_transfer.hub import Publication, TrainingPush
from hf_transfer.reporting.card import CARD_NAME, write_card
from hf_transfer.reporting.earlier_run import RECORD, set_aside
from hf_transfer.reporting.record import RunRecord
from hf_transfer.reporting.verification_samples import write_samples
from hf_transfer.trainer.record import bare_record

logger = logging.getLogger(__name__)

_TOKEN_AS_ARGUMENT = (
    "hub_token is not taken as an argument: Trainer would write it into files, and a command line can be read by "
    "others. Log in by `hf auth login`, or set HF_TOKEN in the environment."
)


class PublishingTrainer(Trainer):
    """`Trainer` with our way of pushing."""

    args: TrainingArguments
    hub_model_id: str | None
    training_push: TrainingPush | None = None
    training_began: float | None = None
    """When `train` was called last, in seconds since the epoch."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Check login, rights and visibility before training, and make the repository if it is not there.

        Args:
            token: Refused.
            private: None takes `hub_private_repo`, and a private repository if that says nothing.

        Raises:
            ArgumentError: A token was given, or `hub_model_id` is no id.
            PublishError: Nothing could be published there.
        """
        if token is not None or self.args.hub_token is not None:
            raise ArgumentError(_TOKEN_AS_ARGUMENT)
        if not self.is_world_process_zero():
            return
        wanted = self.args.hub_private_repo if private is None else private
        repo_id = self.args.hub_model_id or Path(self.args.output_dir or ".").absolute().name
        self.training_push = TrainingPush(repo_id, private=True if wanted is None else wanted)
        self.hub_model_id = self.training_push.target.repo_id

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
        if not blocking or revision is not None:
            raise ArgumentError("push_to_hub waits, and chooses the branch: leave blocking and revision out.")
        if token is not None or self.training_push is None:
            self.init_hf_repo(token, private)
        elif private is not None and private != self.training_push.target.private:
            raise ArgumentError(
                f"{self.hub_model_id} is {'public' if private else 'private'}, as was settled before training, and "
                f"push_to_hub(private={private}) does not change that. Leave private out, and change it in the "
                "repository's settings on the Hub, or set hub_private_repo before training."
            )
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        assert self.training_push is not None
        folder = Path(self.args.output_dir or ".")
        self.write_missing_card(folder)
        write_samples(self, folder)
        return self.training_push.publish(folder, commit_message or "End of training", **options)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Save metrics as Trainer does; of an earlier run in the same folder, none are combined with them."""
        self._set_aside_earlier_run()
        super().save_metrics(split, metrics, combined)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save as Trainer does; what an earlier run left in the folder is not taken for this one's from then on."""
        folder = Path(self.args.output_dir or ".")
        replaces = Path(output_dir or folder) == folder and self._set_aside_earlier_run()
        super()._save(output_dir, state_dict)
        if not (replaces and (folder / RECORD).is_file()):
            return
        try:
            self.write_missing_card(folder)
        except TransferError as error:
            logger.warning("%s stays as it is: %s", folder / RECORD, error)

    def _set_aside_earlier_run(self) -> bool:
        """Move an earlier run's results aside, where there was a training since; whether there was one."""
        if self.training_began is None or not self.is_world_process_zero():
            return False
        set_aside(Path(self.args.output_dir or "."), self.training_began, getattr(self, "plan", None) is not None)
        return True

    def write_missing_card(self, folder: Path) -> None:
        """Write record and card: what the trainer knows, and nothing else.

        A record of this very training is left alone, for it may know more; one of another training is replaced, with
        its card but for what the user wrote there. So is a card without a record left alone, which is the user's.

        Raises:
            PublishError: There was no training, or the model is none that a card could be written for.
        """
        path = folder / RECORD
        if path.is_file():
            if self._tells_of_this_training(path):
                return
            logger.warning("%s tells of another training than this one, and is written anew with its card.", path)
        elif (folder / CARD_NAME).is_file():
            return
        self._check_can_be_told()
        record = bare_record(self)
        record.save(path)
        write_card(folder, record.to_dict())

    def _tells_of_this_training(self, path: Path) -> bool:
        """Whether plan, steps and last loss in a record are this trainer's; True if it has not trained."""
        if not self._has_trained():
            return True
        self._check_can_be_told()
        stored, now = RunRecord.load(path).to_dict()["training"], bare_record(self).to_dict()["training"]
        return all(stored.get(key) == now.get(key) for key in ("plan", "steps", "final_loss"))

    def _has_trained(self) -> bool:
        return getattr(self, "optimizer", None) is not None or getattr(self, "solution", None) is not None

    def _check_can_be_told(self) -> None:
        """Refuse to write a record where there is nothing to tell of.

        Raises:
            PublishError: There was no training, or the model has no configuration with labels.
        """
        if not self._has_trained():
            raise PublishError(
                f"There was no training of which a card could tell. Train first, or write {CARD_NAME} into "
                f"{self.args.output_dir} yourself."
            )
        if not getattr(getattr(self.model, "config", None), "id2label", None):
            raise PublishError(
                f"No card can be written for a {type(self.model).__name__}: expected a model with config.id2label, "
                f"such as AutoModelForImageClassification loads. Or write {CARD_NAME} into {self.args.output_dir} "
                "yourself."
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint in the background; a failure is noted, and training goes on."""
        strategy = HubStrategy(self.args.hub_strategy)
        if not self.is_world_process_zero() or strategy == HubStrategy.END or self.training_push is None:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        place = {
            HubStrategy.CHECKPOINT: "last-checkpoint",
            HubStrategy.ALL_CHECKPOINTS: Path(checkpoint_folder).name,
        }.get(strategy)
        steps = self.args.save_strategy == SaveStrategy.STEPS
        where = f"step {self.state.global_step}" if steps else f"epoch {int(self.state.epoch or 0)}"
        always = self.args.hub_always_push
        self.training_push.checkpoint(Path(checkpoint_folder), f"Training in progress, {where}", place, always)

    def _finish_current_push(self) -> None:
        """Wait for a push in the background, and send what failed; if that fails, too, the run does not end."""
        self.finish_pushes(make_up=True)

    def finish_pushes(self, make_up: bool) -> None:
        """Wait for a push in the background, and tell what failed.

        Args:
            make_up: Also send what failed; False only tells, as after an interrupt, when there may be little time.
        """
        if self.training_push is None:
            return
        failures = self.training_push.finish()
        missing = self.training_push.make_up() if make_up else ()
        if not failures and not missing:
            return
        if missing or not make_up:
            still = f"Still missing on the Hub: {'; '.join(missing)}. " if missing else ""
            rest = (
                f"{still}The repository may lack the last weights: push_to_hub() sends what is missing, "
                "`hf-transfer publish` the model."
            )
        else:
            rest = "All was made up for now."
        logger.warning("%d pushes during training failed. %s %s", len(failures), rest, " | ".join(failures))
