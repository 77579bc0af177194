"""Every model of timm, built without memory for weights: its layer groups, family by family."""

from __future__ import annotations

import pytest

from tests import timm_zoo


@pytest.mark.slow
@pytest.mark.parametrize("family", timm_zoo.families())
def test_every_model_of_a_family(family: str) -> None:
    """Partition, modules, stages, stem and head are right on all models; a failure lists the faults by model.

    The order of execution is checked on one model of each structure: same class, same parameters but for numbers.
    """
    structures: set[object] = set()
    wrong = {name: fault for name in timm_zoo.families()[family] if (fault := _fault(name, family, structures))}
    assert not wrong


def test_families_cover_all_names() -> None:
    """No model of timm is left out of the tests by family."""
    listed = [name for names in timm_zoo.families().values() for name in names]
    assert sorted(listed) == sorted(timm_zoo.list_models())
    assert len(timm_zoo.families()) >= 90
    assert set(listed) >= timm_zoo.ENCODERS


def _fault(name: str, family: str, structures: set[object]) -> str:
    """What is wrong with the layer groups of a model; empty where all holds."""
    model = timm_zoo.hollow(name)
    structure = timm_zoo.structure(model)
    try:
        if structure not in structures:
            structures.add(structure)
            timm_zoo.check_order(model)
        timm_zoo.check_structure(name, model, family)
    except Exception as error:  # the other models of the family are to be checked, too
        return f"{type(error).__name__}: {error}"[:500]
    return ""
