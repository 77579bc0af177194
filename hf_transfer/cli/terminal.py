"""What the commands print: headings and tables on stdout, warnings on stderr."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from hf_transfer.data import ImageData
    from hf_transfer.evaluation import EvaluationReport

_SHOWN = 3
"""Number of skipped images that are named."""
_FIRST, _LAST = 6, 3
"""Number of classes that are named where there are more."""


class Terminal:
    """Prints for people; silent in all processes but the first."""

    def __init__(self, stream: TextIO, enabled: bool = True) -> None:
        self._console = Console(file=stream, quiet=not enabled, highlight=False, soft_wrap=True, markup=False)

    def heading(self, text: str) -> None:
        """Start a section."""
        self._console.print(f"\n{text}", style="bold")

    def text(self, text: str) -> None:
        """Print text as it is."""
        self._console.print(text)

    def data(self, data: ImageData) -> None:
        """Print the number of images in each split, the classes, and the skipped images."""
        table = Table(box=None, pad_edge=False)
        for column in ("split", "images", "classes", "smallest class", "largest class"):
            table.add_column(column, justify="left" if column == "split" else "right")
        for split, counts in data.counts.items():
            sizes = [count for count in counts.values() if count]
            table.add_row(split, f"{sum(sizes):,}", str(len(sizes)), f"{min(sizes):,}", f"{max(sizes):,}")
        self._console.print(table)
        self.text(f"classes: {_classes(data)}")
        if data.pixels:
            self.text(f"images {'; '.join(data.pixels)}")
        if data.skipped:
            first = ", ".join(image.name for image in data.skipped[:_SHOWN])
            more = f" and {len(data.skipped) - _SHOWN} more" if len(data.skipped) > _SHOWN else ""
            self.text(f"{len(data.skipped)} images could not be read and are skipped: {first}{more}.")

    def results(self, reports: Sequence[EvaluationReport]) -> None:
        """Print the metrics of each split, and whether they mean nothing."""
        from hf_transfer.evaluation.collapse import collapse
        from hf_transfer.evaluation.tables import metrics_table

        for report in reports:
            self.heading("Evaluation")
            self.text(metrics_table(report))
            said = collapse(report)
            if said is not None:
                self.text(f"! {said}")

    def files(self, folder: Path, needs_us: bool = False) -> None:
        """Print where the results are and how to load the model; a probe file needs hf_transfer."""
        self.heading("Files")
        self.text(f"{folder}: model, processor, README.md (the card), report.html, figures/, run.json")
        self.heading("Use")
        if needs_us:
            self.text(f'hf_transfer.load_probe("{folder}").predict(images)')
            self.text(
                "The result is a probe file, which only hf_transfer loads; the checkpoint's head reads the last layer."
            )
            return
        self.text(f'transformers.pipeline("image-classification", "{folder}")')


def _classes(data: ImageData) -> str:
    """The first and the last classes, with their images in all splits."""
    counts = data.counts.values()
    named = [f"{name} ({sum(count.get(name, 0) for count in counts):,})" for name in data.label_names]
    if len(named) > _FIRST + _LAST + 1:
        named[_FIRST:-_LAST] = [f"... {len(named) - _FIRST - _LAST:,} more ..."]
    return ", ".join(named)


def quiet_libraries() -> None:
    """Keep the terminal for our tables: other libraries print errors only, and our warnings name us."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "transformers" in sys.modules:  # importing it here would slow down commands without it
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*pin_memory.*", category=UserWarning)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("hf-transfer: %(levelname)s: %(message)s"))
    ours = logging.getLogger("hf_transfer")
    if not ours.handlers:
        ours.addHandler(handler)
        ours.propagate = False
    # Of several processes on a machine, all would say the same.
    ours.setLevel(logging.WARNING if os.environ.get("LOCAL_RANK", "0") == "0" else logging.ERROR)
