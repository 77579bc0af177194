"""Every model of timm, built without memory for weights: its layer groups, family by family."""

from __future__ import annotations

import pytest

import hf_transfer as ht
from tests.helpers import timm_zoo

# An LSTM takes half a minute on the meta device; test_timm_running.py checks the order of these on real weights.
_ORDER_CHECKED_ELSEWHERE = ("sequencer",)


@pytest.mark.slow
@pytest.mark.parametrize("family", timm_zoo.families())
def test_every_model_of_a_family(family: str) -> None:
    """Partition, modules, stages, stem and head are right on all models; a failure lists the faults by model.

    The order of execution is checked on one model of each structure: same class, same parameters but for numbers.
    """
    structures: set[object] | None = None if family in _ORDER_CHECKED_ELSEWHERE else set()
    wrong = {name: fault for name in timm_zoo.families()[family] if (fault := _fault(name, family, structures))}
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("family", timm_zoo.families())
def test_a_model_without_head_has_the_other_groups(family: str) -> None:
    """With num_classes=0 stem and blocks are the same, there is no head, and nothing new is in the neck but extras."""
    name = min((name for name in timm_zoo.families()[family] if name not in timm_zoo.ENCODERS), key=len)
    whole = ht.wrap(timm_zoo.hollow(name)).layer_groups
    body = ht.wrap(timm_zoo.hollow(name, num_classes=0)).layer_groups
    assert whole[-1].role == "head" and not [group for group in body if group.role == "head"]
    front, same = ([(g.name, g.parameter_names) for g in groups if g.role != "neck"] for groups in (whole[:-1], body))
    assert front == same
    old, new = ({n for g in groups if g.role == "neck" for n in g.parameter_names} for groups in (whole, body))
    extras = timm_zoo.HEAD_EXTRAS.get(family)
    assert not [name for name in new - old if not (extras and extras.match(name))]


def test_families_cover_all_names() -> None:
    """No model of timm is left out of the tests by family."""
    listed = [name for names in timm_zoo.families().values() for name in names]
    assert sorted(listed) == sorted(timm_zoo.list_models())
    assert len(timm_zoo.families()) >= 90
    assert set(listed) >= timm_zoo.ENCODERS


def _fault(name: str, family: str, structures: set[object] | None) -> str:
    """What is wrong with the layer groups of a model; empty where all holds.

    Args:
        name: The model.
        family: Its module in timm.
        structures: Those whose order has been checked, for which it is not checked again; None checks no order.
    """
    model = timm_zoo.hollow(name)
    structure = timm_zoo.structure(model)
    try:
        if structures is not None and structure not in structures:
            structures.add(structure)
            timm_zoo.check_order(model)
        timm_zoo.check_structure(name, model, family)
    except Exception as error:  # the other models of the family are to be checked, too
        return f"{type(error).__name__}: {error}"[:500]
    return ""
