"""hf_transfer.phases.freezing: what is frozen stays fixed, bit for bit, whatever a training loop does."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import hf_transfer as ht
from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.errors import FrozenChangedError
from hf_transfer.phases.freezing import (
    Freezer,
    batch_norms,
    check_unchanged,
    freeze_state,
    frozen,
    frozen_tensors,
    phase_freeze_state,
)
from hf_transfer.utils.hashing import digests
from tests.helpers import tiny

GROUPS = (
    LayerGroup(0, "stem", "stem", ("stem.weight",), ("stem",)),
    LayerGroup(1, "b0", "block", ("b0.norm.weight", "b0.conv.weight"), ("b0",)),
    LayerGroup(2, "head", "head", ("head.weight",), ("head",)),
)
NORMS = {"b0.norm": ["b0.norm.weight"]}


def test_untouched_groups_stay_in_eval() -> None:
    """A group without trained parameters is kept in eval mode; a trained one is not."""
    state = freeze_state(GROUPS, GROUPS[2:], NORMS, "train")
    assert state.trained == {"head.weight"}
    assert state.eval_modules == ("stem", "b0")


@pytest.mark.parametrize(("norm", "held"), [("eval", ("stem", "b0.norm")), ("train", ("stem",))])
def test_norm_option_decides_for_trained_groups(norm: str, held: tuple[str, ...]) -> None:
    """norm="eval" keeps the statistics of trained groups, norm="train" lets them adapt."""
    assert freeze_state(GROUPS, GROUPS[1:], NORMS, norm).eval_modules == held


def test_untrained_norm_in_partly_trained_group_is_frozen() -> None:
    """A batch norm none of whose parameters is trained keeps its statistics even with norm="train"."""
    partly = LayerGroup(1, "b0", "block", ("b0.conv.weight",))
    assert freeze_state(GROUPS, (partly, GROUPS[2]), NORMS, "train").eval_modules == ("stem", "b0.norm")


@pytest.mark.parametrize("name", sorted(tiny.TRANSFORMERS_MODELS))
def test_frozen_part_is_bit_identical_after_hand_written_loop(name: str) -> None:
    """In a plain loop that calls model.train() each step, frozen parameters and buffers do not change, others do."""
    model = tiny.TRANSFORMERS_MODELS[name]()
    before = copy.deepcopy(model.state_dict())
    phase = ht.Phase("last", "blocks:1", learning_rate=0.1)
    with frozen(model, phase) as state:
        optimizer = torch.optim.SGD(ht.param_groups(model, phase))
        for _ in range(2):
            model.train()
            optimizer.zero_grad()
            model(pixel_values=torch.randn(4, 3, 32, 32), labels=torch.arange(4) % 3).loss.backward()
            optimizer.step()
        fixed = set(frozen_tensors(model, state))
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert fixed and not changed & fixed
    assert all(changed.intersection(group.parameter_names) for group in ht.select(model, phase.train))


def test_frozen_dropout_is_off_and_head_dropout_is_on() -> None:
    """Dropout inside frozen groups is inactive, dropout directly before a trained head stays active."""
    model = tiny.efficientnet()
    with frozen(model, ht.Phase("probe", "head")):
        model.train()
        assert model.dropout.training
        assert not any(m.training for m in model.efficientnet.encoder.modules() if isinstance(m, nn.Dropout))


def test_parameters_that_nothing_uses_stay_frozen() -> None:
    """DINOv2's mask token is trained by no plan: DDP around the model would wait for its gradient."""
    model = tiny.dinov2()
    with ht.frozen(model, ht.Phase("all", "all")) as state:
        assert "dinov2.embeddings.mask_token" not in state.trained
        still = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert still == ["dinov2.embeddings.mask_token"]


def test_context_gives_everything_back() -> None:
    """After the context, requires_grad, training flags and train() are as before, also after an exception."""
    model = tiny.resnet()
    model.train()
    model.classifier[1].weight.requires_grad_(False)
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    with pytest.raises(KeyError), frozen(model, ht.Phase("probe", "head")):
        raise KeyError
    assert flags == {n: p.requires_grad for n, p in model.named_parameters()}
    assert all(module.training and "train" not in vars(module) for module in model.modules())


def test_next_state_replaces_the_last() -> None:
    """Applying a second state unfreezes what it trains and takes its modules out of eval."""
    model = tiny.resnet()
    model.train()
    groups = ht.wrap(model).layer_groups
    freezer = Freezer(model)
    freezer.apply(phase_freeze_state(model, groups, ht.Phase("a", "head")))
    freezer.apply(phase_freeze_state(model, groups, ht.Phase("b", "all", norm="train")))
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())


def test_copies_of_a_frozen_model_are_independent() -> None:
    """deepcopy (EMA) and pickle of a frozen model give models whose train() acts on themselves."""
    model = tiny.resnet()
    with frozen(model, ht.Phase("probe", "head")):
        twin = copy.deepcopy(model)
        twin.train()
        assert not twin.resnet.embedder.training
        assert vars(twin.resnet.embedder)["train"].__self__ is twin.resnet.embedder
        pickle.loads(pickle.dumps(model))
    model.train()
    assert model.resnet.embedder.training


def test_state_dict_keys_do_not_change() -> None:
    """Freezing adds nothing to the state dict."""
    model = tiny.resnet()
    keys = list(model.state_dict())
    with frozen(model, ht.Phase("probe", "head")):
        assert list(model.state_dict()) == keys


def test_change_of_one_bit_is_found() -> None:
    """check_unchanged names a frozen tensor of which one element changed."""
    model = tiny.resnet()
    state = phase_freeze_state(model, ht.wrap(model).layer_groups, ht.Phase("probe", "head"))
    before = digests(frozen_tensors(model, state))
    name = next(iter(batch_norms(model))) + ".running_mean"
    check_unchanged(before, digests(frozen_tensors(model, state)), "probe")
    dict(model.named_buffers())[name][0] += 1e-7
    with pytest.raises(FrozenChangedError, match=name):
        check_unchanged(before, digests(frozen_tensors(model, state)), "probe")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_digest_depends_on_content_type_and_shape_not_on_layout(dtype: torch.dtype) -> None:
    """Equal tensors in another memory format have one digest; another shape, type or value has another."""
    tensor = torch.arange(24).reshape(2, 3, 2, 2).to(dtype)
    first = digests({"t": tensor})["t"]
    assert digests({"t": tensor.to(memory_format=torch.channels_last)})["t"] == first
    assert digests({"t": tensor.reshape(-1)})["t"] != first
    assert digests({"t": torch.zeros_like(tensor)})["t"] != first
