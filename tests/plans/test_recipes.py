"""plans.recipes: each recipe trains what its name says, and wrong names or options are answered with a list."""

from __future__ import annotations

import inspect
import json
from functools import cache
from typing import Any

import pytest
from torch import nn

import hf_transfer as ht
from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.norms import norm_parameter_names
from hf_transfer.architectures.selectors import select_groups
from hf_transfer.errors import ArgumentError, PlanError
from hf_transfer.plans import recipes
from hf_transfer.plans.plan import TransferPlan, group_learning_rates
from tests.helpers import tiny

NAMES = (
    "bias_only",
    "bit_hyperrule",
    "fine_tune",
    "from_scratch",
    "gradual_unfreeze",
    "last_blocks",
    "linear_probe",
    "lp_ft",
    "norm_only",
    "surgical",
    "svm",
)
REQUIRED: dict[str, dict[str, Any]] = {"bit_hyperrule": {"n_images": 1000, "image_size": 64}}


def _trained(plan: TransferPlan, name: str = "vit") -> list[set[str]]:
    """Names of the groups that each phase trains."""
    model = tiny.ALL_MODELS[name]()
    return [{g.name for g in ht.select(model, phase.train)} for phase in plan.phases]


def test_all_recipes_are_listed() -> None:
    """`names` gives what `get` knows, sorted, and each name is the function of that name."""
    assert recipes.names() == NAMES
    for name in NAMES:
        assert recipes.get(name, **REQUIRED.get(name, {})) == getattr(recipes, name)(**REQUIRED.get(name, {}))
        assert recipes.get(name, **REQUIRED.get(name, {})).recipe == name


@cache
def _model(name: str) -> nn.Module:
    """A model that is only looked at."""
    return tiny.ALL_MODELS[name]()


@pytest.mark.parametrize("model_name", tiny.ALL_MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_fits_every_model(name: str, model_name: str) -> None:
    """All selectors of all recipes match something in every architecture, at rates that are positive."""
    model = _model(model_name)
    groups = ht.wrap(model).layer_groups
    plan = recipes.get(name, **REQUIRED.get(name, {}))
    for phase in plan.phases:
        chosen = select_groups(groups, phase.train, norm_parameter_names(model))
        assert {n for g in groups if g.role == "head" for n in g.parameter_names} <= {
            n for g in chosen for n in g.parameter_names
        }
        assert all(rate > 0 for rate in group_learning_rates(groups, phase, 1e-3))
    assert "trained" in plan.describe(model)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_survives_json(name: str) -> None:
    """A recipe's plan can be written into transfer_plan.json and read back."""
    plan = recipes.get(name, **REQUIRED.get(name, {}))
    assert TransferPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_documented(name: str) -> None:
    """Each function says in its docstring what it trains, and all options have defaults but for facts of the data."""
    function = getattr(recipes, name)
    assert inspect.getdoc(function)
    parameters = inspect.signature(function).parameters.values()
    required = {p.name for p in parameters if p.default is inspect.Parameter.empty}
    assert required == set(REQUIRED.get(name, {}))


# --- what is trained ---------------------------------------------------------------------------------------------


def test_linear_probe() -> None:
    """The head alone, in one phase of the length and rate that the training arguments give."""
    (phase,) = recipes.linear_probe().phases
    assert _trained(recipes.linear_probe()) == [{"head"}]
    assert (phase.epochs, phase.learning_rate, phase.norm) == (None, None, "eval")


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (0, {"neck", "head"}),
        (1, {"vit.layers.2", "neck", "head"}),
        (2, {"vit.layers.1", "vit.layers.2", "neck", "head"}),
    ],
)
def test_last_blocks(k: int, expected: set[str]) -> None:
    """The last k blocks and all behind them, at a tenth of the head's rate; k=0 is neck and head, as documented."""
    plan = recipes.last_blocks(k)
    assert _trained(plan) == [expected]
    assert plan.phases[0].head_lr_ratio == 10


def test_fine_tune() -> None:
    """Everything is trained, from the pretrained weights."""
    plan = recipes.fine_tune(epochs=2, layer_decay=0.8, norm="train")
    model_groups = {g.name for g in ht.wrap(tiny.vit()).layer_groups}
    assert _trained(plan) == [model_groups]
    assert plan.init == "pretrained"
    assert (plan.phases[0].epochs, plan.phases[0].layer_decay, plan.phases[0].norm) == (2, 0.8, "train")


