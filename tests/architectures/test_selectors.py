"""hf_transfer.architectures.selectors: selectors choose what they say, on made-up groups, without a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_transfer.architectures.layer_groups import LayerGroup, Role, check_partition
from hf_transfer.architectures.selectors import Selector, check_selector, select_groups
from hf_transfer.errors import LayerGroupError, PlanError, SelectorError

# index: 0 stem, 1 to 4 blocks (two stages of two), 5 neck, 6 head
_PARTS: tuple[tuple[str, Role, tuple[str, ...]], ...] = (
    ("stem", "stem", ("embed.weight", "embed.bias", "cls_token")),
    ("net.stages.0.blocks.0", "block", ("s.0.b.0.fc.weight", "s.0.b.0.q_bias", "s.0.b.0.norm.weight")),
    ("net.stages.0.blocks.1", "block", ("s.0.b.1.fc.weight", "s.0.b.1.bias_table")),
    ("net.stages.1.blocks.0", "block", ("s.1.b.0.fc.weight", "s.1.b.0.fc.bias")),
    ("net.stages.1.blocks.1", "block", ("s.1.b.1.fc.weight", "s.1.b.1.norm.weight")),
    ("neck", "neck", ("norm.weight", "norm.bias")),
    ("head", "head", ("fc.weight", "fc.bias")),
)
GROUPS = tuple(LayerGroup(index, *part) for index, part in enumerate(_PARTS))
NORMS = frozenset({"s.0.b.0.norm.weight", "s.1.b.1.norm.weight", "norm.weight", "norm.bias"})
STEM, NECK, HEAD = 0, 5, 6


def _chosen(selector: Selector, groups: tuple[LayerGroup, ...] = GROUPS) -> list[int]:
    return [group.index for group in select_groups(groups, selector, NORMS)]


def _names(groups: tuple[LayerGroup, ...]) -> set[str]:
    return {name for group in groups for name in group.parameter_names}


# --- groups ------------------------------------------------------------------------------------------------------


def test_a_group_refuses_an_unknown_role() -> None:
    """Selectors decide by role, so a role that none of them knows would never be trained."""
    with pytest.raises(LayerGroupError, match="stem.*block.*neck.*head.*'trunk'"):
        LayerGroup(0, "x", "trunk", ("a",))  # type: ignore[arg-type]


def test_a_partition_passes() -> None:
    """Groups that hold each parameter once, numbered from 0, are accepted in any order of the names."""
    check_partition(GROUPS, sorted(_names(GROUPS), reverse=True))


@pytest.mark.parametrize(
    ("groups", "extra", "message"),
    [
        (GROUPS, ["lost.weight"], "in no group: lost.weight"),
        (GROUPS[:-1], ["fc.weight", "fc.bias"], "in no group: fc.bias, fc.weight"),
        ((*GROUPS, LayerGroup(7, "copy", "neck", ("fc.bias",))), [], "in several groups: fc.bias"),
        ((*GROUPS, replace(GROUPS[5], index=7)), [], "doubled group names: neck"),
        ((*GROUPS, LayerGroup(7, "empty", "neck", ())), [], "groups without parameters: empty"),
        ((*GROUPS, LayerGroup(7, "head 2", "head", ("z",))), ["z"], "heads besides the first: head 2"),
        ((*GROUPS[:-1], replace(GROUPS[6], index=9)), [], r"numbered from 0, found \[0, 1, 2, 3, 4, 5, 9\]"),
        (tuple(reversed(GROUPS)), [], "numbered from 0"),
    ],
)
def test_a_faulty_partition_is_named(groups: tuple[LayerGroup, ...], extra: list[str], message: str) -> None:
    """Missing, doubled and empty parts each raise with the names concerned."""
    with pytest.raises(LayerGroupError, match=message):
        check_partition(groups, [*sorted(_names(GROUPS)), *extra])


def test_an_unknown_parameter_is_named() -> None:
    """A group that claims a parameter that the model does not have is refused."""
    with pytest.raises(LayerGroupError, match="not in the model: fc.bias"):
        check_partition(GROUPS, _names(GROUPS) - {"fc.bias"})


def test_a_long_list_of_faults_is_cut() -> None:
    """A message names a few parameters and the number of the others, not a thousand lines."""
    with pytest.raises(LayerGroupError, match="p7 and 92 more"):
        check_partition(GROUPS, [*_names(GROUPS), *(f"p{i}" for i in range(100))])


# --- selectors of whole groups -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("head", [6]),
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("last:0", [6]),
        ("last:1", [5, 6]),
        ("last:2", [4, 5, 6]),
        ("last:6", [0, 1, 2, 3, 4, 5, 6]),
        ("blocks:0", [5, 6]),
        ("blocks:1", [4, 5, 6]),
        ("blocks:4", [1, 2, 3, 4, 5, 6]),
        ("from:net.stages.1.blocks.0", [3, 4, 5, 6]),
        ("from:stem", [0, 1, 2, 3, 4, 5, 6]),
        ("from:head", [6]),
        ("from:stages.1.blocks.1", [4, 5, 6]),
        ("from:3", [3, 4, 5, 6]),
        ("only:neck", [5, 6]),
        ("only:net.stages.0.blocks.1", [2, 6]),
        ("only:stages.0.blocks.1", [2, 6]),
        ("only:2", [2, 6]),
        ("only:2-4", [2, 3, 4, 6]),
        ("only:0-0", [0, 6]),
        ("only:0-6", [0, 1, 2, 3, 4, 5, 6]),
        (("only:stem", "only:neck"), [0, 5, 6]),
        (("head", "last:1", "only:1"), [1, 5, 6]),
    ],
)
def test_selectors_of_groups(selector: Selector, expected: list[int]) -> None:
    """Each selector gives exactly its groups, whole and from input to output."""
    assert _chosen(selector) == expected
    assert select_groups(GROUPS, selector) == tuple(GROUPS[index] for index in expected)


def test_last_counts_the_neck_and_blocks_does_not() -> None:
    """`last:1` of a model with a neck is neck and head alone; `blocks:1` reaches the last block."""
    assert _chosen("last:1") == [NECK, HEAD]
    assert _chosen("blocks:1") == [4, NECK, HEAD]


def test_blocks_zero_is_all_behind_the_blocks() -> None:
    """`blocks:0` trains neck and head, as the recipe last_blocks(0) promises; without a neck, the head alone."""
    assert _chosen("blocks:0") == [NECK, HEAD]
    assert _chosen("blocks:0", (*GROUPS[:5], replace(GROUPS[6], index=5))) == [5]


def test_a_group_name_goes_before_an_index() -> None:
    """In nn.Sequential groups are named by numbers: a number is such a name, else an index; a range is of indices."""
    groups = tuple(
        LayerGroup(index, name, role, (f"{name}.weight",))
        for index, (name, role) in enumerate([("stem", "stem"), ("3", "block"), ("6", "block"), ("head", "head")])
    )
    assert _chosen("only:3", groups) == [1, 3]
    assert _chosen("only:2", groups) == [2, 3]
    assert _chosen("only:2-2", groups) == [2, 3]
    assert _chosen("from:6", groups) == [2, 3]


def test_a_list_is_a_tuple() -> None:
    """Selectors that were read from JSON or YAML are lists."""
    selector: Any = ["only:stem", "only:neck"]
    assert _chosen(selector) == [0, 5, 6]


# --- selectors of parameters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("norm", NORMS | {"fc.weight", "fc.bias"}),
        ("bias", {"embed.bias", "s.0.b.0.q_bias", "s.1.b.0.fc.bias", "norm.bias", "fc.weight", "fc.bias"}),
        ("re:cls_token", {"cls_token", "fc.weight", "fc.bias"}),
        ("re:^s\\.[01]\\.b\\.1\\.fc", {"s.0.b.1.fc.weight", "s.1.b.1.fc.weight", "fc.weight", "fc.bias"}),
        ("re:^fc", {"fc.weight", "fc.bias"}),
        ("re:a:b|cls", {"cls_token", "fc.weight", "fc.bias"}),
        (("re:cls", "only:neck"), {"cls_token", "norm.weight", "norm.bias", "fc.weight", "fc.bias"}),
    ],
)
def test_selectors_of_parameters(selector: Selector, expected: set[str]) -> None:
    """ "norm", "bias" and "re:" choose single parameters, and the head; the groups are narrowed to them."""
    chosen = select_groups(GROUPS, selector, NORMS)
    assert _names(chosen) == expected
    for group in chosen:
        whole = GROUPS[group.index]
        assert (group.name, group.role) == (whole.name, whole.role)
        assert group.parameter_names == tuple(name for name in whole.parameter_names if name in expected)


@pytest.mark.parametrize("selector", ["norm", "bias", "re:nowhere"])
def test_the_head_alone_is_not_a_match(selector: str) -> None:
    """A body without biases or norms raises, instead of training the head alone under the name of bias_only."""
    groups = (LayerGroup(0, "stem", "stem", ("a.weight",)), LayerGroup(1, "head", "head", ("fc.weight", "fc.bias")))
    with pytest.raises(SelectorError, match=f"{selector}.*matches nothing.*0 stem.*1 head"):
        select_groups(groups, selector, {"fc.bias"})


# --- errors ------------------------------------------------------------------------------------------------------

_MALFORMED: list[Any] = [
    "",
    "Head",
    " head",
    "all:",
    "head:1",
    "norm:2",
    "last",
    "last:",
    "last:-1",
    "last:1.5",
    "last:two",
    "last:²",
    "blocks:",
    "blocks:x",
    "from:",
    "only:",
    "re:",
    "re:(",
    "first:2",
    (),
    [],
    ("head", 3),
    (("head",), "all"),
    None,
    3,
    {"head"},
    b"head",
]


@pytest.mark.parametrize("selector", _MALFORMED, ids=repr)
def test_a_malformed_selector_is_refused(selector: Any) -> None:
    """Without a model (in a plan) and with one, a malformed selector raises SelectorError, which is a PlanError."""
    with pytest.raises(SelectorError):
        check_selector(selector)
    with pytest.raises(PlanError):
        select_groups(GROUPS, selector)


def test_a_malformed_selector_is_answered_with_the_forms() -> None:
    """The message lists every form that a selector can have."""
    with pytest.raises(SelectorError) as caught:
        check_selector("frist:2")
    for form in (
        "head",
        "all",
        "last:K",
        "blocks:K",
        "from:NAME",
        "only:NAME",
        "only:I-J",
        "norm",
        "bias",
        "re:REGEX",
    ):
        assert f'"{form}"' in str(caught.value)
    assert "'frist:2'" in str(caught.value)


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("last:7", "asks for 7 groups, but there are 6"),
        ("blocks:5", "asks for 5 groups, but there are 4"),
        ("from:stages.9", "'stages.9' fits no group"),
        ("from:7", "'7' fits no group"),
        ("only:blocks.1", "'blocks.1' fits several groups"),
        ("only:tages.0.blocks.1", "fits no group"),
        ("only:3-2", "'only:3-2' is not a range"),
        ("only:2-7", "'only:2-7' is not a range"),
        ("only:7", "'7' fits no group"),
        ("re:nowhere", "'re:nowhere' matches nothing"),
        (("head", "re:nowhere"), "'re:nowhere' matches nothing"),
    ],
)
def test_what_does_not_fit_the_model_lists_what_exists(selector: Selector, message: str) -> None:
    """A well-formed selector that misses raises, also inside a union, with index, name and role of all groups."""
    check_selector(selector)
    with pytest.raises(SelectorError) as caught:
        select_groups(GROUPS, selector, NORMS)
    assert message in str(caught.value)
    for group in GROUPS:
        assert f"{group.index} {group.name} ({group.role})" in str(caught.value)


@pytest.mark.parametrize("selector", ["head", "last:0", "blocks:0"])
def test_a_model_without_head_has_no_head_to_train(selector: str) -> None:
    """Selectors that come down to the head raise on a model without one."""
    with pytest.raises(SelectorError, match="matches nothing"):
        select_groups(GROUPS[:5], selector)


# --- properties --------------------------------------------------------------------------------------------------


@st.composite
def made_up_groups(draw: st.DrawFn) -> tuple[LayerGroup, ...]:
    """Stem, blocks, neck and head in this order, some of them missing, each with up to three parameters."""
    roles: list[Role] = ["stem"] * draw(st.integers(0, 1))
    roles += ["block"] * draw(st.integers(0, 5))
    roles += ["neck"] * draw(st.integers(0, 1))
    roles += ["head"] * draw(st.integers(0 if roles else 1, 1))
    kinds = st.lists(st.sampled_from(["weight", "bias", "norm.weight", "q_bias"]), min_size=1, max_size=3, unique=True)
    names = [f"blocks.{index}" if role == "block" else role for index, role in enumerate(roles)]
    return tuple(
        LayerGroup(index, names[index], role, tuple(f"{names[index]}.{kind}" for kind in draw(kinds)))
        for index, role in enumerate(roles)
    )


def _select(groups: tuple[LayerGroup, ...], selector: Selector) -> set[str]:
    norms = {name for name in _names(groups) if ".norm." in name}
    try:
        chosen = select_groups(groups, selector, norms)
    except SelectorError:
        return set()
    listed = [name for group in chosen for name in group.parameter_names]
    assert len(listed) == len(set(listed)), "a parameter is chosen twice"
    assert [g.index for g in chosen] == sorted(g.index for g in chosen)
    return set(listed)


SELECTORS = st.sampled_from(
    ["head", "all", "norm", "bias", "re:weight", "re:[13]", "from:2", "only:1", "only:0-1"]
) | st.builds("{}:{}".format, st.sampled_from(["last", "blocks"]), st.integers(0, 4))


@given(made_up_groups(), SELECTORS, SELECTORS)
def test_a_tuple_is_the_union(groups: tuple[LayerGroup, ...], one: str, other: str) -> None:
    """A tuple chooses what its parts choose together, whatever their order, and repeats change nothing."""
    first, second = _select(groups, one), _select(groups, other)
    if first and second:
        assert _select(groups, (one, other)) == first | second
        assert _select(groups, (other, one, one)) == first | second
    else:
        assert _select(groups, (one, other)) == set(), "one part that matches nothing makes the whole fail"


@given(made_up_groups(), st.sampled_from(["last", "blocks"]), st.integers(0, 6))
def test_more_layers_contain_fewer(groups: tuple[LayerGroup, ...], kind: str, k: int) -> None:
    """`last:K` lies inside `last:K+1`, which has one group more; so it is for `blocks`, which contains `last`."""
    fewer, more = _select(groups, f"{kind}:{k}"), _select(groups, f"{kind}:{k + 1}")
    counted = [g for g in groups if g.role == "block" or (kind == "last" and g.role == "stem")]
    counted += [g for g in groups if kind == "last" and g.role == "neck"]
    if more:
        assert fewer < more
        assert more - fewer == set(counted[len(counted) - k - 1].parameter_names)
    else:
        assert k + 1 > len(counted)
    if inner := _select(groups, f"last:{k}"):
        assert inner <= (_select(groups, f"blocks:{k}") or inner)


@given(made_up_groups(), st.data())
def test_from_and_what_is_before_it_are_the_whole(groups: tuple[LayerGroup, ...], data: st.DataObject) -> None:
    """`from:NAME` leaves out exactly the groups before NAME, and the head is in it for every NAME."""
    start = data.draw(st.sampled_from(groups))
    before = {n for g in groups if g.index < start.index and g.role != "head" for n in g.parameter_names}
    chosen = _select(groups, f"from:{start.name}")
    assert chosen == _names(groups) - before
    assert chosen == _select(groups, f"from:{start.index}")


@given(made_up_groups(), SELECTORS)
def test_the_head_is_always_trained(groups: tuple[LayerGroup, ...], selector: str) -> None:
    """Whatever a selector chooses, the whole head is among it."""
    chosen = _select(groups, selector)
    assert not chosen or {n for g in groups if g.role == "head" for n in g.parameter_names} <= chosen
