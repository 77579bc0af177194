"""hf_transfer.run_files: one table says which files of a folder are a run's, and what may be done with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hf_transfer
from hf_transfer.hub.staging import allowed_files
from hf_transfer.reporting.run_folder import RunFolder
from hf_transfer.run_files import EVIDENCE, RUN_FILES, TRAINED, matches, patterns, removable

OWN = (
    "figures/my_own_plot.png",
    "my_results.json",
    "predictions_of_mine.parquet",
    "notes.md",
    "checkpoint-notes/text.txt",
    "data/config.json",
)
"""What a user may keep in an output folder, with names that look like a run's."""
WRITTEN = (
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "training_args.bin",
    "evaluation.json",
    "run.json",
    "transfer_plan.json",
    "README.md",
    "report.html",
    "eval_results.json",
    "predictions.parquet",
    "predictions_test.parquet",
    "figures/layer_plan.png",
    "figures/accuracy_by_depth.png",
    "checkpoint-12/model.safetensors",
    "earlier_run/1/run.json",
)


def _fill(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_overwriting_removes_all_that_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    """`--overwrite_output_dir` leaves the user's files, in `figures` too, and no stale shard."""
    _fill(tmp_path, OWN + WRITTEN)
    folder = RunFolder(tmp_path, overwrite=True)
    folder.prepare()
    folder.finish()
    assert _files(tmp_path) == set(OWN)


def test_empty_folders_of_a_run_go_with_its_files(tmp_path: Path) -> None:
    """A `figures` folder with nothing of the user's is removed."""
    _fill(tmp_path, WRITTEN)
    folder = RunFolder(tmp_path, overwrite=True)
    folder.prepare()
    folder.finish()
    assert list(tmp_path.iterdir()) == []


def test_without_overwriting_nothing_is_removed(tmp_path: Path) -> None:
    """A folder is only prepared."""
    _fill(tmp_path, OWN + WRITTEN)
    RunFolder(tmp_path).prepare()
    assert _files(tmp_path) == {*OWN, *WRITTEN}


def test_stale_shards_are_not_published(tmp_path: Path) -> None:
    """Of several sets of weights only the one that from_pretrained reads is sent."""
    _fill(tmp_path, ("config.json", "model.safetensors", "model-00001-of-00003.safetensors"))
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert allowed_files(tmp_path) == ["config.json", "model.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    _fill(tmp_path, ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"))
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert allowed_files(tmp_path) == ["config.json", *shards.values(), "model.safetensors.index.json"]


@pytest.mark.parametrize("file", RUN_FILES, ids=lambda file: file.pattern)
def test_each_file_can_be_removed_and_has_one_fate(file: object, tmp_path: Path) -> None:
    """Each row of the table names a file that cleaning finds; no two rows fit one file."""
    pattern: str = file.pattern  # type: ignore[attr-defined]
    name = pattern.replace("?????", "00001")
    _fill(tmp_path, (name,))
    assert removable(tmp_path) == [tmp_path / name]
    assert sum(matches(name, (each.pattern,)) for each in RUN_FILES) == 1


def test_what_shows_the_data_is_never_published_unasked() -> None:
    """Pickles, names of skipped images, states of trainings and probe files are in no list of what is sent."""
    sent = patterns(published=("always", "examples"))
    for name in (
        "training_args.bin",
        "skipped_images.json",
        "trainer_state.json",
        "probe.safetensors",
        "optimizer.pt",
    ):
        assert not matches(name, sent)
    assert not matches("figures/worst_mistakes.png", patterns(published=("always",)))
    assert matches("figures/worst_mistakes.png", sent) and not matches("deep/figures/worst_mistakes.png", sent)


def test_evidence_is_in_the_table() -> None:
    """What says that a folder is a run's is one of its files."""
    assert {*EVIDENCE, *TRAINED} <= {file.pattern for file in RUN_FILES}


def test_writers_are_modules_of_the_package() -> None:
    """The table names who writes each file: a module that exists, or transformers."""
    package = Path(hf_transfer.__file__).parent
    for file in RUN_FILES:
        module = package.joinpath(*file.writer.split(".")).with_suffix(".py")
        assert file.writer == "transformers" or module.is_file(), file.pattern