def test_lp_ft() -> None:
    """First the head alone at its high rate, then all, or what `train` says, with a head that is hardly faster."""
    plan = recipes.lp_ft(probe_epochs=1, epochs=4, learning_rate=1e-4, train=("last:1", "bias"))
    probe, tune = plan.phases
    assert (probe.train, tune.train) == ("head", ("last:1", "bias"))
    assert (probe.epochs, tune.epochs) == (1, 4)
    groups = ht.wrap(tiny.vit()).layer_groups
    assert [group_learning_rates(groups, phase, 0.0)[-1] for phase in (probe, tune)] == pytest.approx([2e-3, 2e-4])


def test_lp_ft_solves_its_probe_unless_epochs_are_given() -> None:
    """By default the head is solved; probe_epochs asks for steps."""
    assert recipes.lp_ft().phases[0].head_solver == "logistic"
    assert recipes.lp_ft(probe_solver="svm").phases[0].head_solver == "svm"
    assert recipes.lp_ft(probe_epochs=2).phases[0].head_solver is None


def test_gradual_unfreeze() -> None:
    """The head, then one block more in each phase, then all; each block at 1/2.6 of the rate of the one behind it."""
    plan = recipes.gradual_unfreeze(steps=2, epochs_per_phase=2, epochs=5, learning_rate=1e-3)
    last, middle, first = (f"vit.layers.{i}" for i in (2, 1, 0))
    assert _trained(plan) == [
        {"head"},
        {last, "neck", "head"},
        {middle, last, "neck", "head"},
        {"stem", first, middle, last, "neck", "head"},
    ]
    assert [phase.epochs for phase in plan.phases] == [2, 2, 2, 5]
    rates = group_learning_rates(ht.wrap(tiny.vit()).layer_groups, plan.phases[-1], 0.0)
    blocks = list(rates[1:4])
    assert [blocks[i + 1] / blocks[i] for i in range(2)] == pytest.approx([2.6, 2.6])
    assert rates[-1] / blocks[-1] == pytest.approx(2.6)
    with pytest.raises(PlanError, match="steps is a positive whole number, found 0"):
        recipes.gradual_unfreeze(steps=0)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("first", {"stem", "vit.layers.0", "head"}),
        ("middle", {"vit.layers.1", "head"}),
        ("last", {"vit.layers.2", "neck", "head"}),
    ],
)
def test_surgical(part: Any, expected: set[str]) -> None:
    """A third of the blocks and the head; the ends with what lies before or behind them."""
    assert _trained(recipes.surgical(part)) == [expected]


def test_surgical_thirds_partition_the_blocks() -> None:
    """In a network of 7 blocks they are disjoint and together all; of few blocks none is empty, nor the last half."""
    for count in (7, 2, 1):
        groups = tuple(
            LayerGroup(i, name, role, (f"{name}.weight",))
            for i, (name, role) in enumerate([*((f"b{n}", "block") for n in range(count)), ("head", "head")])
        )
        thirds = [select_groups(groups, f"part:{part}")[:-1] for part in ("first", "middle", "last")]
        assert all(thirds)
        if count == 7:
            assert [group.name for third in thirds for group in third] == [f"b{n}" for n in range(7)]
        half = [group.name for group in select_groups(groups, "part:half")]
        assert half == {7: ["b4", "b5", "b6", "head"], 2: ["b1", "head"], 1: ["b0", "head"]}[count]


@pytest.mark.parametrize(
    ("n_images", "steps"),
    [(19_999, (200, 100, 100, 100)), (20_000, (3000, 3000, 3000, 1000)), (500_000, (6000, 6000, 6000, 2000))],
)
def test_bit_hyperrule(n_images: int, steps: tuple[int, ...]) -> None:
    """Length and borders are those of the BiT paper's rule; the rate falls to a tenth at each border."""
    plan = recipes.bit_hyperrule(n_images, 32)
    assert tuple(phase.max_steps for phase in plan.phases) == steps
    assert [phase.learning_rate for phase in plan.phases] == pytest.approx([3e-3, 3e-4, 3e-5, 3e-6])
    assert [bool(phase.warmup) for phase in plan.phases] == [True, False, False, False]
    assert recipes.bit_resolution(95) == (160, 128) and recipes.bit_resolution(96) == (512, 480)
    with pytest.raises(ArgumentError, match="n_images=\\(required\\)"):
        recipes.get("bit_hyperrule")


