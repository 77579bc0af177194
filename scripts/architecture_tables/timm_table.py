"""The section on timm of docs/architectures.md: every model of timm, checked without memory for its weights.

It builds, wraps and runs all models on the meta device, which takes about ten minutes on one core.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import timm
from tqdm import tqdm

import hf_transfer as ht
from hf_transfer.architectures.classifier import classifier_paths
from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.timm_models import declared_layout
from tests.helpers import timm_zoo


@dataclass(frozen=True)
class Row:
    """What was found on one model.

    Attributes:
        name: As in `timm.list_models()`.
        fault: What is wrong; empty where all checks hold.
        blocks: Number of layer groups that are blocks.
        stages: The same with granularity "stage".
        classifiers: Number of modules that map features to labels.
        extras: Parameters of the head that do not depend on the number of labels, as module paths.
        neck: Outermost modules of the neck.
        source: Who says what the groups are: timm's `group_matcher`, or a declared layout and why.
    """

    name: str
    fault: str
    blocks: int
    stages: int
    classifiers: int
    extras: tuple[str, ...]
    neck: tuple[str, ...]
    source: str


def section() -> list[str]:
    """Check all models; the lines of the section, with a heading of level 2."""
    families = timm_zoo.families()
    with tqdm(total=sum(map(len, families.values())), unit="model", disable=None) as bar:
        rows = {family: [_checked(name, family, bar) for name in names] for family, names in families.items()}
    every = [row for family in rows.values() for row in family]
    right = sum(not row.fault for row in every)
    return [
        f"## timm {timm.__version__}",
        "",
        f"{right:,} of {len(every):,} models in {len(rows)} families hold all of this, checked model by model without "
        "memory for weights: the layer groups partition the parameters; a forward pass uses every parameter, and all "
        "of a group before any of the next; the head is what changes its shape with `num_classes`, plus the extras of "
        "the table; there are a stem, blocks and at most one head; stages join blocks. One model of each family is "
        "also run and trained (`tests/architectures/test_timm_running.py`).",
        "",
        "Groups come from timm's `group_matcher`, or from a layout declared in "
        "`hf_transfer/architectures/timm_layouts.py` where timm has none or its own do not follow the forward pass.",
        "",
        "| family | models | right | blocks | stages | groups from | head | neck |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- | --- |",
        *(_line(family, members) for family, members in rows.items()),
        "",
        *_limits(every),
    ]


def _checked(name: str, family: str, bar: tqdm[None]) -> Row:
    model = timm_zoo.hollow(name)
    layout = declared_layout(model)
    groups = ht.wrap(model).layer_groups
    stages = ht.wrap(model, "stage").layer_groups
    head = {parameter for group in groups if group.role == "head" for parameter in group.parameter_names}
    source = "timm" if layout is None else f"layout: {layout.reason or 'timm has none'}"
    classifiers = len(classifier_paths(model))
    extras = _modules(head - timm_zoo.label_parameters(model))
    fault = ""
    try:
        timm_zoo.check_order(model)
        timm_zoo.check_structure(name, model, family)
    except Exception as error:  # goes into the table
        fault = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    bar.update()
    return Row(name, fault, _blocks(groups), _blocks(stages), classifiers, extras, _neck(groups), source)


def _line(family: str, rows: Sequence[Row]) -> str:
    sources = Counter(row.source for row in rows)
    cells = (
        family,
        str(len(rows)),
        str(sum(not row.fault for row in rows)),
        _range(row.blocks for row in rows),
        "as blocks" if all(row.stages == row.blocks for row in rows) else _range(row.stages for row in rows),
        "; ".join(f"{source} ({count})" if len(sources) > 1 else source for source, count in sources.items()),
        _head(rows),
        _few(sorted({module for row in rows for module in row.neck})),
    )
    return f"| {' | '.join(cells)} |"


def _head(rows: Sequence[Row]) -> str:
    parts = []
    if several := [row for row in rows if row.classifiers > 1]:
        parts.append(f"several classifiers in {len(several)}")
    if extras := sorted({extra for row in rows for extra in row.extras}):
        parts.append(f"with {_few(extras)}")
    if headless := [row for row in rows if not row.classifiers]:
        parts.append(f"none in {len(headless)}")
    return "; ".join(parts)


def _limits(rows: Sequence[Row]) -> list[str]:
    headless = ", ".join(f"`{row.name}`" for row in rows if not row.classifiers)
    return [
        "What cannot be right, and what is done about it:",
        "",
        f"- Encoders without a classifier: {headless}. They ignore `num_classes`; `wrap` warns and names the model to "
        'load instead, and selecting "head" fails.',
        "- With `num_classes=0` a model has no head: `wrap(model).head` raises, selecting `head` fails, and stem "
        "and blocks are as with a head.",
        "- Models with several classifiers join their outputs into one prediction, in training, too, unless timm's "
        "`set_distilled_training` is called: all classifiers are trained, as one head.",
        "- timm's `reset_classifier` drops the second classifier of RepViT and iFormer: make the model with the right "
        "`num_classes` instead.",
        "- Where branches run side by side (CrossViT, HRNet, the parallel blocks of CoaT), the block that holds them "
        "all is one group.",
        "- In EfficientViM and MobileNetV5 earlier stages feed the end directly, past the groups between.",
        '- "as blocks": timm tells no stages apart, and granularity "stage" gives the blocks.',
        *(f"- **Wrong**: `{row.name}`: {row.fault}" for row in rows if row.fault),
    ]


def _blocks(groups: Sequence[LayerGroup]) -> int:
    return sum(group.role == "block" for group in groups)


def _neck(groups: Sequence[LayerGroup]) -> tuple[str, ...]:
    return _modules(name for group in groups if group.role == "neck" for name in group.parameter_names)


def _modules(parameters: Iterable[str]) -> tuple[str, ...]:
    """Outermost modules, or the two outermost inside a head or encoder; a parameter outside modules by its name."""
    short = []
    for name in parameters:
        parts = name.split(".")
        depth = 2 if parts[0].startswith(("head", "classifier", "encoder")) and len(parts) > 2 else 1
        short.append(".".join(parts[:depth]))
    return tuple(dict.fromkeys(short))


def _range(numbers: Iterable[int]) -> str:
    values = sorted(set(numbers))
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _few(names: Sequence[str], limit: int = 6) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
