"""The section of docs/architectures.md on the classes of transformers."""

from __future__ import annotations

from importlib.metadata import version

import transformers
from torch import nn
from transformers.utils import is_natten_available

import hf_transfer as ht
from tests.helpers import every_transformers_class
from tests.helpers.class_checks import CHECKS, NEED_FORWARD, case

_FACTS = ("class", "model type", "groups", "stages", "head", "parameters without gradient", "truncation points")


def section() -> list[str]:
    """Heading, explanation and one row for each class, with the result of each check."""
    checks = [f"- `{name}`: {check.__doc__.splitlines()[0]}" for name, check in CHECKS.items() if check.__doc__]
    columns = (*_FACTS, *CHECKS)
    rows = [_row([*facts(name), *results(name)]) for name in every_transformers_class.OPTIONS]
    refused = [
        _row([n, every_transformers_class.registered_classes()[n], "refused: no head that maps features to labels"])
        for n in every_transformers_class.REFUSED
    ]
    return [
        "## transformers",
        "",
        f"{len(rows) + len(refused)} classes are registered under `AutoModelForImageClassification` in {versions()}.",
        "The numbers of groups are those of the tiny configurations of",
        "`tests/helpers/every_transformers_class.py`, on which the checks ran; a model of the usual size has more",
        "blocks.",
        "",
        *checks,
        "",
        _row(columns),
        _row(["---"] * len(columns)),
        *rows,
        *refused,
    ]


def versions() -> str:
    """What the checks ran on."""
    return f"transformers {version('transformers')}"


def facts(name: str) -> list[str]:
    """The cells of a class that need no check."""
    one = case(name)
    wrapper = one.wrapper
    stages = len(ht.wrap(one.model, "stage").layer_groups)
    heads = sorted({name.rpartition(".")[0] for name in wrapper.head.parameter_names})
    unused = [f"`{name}`" for name in wrapper.unused_parameters]
    more = [f"and {len(unused) - 2} more"] if len(unused) > 2 else []
    return [
        name,
        every_transformers_class.registered_classes()[name],
        str(len(wrapper.layer_groups)),
        str(stages),
        ", ".join(f"`{head}`" for head in heads),
        ", ".join(unused[:2] + more) or "none",
        _truncation_points(one.model, wrapper),
    ]


def _truncation_points(model: nn.Module, wrapper: ht.ModelWrapper) -> str:
    """After how many of the blocks the model can be truncated."""
    if isinstance(model, transformers.DinatForImageClassification) and not is_natten_available():
        return "not run (natten)"
    points, blocks = len(ht.truncation_points(model)), sum(group.role == "block" for group in wrapper.layer_groups)
    return "none" if not points else "after every block" if points == blocks else f"after {points} of {blocks} blocks"


def results(name: str) -> list[str]:
    """ "yes", "no", or "not run" for each check."""
    found = []
    for title, check in CHECKS.items():
        if name.startswith("Dinat") and title in NEED_FORWARD:
            found.append("not run (natten)")
            continue
        try:
            check(case(name))
        except AssertionError:
            found.append("no")
        else:
            found.append("yes")
    return found


def cells(line: str) -> list[str]:
    """The cells of a row of the table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []


def _row(values: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(values)} |"
