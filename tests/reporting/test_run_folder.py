"""The output folder of a run: what replacing an earlier run removes, and what it leaves alone."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from hf_transfer.errors import OutputError, PublishError
from hf_transfer.hub.staging import allowed_files
from hf_transfer.reporting.run_folder import RunFolder

LEFT_BEHIND = (
    ".unfinished/old-checkpoint-8/trainer_state.json",
    "checkpoint-8/trainer_state.json",
    "figures/layer_plan.png",
    "run.json",
    "skipped_images.json",
    "verification/0.png",
    "verification/inputs.safetensors",
    "verification/samples.json",
)
OF_THE_USER = ("figures/my_own_plot.png", "verification/mine.png", "checkpoint-notes.txt", "checkpoint-best/a.bin")


def fill(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def replace(folder: RunFolder) -> None:
    """Replace a run by one that writes nothing."""
    folder.prepare()
    folder.finish()


def fail(folder: RunFolder, *written: str) -> None:
    """Replace a run by one that fails after it wrote some files."""
    with contextlib.suppress(RuntimeError), folder.replacing_earlier():
        folder.prepare()
        fill(folder.path, written)
        raise RuntimeError("failed")


def test_replacing_a_run_removes_its_files_and_no_others(tmp_path: Path) -> None:
    """Samples, checkpoints and half-written checkpoints are removed; files of the user in the same folders stay."""
    fill(tmp_path, LEFT_BEHIND + OF_THE_USER)
    replace(RunFolder(tmp_path, overwrite=True))
    assert files_of(tmp_path) == set(OF_THE_USER)


def test_folders_that_are_empty_then_are_removed(tmp_path: Path) -> None:
    """Nothing of a run stays, not even its folders, where the user has put nothing into them."""
    fill(tmp_path, LEFT_BEHIND)
    replace(RunFolder(tmp_path, overwrite=True))
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_keeps_all_files(tmp_path: Path) -> None:
    """Resuming wins over replacing: nothing is removed."""
    fill(tmp_path, LEFT_BEHIND)
    RunFolder(tmp_path, resume=True, overwrite=True).prepare()
    assert files_of(tmp_path) == set(LEFT_BEHIND)


def test_a_folder_named_like_a_checkpoint_is_no_run(tmp_path: Path) -> None:
    """Only folders with the number of a step are checkpoints."""
    fill(tmp_path, OF_THE_USER)
    RunFolder(tmp_path).check()


def test_a_sharded_model_marks_a_run(tmp_path: Path) -> None:
    """A folder with a sharded model is an earlier run, although it holds no model.safetensors."""
    fill(tmp_path, ("model.safetensors.index.json",))
    with pytest.raises(OutputError, match=r"holds another run \(model.safetensors.index.json\)"):
        RunFolder(tmp_path).check()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    """A checkpoint that is a link to another disk loses the link, and what it points to stays."""
    elsewhere = tmp_path / "elsewhere"
    fill(elsewhere, ("model.safetensors",))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint-4").symlink_to(elsewhere, target_is_directory=True)
    replace(RunFolder(tmp_path / "run", overwrite=True))
    assert not list((tmp_path / "run").iterdir()) and files_of(elsewhere) == {"model.safetensors"}


def sharded(folder: Path, *named: str) -> None:
    """A model whose index names some shards."""
    fill(folder, ("config.json",))
    index = {"weight_map": {f"weight_{number}": name for number, name in enumerate(named)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_that_the_index_does_not_name_are_not_published(tmp_path: Path) -> None:
    """A shard of an earlier, differently cut model is not sent with the present one."""
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    sharded(tmp_path, *shards)
    fill(tmp_path, (*shards, "model-00003-of-00003.safetensors"))
    assert allowed_files(tmp_path) == ["config.json", *shards, "model.safetensors.index.json"]


def test_shards_beside_a_whole_model_are_not_published(tmp_path: Path) -> None:
    """Where there is a model.safetensors every loader reads that: index and shards are of another model."""
    sharded(tmp_path, "model-00001-of-00001.safetensors")
    fill(tmp_path, ("model-00001-of-00001.safetensors", "model.safetensors"))
    assert allowed_files(tmp_path) == ["config.json", "model.safetensors"]


def test_shards_without_an_index_are_no_model(tmp_path: Path) -> None:
    """Shards that nothing names cannot be loaded, and so are not published."""
    fill(tmp_path, ("config.json", "model-00001-of-00002.safetensors"))
    with pytest.raises(PublishError, match="holds no model to publish"):
        allowed_files(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"weight_map": ["model-00001-of-00002.safetensors"]}'])
def test_a_broken_index_is_refused(tmp_path: Path, content: str) -> None:
    """An index that cannot be read names the file and does not raise anything else than a PublishError."""
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    fill(tmp_path, ("model-00001-of-00002.safetensors",))
    with pytest.raises(PublishError, match=r"model\.safetensors\.index\.json"):
        allowed_files(tmp_path)


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    """A model of which a shard is missing could be loaded by nobody."""
    sharded(tmp_path, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    fill(tmp_path, ("model-00001-of-00002.safetensors",))
    with pytest.raises(PublishError, match="model-00002-of-00002.safetensors"):
        allowed_files(tmp_path)


def test_the_earlier_run_is_there_until_the_new_one_is_complete(tmp_path: Path) -> None:
    """Its files are aside while the new one runs, and gone after it."""
    fill(tmp_path, ("run.json", "model.safetensors", "mine.txt"))
    folder = RunFolder(tmp_path, overwrite=True)
    folder.prepare()
    assert files_of(tmp_path) == {".replaced/run.json", ".replaced/model.safetensors", "mine.txt"}
    folder.finish()
    assert files_of(tmp_path) == {"mine.txt"}


def test_a_run_that_fails_at_once_gives_the_earlier_one_back(tmp_path: Path) -> None:
    """Before its first checkpoint a failed run leaves nothing, and the earlier one as it was."""
    fill(tmp_path, LEFT_BEHIND + OF_THE_USER)
    fail(RunFolder(tmp_path, overwrite=True), "transfer_plan.json", ".unfinished/checkpoint-1/a.bin")
    assert files_of(tmp_path) == {*LEFT_BEHIND, *OF_THE_USER}


def test_a_run_that_fails_late_keeps_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Behind a checkpoint the new run can be resumed; the earlier one stays aside, also when it is replaced again."""
    fill(tmp_path, ("run.json", "model.safetensors"))
    folder = RunFolder(tmp_path, overwrite=True)
    fail(folder, "checkpoint-3/trainer_state.json")
    earlier = {".replaced/run.json", ".replaced/model.safetensors"}
    assert files_of(tmp_path) == {*earlier, "checkpoint-3/trainer_state.json"}
    assert ".replaced" in caplog.text
    with pytest.raises(OutputError, match="holds another run"):
        RunFolder(tmp_path).check()
    folder.check()
    fail(folder)
    assert files_of(tmp_path) == {"run.json", "model.safetensors"}


