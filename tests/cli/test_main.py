"""hf_transfer.cli: commands are found at once, and every failure ends in one line."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from typing import Any

import pytest

import hf_transfer.cli as cli
from hf_transfer.errors import DataError
from hf_transfer.utils.threads import YIELDING


def _cpu_seconds(*command: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_imports_nothing_heavy() -> None:
    """`hf-transfer --help` loads no torch, transformers or numpy."""
    code = (
        "import sys; from hf_transfer.cli import main; assert main(['--help']) == 0; "
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'rich', 'yaml'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in cli.COMMANDS)


def test_help_answers_at_once() -> None:
    """The least of five runs of --help takes at most 0.15 s of CPU more than the least of five bare Pythons."""
    bare = min(_cpu_seconds(sys.executable, "-c", "") for _ in range(5))
    helped = min(_cpu_seconds(sys.executable, "-m", "hf_transfer", "--help") for _ in range(5))
    assert helped - bare < 0.15


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """COMMAND --help prints its flags and exits with 0."""
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code in (0, None)
    assert "--" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["nonsense"], []])
def test_bad_usage_exits_with_two(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown command, or none, is bad usage."""
    assert cli.main(argv) == 2


def test_unknown_flag_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    """argparse's own errors keep exit code 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", "model", "--nonsense", "1"])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DataError("two\nlines"), "error: two lines"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "f"), "No space left on device: f. Free some space"),
        (RuntimeError("odd"), "unexpected RuntimeError: odd. Run it again with --debug"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_failures_are_one_line(
    error: BaseException, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any failure gives exit code 1 and one line on stderr, no traceback."""

    class Broken:
        @staticmethod
        def run(argv: Any) -> int:
            raise error

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Broken)
    assert cli.main(["inspect", "x"]) == 1
    written = capsys.readouterr().err
    assert words in written
    assert written.count("\n") == 1


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare --debug lets the error through; with a value it is Trainer's flag and is handed on."""
    seen: list[list[str]] = []

    class Broken:
        @staticmethod
        def run(argv: list[str]) -> int:
            seen.append(argv)
            raise DataError("x")

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Broken)
    with pytest.raises(DataError):
        cli.main(["train", "--debug", "--dataset", "d"])
    assert cli.main(["train", "--debug", "underflow_overflow"]) == 1
    assert seen == [["--dataset", "d"], ["--debug", "underflow_overflow"]]


@pytest.mark.parametrize(
    ("start", "given", "policy"),
    [
        (["-m", "hf_transfer"], {}, "OMP_WAIT_POLICY=PASSIVE"),  # as launched ranks start
        (["-c", "from hf_transfer.cli import main; main()"], {"GOMP_SPINCOUNT": "9"}, "GOMP_SPINCOUNT=9"),
    ],
)
def test_waiting_threads_yield_unless_the_user_chose(start: list[str], given: dict[str, str], policy: str) -> None:
    """A started command has the policy, and a user's own one is kept."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, *start, "doctor", "--json"]
    done = subprocess.run(command, env=environment | given, capture_output=True, text=True)
    devices = json.loads(done.stdout)["sections"]["Devices"]
    assert [each["value"] for each in devices if each["name"] == "Waiting threads"] == [policy]


def test_the_policy_is_set_before_a_command_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is set before torch is imported has an effect."""
    monkeypatch.setattr(cli.os, "environ", {})
    seen = []

    class Command:
        @staticmethod
        def run(argv: list[str]) -> int:
            return 0

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: seen.append(dict(os.environ)) or Command)
    assert cli.main(["inspect", "x"]) == 0
    assert seen == [YIELDING]
