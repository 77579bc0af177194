"""`--recipe auto`: a diagnosis chooses the recipe, and the run uses it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import IntervalStrategy

from hf_transfer.cli.flags import DiagnosisOptions, TrainDataOptions
from hf_transfer.cli.terminal import Terminal
from hf_transfer.data import ImageData, eval_transform
from hf_transfer.diagnosis.holding_out import hold_out
from hf_transfer.diagnosis.result import Diagnosis
from hf_transfer.diagnosis.running import check_budget, diagnose
from hf_transfer.diagnosis.sampling import labels_and_names
from hf_transfer.errors import ArgumentError
from hf_transfer.models.loading import LoadedModel
from hf_transfer.run_files import DIAGNOSIS_FILE, PLAN_FILE
from hf_transfer.trainer.args import TransferArguments
from hf_transfer.trainer.fields import AUTO
from hf_transfer.trainer.held_out import HeldOut
from hf_transfer.trainer.probe_trainer import solves
from hf_transfer.utils.files import write_atomically
from hf_transfer.utils.privacy import check_private

# Options of a recipe that a flag sets as well; the flag wins.
_SAME_AS_FLAG = {"learning_rate": "learning_rate", "epochs": "num_train_epochs", "norm": "norm"}
# With few training images the epochs are many and short, and an evaluation can take longer than an epoch.
_MOST_EVALUATIONS = 10
_WHEN = frozenset({"eval_strategy", "eval_steps", "save_strategy", "save_steps"})


def is_automatic(args: TransferArguments) -> bool:
    """Whether a diagnosis chooses the recipe."""
    return args.recipe == AUTO


def check_automatic(args: TransferArguments, options: DiagnosisOptions, given: frozenset[str]) -> None:
    """Check the flags that depend on whether a diagnosis chooses the recipe.

    Raises:
        ArgumentError: A flag of the diagnosis is given without `--recipe auto`, or a flag of its choice with it.
    """
    if not is_automatic(args):
        unused = sorted({"prefer", "budget", "metric", "calibrate"} & given)
        if unused:
            raise ArgumentError(
                f"--{', --'.join(unused)} are for a recipe that a diagnosis chooses: give --recipe auto."
            )
        return
    clash = sorted({"recipe_options", "layer", "solver", "plan"} & given)
    if clash:
        raise ArgumentError(
            f"The recipe auto chooses by itself what --{', --'.join(clash)} would set. Leave them out, or name a "
            "recipe."
        )
    check_budget(options.budget)


def choose_recipe(
    options: DiagnosisOptions, data: ImageData, loaded: LoadedModel, args: TransferArguments
) -> Diagnosis:
    """Diagnose; a resumed run reads the diagnosis that it began with.

    Raises:
        ArgumentError: There is no stored diagnosis to resume with.
    """
    if args.resume_from_checkpoint:
        return stored_diagnosis(Path(str(args.output_dir)), args.resume_from_checkpoint)
    return diagnose(
        loaded.model,
        data.train,
        loaded.processor,
        AUTO if options.budget is None else options.budget,  # type: ignore[arg-type]
        options.prefer,  # type: ignore[arg-type]
        metric=options.metric,
        evaluation_dataset=data.validation,
        allow_probe_file=args.allow_probe_file,
        seed=args.seed,
        cache=args.cache_features != "off",
        cache_gb=args.cache_gb,
        workers=args.dataloader_num_workers,
        memory_format=args.memory_format,
        progress=not args.disable_tqdm,
    )


def stored_diagnosis(folder: Path, checkpoint: str | bool) -> Diagnosis:
    """The diagnosis of an earlier run: from its `transfer_plan.json`, else from its `diagnosis.json`.

    Args:
        folder: The output folder.
        checkpoint: The checkpoint to resume from. If it is a folder, it and its parent are searched first, because a
            published checkpoint has a diagnosis of its own.

    Raises:
        ArgumentError: There is no stored diagnosis.
    """
    folders = ([Path(checkpoint), Path(checkpoint).parent] if isinstance(checkpoint, str) else []) + [folder]
    for path in (each / name for each in folders for name in (PLAN_FILE, DIAGNOSIS_FILE)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found = content.get("diagnosis") if path.name == PLAN_FILE else content
        if found is not None:
            return Diagnosis.from_dict(found)
    raise ArgumentError(
        f"The run to resume has no stored diagnosis ({PLAN_FILE} or {DIAGNOSIS_FILE}). Resume with the recipe of "
        "its training, or start a new run in another output folder."
    )


def apply(diagnosis: Diagnosis, args: TransferArguments, data: TrainDataOptions, given: frozenset[str]) -> None:
    """Set the recipe, its options and the arguments that the user has not given."""
    chosen = diagnosis.decision.chosen
    args.recipe = chosen.recipe
    kept = {name: value for name, value in chosen.options.items() if _SAME_AS_FLAG.get(name) not in given}
    args.recipe_options = kept or None
    args.layer = chosen.layer
    if chosen.recipe == "linear_probe":
        args.norm = None  # no layer is trained
    else:
        args.allow_probe_file = False  # no probe file is needed
    for name, value in _arguments(chosen.arguments, args).items():
        if name not in given:
            setattr(data if name == "augmentation" else args, name, value)
    if chosen.options.get("epochs", 0) > _MOST_EVALUATIONS and not given & {*_WHEN, "num_train_epochs"}:
        args.eval_strategy = args.save_strategy = IntervalStrategy.STEPS
        args.eval_steps = args.save_steps = 1 / _MOST_EVALUATIONS  # below 1: a fraction of all steps


def held_out(
    diagnosis: Diagnosis | None, options: DiagnosisOptions, data: ImageData, processor: Any, args: TransferArguments
) -> tuple[Any, HeldOut | None]:
    """The images to train on, and those that choose the weights; all and none where nothing was tried.

    Of many images those of the trials stay held out. Of few, all are trained on, and the weights are those that were
    best on folds.
    """
    trials = None if diagnosis is None else diagnosis.trials
    if trials is None or solves(args):
        return data.train, None
    calibrate = options.calibrate != "off"
    rows = hold_out(data.train, labels_and_names(data.train)[0], args.seed)
    if not rows.once:
        if trials.follow is None:
            return data.train, None
        return data.train, HeldOut(
            metric=trials.metric, calibrate=calibrate, follow=trials.follow, temperature=trials.temperature
        )
    assert data.train is not None
    fit, held = rows.folds[0]
    images = data.train.select(held).with_transform(eval_transform(processor))
    return data.train.select(fit), HeldOut(images, trials.metric, calibrate)


def _arguments(stated: Mapping[str, Any], args: TransferArguments) -> dict[str, Any]:
    found = dict(stated)
    size = found.pop("train_batch_size", None)
    if size is not None:
        processes = args.world_size * max(args.gradient_accumulation_steps, 1)
        found["per_device_train_batch_size"] = max(1, size // processes)
    return found


def show(diagnosis: Diagnosis, terminal: Terminal) -> None:
    """Print the findings and the choice."""
    terminal.heading("Diagnosis")
    terminal.text(diagnosis.heading())
    terminal.text(diagnosis.description())


def keep(diagnosis: Diagnosis, folder: Path) -> None:
    """Write the diagnosis into the output folder before the training begins, so that a resumed run finds it."""
    data = diagnosis.to_dict()
    check_private(data)
    diagnosis.save(folder / DIAGNOSIS_FILE)
    plan = {"plan": data["plan"], "diagnosis": data}
    write_atomically(folder / PLAN_FILE, json.dumps(plan, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
