"""Publishing by our rules: no pickle, no token in an argument, no failure that nobody hears of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy

from hf_transfer.errors import ArgumentError, PublishError, TransferError
from hf_transfer.evaluation import evaluate_predictions
from hf_transfer.hub import Publication, TrainingPush
from hf_transfer.models.loading import label_names_of
from hf_transfer.reporting.card import write_card
from hf_transfer.reporting.earlier_run import set_aside
from hf_transfer.reporting.record import RunRecord
from hf_transfer.reporting.results import SplitResult, write_results
from hf_transfer.reporting.verification_samples import write_samples
from hf_transfer.run_files import CARD_NAME, RECORD
from hf_transfer.trainer.record import bare_record
from hf_transfer.utils.foreign import configured

logger = logging.getLogger(__name__)

_MOST_LOGITS = 50_000_000
_OF_TRAINERS_CARD = frozenset(
    ("language", "tags", "model_name", "finetuned_from", "tasks", "dataset_tags", "dataset", "dataset_args")
)
"""Arguments of Trainer's `create_model_card`, which scripts also give to `push_to_hub`."""

_TOKEN_AS_ARGUMENT = (
    "hub_token is not taken as an argument: Trainer would write it into files, and a command line can be read by "
    "others. Log in by `hf auth login`, or set HF_TOKEN in the environment."
)


