"""`Diagnosis`: measurements and the decision on them, with table, figure and file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_transfer.diagnosis import rules, tables
from hf_transfer.diagnosis.decide import Decision, Scenario
from hf_transfer.diagnosis.measurements import Measurements
from hf_transfer.diagnosis.trials import Trials
from hf_transfer.errors import ArgumentError, OutputError
from hf_transfer.figures.accuracy_by_depth import accuracy_by_depth
from hf_transfer.plans.plan import TransferPlan
from hf_transfer.utils.clock import rough_duration
from hf_transfer.utils.files import write_atomically


@dataclass(frozen=True)
class Diagnosis:
    """What was measured, and what to do.

    Attributes:
        evidence: The measurements.
        decision: The decision, after trials where there were any.
        trials: What was tried; None where the measurements were enough, or no time was given.
    """

    evidence: Measurements
    decision: Decision
    trials: Trials | None = None

    @property
    def scenario(self) -> Scenario:
        """CS231n's case, 1 to 4, or "undecided"."""
        return self.decision.scenario

    @property
    def recipe(self) -> str:
        """Name of the chosen recipe."""
        return self.decision.recipe

    @property
    def plan(self) -> TransferPlan:
        """The plan of the chosen recipe with its options."""
        return self.decision.plan

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences with the numbers that the decision rests on."""
        return self.decision.reasons

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the decision's, "measurements" and "trials"."""
        return self.decision.to_dict() | {
            "measurements": self.evidence.to_dict(),
            "trials": None if self.trials is None else self.trials.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Diagnosis:
        """The inverse of `to_dict`.

        Raises:
            ArgumentError: A part is missing or not as described.
        """
        if not isinstance(data, Mapping) or not {"measurements", "trials"} <= set(data):
            raise ArgumentError("This is no diagnosis: it has no measurements.")
        trials = data["trials"]
        return cls(
            Measurements.from_dict(data["measurements"]),
            Decision.from_dict(data),
            None if trials is None else Trials.from_dict(trials),
        )

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all.

        Raises:
            OutputError: The file cannot be written.
        """
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The folder of {path} cannot be made: {error}.") from error
        write_atomically(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Diagnosis:
        """Read JSON.

        Raises:
            ArgumentError: The file is missing or is no diagnosis.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArgumentError(f"No diagnosis can be read from {path}: {error}.") from error
        return cls.from_dict(data)

    def plot(self, path: str | Path) -> Path:
        """Draw accuracy by depth as a PNG file.

        Raises:
            OutputError: The file cannot be written.
        """
        return accuracy_by_depth(self.evidence.to_dict(), Path(path), self.decision.layer)

    def heading(self) -> str:
        """The scenario and the recipe, in a line."""
        title = scenario_title(self.scenario)
        if self.scenario == rules.UNDECIDED:
            title += f": {rules.what_is_known(self.evidence)}"
        return f"{title}; recipe: {self.decision.chosen.name} ({self.recipe})"

    def table(self) -> str:
        """Scores by layer, and what else was measured, for a terminal."""
        return f"{tables.layers_table(self.evidence)}\n{tables.findings_table(self.evidence)}"

    def description(self) -> str:
        """Tables, reasons, warnings, trials and the cost, as text."""
        decision = self.decision
        candidates = tables.candidates_table(decision.candidates, self.evidence.metric)
        parts = [self.table(), candidates, *(f"- {each}" for each in decision.reasons)]
        parts += [f"! {each}" for each in decision.warnings]
        if self.trials is not None:
            parts.append(self.trials.table())
        if decision.chosen.seconds is not None:
            parts.append(f"Expected cost on this machine: about {rough_duration(decision.chosen.seconds)}.")
        return "\n".join(parts)


def scenario_title(scenario: Scenario) -> str:
    """The scenario in words."""
    if scenario == rules.UNDECIDED:
        return "Scenario undecided"
    return f"Scenario {scenario}: {rules.SCENARIOS[scenario]}"
