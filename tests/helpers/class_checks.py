"""What the layer groups of every class of transformers must hold; also run by scripts/make_architectures_doc.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

import hf_transfer as ht
from hf_transfer.architectures.wrapper import ModelWrapper
from hf_transfer.phases.unused_parameters import find_unused_parameters
from hf_transfer.trainer.loss import logits_of
from hf_transfer.utils.modules import is_inside
from tests.helpers import every_transformers_class, group_checks
from tests.helpers.training import arguments, logged

# A gradient below this is rounding; AdamW makes a visible step of anything above.
_NOISE = 1e-8


class Items(Dataset[dict[str, torch.Tensor]]):
    """The four images of a batch, one by one, with labels."""

    def __init__(self, batch: dict[str, torch.Tensor]) -> None:
        self.columns = batch | {"labels": torch.tensor([0, 1, 2, 0])}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


@dataclass
class Case:
    """A class, its tiny model (made once, weights restored after training) and one batch."""

    name: str

    @cached_property
    def model(self) -> nn.Module:
        model = every_transformers_class.make(self.name)
        if not self.name.startswith("Dinat"):
            _measure_batch_norms(model, self.batch)
        return model

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    @cached_property
    def batch(self) -> dict[str, torch.Tensor]:
        return every_transformers_class.batch(self.name)

    @cached_property
    def wrapper(self) -> ModelWrapper:
        return ht.wrap(self.model, strict=True)

    @cached_property
    def reference(self) -> tuple[float, dict[str, torch.Tensor]]:
        """Loss and gradients of the four images, without any trainer."""
        self.model.load_state_dict(self.weights)
        self.model.zero_grad()
        # From train to eval: LeViT keeps the attention biases of an eval pass.
        loss = functional.cross_entropy(
            logits_of(self.model.train().eval()(**self.batch)), Items(self.batch).columns["labels"]
        )
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad()
        self.model.train()
        return float(loss.detach()), gradients

    @property
    def middle(self) -> str:
        blocks = [group.name for group in self.wrapper.layer_groups if group.role == "block"]
        return blocks[len(blocks) // 2]

    def names_from(self, first: str) -> set[str]:
        """Parameters of a group and all after it."""
        groups = self.wrapper.layer_groups
        start = next(group.index for group in groups if group.name == first)
        return {name for group in groups[start:] for name in group.parameter_names}

    def step(self, train: str, batch_size: int) -> tuple[set[str], float, float]:
        """One optimizer step on all four images: names of what moved, the loss and the norm of the gradient."""
        self.model.load_state_dict(self.weights)
        phase = ht.Phase("only", train=train, epochs=1, learning_rate=1e-2, norm="eval")
        with tempfile.TemporaryDirectory() as folder:
            options: dict[str, Any] = {
                "per_device_train_batch_size": batch_size,
                "gradient_accumulation_steps": 4 // batch_size,
                "weight_decay": 0.0,
                "use_cpu": True,
            }
            args = arguments(Path(folder), **options)
            trainer = ht.TransferTrainer(
                self.model, args, train_dataset=Items(self.batch), plan=ht.TransferPlan(phases=(phase,))
            )
            trainer.train()
        assert trainer.state.global_step == 1
        moved = {n for n, p in self.model.named_parameters() if not torch.equal(p.detach(), self.weights[n])}
        self.model.load_state_dict(self.weights)
        return moved, logged(trainer, "loss")[0], logged(trainer, "grad_norm")[0]


def _measure_batch_norms(model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """Give batch norms the statistics of the batch: with those of a new model deep ones pass next to no gradient."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(**batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@cache
def case(name: str) -> Case:
    """The case of a class, kept for all its checks."""
    return Case(name)


def groups_partition_the_parameters(one: Case) -> None:
    """Each parameter is in exactly one group; blocks lie between stem, neck and head; modules go with them."""
    for granularity in ("block", "stage"):
        groups = ht.wrap(one.model, granularity, strict=True).layer_groups  # type: ignore[arg-type]
        group_checks.check_groups(one.model, groups)
        group_checks.check_modules(one.model, groups)
    assert groups[-1].role == "head"
    assert sum(group.role == "block" for group in one.wrapper.layer_groups) >= 3
    group_checks.check_coarser(one.wrapper.layer_groups, groups)


def groups_on_meta_device(one: Case) -> None:
    """A model without weights has the same groups."""
    with torch.device("meta"):
        hollow = every_transformers_class.make(one.name)
    assert ht.wrap(hollow, strict=True).layer_groups == one.wrapper.layer_groups


def groups_in_order_of_execution(one: Case) -> None:
    """A forward pass enters the groups as they are numbered, blocks and stages."""
    for granularity in ("block", "stage"):
        groups = ht.wrap(one.model, granularity, strict=True).layer_groups  # type: ignore[arg-type]
        group_checks.check_order(one.model, groups, one.batch, unused=one.wrapper.unused_parameters)


