"""Commands that the tool prints: its own parser takes them, and they say what was said before."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

import hf_transfer.cli as cli
from hf_transfer.cli import publish as publish_command
from hf_transfer.cli.flags import DemoOptions, DiagnosisOptions, ModelOptions, OutputOptions, TrainDataOptions
from hf_transfer.cli.options import parse
from hf_transfer.cli.train import Job, _how_to_resume
from hf_transfer.errors import PublishError
from hf_transfer.hub.publishing import retry_command
from hf_transfer.hub.staging import Contents
from hf_transfer.trainer.args import TransferArguments
from hf_transfer.utils.privacy import sanitise_command

TYPES = (ModelOptions, TrainDataOptions, OutputOptions, DiagnosisOptions, TransferArguments)


def job(command: tuple[str, ...], folder: Path) -> Job:
    """A job of that command."""
    return Job(ModelOptions("m"), TrainDataOptions("d"), TransferArguments(str(folder)), command)


@pytest.mark.parametrize(
    "flags",
    [
        ("--overwrite_output_dir",),
        ("--overwrite-output-dir", "true", "--recipe", "fine_tune"),
        ("--resume-from-checkpoint=a/checkpoint-3", "--recipe_options", '{"epochs": 2}', "--recipe", "fine_tune"),
        ("--hub_token", "secret", "--metrics", "f1", "recall"),
    ],
)
def test_the_command_that_resumes(flags: tuple[str, ...], tmp_path: Path) -> None:
    """It resumes the last checkpoint, replaces nothing, has no token, and keeps the rest, blanks in names as well."""
    given = ("--model_name_or_path", "my  model", "--dataset", "d", "--output_dir", str(tmp_path), *flags)
    advice = _how_to_resume(job(("hf-transfer", "train", *given), tmp_path))
    words = shlex.split(cli._one_line(PublishError(f"Stopped.\n{advice}")).partition("Resume with: ")[2])
    model, data, output, _, args, _ = parse(TYPES, words[2:], "train", "")
    assert (model.model_name_or_path, args.resume_from_checkpoint, args.hub_token) == ("my  model", "true", None)
    assert not output.overwrite_output_dir and words.count("--resume_from_checkpoint") == 1
    assert ("recall" in (data.metrics or ())) == ("recall" in flags) and ("fine_tune" in flags) == bool(args.recipe)


def test_the_demo_is_started_again(tmp_path: Path) -> None:
    """The demo has no flag that resumes: it starts again, in the same folder."""
    advice = _how_to_resume(job(("hf-transfer", "demo", "--output_dir", "my demo"), tmp_path))
    words = shlex.split(advice.partition("again with: ")[2])
    options, _ = parse((DemoOptions,), words[2:], "demo", "")
    assert (options.output_dir, options.overwrite_output_dir) == ("my demo", True)


@pytest.mark.parametrize("create_pr", [None, True, False])
def test_the_command_that_publishes_again(create_pr: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was asked for is asked for again."""
    contents = Contents(
        license="mit", limitations="- Cats  only", include_examples=True, widget_images=("a 1.png", "b.png")
    )
    command = retry_command(Path("my run"), "me/x", False, create_pr, contents, dry_run=True, verify=False)
    found: dict[str, Any] = {}

    def publish(*args: Any, **more: Any) -> None:
        found.update(more, args=args)
        raise PublishError("enough")

    monkeypatch.setattr(publish_command, "publish", publish)
    assert cli.main(shlex.split(command)[1:]) == 1
    assert found["args"] == ("my run", "me/x") and list(found["widget_images"]) == ["a 1.png", "b.png"]
    asked = {"private": False, "create_pr": create_pr, "dry_run": True, "verify": False, "include_examples": True}
    asked |= {"license": "mit", "limitations": "- Cats  only", "include_checkpoint": False, "benchmark_task": None}
    assert {name: found[name] for name in asked} == asked


@pytest.mark.parametrize("place", ["/home/anna/models/vit b", "~/vit", "/home/anna", "C:\\Users\\anna\\vit", "../vit"])
@pytest.mark.parametrize("flag", ["{}={}", "{} {}"])
def test_the_command_of_the_card(place: str, flag: str) -> None:
    """Local paths of model, images and results leave a name behind, so that the command stays one."""
    names = ("model_name_or_path", "dataset", "output_dir", "plan")
    words = [word for name in names for word in flag.replace(" ", "\n").format(f"--{name}", place).split("\n")]
    command = sanitise_command(["hf-transfer", "train", *words])
    model, data, *_, args, given = parse(TYPES, shlex.split(command)[2:], "train", "")
    assert given == set(names) and "anna" not in command
    assert all((model.model_name_or_path, data.dataset, args.output_dir, args.plan))
