"""The weights that a training leaves: chosen on held-out training images, and calibrated on them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import Trainer

from hf_transfer.errors import LayerGroupError, ModelError, PlanError
from hf_transfer.evaluation.deciding import check_metric
from hf_transfer.linear_probe.head import divide_head
from hf_transfer.phases.kept_weights import (
    MIXTURES,
    START,
    JudgedMember,
    KeptWeights,
    Member,
    choose_member,
    fault,
    judge,
)
from hf_transfer.run_files import HELD_OUT_FILE
from hf_transfer.trainer.base import BaseTrainer
from hf_transfer.utils.modules import named_parameters
from hf_transfer.utils.random_state import own_random_numbers

logger = logging.getLogger(__name__)

_SETTLED = 0.5
"""Share of the steps before which a training is not given up: at the peak of its rate it may be far below its start,
and make up for it when the rate falls."""
POINTS = 8
"""How often a training is looked at on held-out images, evenly spread over its steps."""
FEWEST_TO_CALIBRATE = 20

Advice = Literal["go on", "slow down", "stop"]
Logits = npt.NDArray[np.floating[Any]]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class HeldOut:
    """The images that the weights of a training are chosen on, and how.

    Attributes:
        dataset: Held-out training images, as the trainer takes evaluation images; nothing is trained on them.
        metric: What decides: "accuracy", "balanced_accuracy", "macro_f1" or "log_loss".
        calibrate: Fold the temperature that the held-out images ask for into the head, so that scores are
            probabilities.
        follow: Weights that were chosen elsewhere, such as on folds of the same images, where nothing is held out now.
        temperature: By which the logits of `follow` are divided.
    """

    dataset: Any = None
    metric: str = "accuracy"
    calibrate: bool = True
    follow: Member | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if (self.dataset is None) == (self.follow is None):
            raise PlanError("HeldOut needs images, or weights to follow: one of the two.")


class WeightKeeper:
    """Looks at a training on held-out images, and leaves the weights that are best there.

    Args:
        trainer: The trainer; it has a plan.
        how: How.

    Attributes:
        kept: What was chosen; None before the end.
        points: The training on the held-out images, in the order of its steps.
        slowed_at: Share of the steps at which the training went back to its start, to go on at a lower rate; None
            where it did not.
        seen: Held-out logits of all weights that were looked at, `(images, classes)` each.
    """

    def __init__(self, trainer: Trainer, how: HeldOut) -> None:
        self._trainer = trainer
        self._how = how
        self._start: Tensors = {}
        self._best: Tensors = {}
        self._best_member = Member(START)
        self._begun: dict[str, Logits] = {}
        self._labels: Any = None
        self._total = 0
        self._done = False
        self._wrong: str | None = None
        self.slowed_at: float | None = None
        self.kept: KeptWeights | None = None
        self.points: list[JudgedMember] = []
        self.seen: dict[Member, Logits] = {}
        self.temperature = 1.0

    @property
    def labels(self) -> Any:
        """Labels of the held-out images."""
        return self._labels

    def last_step(self, total: int) -> int:
        """The step that a training of some steps ends with."""
        follow = self._how.follow
        return total if follow is None else min(max(math.ceil(round(follow.share * total, 6)), 1), total)

    def begin(self, step: int, total: int) -> None:
        """Begin with a step; the weights are then those of the start, unless a checkpoint told another one."""
        self._total, self._done = total, step >= self.last_step(total)
        if self._done or self._start:
            return
        self._start = self._copied()
        if self._how.dataset is not None:
            self._look(Member(START))

    def step_ended(self, step: int, averaged: Any) -> Advice:
        """Look at the weights where a point is reached.

        Args:
            step: Optimizer steps done.
            averaged: Gives a context in which the weights are their mean so far, where the phase takes one.

        Returns:
            Whether to go on, to go on at a lower rate from the start's weights, which are written then, or to stop.
        """
        if self._done:
            return "go on"
        if self._how.follow is not None or step == self._total or not self._is_point(step):
            return "go on"
        share = round(step / self._total, 4)
        with averaged():
            wrong = self._look(Member(share))
        if wrong is None:
            return "go on"
        if self.slowed_at is None:
            self.slowed_at = share
            logger.warning("After %s of its steps the training goes back to its start: %s.", f"{share:.0%}", wrong)
            self._write(self._start)
            return "slow down"
        self._wrong = wrong
        logger.warning("The training ends after %s of its steps: %s.", f"{share:.0%}", wrong)
        return "stop"

    @property
    def can_give_up(self) -> bool:
        """Whether there are weights to go back to."""
        return not self._done and "start" in self._begun

    def give_up(self, reason: str) -> None:
        """Leave the best weights so far, which may be those of the start."""
        self._wrong = reason
        self.finish()

    def finish(self) -> None:
        """Leave the chosen weights, and calibrate them."""
        if self._done or not self._start:
            return
        self._done = True
        if self._how.follow is not None:
            self._follow(self._how.follow)
            return
        end, wrong = self._copied(), self._wrong
        members = {Member(START): self._begun["start"]}
        if self._best_member.share != START:
            members[self._best_member] = self._begun["best"]
        if wrong is None:
            last = Member(1.0)
            members[last] = self._evaluate()
            self._note(last, members[last])
            for mix in MIXTURES:
                self._write(_mixed(self._start, end, mix))
                members[Member(1.0, mix)] = self._evaluate()
        self.kept = replace(
            choose_member(list(members), list(members.values()), self._labels, self._how.metric), stopped=wrong
        )
        self.seen |= members
        self._write(self._weights_of(self.kept.chosen.member, end))
        logger.log(logging.WARNING if wrong else logging.INFO, "%s", self.kept.sentence())
        self._calibrate(self.kept.chosen.temperature)

    def facts(self) -> dict[str, Any] | None:
        """What was chosen, for the record; None where nothing was."""
        followed = self._how.follow
        if self.kept is not None:
            found = self.kept.to_dict() | {"points": [each.to_dict() for each in self.points]}
        elif followed is not None and self._done:
            found = {"followed": str(followed), "metric": self._how.metric}
        else:
            return None
        return found | {"temperature": self.temperature, "slowed_at": self.slowed_at}

    def save(self, folder: Path) -> None:
        """Write what resuming needs into a checkpoint."""
        if not self._start or self._done:
            return
        tensors = {f"start.{name}": value for name, value in self._start.items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        tensors |= {f"logits.{name}": torch.from_numpy(np.array(value)) for name, value in self._begun.items()}
        if self._labels is not None:
            tensors["labels"] = torch.from_numpy(np.array(self._labels))
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        points = [[p.member.share, p.value, p.log_loss, p.temperature] for p in self.points]
        facts = {"points": points, "best": self._best_member.share, "slowed_at": self.slowed_at}
        save_file(plain, folder / HELD_OUT_FILE, metadata={"format": "pt", "facts": json.dumps(facts)})

    def restore(self, folder: Path) -> None:
        """Take over the start and the best weights so far from a checkpoint.

        Raises:
            PlanError: The file is damaged or of another model.
        """
        if not (folder / HELD_OUT_FILE).is_file():
            return
        try:
            with safe_open(folder / HELD_OUT_FILE, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts = json.loads((file.metadata() or {})["facts"])
            parts: dict[str, Tensors] = {"start": {}, "best": {}, "logits": {}}
            for name, value in tensors.items():
                if name != "labels":
                    kind, _, own = name.partition(".")
                    parts[kind][own] = value
            self._labels = tensors["labels"].numpy() if "labels" in tensors else None
            self._start, self._best = parts["start"], parts["best"]
            self._begun = {name: value.numpy() for name, value in parts["logits"].items()}
            self._best_member, self.slowed_at = Member(float(facts["best"])), facts["slowed_at"]
            self.points = [JudgedMember(Member(share), *rest) for share, *rest in facts["points"]]
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise PlanError(
                f"{HELD_OUT_FILE} in {folder.name} is damaged or of another run ({type(error).__name__}: {error}). "
                "Resume from another checkpoint."
            ) from error

    def _is_point(self, step: int) -> bool:
        """Whether a step is one of the evenly spread points."""
        return any(step == round(number * self._total / POINTS) for number in range(1, POINTS))

    def _look(self, member: Member) -> str | None:
        """Evaluate the present weights; why the training is to end here, or None."""
        logits = self._evaluate()
        judged = self._note(member, logits)
        if member.share == START:
            self._begun = {"start": logits}
            return None
        wrong = fault(logits, self._begun["start"], self._labels, self._how.metric)
        if wrong is not None and member.share < _SETTLED:
            logger.info("After %s of the steps %s.", f"{member.share:.0%}", wrong)
            wrong = None
        if wrong is not None:
            return wrong
        best = min((p for p in self.points[:-1] if p.member.share != START), key=lambda p: p.log_loss, default=None)
        if best is None or judged.log_loss < best.log_loss:
            self._best, self._best_member, self._begun["best"] = self._copied(), member, logits
        return None

    def _note(self, member: Member, logits: Logits) -> JudgedMember:
        judged = judge(member, logits, self._labels, self._how.metric)
        self.points.append(judged)
        self.seen[member] = logits
        due = self._trainer.control.should_log  # which a log takes back
        self._trainer.log({f"held_out_{self._how.metric}": judged.value, "held_out_log_loss": judged.log_loss})
        self._trainer.control.should_log = due
        return judged

    def _evaluate(self) -> Logits:
        """Logits of the held-out images, `(images, classes)`, the same in all processes."""
        trainer = self._trainer
        with own_random_numbers(device=trainer.args.device), _plain_metrics(trainer):
            loader = BaseTrainer.get_eval_dataloader(trainer, _stored(trainer, self._how.dataset))
            output = trainer.evaluation_loop(loader, "Held-out images", False, metric_key_prefix="held_out")
        predictions = output.predictions
        self._labels = np.asarray(output.label_ids)
        return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions, np.float32)

    def _tensors(self) -> Tensors:
        """The tensors that the plan may have changed: what it trains, and running statistics."""
        model = self._trainer.model
        names = {name for group in self._trainer.resolved_plan.optimizer_groups for name in group.parameter_names}
        found = {name: p.data for name, p in named_parameters(model) if name in names}
        return found | {n: b for n, b in model.named_buffers() if b is not None and b.is_floating_point()}

    def _copied(self) -> Tensors:
        return {name: value.detach().cpu().clone() for name, value in self._tensors().items()}

    @torch.no_grad()
    def _write(self, weights: Mapping[str, torch.Tensor]) -> None:
        own = self._tensors()
        for name, value in weights.items():
            if not torch.equal(own[name].cpu(), value):
                own[name].copy_(value)

    def _weights_of(self, member: Member, end: Tensors) -> Tensors:
        if member.share == START:
            return self._start
        if member.mix < 1:
            return _mixed(self._start, end, member.mix)
        return end if member.share >= 1 else self._best

    def _follow(self, member: Member) -> None:
        self._write(self._start if member.share == START else _mixed(self._start, self._copied(), member.mix))
        self._calibrate(self._how.temperature)

    def _calibrate(self, temperature: float) -> None:
        if not self._how.calibrate or (self._labels is not None and len(self._labels) < FEWEST_TO_CALIBRATE):
            return
        try:
            divide_head(self._trainer.accelerator.unwrap_model(self._trainer.model), temperature)
            self.temperature = temperature
        except (LayerGroupError, ModelError) as error:
            logger.warning("The scores are not calibrated: %s", error)


def _mixed(start: Tensors, end: Tensors, mix: float) -> Tensors:
    return {name: start[name].lerp(value, mix) if value.is_floating_point() else value for name, value in end.items()}


def _stored(trainer: Any, dataset: Any) -> Any:
    """Held-out images as the phase's cache has them, which they pass several times."""
    cache = None if trainer.run is None else trainer.run.cache
    return dataset if cache is None else cache.evaluation(dataset, POINTS)


@contextmanager
def _plain_metrics(trainer: Any) -> Iterator[None]:
    """Let an evaluation give logits alone."""
    kept = trainer.compute_metrics, trainer.preprocess_logits_for_metrics
    trainer.compute_metrics = trainer.preprocess_logits_for_metrics = None
    try:
        yield
    finally:
        trainer.compute_metrics, trainer.preprocess_logits_for_metrics = kept