def head_is_what_depends_on_labels(one: Case) -> None:
    """The head is what changes its shape with the number of labels, and the declared extras."""
    other = every_transformers_class.make(one.name, num_labels=5)
    extras = {
        f"{path}.{end}"
        for path in every_transformers_class.HEAD_EXTRAS.get(one.name, ())
        for end in ("weight", "bias")
    }
    assert set(one.wrapper.head.parameter_names) == group_checks.label_parameters(one.model, other) | extras


def unused_parameters_are_declared(one: Case) -> None:
    """The declared parameters without a gradient are those that the graph of a forward pass lacks."""
    flags = [(p.requires_grad, p.grad is None) for p in one.model.parameters()]
    before = group_checks.fingerprint(one.model)
    assert find_unused_parameters(one.model, Items(one.batch).columns) == one.wrapper.unused_parameters
    assert group_checks.fingerprint(one.model) == before
    assert flags == [(p.requires_grad, p.grad is None) for p in one.model.parameters()]


def reused_modules_are_declared(one: Case) -> None:
    """The modules that run more than once in a forward pass are those that the wrapper reports."""
    reused = one.wrapper.reused_modules
    found = group_checks.repeated_modules(one.model, one.batch)
    assert not [name for name in found if not is_inside(name, reused)]
    assert not [path for path in reused if not any(is_inside(name, (path,)) for name in found)]


def wrap_changes_nothing(one: Case) -> None:
    """Keys, weights, classes, modes, hooks and outputs are as before."""
    model = one.model.eval()
    with torch.no_grad():
        expected = logits_of(model(**one.batch))
    before = group_checks.fingerprint(model)
    ht.wrap(model)
    assert group_checks.fingerprint(model) == before
    with torch.no_grad():
        assert torch.equal(logits_of(model(**one.batch)), expected)
    assert expected.shape == (4, 3)


def truncated_models_run(one: Case) -> None:
    """Cut after the first, middle and last truncation point, the model runs, with the kept weights bit for bit."""
    points = ht.truncation_points(one.model)
    for point in {points[0], points[len(points) // 2], points[-1]} if points else ():
        smaller = ht.truncate(one.model, point)
        assert type(smaller) is type(one.model)
        kept = [group for group in ht.wrap(smaller, strict=True).layer_groups if group.role in ("stem", "block")]
        assert kept[-1].name == point
        assert kept[-1].parameter_names and all(
            torch.equal(smaller.get_parameter(name), one.model.get_parameter(name))
            for group in kept
            for name in group.parameter_names
        )
        with torch.no_grad():
            assert logits_of(smaller.eval()(**one.batch)).shape == (4, 3)


def last_1_trains_the_end(one: Case) -> None:
    """`last:1` moves the head and the group before it, and nothing else."""
    _check_moved(one, one.names_from(one.wrapper.layer_groups[-2].name), one.step("last:1", 4)[0])


def training_moves_the_chosen_groups(one: Case) -> None:
    """`from:<a middle block>` moves that block and all after it, by one step of the loss of all four images."""
    _check_step(one, batch_size=4)


def accumulation_is_right(one: Case) -> None:
    """Two micro-batches of two images give the loss and the norm of the gradient of all four images."""
    _check_step(one, batch_size=2)


def _check_step(one: Case, batch_size: int) -> None:
    chosen = one.names_from(one.middle)
    moved, loss, norm = one.step(f"from:{one.middle}", batch_size)
    _check_moved(one, chosen, moved)
    expected_loss, gradients = one.reference
    total = float(torch.stack([gradients[name].norm() for name in chosen if name in gradients]).norm())
    assert loss == pytest.approx(expected_loss, rel=1e-3, abs=2e-4)
    assert norm == pytest.approx(total, rel=1e-3)


def _check_moved(one: Case, chosen: set[str], moved: set[str]) -> None:
    """Only chosen parameters moved, and of these all that the loss pulls at.

    It does not pull at all of them in a tiny model: the queries of an attention to one token change nothing.
    """
    pulled = {name for name, gradient in one.reference[1].items() if float(gradient.abs().max()) > _NOISE}
    assert moved <= chosen - set(one.wrapper.unused_parameters)
    assert moved >= chosen & pulled
    assert len(moved) > len(chosen - set(one.wrapper.unused_parameters)) / 2


CHECKS: dict[str, Callable[[Case], None]] = {
    "partition": groups_partition_the_parameters,
    "meta": groups_on_meta_device,
    "order": groups_in_order_of_execution,
    "head": head_is_what_depends_on_labels,
    "unused": unused_parameters_are_declared,
    "reused": reused_modules_are_declared,
    "unchanged": wrap_changes_nothing,
    "truncated": truncated_models_run,
    "last:1": last_1_trains_the_end,
    "from:block": training_moves_the_chosen_groups,
    "accumulation": accumulation_is_right,
}
SLOW = ("truncated", "last:1", "from:block", "accumulation")
NEED_FORWARD = ("order", "unused", "reused", "unchanged", *SLOW)
