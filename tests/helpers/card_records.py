"""Records of made-up runs, and what tests read out of the cards that are written from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.evaluation import ClassScore, Confusion, EvaluationReport, MetricValue
from hf_transfer.phases.param_groups import optimizer_groups
from hf_transfer.phases.resolved import PhaseSteps, ResolvedPlan
from hf_transfer.plans import recipes
from hf_transfer.plans.plan import Phase, TransferPlan
from hf_transfer.reporting.record import RunRecord

STEPS = 50


def record(
    plan: TransferPlan | None = None, blocks: int = 3, labels: tuple[str, ...] = ("cat", "dog")
) -> dict[str, Any]:
    """A run record as the trainer makes it, with a made-up model of `blocks` blocks."""
    plan = recipes.fine_tune(3, 2e-4) if plan is None else plan
    resolved = resolve(plan, blocks)
    made = RunRecord(
        created="2025-01-02T03:04:05+00:00",
        command="hf-transfer train --model_name_or_path timm/tiny --dataset pets --output_dir out",
        versions={"python": "3.11.7", "torch": "2.9.0", "timm": "1.0.31", "hf_transfer_learning": "0.1.0"},
        hardware={"device": "cpu", "processor": "Some CPU", "cores": 2, "accelerators": [], "world_size": 1},
        seed=42,
        split_seed=7,
        base_model={
            "id": "timm/tiny.a1_in1k",
            "on_hub": True,
            "revision": "0123abc",
            "architecture": "timm:tiny",
            "library": "timm",
            "parameters": sum(group["parameters"] for group in resolved["groups"]),
            "license": "apache-2.0",
        },
        data={
            "name": "pets",
            "hub_id": "someone/pets",
            "revision": "fedc321",
            "fingerprint": "a1b2c3",
            "evaluation_split": "validation",
            "label_names": list(labels),
            "counts": {
                "train": {label: 1000 + i for i, label in enumerate(labels)},
                "validation": {label: 60 + i for i, label in enumerate(labels)},
            },
            "median_size": {"height": 200, "width": 300},
            "skipped": [{"split": "train", "reason": "it is damaged or cut short", "images": 1}],
        },
        preprocessing={
            "height": 96,
            "width": 128,
            "mean": [0.5, 0.5, 0.25],
            "std": [0.1, 0.2, 0.3],
            "interpolation": "bicubic",
            "augmentation": "light",
        },
        training={
            "plan": resolved,
            "optimizer": {
                "class": "AdamW",
                "defaults": {"lr": 9.0, "betas": [0.9, 0.999], "eps": 1e-8, "amsgrad": False},
            },
            "batch_size_per_device": 16,
            "gradient_accumulation_steps": 2,
            "effective_batch_size": 32,
            "precision": "bf16",
            "max_grad_norm": 1.0,
            "label_smoothing": 0.1,
            "steps": STEPS * len(plan.phases),
            "epochs": 5.0,
            "best_checkpoint_step": None,
            "final_loss": 0.4321,
        },
        timing={"train_seconds": 123.4, "images_per_second": 81.25, "evaluation_seconds": 2.5},
        evaluation={"validation": report("validation", labels).to_dict()},
        log_history=[{"loss": 0.4321, "step": STEPS}],
    )
    return made.to_dict()


def resolve(plan: TransferPlan, blocks: int) -> dict[str, Any]:
    """The content of `transfer_plan.json` for a made-up model: each group has a weight, a bias and a norm."""
    names = ["stem", *(f"blocks.{i}" for i in range(blocks)), "neck", "head"]
    roles = ["stem", *["block"] * blocks, "neck", "head"]
    groups = tuple(
        LayerGroup(i, name, role, tuple(f"{name}.{part}" for part in ("weight", "bias", "norm.weight")))
        for i, (name, role) in enumerate(zip(names, roles, strict=True))
    )
    parameters = [name for group in groups for name in group.parameter_names]
    norms = [name for name in parameters if "norm" in name]
    without_decay = [*norms, *(name for name in parameters if name.endswith("bias"))]
    steps = tuple(
        PhaseSteps(
            phase, i * STEPS, (i + 1) * STEPS, phase.lr_scheduler_type or "cosine", 5 + i, phase.learning_rate or 1e-3
        )
        for i, phase in enumerate(plan.phases)
    )
    counts = {name: 10_000 + i for i, name in enumerate(parameters)}
    made = optimizer_groups(groups, plan.phases, 1e-3, 0.05, norms, without_decay)
    return ResolvedPlan(plan, "timm:tiny", groups, made, counts, steps).to_dict()


def report(split: str, labels: tuple[str, ...]) -> EvaluationReport:
    """An evaluation with made-up numbers."""
    n = 100 * len(labels)
    metrics = {"accuracy": MetricValue(0.8725, 0.8401, 0.8999), "ece": MetricValue(0.0512, None, None)}
    confusion = tuple(tuple(90 if i == j else 0 for j in range(len(labels))) for i in range(len(labels)))
    return EvaluationReport(
        split=split,
        n=n,
        label_names=labels,
        metrics=metrics,
        per_class=tuple(
            ClassScore(label, 0.75, 0.5 + i / 1000, 0.6 + i / 1000, 100 + i) for i, label in enumerate(labels)
        ),
        confusion=confusion,
        worst_confusions=(Confusion(labels[0], labels[1], 13, 0.125),),
    )


def section(card: str, title: str) -> str:
    """The text of a section, without its subsections' end."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", card, re.DOTALL | re.MULTILINE)
    assert found is not None, f"no section {title}"
    return found.group(1)


def tables_in(text: str) -> list[list[list[str]]]:
    """The Markdown tables in a text: rows of cells as a reader sees them, without the rule."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    return [[split_row(line) for i, line in enumerate(block.splitlines()) if i != 1] for block in found]


def split_row(line: str) -> list[str]:
    """Cells of a row; a bar behind a backslash is part of its cell."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def metadata(card: str) -> dict[str, Any]:
    """The metadata of a card."""
    found = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def changed(given: Mapping[str, Any], /, **parts: Mapping[str, Any]) -> dict[str, Any]:
    """A record with some values of its parts changed."""
    return {**given, **{name: {**given[name], **values} for name, values in parts.items()}}


PLANS: dict[str, TransferPlan] = {
    "two phases": recipes.lp_ft(2, 3, 2e-4, layer_decay=0.75),
    "from scratch": recipes.from_scratch(4, 1e-3),
    "biases": recipes.bias_only(2, 2e-3),
    "norms": recipes.norm_only(2, 2e-3),
    "last blocks": recipes.last_blocks(2, 2, 3e-5, layer_decay=0.65),
    "three phases": TransferPlan(
        (
            Phase("head", "head", max_steps=9, learning_rate=1e-2),
            Phase("last", ("blocks:1", "norm"), learning_rate=3.125e-4, weight_decay=0.0, norm="train"),
            Phase("all", "all", epochs=0.5, learning_rate=7e-6, lr_scheduler_type="constant"),
        )
    ),
}
