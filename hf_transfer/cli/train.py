"""`hf-transfer train`: the main job, from images to an evaluated, saved and described model."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hf_transfer.cli import auto, checks
from hf_transfer.cli.evaluate import evaluate_split
from hf_transfer.cli.flags import (
    DEFAULT_RECIPE,
    DESCRIPTIONS,
    TRAIN_DEFAULTS,
    DiagnosisOptions,
    ModelOptions,
    OutputOptions,
    TrainDataOptions,
)
from hf_transfer.cli.loading import check_model, load_images, load_model
from hf_transfer.cli.options import config_path, parse
from hf_transfer.cli.publish import report
from hf_transfer.cli.terminal import Terminal, quiet_libraries
from hf_transfer.data import ImageData, collate, eval_transform, train_transform
from hf_transfer.diagnosis.measurements import ALL
from hf_transfer.diagnosis.result import Diagnosis
from hf_transfer.errors import ArgumentError, TransferError
from hf_transfer.evaluation import make_compute_metrics
from hf_transfer.evaluation.calibration import measure_calibration
from hf_transfer.hub import PROBE_IS_NOT_PUBLISHED, check_target
from hf_transfer.hub.scan import check_names
from hf_transfer.models.loading import LoadedModel
from hf_transfer.models.origins import BaseModel
from hf_transfer.plans import recipes
from hf_transfer.plans.plan import Phase, TransferPlan
from hf_transfer.reporting.card import render_card, validate_metadata
from hf_transfer.reporting.record import RunRecord
from hf_transfer.reporting.results import SplitResult, write_results
from hf_transfer.reporting.run_folder import RunFolder
from hf_transfer.reporting.verification_samples import write_samples
from hf_transfer.run_files import SKIPPED_FILE, is_probe
from hf_transfer.trainer.args import TransferArguments, measures_rate, plan_from_arguments
from hf_transfer.trainer.checks import check_processes
from hf_transfer.trainer.fields import AUTO
from hf_transfer.trainer.held_out import HeldOut
from hf_transfer.trainer.probe_trainer import LinearProbeTrainer, solves
from hf_transfer.trainer.record import make_record
from hf_transfer.trainer.trainer import TransferTrainer
from hf_transfer.utils.environment import collect_hardware, collect_versions
from hf_transfer.utils.privacy import check_private, sanitise_command

# Two defaults depend on the machine; `flags.MACHINE_DEFAULTS` has them in words.
DEFAULTS: Mapping[str, Any] = TRAIN_DEFAULTS | {
    "dataloader_pin_memory": torch.cuda.is_available(),
    "disable_tqdm": not sys.stderr.isatty(),  # a log file gets lines, not bars
}
_SOLVED_HEAD_FLAGS = ("solver", "class_weights", "allow_probe_file")


@dataclass(frozen=True)
class Job:
    """What a run of the main job is asked to do."""

    model: ModelOptions
    data: TrainDataOptions
    args: TransferArguments
    command: tuple[str, ...]
    overwrite: bool = False
    diagnosis: DiagnosisOptions = field(default_factory=DiagnosisOptions)
    given: frozenset[str] = frozenset()


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    types = (ModelOptions, TrainDataOptions, OutputOptions, DiagnosisOptions, TransferArguments)
    model, data, output, diagnosis, args, given = parse(types, argv, "train", DESCRIPTIONS["train"], DEFAULTS)
    if "output_dir" not in given:
        raise ArgumentError("Train needs a folder for the results: give --output_dir FOLDER.")
    settle_recipe(args, given)
    auto.check_automatic(args, diagnosis, given)
    if not auto.is_automatic(args):
        settle_solver(args, data, given)
    command = ("hf-transfer", "train", *argv)
    train(Job(model, data, args, command, output.overwrite_output_dir, diagnosis, given))
    return 0


def settle_recipe(args: TransferArguments, given: frozenset[str]) -> None:
    """Choose the recipe and the learning rate where none was given."""
    if args.plan is None and args.recipe is None:
        args.recipe = DEFAULT_RECIPE
    if "learning_rate" not in given:
        args.learning_rate = recipes.default_learning_rate(args.recipe or "")


def settle_solver(args: TransferArguments, data: TrainDataOptions, given: frozenset[str]) -> None:
    """Check the flags that depend on whether the head is solved, and switch augmentation off where it is.

    Raises:
        ArgumentError: A flag needs a solved head and the head is trained in steps, or the other way round.
    """
    if not solves(args):
        asked = [name for name in _SOLVED_HEAD_FLAGS if vars(args)[name] not in (None, "none", False)]
        asked += ["layer"] if args.layer in (AUTO, ALL) else []
        if asked:
            raise ArgumentError(
                f"--{', --'.join(asked)} are for a head that is solved: the recipes linear_probe and svm without "
                "recipe_options. Leave them out, or choose such a recipe."
            )
        return
    if args.allow_probe_file and args.push_to_hub:
        raise ArgumentError(PROBE_IS_NOT_PUBLISHED + " Leave --push_to_hub or --allow_probe_file out.")
    if "augmentation" in given and data.augmentation != "none":
        raise ArgumentError(
            "A solved head sees each image once, without augmentation. Leave --augmentation out, or train the head by "
            "gradient steps: --solver none."
        )
    data.augmentation = "none"


def train(job: Job) -> None:
    """Load, train, evaluate, save and describe.

    Everything that can be refused is refused before the output folder changes and the training begins.

    Raises:
        TransferError: The model, the data, the plan or the output folder cannot be used.
    """
    args = job.args
    folder = _check_early(job)
    quiet_libraries()
    terminal = Terminal(sys.stdout, enabled=args.process_index == 0)
    repo_id = _check_destination(args, folder)
    data, loaded = _load(job)
    diagnosis = _diagnose(job, data, loaded, terminal)
    plan = plan_from_arguments(args)
    assert plan is not None
    check_processes(plan, args)
    checks.settle_layer(args, loaded.model)
    loaded = checks.ended_after(loaded, args)
    description = _describe(plan, loaded, args)
    _check_record(job, data, loaded, repo_id)
    train_images, held_out = auto.held_out(diagnosis, job.diagnosis, data, loaded.processor, args)
    trainer = _make_trainer(job, data, loaded, train_images, held_out)
    if diagnosis is None:
        _show_data(data, terminal)
    terminal.heading(f"What will be trained: {loaded.base.architecture}")
    terminal.text(description)
    with folder.replacing_earlier() if args.process_index == 0 else contextlib.nullcontext():
        _prepare(folder, args, loaded, diagnosis)
        _train_and_write(job, trainer, data, loaded.base, folder, terminal, diagnosis)


def _check_early(job: Job) -> RunFolder:
    """Check all that needs neither model nor images; the output folder, which is not looked into yet."""
    args, path = job.args, Path(job.args.output_dir or ".")
    checks.check_values(args, job.model.image_size)
    args.resume_from_checkpoint = checks.checkpoint(args.resume_from_checkpoint, path)
    resume = checks.is_resumed(args.resume_from_checkpoint, path)
    checks.check_places(job.model, job.data, args, config_path(job.command), resume)
    if not auto.is_automatic(args):
        plan_from_arguments(args)
    checks.check_trackers(args)
    checks.check_metrics(args, job.data.metrics)
    return RunFolder(path, resume=resume, overwrite=job.overwrite)


def _check_destination(args: TransferArguments, folder: RunFolder) -> str | None:
    """Check the output folder and, for a push, the repository, whose id is returned; in the first process alone."""
    if args.process_index != 0:
        return None
    folder.check()
    if not args.push_to_hub:
        return None
    name = args.hub_model_id or folder.path.absolute().name
    return check_target(name, args.hub_private_repo is not False).repo_id


def _load(job: Job) -> tuple[ImageData, LoadedModel]:
    """The images, and the model with a head for their classes."""
    with job.args.main_process_first(desc="load the data"):
        check_model(job.model)
        data = load_images(job.data)
    return data, load_model(job.model, data.label_names, job.args.seed)


def _diagnose(job: Job, data: ImageData, loaded: LoadedModel, terminal: Terminal) -> Diagnosis | None:
    """For the recipe auto: choose a recipe, show why, and set its arguments."""
    if not auto.is_automatic(job.args):
        return None
    _show_data(data, terminal)
    found = auto.choose_recipe(job.diagnosis, data, loaded, job.args)
    auto.show(found, terminal)
    auto.apply(found, job.args, job.data, job.given)
    settle_solver(job.args, job.data, job.given - {"augmentation"})  # a solved head ignores it here
    return found


def _show_data(data: ImageData, terminal: Terminal) -> None:
    terminal.heading(f"Data: {data.name}")
    terminal.data(data)


def _describe(plan: TransferPlan, loaded: LoadedModel, args: TransferArguments) -> str:
    """What will be trained, at which learning rate and for how long.

    Raises:
        PlanError: The plan does not fit the model.
    """
    lines = []
    if loaded.base.random_weights:
        lines.append("No pretrained weights: the model is named by its architecture, and all weights are random.")
    if solves(args):
        return "\n".join([*lines, "The head is solved on features that are computed once, without learning rate."])
    lines.append(plan.describe(loaded.model, None if measures_rate(args) else args.learning_rate))
    lines.append("Length: " + ", then ".join(_length(phase, args) for phase in plan.phases))
    if measures_rate(args):
        lines.append("Learning rate: measured by a range test when a phase begins; the table shows multiples of it.")
    return "\n".join(lines)


def _length(phase: Phase, args: TransferArguments) -> str:
    if phase.head_solver is not None:
        return f"{phase.name}: solved, no epochs"
    steps = phase.max_steps or (args.max_steps if args.max_steps > 0 else None)
    epochs = args.num_train_epochs if phase.epochs is None else phase.epochs
    return f"{phase.name}: {steps} steps" if steps else f"{phase.name}: {epochs:g} epochs"


def _prepare(folder: RunFolder, args: TransferArguments, loaded: LoadedModel, diagnosis: Diagnosis | None) -> None:
    """Make the output folder; in the first process alone."""
    if args.process_index != 0:
        return
    folder.check_space(loaded.model, None if args.save_strategy == "no" else args.save_total_limit)
    folder.prepare()
    if diagnosis is not None:
        auto.keep(diagnosis, folder.path)


def _train_and_write(
    job: Job,
    trainer: TransferTrainer,
    data: ImageData,
    base: BaseModel,
    output: RunFolder,
    terminal: Terminal,
    diagnosis: Diagnosis | None,
) -> None:
    """Train, evaluate, and write and show the results."""
    folder = output.path
    metrics, train_seconds = _train(job, trainer, data, terminal)
    started = time.perf_counter()
    trainer.save_model(_internal_call=True)  # not yet to the Hub, since results and card are missing
    results = _evaluate(trainer, data)
    if trainer.is_world_process_zero():
        trainer.save_metrics("train", metrics)
        trainer.save_state()
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, with the Hub token in plain text
        record = make_record(
            trainer,
            data,
            base,
            {result.report.split: result.report for result in results},
            command=job.command,
            split_seed=job.data.split_seed,
            augmentation=job.data.augmentation,
            train_seconds=train_seconds,
            evaluation_seconds=time.perf_counter() - started,
            calibration=measure_calibration(*((r.report.split, r.logits, r.labels) for r in results[:2])),
            diagnosis=None if diagnosis is None else diagnosis.to_dict(),
        )
        write_results(folder, record, results, data.skipped)
        if not is_probe(folder):
            write_samples(trainer, folder)
        output.finish()
    _show_results(trainer, data, folder, results, terminal)


def _train(
    job: Job, trainer: TransferTrainer, data: ImageData, terminal: Terminal
) -> tuple[dict[str, float], float | None]:
    """Train; the metrics of the training, and its seconds unless it was resumed."""
    terminal.heading("Training")
    trainer.data_fingerprint = data.fingerprint
    trainer.interrupts.advice = _how_to_resume(job)
    started = time.perf_counter()
    metrics = trainer.train(resume_from_checkpoint=job.args.resume_from_checkpoint).metrics
    seconds = time.perf_counter() - started
    for test in trainer.range_tests:
        terminal.text(f"Learning rate of {test.phase}: {test.learning_rate:.3g}, {test.reason}.")
    return metrics, None if job.args.resume_from_checkpoint else seconds


def _show_results(
    trainer: TransferTrainer, data: ImageData, folder: Path, results: list[SplitResult], terminal: Terminal
) -> None:
    """Show metrics and files, and publish what was asked for."""
    terminal.results([result.report for result in results])
    if data.skipped:
        terminal.text(f"{SKIPPED_FILE} names the images that were skipped; it is not published.")
    terminal.files(folder, is_probe(folder))
    if trainer.training_push is not None:
        report(terminal, trainer.training_push.publish(folder, "End of training"))


def _make_trainer(
    job: Job, data: ImageData, loaded: LoadedModel, images: Any, held_out: HeldOut | None
) -> TransferTrainer:
    assert data.validation is not None
    kind = LinearProbeTrainer if solves(job.args) else partial(TransferTrainer, held_out=held_out)
    try:
        return kind(
            model=loaded.model,
            args=job.args,
            data_collator=collate,
            train_dataset=images.with_transform(train_transform(loaded.processor, job.data.augmentation)),
            eval_dataset=data.validation.with_transform(eval_transform(loaded.processor)),
            processing_class=loaded.processor,
            compute_metrics=make_compute_metrics(data.label_names, tuple(job.data.metrics or ())),
        )
    except TransferError:
        raise
    except ValueError as error:  # Trainer's own checks of its arguments
        raise ArgumentError(f"The flags do not fit: {str(error).rstrip('.')}.") from error


def _evaluate(trainer: TransferTrainer, data: ImageData) -> list[SplitResult]:
    """Evaluate the evaluation split and, where there is one, the test split."""
    results = []
    splits = {"eval": (data.evaluation_split, data.validation), "test": ("test", data.test)}
    for prefix, (name, images) in splits.items():
        if images is not None:
            transformed = images.with_transform(eval_transform(trainer.processing_class))
            results.append(evaluate_split(trainer, transformed, images, name, prefix))
    return results


def _check_record(job: Job, data: ImageData, loaded: LoadedModel, repo_id: str | None) -> None:
    """Check before training what card and record will say of model and data, so that nothing fails after hours.

    Args:
        job: What is trained.
        data: The images.
        loaded: The model.
        repo_id: The repository for a push, with its owner, or None.
    """
    check_private(data.to_dict())
    known = RunRecord(
        command=sanitise_command(job.command),
        versions=collect_versions(),
        hardware=collect_hardware(),
        seed=job.args.seed,
        split_seed=job.data.split_seed,
        base_model=loaded.base.to_dict(),
        data=data.to_dict(),
        preprocessing={},
        training={"plan": None, "optimizer": {"class": "not known yet"}},
        timing={},
        evaluation={},
    )
    if repo_id is not None:
        check_names(json.dumps(known.to_dict(), ensure_ascii=False), repo_id)
    validate_metadata(render_card(known.to_dict(), repo_id=job.args.hub_model_id))


def _how_to_resume(job: Job) -> str:
    """The command that resumes an interrupted run, without a token, which no log may hold."""
    dropped, kept, skipping = ("resume_from_checkpoint", "overwrite_output_dir", "hub_token"), [], False
    for word in job.command:
        if word.startswith("--"):
            skipping = word[2:].split("=")[0].replace("-", "_") in dropped
        if not skipping:
            kept.append(word)
    if job.command[1:2] == ("demo",):  # makes its model anew, and has no flag to resume
        return f"Start it again with: {shlex.join([*kept, '--overwrite_output_dir'])}"
    command = shlex.join([*kept, "--resume_from_checkpoint", "true"])
    if job.args.world_size > 1:
        return f"Resume with accelerate launch, as before, and: {command.replace('hf-transfer', '-m hf_transfer', 1)}"
    return f"Resume with: {command}"
