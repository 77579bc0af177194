"""What the tests launch in two processes: `accelerate launch ... launched.py FOLDER SCENARIO...`.

Each scenario writes what it found to FOLDER/SCENARIO-RANK.pt; one launch runs them all, since starting costs the most.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState
from transformers import Trainer, TrainerCallback, ViTForImageClassification
from transformers.distributed import DistributedConfig

import hf_transfer as ht
from hf_transfer.data import collate
from hf_transfer.diagnosis.measuring import measure
from hf_transfer.errors import InterruptedTrainingError, NonFiniteLossError, ReplicasDifferError
from hf_transfer.trainer import run as run_module
from tests.distributed import runs
from tests.helpers import labelled_images
from tests.helpers.training import RandomImages, arguments

torch.set_num_threads(1)
RANK = int(os.environ.get("RANK", "0"))
Found = dict[str, Any]


def vit_sgd(folder: Path) -> Found:
    return runs.gradual("vit", "sgd", folder)


def vit_accumulated(folder: Path) -> Found:
    return runs.gradual("vit", "sgd", folder, gradient_accumulation_steps=2)


def resnet_sgd(folder: Path) -> Found:
    return runs.gradual("resnet", "sgd", folder)


def vit_adamw(folder: Path) -> Found:
    return runs.gradual("vit", "adamw_torch", folder)


def vit_checkpointed(folder: Path) -> Found:
    return runs.gradual("vit", "sgd", folder, activation_checkpointing=True)


def vit_default(folder: Path) -> Found:
    """Without ddp_find_unused_parameters, which the plan then decides."""
    return runs.gradual("vit", "sgd", folder, ddp_find_unused_parameters=None)


def dinov2(folder: Path) -> Found:
    """A model with a parameter that never gets a gradient, and no ddp_find_unused_parameters."""
    found = runs.gradual("dinov2", "sgd", folder, ddp_find_unused_parameters=None)
    return found | {"mask": found["weights"]["dinov2.embeddings.mask_token"]}


def solved(folder: Path) -> Found:
    return runs.solved(folder)


def fsdp2(folder: Path) -> Found:
    """FSDP2 through transformers' own sharding, the only way to it on a CPU."""
    return _sharded(folder, mixed_precision=False)


def fsdp2_mixed(folder: Path) -> Found:
    """The same with parameters gathered in bfloat16."""
    return _sharded(folder, mixed_precision=True)


def _sharded(folder: Path, mixed_precision: bool) -> Found:
    PartialState(cpu=True)
    if RANK == 0:
        runs.make_model("vit").save_pretrained(folder / "model")
    dist.barrier()
    plan = {"vit.layers.*": "free_full_weight"}
    how = DistributedConfig(fsdp_size=runs.world_size(), fsdp_plan=plan, fsdp_mixed_precision=mixed_precision)
    model = ViTForImageClassification.from_pretrained(folder / "model", distributed_config=how)
    trainer = runs.make_trainer(model, folder, runs.GRADUAL, optim="sgd", learning_rate=1e-2)
    trainer.train()
    sharded = {type(parameter).__name__ for parameter in model.parameters()}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    weights = {name: parameter.full_tensor().detach() for name, parameter in model.named_parameters()}
    return {"weights": weights, "losses": losses, "sharded": sharded == {"DTensor"}}


def stock_trainer(folder: Path) -> Found:
    """The naive way: stock Trainer, and a callback that unfreezes after DDP has wrapped the model."""

    class Unfreeze(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 2:
                for parameter in model.vit.parameters():
                    parameter.requires_grad_(True)

    model = runs.make_model("vit")
    for parameter in model.vit.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    args = arguments(folder, **runs.options(max_steps=4))
    callbacks = [Unfreeze()]
    Trainer(model, args, train_dataset=RandomImages(), callbacks=callbacks, optimizers=(optimizer, None)).train()
    return {"digest": runs.digest(model)}


def without_rebuilding(folder: Path) -> Found:
    """Ours with the naive mechanism: nothing is rebuilt when layers are unfrozen."""
    error = ""
    with mock.patch.object(run_module, "rebuild_reducer", lambda *_: False):
        try:
            runs.gradual("vit", "sgd", folder)
        except ReplicasDifferError as found:
            error = str(found)
    return {"error": error}


def evaluated(folder: Path) -> Found:
    """Evaluation of 13 images during training, with batch norms that adapt, and two trainings with one trainer."""
    model = runs.make_model("resnet")
    seen: list[int] = []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(len(prediction.label_ids))
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    steps = (("a", "head", "eval"), ("b", "all", "eval"), ("c", "all", "train"))
    plan = ht.TransferPlan(tuple(ht.Phase(name, train, max_steps=2, norm=norm) for name, train, norm in steps))
    args = arguments(folder, **runs.options(eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=2))
    trainer = ht.TransferTrainer(
        model,
        args,
        train_dataset=RandomImages(),
        eval_dataset=RandomImages(13),
        compute_metrics=metrics,
        plan=plan,
    )
    trainer.train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logs = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    trainer.train()
    second = model.state_dict()
    return {
        "weights": weights,
        "evaluations": [(e["eval_loss"], e["eval_accuracy"]) for e in logs],
        "seen": seen,
        "digest": runs.digest(model),
        "moved": not torch.equal(second["classifier.1.weight"], weights["classifier.1.weight"]),
        "body moved": not torch.equal(
            second["resnet.embedder.embedder.convolution.weight"],
            weights["resnet.embedder.embedder.convolution.weight"],
        ),
    }


def interrupted(folder: Path) -> Found:
    """SIGTERM reaches one process alone, in the second phase; then the run is resumed."""

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if runs.world_size() - 1 == RANK and state.global_step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = runs.make_trainer(runs.make_model("vit", 0.1), folder, runs.GRADUAL, [Stop()], save_strategy="steps")
    code, message = 0, ""
    try:
        trainer.train()
    except InterruptedTrainingError as error:
        code, message = error.exit_code, str(error)
    step = trainer.state.global_step
    model = runs.make_model("vit", 0.1)
    runs.make_trainer(model, folder, runs.GRADUAL).train(resume_from_checkpoint=True)
    whole = runs.make_model("vit", 0.1)
    runs.make_trainer(whole, folder / "whole", runs.GRADUAL).train()
    same = all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())
    return {"code": code, "message": message, "step": step, "resumed exactly": same}


