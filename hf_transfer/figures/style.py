"""The look of all figures, and how they are written: white, colour-blind safe, without global state."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hf_transfer.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which are told apart with every kind of colour blindness.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
INK = "#222222"
EMPTY = "#ececec"
"""Ground of cells without a value: frozen groups, classes without images."""
_LINE = "#8a8a8a"
_DOTS_PER_INCH = 144
_FALLBACK_FONTS = ("Noto Sans CJK JP", "Noto Sans", "Arial Unicode MS", "PingFang SC", "Microsoft YaHei", "Yu Gothic")
"""Used where they are installed, for label names in scripts that Matplotlib's own font lacks."""
_STYLE: Mapping[str, Any] = MappingProxyType(
    {
        "font.size": 9,
        "axes.edgecolor": _LINE,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "grid.color": "#e3e3e3",
        "grid.linewidth": 0.6,
        "hatch.linewidth": 0.6,
        "legend.frameon": False,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        # A label such as "$5" is no formula.
        "text.parse_math": False,
    }
)


@contextmanager
def new_figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Give a figure that is written to `path` as a PNG file when the block ends without an error.

    Args:
        path: The file to write; its folder is made if need be.
        width: Inches, at 144 dots each.
        height: Inches.

    Raises:
        OutputError: The file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "font.family": _fonts()}
    buffer = io.BytesIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise OutputError(f"Cannot write the figure {path}: {error}. Check space and permissions.") from error


def _fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in installed)]


def colour_map(name: str, bad: str) -> Colormap:
    """One of Matplotlib's colour maps, with a colour for cells without a value."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=bad)


def shortened(text: str, length: int, keep_end: bool = False) -> str:
    """The text with an ellipsis at the end, or at the beginning, if it is longer than `length`."""
    if len(text) <= length:
        return text
    return (
        f"\N{HORIZONTAL ELLIPSIS}{text[len(text) - length + 1 :]}"
        if keep_end
        else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"
    )
