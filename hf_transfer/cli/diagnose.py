"""`hf-transfer diagnose`: measure which kind of transfer a data set needs, and recommend a recipe with reasons."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from hf_transfer.cli.auto import show
from hf_transfer.cli.checks import check_seed
from hf_transfer.cli.flags import DESCRIPTIONS, DataOptions, DiagnoseOptions, DiagnosisOptions, ModelOptions
from hf_transfer.cli.loading import check_model, load_images, load_model
from hf_transfer.cli.options import config_path, parse
from hf_transfer.cli.paths import check_apart, check_result_file
from hf_transfer.cli.terminal import Terminal, quiet_libraries
from hf_transfer.diagnosis.candidates import Candidate
from hf_transfer.diagnosis.measurements import LAST
from hf_transfer.diagnosis.running import check_budget, diagnose
from hf_transfer.errors import OutputError
from hf_transfer.run_files import DEPTHS_FIGURE, DIAGNOSIS_FILE, RECORD


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    types = (ModelOptions, DataOptions, DiagnosisOptions, DiagnoseOptions)
    model, data, how, options, _ = parse(types, argv, "diagnose", DESCRIPTIONS["diagnose"])
    check_budget(how.budget)
    check_seed(options.seed)
    _check_results(model, data, options, config_path(argv))
    quiet_libraries()
    terminal = Terminal(sys.stdout)
    check_model(model)
    images = load_images(data)
    loaded = load_model(model, images.label_names, options.seed)
    terminal.heading(f"Data: {images.name}")
    terminal.data(images)
    found = diagnose(
        loaded.model,
        images.train,
        loaded.processor,
        how.budget,
        how.prefer,
        metric=how.metric,
        evaluation_dataset=images.validation,
        allow_probe_file=options.allow_probe_file,
        sample=options.sample,
        seed=options.seed,
        progress=sys.stderr.isatty(),
    )
    show(found, terminal)
    terminal.heading("Train with")
    terminal.text(_command(_given(model, data) + ["--seed", str(options.seed)], found.decision.chosen))
    if options.json is not None:
        found.save(options.json)
    if options.output_dir is not None:
        folder = Path(options.output_dir)
        found.save(folder / DIAGNOSIS_FILE)
        found.plot(folder / "figures" / DEPTHS_FIGURE)
        terminal.heading("Files")
        terminal.text(f"{folder}: {DIAGNOSIS_FILE}, figures/{DEPTHS_FIGURE}")
    return 0


def _check_results(model: ModelOptions, data: DataOptions, options: DiagnoseOptions, config: str | None) -> None:
    """Refuse results that would replace or spoil something, before anything is loaded."""
    if options.json is not None:
        check_result_file(options.json, data.dataset)
    if options.output_dir is None:
        return
    read = {"model": model.model_name_or_path, "data set": data.dataset, "configuration": config}
    check_apart(options.output_dir, read)
    folder = Path(options.output_dir)
    if (folder / RECORD).exists():
        raise OutputError(
            f"The folder {folder} holds a run, with a diagnosis of its own. Choose another --output_dir."
        )
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"The output {folder} is a file. Give a folder by --output_dir.")
    check_result_file(str(folder / DIAGNOSIS_FILE), data.dataset)


def _given(*options: ModelOptions | DataOptions) -> list[str]:
    """The flags of model and data that differ from their defaults."""
    words = []
    for each in options:
        for field in fields(each):
            value = vars(each)[field.name]
            if value == field.default or value is None:
                continue
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [f"--{field.name}", *map(str, values)]
    return words


def _command(given: Sequence[str], chosen: Candidate) -> str:
    """The command that trains the chosen candidate on the given model and data."""
    words = ["hf-transfer", "train", *given, "--recipe", chosen.recipe]
    if chosen.options:
        words += ["--recipe_options", json.dumps(dict(chosen.options))]
    if chosen.layer != LAST:
        words += ["--layer", chosen.layer]
    if not chosen.native:
        words += ["--allow_probe_file"]
    flags = {"train_batch_size": "per_device_train_batch_size"}
    for name, value in chosen.arguments.items():
        words += [f"--{flags.get(name, name)}", str(value)]
    return shlex.join([*words, "--output_dir", "RESULTS"])
