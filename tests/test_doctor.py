"""The doctor's report: complete whatever is missing, true, and without anything private."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_transfer import doctor
from hf_transfer.collision import DOWNLOADER, OURS
from hf_transfer.doctor import Check, Report, Section, examine

TOKEN = "hf_" + "Q" * 34


def check(report: Report, name: str) -> Check:
    return next(each for section in report.sections for each in section.checks if each.name == name)


def fake_distribution(site: Path, name: str, version: str, *more: str) -> None:
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *more]))
    (info / "RECORD").write_text(f"{info.name}/METADATA,,\n")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder of a user whose name should not be seen."""
    folder = tmp_path / "somebody"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    return folder


def test_this_environment_is_healthy() -> None:
    """Where the tests run, all requirements are met, and torch's threads and the processor are told."""
    report = examine(environ={})
    assert report.healthy, report.render()
    assert report.collision is None
    assert check(report, "torch threads").value.isdigit()
    assert "OMP_WAIT_POLICY is not set" in check(report, "Waiting threads").value
    assert check(examine(environ={"OMP_WAIT_POLICY": "PASSIVE"}), "Waiting threads").value == "OMP_WAIT_POLICY=PASSIVE"
    assert "cores" in check(report, "Processor").value
    assert "GB free" in check(report, "Disk").value


def test_requirements_come_from_our_metadata(tmp_path: Path) -> None:
    """Each requirement is compared with what is installed; extras are not required; one command mends all."""
    required = ["Requires-Dist: alpha>=2", "Requires-Dist: beta>=1", "Requires-Dist: gamma; extra == 'test'"]
    fake_distribution(tmp_path, OURS, "0.1.0", *required, "Requires-Dist: delta<3,>=2; python_version >= '3.8'")
    fake_distribution(tmp_path, "alpha", "1.9")
    fake_distribution(tmp_path, "delta", "2.5+local")
    report = examine(environ={}, path=[str(tmp_path)])
    assert check(report, "alpha").value == "1.9; expected alpha>=2"
    assert check(report, "beta").value == "missing; expected beta>=1"
    assert check(report, "delta") == Check("delta", "2.5+local")
    names = [each.name for section in report.sections for each in section.checks]
    assert "gamma" not in names
    assert check(report, "Requirements").command.endswith("-m pip install 'alpha>=2' 'beta>=1'")
    assert not report.healthy


def test_sources_that_are_not_installed(tmp_path: Path) -> None:
    """Without our metadata the core packages are looked for, and the clone's installation is advised."""
    report = examine(environ={}, path=[str(tmp_path)])
    assert check(report, OURS).status == "note"
    assert check(report, OURS).command.endswith("-m pip install --editable .")
    assert check(report, "torch").status == "problem"


def test_collision_is_a_problem_with_its_repair(tmp_path: Path) -> None:
    """The downloader in the environment makes the report unhealthy and prints the command on a line of its own."""
    fake_distribution(tmp_path, DOWNLOADER, "0.1.9")
    report = examine(environ={}, path=[str(tmp_path)])
    assert report.collision is not None
    assert check(report, "hf_transfer").status == "problem"
    assert f"\n    {report.collision.repair}\n" in report.render(width=40)


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_token_in_the_environment_is_never_shown(home: Path, variable: str) -> None:
    """The report says that a token is there and where, and holds no part of it."""
    report = examine(environ={variable: TOKEN})
    assert check(report, "Login").value == f"by the environment variable {variable} (not verified)"
    everything = report.render() + json.dumps(report.to_dict())
    assert "QQQ" not in everything


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, ".cache/huggingface/token"),
        ({"HF_HOME": "~/models"}, "models/token"),
        ({"XDG_CACHE_HOME": "~/xdg"}, "xdg/huggingface/token"),
        ({"HF_TOKEN_PATH": "~/secret/key", "HF_HOME": "~/models"}, "secret/key"),
    ],
)
def test_token_file_is_found_by_the_hubs_rules(home: Path, variables: dict[str, str], place: str) -> None:
    """The token's file is looked for where huggingface_hub would, and its path is told without the home."""
    assert check(examine(environ=variables), "Login").status == "note"
    (home / place).parent.mkdir(parents=True)
    (home / place).write_text(TOKEN + "\n")
    report = examine(environ=variables)
    assert check(report, "Login").value == f"by the file ~/{place} (not verified)"
    everything = report.render() + json.dumps(report.to_dict())
    assert "QQQ" not in everything
    assert "somebody" not in everything


def test_hub_switches() -> None:
    """Offline mode and a set cache folder are told; the retired downloader's switch is explained."""
    report = examine(environ={"HF_HUB_OFFLINE": "1", "HF_HOME": "/data/hub", "HF_HUB_ENABLE_HF_TRANSFER": "1"})
    assert check(report, "Offline").value.startswith("yes, HF_HUB_OFFLINE is set")
    assert check(report, "HF_HOME").value == "set"
    switch = check(report, "HF_HUB_ENABLE_HF_TRANSFER")
    assert switch.status == "note"
    assert "retired downloader" in switch.advice
    assert check(examine(environ={"HF_HUB_OFFLINE": "0"}), "Offline").value.startswith("no")


def test_broken_torch_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that is installed but does not import is reported with its reason, and the report goes on."""
    real_import = builtins.__import__

    def broken_import(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "torch":
            raise OSError("libcudart.so.13: cannot open shared object file\nmore")
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", broken_import)
    report = examine(environ={})
    found = [each for section in report.sections if section.title == "Devices" for each in section.checks]
    assert found[-1].status == "problem"
    assert found[-1].advice.endswith("cannot be imported: libcudart.so.13: cannot open shared object file")
    assert check(report, "Offline").value.startswith("no")


def test_low_disk_space_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than 5 GB is worth a note."""
    usage = type("Usage", (), {"free": 3_000_000_000, "total": 9_000_000_000})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert check(examine(environ={}), "Disk").status == "note"
    assert check(examine(environ={}), "Disk").value == "3 of 9 GB free here"


def test_old_python_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python below the required one is refused in words."""
    monkeypatch.setattr(doctor, "_MINIMUM_PYTHON", (99, 1))
    found = check(examine(environ={}), "Python")
    assert (found.status, found.advice) == ("problem", "hf-transfer-learning needs Python 99.1 or newer.")


REPORT = Report((Section("Packages", (Check("a[demo]", "1.0"), Check("b", "2", "problem", "Do it:", "do it"))),), None)


def test_rendering_keeps_brackets_and_commands() -> None:
    """With rich: plain characters, no color unless asked for, brackets are text, problems stand at the end."""
    text = REPORT.render()
    assert text.isascii()
    assert "\x1b" not in text
    assert "a[demo]" in text
    assert text.endswith("PROBLEM: b: Do it:\n    do it\nSomething is in the way: see PROBLEM above.\n")
    assert "\x1b[" in REPORT.render(color=True)


def test_rendering_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rich the same lines come out as plain text."""
    with_rich = REPORT.render()
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert REPORT.render().split() == with_rich.split()


def test_main_prints_and_tells_health(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code says whether there is a problem; --json prints the dictionary."""
    monkeypatch.setattr(doctor, "examine", lambda: REPORT)
    assert doctor.main([]) == 1
    assert capsys.readouterr().out == REPORT.render()
    assert doctor.main(["--json"]) == 1
    assert json.loads(capsys.readouterr().out) == REPORT.to_dict()
    monkeypatch.setattr(doctor, "examine", lambda: Report((Section("x", (Check("y", "z", "note"),)),), None))
    assert doctor.main([]) == 0
