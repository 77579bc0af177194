"""hf_transfer.cli.paths: the home folder, and results apart from what a command reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_transfer.cli.flags import DataOptions, EvaluateOptions, ModelOptions, PublishOptions, TrainDataOptions
from hf_transfer.cli.options import config_path, parse
from hf_transfer.cli.paths import check_apart
from hf_transfer.errors import OutputError
from hf_transfer.trainer.args import TransferArguments


def test_the_home_folder_is_known_in_flags_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder in every flag that takes a path, however it is spelled, and in YAML; not in a text."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text("dataset: ~/photos\nplan: ~/plan.json\noutput_dir: ~/out\n")
    argv = ["--config", "~/run.yaml", "--model-name-or-path=~/vit", "--metrics", "~/f1", "recall"]
    model, data, args, _ = parse((ModelOptions, TrainDataOptions, TransferArguments), argv, "train", "")
    found = (model.model_name_or_path, data.dataset, args.plan, args.output_dir, data.metrics[0])
    assert found == tuple(str(tmp_path / name) for name in ("vit", "photos", "plan.json", "out", "f1"))
    assert config_path(argv) == str(tmp_path / "run.yaml")
    argv = ["--folder", "~/out", "--repo_id", "me/x", "--widget_images", "~/a.png", "~/b.png", "--license", "~/c"]
    options, _ = parse((PublishOptions,), argv, "publish", "")
    assert (options.folder, options.widget_images) == (f"{tmp_path}/out", [f"{tmp_path}/a.png", f"{tmp_path}/b.png"])
    assert options.license == "~/c"
    words = ["--model_name_or_path", "~/out", "--dataset", "~/d"]
    evaluated, _, _ = parse((EvaluateOptions, DataOptions), words, "evaluate", "")
    assert evaluated.model_name_or_path == f"{tmp_path}/out"


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        ({"data set": "work/photos"}, "work"),
        ({"data set": "work/labels.csv"}, "work"),
        ({"model": "work/base"}, "work"),
        ({"model": "work/base"}, "work/base/runs"),
        ({"plan": "work/own.json", "configuration": "work/own.json"}, "work"),
        ({"model": "google/vit", "data set": "a" * 5000, "plan": None}, "google"),
        ({"feature cache": "work/cache"}, "work"),
    ],
)
def test_what_does_no_harm_is_taken(
    inputs: dict[str, str | None], output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results may lie beside, above or below what is read where no file of theirs takes its place."""
    monkeypatch.chdir(tmp_path)
    for name in ("work/photos", "work/base", "work/cache"):
        Path(name).mkdir(parents=True)
    for name in ("work/labels.csv", "work/own.json"):
        Path(name).touch()
    check_apart(output, inputs)


@pytest.mark.parametrize("name", ["run.json", "transfer_plan.json", "checkpoint-2/config.json", "figures/mine.csv"])
def test_no_file_that_is_read_is_written(name: str, tmp_path: Path) -> None:
    """A file at a place that the results take is refused, except the plan of a run that is resumed."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    for what in ("data set", "configuration", "plan"):
        with pytest.raises(OutputError, match=f"holds the {what}"):
            check_apart(tmp_path, {what: str(tmp_path / name)})
    check_apart(tmp_path, {"plan": str(tmp_path / name)}, resume=True)


def test_figures_that_are_a_link_to_the_images_are_refused(tmp_path: Path) -> None:
    """Figures would be written among the images through the link."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures").symlink_to(tmp_path / "photos")
    with pytest.raises(OutputError, match="that the results take"):
        check_apart(tmp_path / "out", {"data set": str(tmp_path / "photos")})
