"""`Diagnosis`: what it prints, draws and writes."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest

from hf_transfer.diagnosis.decide import decide
from hf_transfer.diagnosis.measurements import DataFindings, PassCosts
from hf_transfer.diagnosis.result import Diagnosis
from hf_transfer.diagnosis.trials import Trial, Trials
from hf_transfer.errors import ArgumentError
from hf_transfer.figures.accuracy_by_depth import short_names
from hf_transfer.run_files import DIAGNOSIS_FILE
from hf_transfer.utils.clock import rough_duration
from tests.helpers.diagnosed import measured


def diagnosis(**changes: object) -> Diagnosis:
    evidence = measured(**changes)  # type: ignore[arg-type]
    return Diagnosis(evidence, decide(evidence))


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """With trials and without, a diagnosis survives its file; what is no diagnosis is refused."""
    plain = diagnosis()
    trials = Trials(
        (Trial("linear probe on the last layer", 1.0, 0.8, 0.8, 0.01, 0.5, 2.0),), "x", 100, 60.0, 2.0, True
    )
    for found in (plain, Diagnosis(plain.evidence, plain.decision, trials)):
        found.save(tmp_path / "deep" / DIAGNOSIS_FILE)
        assert Diagnosis.load(tmp_path / "deep" / DIAGNOSIS_FILE) == found
    (tmp_path / "other.json").write_text("{}")
    for name in ("other.json", "missing.json"):
        with pytest.raises(ArgumentError, match=r"diagnosis"):
            Diagnosis.load(tmp_path / name)


def test_what_it_offers_is_what_was_decided() -> None:
    """Scenario, recipe, plan, reasons and evidence are those of its parts; the card finds its keys."""
    found = diagnosis()
    assert (found.scenario, found.recipe, found.plan) == (1, found.decision.recipe, found.decision.plan)
    assert found.to_dict()["measurements"] == found.evidence.to_dict()
    assert {"scenario", "recipe", "reasons", "measurements", "plan", "layer"} <= set(found.to_dict())


def test_the_description_has_layers_reasons_warnings_and_cost() -> None:
    """All that a person should see is printed, also label names that look like markup."""
    data = DataFindings({"[red]a": 10, "b": 100}, (), ((1, 2),), 50, 1.0, 1.0)
    text = diagnosis(data=data, costs=PassCosts(0.05, 0.2, {})).description()
    for expected in ("block.1", "last", "Size: 500 images", "Similarity:", "Choice:", "nearly the same", "macro F1"):
        assert expected in text
    assert "Expected cost on this machine" in text


@pytest.mark.parametrize(
    "changes",
    [{}, {"pretrained": False}, {"joined": 0.05}, {"earlier": (0.05, 0.01), "native": False}],
)
def test_the_figure_is_drawn(changes: dict[str, object], tmp_path: Path) -> None:
    """With and without random twin and joined layers there is a PNG file of the expected size."""
    path = diagnosis(**changes).plot(tmp_path / "figures" / "accuracy_by_depth.png")
    with PIL.Image.open(path) as image:
        assert image.size == (720, 576)


def test_layers_are_named_without_what_they_share() -> None:
    """A first part that all have is left out, unless little would be left."""
    assert short_names(["stem", "m.blocks.0", "m.blocks.1", "last"]) == ["stem", "blocks.0", "blocks.1", "last"]
    for names in (["stem", "block.0", "block.1"], ["a.b.c", "d.e.f"], ["last"]):
        assert short_names(names) == names


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (7200, "2.0 h")])
def test_durations_for_people(seconds: float, text: str) -> None:
    """Seconds, minutes or hours."""
    assert rough_duration(seconds) == text
