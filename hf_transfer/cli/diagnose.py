"""`hf-transfer diagnose`: measure which kind of transfer a data set needs, and recommend a recipe with reasons."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hf_transfer.cli.auto import show
from hf_transfer.cli.flags import DESCRIPTIONS, DataOptions, DiagnoseOptions, DiagnosisOptions, ModelOptions
from hf_transfer.cli.loading import check_model, load_images, load_model
from hf_transfer.cli.options import parse
from hf_transfer.cli.terminal import Terminal, quiet_libraries
from hf_transfer.diagnosis.candidates import Candidate
from hf_transfer.diagnosis.measurements import LAST
from hf_transfer.diagnosis.running import check_budget, diagnose
from hf_transfer.run_files import DEPTHS_FIGURE, DIAGNOSIS_FILE


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    types = (ModelOptions, DataOptions, DiagnosisOptions, DiagnoseOptions)
    model, data, how, options, _ = parse(types, argv, "diagnose", DESCRIPTIONS["diagnose"])
    check_budget(how.budget)
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
        evaluation_dataset=images.validation,
        allow_probe_file=options.allow_probe_file,
        sample=options.sample,
        seed=options.seed,
        progress=sys.stderr.isatty(),
    )
    show(found, terminal)
    terminal.heading("Train with")
    terminal.text(_command(model.model_name_or_path, data.dataset, found.decision.chosen))
    if options.json is not None:
        found.save(options.json)
    if options.output_dir is not None:
        folder = Path(options.output_dir)
        found.save(folder / DIAGNOSIS_FILE)
        found.plot(folder / "figures" / DEPTHS_FIGURE)
        terminal.heading("Files")
        terminal.text(f"{folder}: {DIAGNOSIS_FILE}, figures/{DEPTHS_FIGURE}")
    return 0


def _command(model: str, dataset: str, chosen: Candidate) -> str:
    """The command that trains the chosen candidate."""
    words = ["hf-transfer", "train", "--model_name_or_path", model, "--dataset", dataset, "--recipe", chosen.recipe]
    if chosen.options:
        words += ["--recipe_options", json.dumps(dict(chosen.options))]
    if chosen.recipe == "linear_probe" and chosen.layer != LAST:
        words += ["--layer", chosen.layer]
    if not chosen.native:
        words += ["--allow_probe_file"]
    flags = {"train_batch_size": "per_device_train_batch_size"}
    for name, value in chosen.arguments.items():
        words += [f"--{flags.get(name, name)}", str(value)]
    return shlex.join([*words, "--output_dir", "RESULTS"])
