"""The rows of a head follow the names of its labels, whatever their order."""

from __future__ import annotations

import copy
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_transfer.models.heads import draw_new_head, head_tensors
from hf_transfer.models.rebuilding import transplant
from hf_transfer.utils.foreign import names_in

_SHOWN = 5


@dataclass(frozen=True)
class HeadRows:
    """Which rows of a stored head are kept for new labels.

    Attributes:
        kept: New class index to stored one.
        in_place: Whether all rows stay where they are, or none is kept.
        is_news: Whether the user should be told.
        text: What was done, in one sentence.
    """

    kept: Mapping[int, int]
    in_place: bool
    is_news: bool
    text: str


def match_rows(stored: Sequence[str], wanted: Sequence[str], reset: bool = False) -> HeadRows:
    """Find the rows of a stored head that belong to the labels of a new task.

    Names are the same save for blanks and for how an accent is encoded. A name that stands twice belongs to no row. A
    checkpoint that names none of its labels (`LABEL_0`) keeps its rows in their order, where there are as many.

    Args:
        stored: Labels of the checkpoint, in the order of its class indices.
        wanted: Labels of the new task.
        reset: Keep no row.
    """
    if reset:
        return HeadRows({}, True, False, "all rows are new, as was asked for.")
    same_count = len(stored) == len(wanted)
    if all(re.fullmatch(r"LABEL_\d+", name) for name in stored) and not set(stored) & set(wanted):
        text = "its labels have no names, so that its rows are kept in their order. --reset_head draws a new head."
        return HeadRows({index: index for index in range(len(wanted))} if same_count else {}, True, same_count, text)
    rows = _distinct(stored)
    kept = {index: rows[name] for name, index in _distinct(wanted).items() if name in rows}
    if not kept:
        text = f"none of its labels ({_shown(stored)}) is one of the data's, so that all rows are new."
        return HeadRows({}, True, same_count, text)
    if same_count and len(kept) == len(wanted) and all(to == of for to, of in kept.items()):
        return HeadRows(kept, True, False, "its labels are those of the data, so that its rows are kept.")
    return HeadRows(kept, False, True, _text(kept, stored, wanted))


def with_labels(model: nn.Module, names: Sequence[str], rows: Mapping[int, int], seed: int) -> nn.Module:
    """Make a model for other labels, whose head keeps the rows of those that it knows.

    Args:
        model: A model of transformers; stays as it is.
        names: The new labels, in the order of their class indices.
        rows: New class index to the model's own; empty for a head that is new as a whole.
        seed: Seed for the rows of labels that the model does not know.

    Returns:
        A model of the same class; all but the head is the old one's, bit for bit.
    """
    made = _relabelled(model, names, "cpu")
    transplant(model, made, new=head_tensors(made))
    draw_new_head(made, seed)
    old, new, axes = model.state_dict(), made.state_dict(), _axes_of_labels(model)
    for tensor in head_tensors(made) if rows else ():
        if tensor not in axes:  # a layer of the head before the labels
            new[tensor].copy_(old[tensor])
            continue
        for to, of in rows.items():
            new[tensor].select(axes[tensor], to).copy_(old[tensor].select(axes[tensor], of))
    return made


def name_labels(config: Any, names: Sequence[str]) -> None:
    """Set the labels of a configuration, and with them the size of the head."""
    config.num_labels = len(names)  # of PVT a field of its own, which does not follow from id2label
    config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}


def _distinct(names: Sequence[str]) -> dict[str, int]:
    """Normalised name to index, of those that stand there once."""
    plain = [" ".join(unicodedata.normalize("NFC", name).split()) for name in names]
    counted = Counter(plain)
    return {name: index for index, name in enumerate(plain) if counted[name] == 1}


def _axes_of_labels(model: nn.Module) -> dict[str, int]:
    """The tensors that have one slice for each label, and the axis along which they lie.

    A width may equal the number of labels by chance; only what grows with one label more belongs to the labels.
    """
    more = [str(index) for index in range(len(names_in(model.config)) + 1)]
    larger = _relabelled(model, more, "meta").state_dict()
    axes = {}
    for name, value in model.state_dict().items():
        grown = [axis for axis, size in enumerate(larger[name].shape) if size != value.shape[axis]]
        if grown:
            axes[name] = grown[0]
    return axes


def _relabelled(model: nn.Module, names: Sequence[str], device: str) -> nn.Module:
    """A new model of the same configuration but for its labels."""
    config = copy.deepcopy(model.config)
    name_labels(config, names)
    with torch.device(device), torch.random.fork_rng(devices=[]):
        made: nn.Module = type(model)(config)
    return made.to(next(model.parameters()).dtype).train(model.training)


def _text(kept: Mapping[int, int], stored: Sequence[str], wanted: Sequence[str]) -> str:
    known = set(kept.values())
    new = [name for index, name in enumerate(wanted) if index not in kept]
    left = [name for index, name in enumerate(stored) if index not in known]
    order = "" if new or left else ", in the order of the data"
    names = _shown([wanted[index] for index in sorted(kept)])
    parts = [f"{len(kept)} of its {len(stored)} rows are kept, each with its label{order} ({names})"]
    if new:
        parts.append(f"{'the row' if len(new) == 1 else 'the rows'} of {_shown(new)} {_be(new)} new")
    if left:
        parts.append(f"{_shown(left)} {_be(left)} left out, since the data have no such label")
    return "; ".join(parts) + "."


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