class RunPublisher:
    """What a trainer sends to the Hub, and the card that it writes for that.

    Args:
        trainer: The trainer; it need not be set up yet.

    Attributes:
        push: Where the run is pushed to; None where it is not, and in other processes than the first.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.push: TrainingPush | None = None
        self._evaluation: tuple[int, npt.NDArray[Any], npt.NDArray[Any]] | None = None

    @property
    def _folder(self) -> Path:
        return Path(self._trainer.args.output_dir or ".")

    def open_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Check login, rights and visibility, and make the repository; see `BaseTrainer.init_hf_repo`."""
        trainer = self._trainer
        if token is not None or trainer.args.hub_token is not None:
            raise ArgumentError(_TOKEN_AS_ARGUMENT)
        if not trainer.is_world_process_zero():
            return
        wanted = trainer.args.hub_private_repo if private is None else private
        repo_id = trainer.args.hub_model_id or self._folder.absolute().name
        self.push = TrainingPush(repo_id, private=True if wanted is None else wanted)
        trainer.hub_model_id = self.push.target.repo_id

    def check_push(self, blocking: bool, token: str | None, revision: str | None, private: bool | None) -> None:
        """Check the arguments of `BaseTrainer.push_to_hub`, and open the repository where that was not done."""
        if not blocking or revision is not None:
            raise ArgumentError("push_to_hub waits, and chooses the branch: leave blocking and revision out.")
        if token is not None or self.push is None:
            self.open_repo(token, private)
        elif private is not None and private != self.push.target.private:
            raise ArgumentError(
                f"{self._trainer.hub_model_id} is {'public' if private else 'private'}, as was settled before "
                f"training, and push_to_hub(private={private}) does not change that. Leave private out, and change it "
                "in the repository's settings on the Hub, or set hub_private_repo before training."
            )
        trainer = self._trainer
        trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)

    def publish(self, commit_message: str, options: Mapping[str, Any]) -> Publication | None:
        """Publish the saved model with its card; None in other processes than the first.

        Args:
            commit_message: Title of the commit.
            options: Of `hf_transfer.publish`; and those of Trainer's cards, for which our card is written first.
        """
        stated = {name: value for name, value in options.items() if name in _OF_TRAINERS_CARD}
        options = {name: value for name, value in options.items() if name not in stated}
        if stated:
            dataset = stated.pop("dataset", None)
            self.write_card_of_script(options.get("license"), dataset, [name for name in stated if stated[name]])
        if not self._trainer.is_world_process_zero():
            return None
        assert self.push is not None
        self.write_missing_card(self._folder)
        write_samples(self._trainer, self._folder)
        return self.push.publish(self._folder, commit_message, **options)

    def keep_evaluation(self, output: Any) -> None:
        """Keep what an evaluation after the training predicted, for the card; huge ones would fill the memory."""
        trainer = self._trainer
        logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
        known = logits is not None and output.label_ids is not None and np.size(logits) <= _MOST_LOGITS
        if known and trainer.is_world_process_zero():
            self._evaluation = (trainer.state.global_step, np.asarray(logits), np.asarray(output.label_ids))

    def write_card_of_script(self, license: str | None, data: str | list[str] | None, ignored: list[str]) -> None:
        """Write record, figures and card; see `BaseTrainer.create_model_card`."""
        trainer = self._trainer
        if ignored:
            logger.warning("The card states what is known of the run; left out: %s.", ", ".join(ignored))
        known = self._evaluation is not None and self._evaluation[0] == trainer.state.global_step
        # All processes predict, or none: the first one alone knows what it kept.
        lacking = trainer.any_process(trainer.is_world_process_zero() and not known)
        if lacking and trainer.eval_dataset is not None and not isinstance(trainer.eval_dataset, dict):
            trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
        if not trainer.is_world_process_zero():
            return
        self._check_can_be_told()
        self.set_aside_earlier_run()
        results = self._results()
        name = data if isinstance(data, str) or data is None else ", ".join(data)
        record = bare_record(trainer, name or "", {result.report.split: result.report for result in results})
        write_results(self._folder, record, results, license=license)

    def _results(self) -> list[SplitResult]:
        """The evaluation after the training, where there was one and labels are classes; else nothing."""
        step, logits, labels = self._evaluation or (-1, np.zeros(0), np.zeros(0, np.int64))
        names = label_names_of(self._trainer.model)
        is_classes = logits.ndim == 2 and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        if step != self._trainer.state.global_step or not is_classes or logits.shape[1] != len(names):
            return []
        return [SplitResult(evaluate_predictions(logits, labels, names, "evaluation"), logits, labels, None)]

    def push_checkpoint(self, folder: Path) -> None:
        """Push a checkpoint in the background; a failure is noted."""
        trainer = self._trainer
        strategy = HubStrategy(trainer.args.hub_strategy)
        if not trainer.is_world_process_zero() or strategy == HubStrategy.END or self.push is None:
            return
        trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)
        place = {
            HubStrategy.CHECKPOINT: "last-checkpoint",
            HubStrategy.ALL_CHECKPOINTS: folder.name,
        }.get(strategy)
        steps = trainer.args.save_strategy == SaveStrategy.STEPS
        where = f"step {trainer.state.global_step}" if steps else f"epoch {int(trainer.state.epoch or 0)}"
        self.push.checkpoint(folder, f"Training in progress, {where}", place, trainer.args.hub_always_push)

    def finish(self, make_up: bool) -> None:
        """Wait for a push in the background, and report what failed.

        Args:
            make_up: Also send what failed; False only reports, as after an interrupt, when there may be little time.
        """
        if self.push is None:
            return
        failures = self.push.finish()
        missing = self.push.make_up() if make_up else ()
        if not failures and not missing:
            return
        rest = "All was made up for now."
        if missing or not make_up:
            still = f"Still missing on the Hub: {'; '.join(missing)}. " if missing else ""
            rest = (
                f"{still}The repository may lack the last weights: push_to_hub() sends what is missing, "
                "`hf-transfer publish` the model."
            )
        logger.warning("%d pushes during training failed. %s %s", len(failures), rest, " | ".join(failures))

    def begin_save(self, folder: Path) -> bool:
        """Set an earlier run's results aside before the model is saved.

        Returns:
            Whether the save replaces the model of a record, whose card must be written again.
        """
        return folder == self._folder and self.set_aside_earlier_run() and (folder / RECORD).is_file()

    def replace_card(self) -> None:
        """Write the card of the model that was saved over that of an earlier training."""
        try:
            self.write_missing_card(self._folder)
        except TransferError as error:
            logger.warning("%s stays as it is: %s", self._folder / RECORD, error)

    def set_aside_earlier_run(self) -> bool:
        """Move an earlier run's results aside, where there was a training since; whether there was one."""
        trainer = self._trainer
        if trainer.training_began is None or not trainer.is_world_process_zero():
            return False
        set_aside(self._folder, trainer.training_began, trainer.follows_plan)
        return True

    def write_missing_card(self, folder: Path) -> None:
        """Write record and card: what the trainer knows, and nothing else.

        A record of this very training is left alone, for it may know more; one of another training is replaced, with
        its card but for what the user wrote there. A card without a record is the user's, and is left alone, too.

        Raises:
            PublishError: There was no training, or the model is none that a card could be written for.
        """
        path = folder / RECORD
        if path.is_file():
            if self._is_of_this_training(path):
                return
            logger.warning("%s is of another training than this one, and is written again with its card.", path)
        elif (folder / CARD_NAME).is_file():
            return
        self._check_can_be_told()
        record = bare_record(self._trainer)
        record.save(path)
        write_card(folder, record.to_dict())

    def _is_of_this_training(self, path: Path) -> bool:
        """Whether plan, steps and last loss in a record are this trainer's; True if it has not trained."""
        if not self._trainer.has_trained:
            return True
        self._check_can_be_told()
        stored = RunRecord.load(path).to_dict()["training"]
        now = bare_record(self._trainer).to_dict()["training"]
        return all(stored.get(key) == now.get(key) for key in ("plan", "steps", "final_loss"))

    def _check_can_be_told(self) -> None:
        """Refuse to write a record where there is nothing to write about.

        Raises:
            PublishError: There was no training, or the model has no configuration with labels.
        """
        trainer = self._trainer
        if not trainer.has_trained:
            raise PublishError(
                f"There was no training that a card could describe. Train first, or write {CARD_NAME} into "
                f"{trainer.args.output_dir} yourself."
            )
        if not configured(trainer.model, "id2label"):
            raise PublishError(
                f"No card can be written for a {type(trainer.model).__name__}: expected a model with config.id2label, "
                f"such as AutoModelForImageClassification loads. Or write {CARD_NAME} into {trainer.args.output_dir} "
                "yourself."
            )
