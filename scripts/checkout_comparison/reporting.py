"""What is printed: a table of runs and aspects, and the first differences of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .folders import ASPECTS, Comparison


@dataclass
class Result:
    """How a run compares.

    Attributes:
        name: Of the run.
        comparison: Of what both checkouts wrote.
        seconds: How long the run took in the old and in the new checkout.
        failures: Of steps that ended with an error, in words.
    """

    name: str
    comparison: Comparison = field(default_factory=Comparison)
    seconds: tuple[float, float] = (0.0, 0.0)
    failures: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Whether both ran and no difference was found."""
        return not self.failures and self.comparison.is_equal

    def cell(self, aspect: str) -> str:
        """One word or two for the table."""
        if self.failures:
            return "FAILED"
        found = len(self.comparison.differences[aspect])
        if found:
            return f"DIFFERENT ({found})"
        return "equal" if self.comparison.files[aspect] else "-"


def table(results: Sequence[Result]) -> str:
    """Runs against aspects, with the number of differences, and seconds of both checkouts."""
    rows = [["run", *ASPECTS, "seconds"]]
    for result in results:
        seconds = f"{result.seconds[0]:.0f} + {result.seconds[1]:.0f}"
        rows.append([result.name, *map(result.cell, ASPECTS), seconds])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def details(result: Result, most: int) -> str:
    """Failures and the first differences of a run; cards, whose differences are a diff, are shown ten times as long.

    Args:
        result: Of one run.
        most: Lines for each aspect.
    """
    lines = [f"{result.name}: {failure}" for failure in result.failures]
    for aspect, found in result.comparison.differences.items():
        shown = most * 10 if aspect == "card" else most
        if found:
            lines += [f"{result.name}, {aspect}:", *(f"  {line}" for line in found[:shown])]
        if len(found) > shown:
            lines.append(f"  ... and {len(found) - shown} more")
    return "\n".join(lines)
