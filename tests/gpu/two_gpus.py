"""Gradual unfreezing on GPUs against the same run on the CPU; see README.md beside this file."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

import hf_transfer as ht
from tests.distributed import runs
from tests.helpers.training import RandomImages, arguments, logged

# Measured on no GPU yet: wide enough for TF32 and other kernels, far below what diverging ranks show.
TOLERANCE = {"fp32": 5e-3, "fp16": 5e-2}


def reference(plan: ht.TransferPlan) -> list[float]:
    """The losses of the plan on the CPU in one process, in plain torch; each step sees all images."""
    model, data = runs.make_model("vit"), RandomImages()
    losses = []
    for phase in plan.phases:
        with ht.frozen(model, phase):
            optimizer = torch.optim.SGD(ht.param_groups(model, phase, learning_rate=1e-2))
            for _ in range(phase.max_steps or 0):
                model.train()
                output = model(pixel_values=data.pixels, labels=data.labels)
                optimizer.zero_grad()
                output.loss.backward()
                optimizer.step()
                losses.append(float(output.loss))
    return losses


def main() -> None:
    """Train, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--torch_compile", action="store_true")
    parser.add_argument("--one_phase", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("This needs GPUs; tests/distributed/ holds what runs on CPUs.")
    phases = (
        ht.Phase("head", "head", max_steps=3),
        ht.Phase("one block", "blocks:1", max_steps=3),
        ht.Phase("all", "all", max_steps=3),
    )
    plan = ht.TransferPlan(phases[-1:] if options.one_phase else phases)
    changes: dict[str, Any] = {"fp16": options.fp16, "torch_compile": options.torch_compile, "max_grad_norm": 0.0}
    data = RandomImages()
    model = runs.make_model("vit")
    args = arguments(
        Path(tempfile.mkdtemp()),
        per_device_train_batch_size=len(data) // runs.world_size(),
        optim="sgd",
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        seed=3,
        **changes,
    )
    trainer = ht.TransferTrainer(model, args, train_dataset=data, plan=plan)
    trainer.train()  # frozen tensors and replicas are compared after each phase
    found, expected = logged(trainer, "loss"), reference(plan)
    worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    if trainer.is_world_process_zero():
        limit = TOLERANCE["fp16" if options.fp16 else "fp32"]
        print(f"OK, losses within {worst:.1e}" if worst < limit else f"FAILED: {found} against {expected}")


if __name__ == "__main__":
    main()