def test_svm_is_a_linear_probe() -> None:
    """The plan of the SVM trains what that of the linear probe trains."""
    assert _trained(recipes.svm()) == _trained(recipes.linear_probe())


def test_bias_only_and_norm_only() -> None:
    """Only biases, only parameters of norms, and the whole head."""
    model = tiny.vit()
    head = {"classifier.weight", "classifier.bias"}
    for plan, wanted in (
        (recipes.bias_only(), {n for n, _ in model.named_parameters() if n.endswith("bias")}),
        (recipes.norm_only(), set(norm_parameter_names(model))),
    ):
        (phase,) = plan.phases
        assert {n for g in ht.select(model, phase.train) for n in g.parameter_names} == wanted | head


def test_from_scratch() -> None:
    """New weights, everything trained, batch norms as well: the pretrained statistics are gone."""
    plan = recipes.from_scratch()
    assert (plan.init, plan.phases[0].train, plan.phases[0].norm) == ("random", "all", "train")


def test_bias_only_on_a_model_without_biases() -> None:
    """Where the recipe would come down to a linear probe it raises instead."""
    groups = (LayerGroup(0, "stem", "stem", ("a.weight",)), LayerGroup(1, "head", "head", ("b.weight", "b.bias")))
    with pytest.raises(PlanError, match="matches nothing"):
        select_groups(groups, recipes.bias_only().phases[0].train)


# --- get ---------------------------------------------------------------------------------------------------------


def test_options_reach_the_recipe() -> None:
    """`get` passes its options on; lists, as JSON has them, stand for tuples."""
    assert recipes.get("last_blocks", k=3, learning_rate=1e-3) == recipes.last_blocks(3, learning_rate=1e-3)
    assert recipes.get("lp_ft", train=["norm", "bias"]) == recipes.lp_ft(train=("norm", "bias"))


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    """A typing error is answered with all names."""
    with pytest.raises(ArgumentError, match="no recipe 'lpft'") as caught:
        recipes.get("lpft")
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize("option", ["blocks", "name"])
def test_an_unknown_option_lists_the_known_ones(option: str) -> None:
    """Options of this recipe are listed with their defaults, whatever the wrong one is called."""
    with pytest.raises(ArgumentError, match=f"last_blocks has no option '{option}'") as caught:
        recipes.get("last_blocks", **{option: 3})
    for expected in ("k=2", "epochs=None", "head_lr_ratio=10.0", "norm='eval'"):
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("last_blocks", {"k": "two"}, "'blocks:two'"),
        ("last_blocks", {"k": -1}, "'blocks:-1'"),
        ("last_blocks", {"k": 1.5}, "'blocks:1.5'"),
        ("last_blocks", {"k": None}, "'blocks:None'"),
        ("fine_tune", {"epochs": "3"}, "epochs must be a number and positive, found '3'"),
        ("fine_tune", {"layer_decay": 2}, "layer_decay is at most 1"),
        ("fine_tune", {"norm": "off"}, "norm is"),
        ("lp_ft", {"train": "first"}, "'first'"),
        ("lp_ft", {"probe_epochs": [1]}, r"epochs must be a number and positive, found \[1\]"),
        ("linear_probe", {"learning_rate": True}, "learning_rate must be a number"),
    ],
)
def test_an_option_of_no_use_is_an_argument_error(name: str, options: dict[str, Any], reason: str) -> None:
    """Wrong types and values name the recipe, the reason and the options with their defaults."""
    with pytest.raises(ArgumentError, match=f"options of recipe {name} do not fit: .*{reason}") as caught:
        recipes.get(name, **options)
    assert "epochs=" in str(caught.value)


def test_default_learning_rates() -> None:
    """Heads and norms alone take more than pretrained layers do; every recipe has a positive rate."""
    rates = {name: recipes.default_learning_rate(name) for name in NAMES}
    assert all(rate > 0 for rate in rates.values())
    assert rates["linear_probe"] > rates["bias_only"] > rates["fine_tune"] == rates["last_blocks"] == rates["lp_ft"]