def diagnosed(folder: Path) -> Found:
    """A diagnosis of a network with BatchNorm; what was timed is kept apart."""
    model = runs.make_model("resnet")
    data = labelled_images.labelled_images(70)
    leak = labelled_images.labelled_images(5)
    PartialState(cpu=True)
    found = measure(
        model,
        data,
        labelled_images.processor(),
        evaluation_dataset=leak,
        pretrained=True,
        cache_folder=folder,
        progress=False,
    )
    return {"measured": json.dumps(replace(found, costs=None).to_dict()), "costs": str(found.costs)}


def range_test(folder: Path) -> Found:
    """Each rank sees other images; the measured rates must be one for all, and the ranks' weights stay the same."""
    model = runs.make_model("vit", 0.1)
    plan = ht.recipes.lp_ft(probe_epochs=1, epochs=1)
    args = arguments(folder, **runs.options(learning_rate="auto", gradient_accumulation_steps=2))
    trainer = ht.TransferTrainer(model, args, train_dataset=RandomImages(), plan=plan)
    trainer.train()
    tests = trainer.range_tests
    return {
        "rates": [test.learning_rate for test in tests],
        "losses": [list(test.losses) for test in tests],
        "digest": runs.digest(model),
    }


def uneven_labels(folder: Path) -> Found:
    """A model that does not scale its loss, with labels that are ignored unevenly over the ranks."""
    weights, losses = {}, {}
    for accumulation in (1, 2):
        model = runs.make_model("resnet")
        options = {"train_sampling_strategy": "sequential", "optim": "sgd", "learning_rate": 1e-2}
        plan = ht.recipes.fine_tune(norm="eval")
        data = runs.UnevenLabels()
        options |= {"gradient_accumulation_steps": accumulation}
        trainer = runs.make_trainer(model, folder, plan, data=data, **options)
        trainer.train()
        weights |= {f"{accumulation} {name}": value for name, value in model.state_dict().items()}
        losses[accumulation] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"weights": weights, "losses": losses}


def augmented(folder: Path) -> Found:
    """Random augmentation."""
    model = runs.make_model("vit")
    options = {"optim": "sgd", "learning_rate": 1e-2, "data_collator": collate}
    runs.make_trainer(model, folder, runs.GRADUAL, data=runs.augmented_images(), **options).train()
    return {"weights": model.state_dict()}


def broken_image(folder: Path) -> Found:
    """An image that is no number reaches one rank alone, in the first of two micro-batches."""
    model = runs.make_model("vit")
    options = {"train_sampling_strategy": "sequential", "optim": "sgd", "gradient_accumulation_steps": 2}
    trainer = runs.make_trainer(model, folder, runs.GRADUAL, data=runs.BrokenImages(), **options)
    error = ""
    try:
        trainer.train()
    except NonFiniteLossError as found:
        error = str(found)
    finite = all(bool(value.isfinite().all()) for value in model.state_dict().values())
    return {"error": error, "finite": finite}


def compiled(folder: Path) -> Found:
    """Two phases with torch.compile, and the number of graphs."""
    phases = (ht.Phase("a", "head", max_steps=2), ht.Phase("b", "all", max_steps=2))
    weights = []
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):
        AcceleratorState._reset_state()
        model = runs.make_model("vit")
        options |= {"optim": "sgd", "learning_rate": 1e-2}
        runs.make_trainer(model, folder, ht.TransferPlan(phases), **options).train()
        weights.append(model.state_dict())
    AcceleratorState._reset_state()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return {"plain": weights[0], "compiled": weights[1], "graphs": graphs}


def decided(folder: Path) -> Found:
    """A diagnosis with the decision."""
    PartialState(cpu=True)
    model = runs.make_model("vit")
    found = ht.diagnose(model, RandomImages(60), pretrained=True, cache=False, progress=False)
    return {"diagnosis": json.dumps(found.to_dict())}


SCENARIOS: dict[str, Callable[[Path], Found]] = {
    function.__name__: function
    for function in (
        vit_sgd,
        vit_accumulated,
        resnet_sgd,
        vit_adamw,
        vit_checkpointed,
        vit_default,
        dinov2,
        solved,
        fsdp2,
        fsdp2_mixed,
        stock_trainer,
        without_rebuilding,
        evaluated,
        interrupted,
        diagnosed,
        range_test,
        uneven_labels,
        augmented,
        broken_image,
        compiled,
        decided,
    )
}


def main(folder: Path, names: list[str]) -> None:
    """Run scenarios in turn."""
    for name in names:
        found = SCENARIOS[name](folder / name)
        torch.save(found, folder / f"{name}-{RANK}.pt")
        if dist.is_initialized():
            dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
