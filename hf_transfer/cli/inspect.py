"""`hf-transfer inspect`: the layer groups of a model, and what a recipe would train at which learning rate."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from hf_transfer.architectures.lookup import architecture_name, wrap
from hf_transfer.architectures.wrapper import ModelWrapper
from hf_transfer.cli.flags import DESCRIPTIONS, InspectOptions
from hf_transfer.cli.options import parse
from hf_transfer.cli.terminal import Terminal, quiet_libraries
from hf_transfer.errors import ArgumentError
from hf_transfer.models.architecture_names import TimmStructure
from hf_transfer.plans import recipes
from hf_transfer.plans.plan import TransferPlan, align
from hf_transfer.utils.imports import collection_paused


def run(argv: Sequence[str]) -> int:
    """Run the command; the first word may be the model."""
    words = list(argv)
    if words and not words[0].startswith("-"):
        words = ["--model_name_or_path", *words]
    options, _ = parse((InspectOptions,), words, "inspect", DESCRIPTIONS["inspect"])
    quiet_libraries()
    model = _structure(options)
    plan = _plan(options)
    if plan is not None and options.granularity != "block":
        raise ArgumentError("A plan needs the granularity block: give --granularity stage without --recipe or --plan.")
    default = recipes.default_learning_rate(options.recipe or "")
    rate = default if options.learning_rate is None else options.learning_rate
    if rate <= 0:
        raise ArgumentError(f"learning_rate must be above 0, found {rate}.")
    wrapper = wrap(model, options.granularity)
    terminal = Terminal(sys.stdout)
    if options.json:
        terminal.text(json.dumps(_as_dict(model, wrapper, plan, rate), indent=2))
        return 0
    terminal.heading(f"{architecture_name(model)}: {sum(p.numel() for p in model.parameters()):,} parameters")
    terminal.text(plan.describe(model, rate) if plan is not None else _table(model, wrapper))
    for note in notes(wrapper):
        terminal.text(note)
    return 0


def _structure(options: InspectOptions) -> nn.Module:
    """The model without weights; imports only what builds it."""
    name = options.model_name_or_path
    with collection_paused():
        if name.startswith("timm:") and not options.json:
            return TimmStructure(name)
        from hf_transfer.models.loading import load_structure

        quiet_libraries()  # again, since transformers is there now
        return load_structure(name, options.model_revision)


def _plan(options: InspectOptions) -> TransferPlan | None:
    if options.plan is not None:
        if options.recipe is not None:
            raise ArgumentError("Give either --plan or --recipe, not both.")
        return TransferPlan.load(options.plan)
    if options.recipe is None:
        if options.recipe_options is not None:
            raise ArgumentError("recipe_options need a recipe: give --recipe NAME.")
        return None
    try:
        settings = json.loads(options.recipe_options or "{}")
    except ValueError as error:
        raise ArgumentError(f"--recipe_options must be JSON, found {options.recipe_options!r}.") from error
    if not isinstance(settings, dict):
        raise ArgumentError(f"--recipe_options must be a JSON object, found {options.recipe_options!r}.")
    return recipes.get(options.recipe, **settings)


def _as_dict(model: nn.Module, wrapper: ModelWrapper, plan: TransferPlan | None, rate: float) -> dict[str, Any]:
    from hf_transfer.models.truncation import truncation_points

    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    groups = [asdict(g) | {"parameters": sum(counts[n] for n in g.parameter_names)} for g in wrapper.layer_groups]
    return {
        "architecture": architecture_name(model),
        "source": wrapper.source,
        "parameters": sum(counts.values()),
        "groups": groups,
        "unused_parameters": list(wrapper.unused_parameters),
        "shared_parameters": {name: list(others) for name, others in wrapper.shared_parameters.items()},
        "reused_modules": list(wrapper.reused_modules),
        "truncation_points": list(truncation_points(model)),
        "plan": plan.to_dict() if plan is not None else None,
        "learning_rate": rate if plan is not None else None,
    }


def notes(wrapper: ModelWrapper) -> list[str]:
    """What the table does not show: parts without a gradient, shared weights, and modules that run several times."""
    found = []
    if unused := wrapper.unused_parameters:
        found.append(f"No forward pass uses: {', '.join(unused)}. They get no gradient and stay as they are.")
    for name, others in wrapper.shared_parameters.items():
        found.append(f"Shared: {name} is also {', '.join(others)}; it belongs to the group that runs first.")
    if reused := wrapper.reused_modules:
        found.append(f"Run several times in a forward pass, with the same weights: {', '.join(reused)}.")
    return found


def _table(model: nn.Module, wrapper: ModelWrapper) -> str:
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    rows = [("#", "group", "role", "parameters", "modules")]
    for group in wrapper.layer_groups:
        count = sum(counts[name] for name in group.parameter_names)
        modules = ", ".join(group.module_names[:3]) + (", ..." if len(group.module_names) > 3 else "")
        rows.append((str(group.index), group.name, group.role, f"{count:,}", modules))
    return align(rows)