def test_the_model_of_another_program_is_not_replaced(tmp_path: Path) -> None:
    """Weights without anything that a run of ours writes are somebody's only copy."""
    fill(tmp_path, ("config.json", "model.safetensors", "checkpoint-5/trainer_state.json"))
    with pytest.raises(OutputError, match="no run of hf-transfer wrote"):
        RunFolder(tmp_path, overwrite=True).check()


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_card_replaces_what_somebody_wrote(tmp_path: Path, overwrite: bool) -> None:
    """A README.md beside no run is the user's; that of a run is its card."""
    fill(tmp_path, ("README.md",))
    with pytest.raises(OutputError, match=r"README\.md that no run wrote"):
        RunFolder(tmp_path, overwrite=overwrite).check()
    RunFolder(tmp_path).check(trains=False)
    fill(tmp_path, ("run.json",))
    RunFolder(tmp_path, overwrite=True).check()


@pytest.mark.parametrize("below", ["checkpoint-3/new", "figures", "earlier_run/1/x", ".replaced/a"])
def test_no_run_writes_into_the_folders_of_another(tmp_path: Path, below: str) -> None:
    """What lies in a run's checkpoints or figures would be removed with them."""
    fill(tmp_path, ("run.json",))
    with pytest.raises(OutputError, match="belongs to a run"):
        RunFolder(tmp_path / below).check()


@pytest.mark.parametrize("link", ["hardlink_to", "symlink_to"])
def test_nothing_is_written_through_links(tmp_path: Path, link: str) -> None:
    """A file that is a link has a content of its own before a run writes to it."""
    (tmp_path / "original.json").write_text("of the base model")
    (tmp_path / "run").mkdir()
    linked = tmp_path / "run" / "preprocessor_config.json"
    getattr(linked, link)(tmp_path / "original.json")
    RunFolder(tmp_path / "run").prepare()
    linked.write_text("ours")
    assert (tmp_path / "original.json").read_text() == "of the base model"
