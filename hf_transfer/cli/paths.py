"""Paths among the flags: the home folder, and results that must not lie on what a command reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_transfer.errors import OutputError
from hf_transfer.run_files import EARLIER_RUN, REPLACED, SAMPLES, STAGING, is_owned

PATHS = frozenset(
    {
        *("model_name_or_path", "dataset", "plan", "config", "output_dir", "logging_dir", "resume_from_checkpoint"),
        *(
            "deepspeed",
            "fsdp_config",
            "accelerator_config",
            "widget_images",
            "limitations",
            "folder",
            "json",
            "metrics",
        ),
    }
)
"""Flags whose value may be a path."""
_OWNED_FOLDERS = ("figures", SAMPLES, EARLIER_RUN, STAGING, REPLACED)


def at_home(name: str, value: Any) -> Any:
    """The value of a flag; where it is a path, with the home folder in the place of `~`."""
    if isinstance(value, list):
        return [at_home(name, each) for each in value]
    is_path = name in PATHS and isinstance(value, str) and value.startswith("~")
    return os.path.expanduser(value) if is_path else value  # noqa: PTH111 - text may follow, and a slash at the end stays


def check_apart(
    output: str | Path,
    inputs: Mapping[str, str | None],
    resume: bool = False,
    name: str = "output folder",
    instead: str = "--output_dir",
) -> None:
    """Refuse an output folder in which results would lie on, or be mixed with, what the command reads.

    Args:
        output: The folder; need not exist.
        inputs: What is read, by its name in messages. Names that are no paths, such as ids on the Hub, are passed
            over. Of "data set" and "feature cache" everything below belongs to the input.
        resume: Whether the run of the folder is resumed; it may read its own plan then.
        name: What the folder is, for messages.
        instead: The flag or variable that chooses another one.

    Raises:
        OutputError: They are the same, or one lies in the other where that does harm.
    """
    folder = Path(output)
    for what, given in inputs.items():
        if given is None or not _exists(given) or (resume and what == "plan"):
            continue
        place = Path(given)
        whole = what in ("data set", "feature cache") and place.is_dir()
        if whole and (_is_in(folder, place) or _is_linked_from(place, folder)):
            fault = f"is, or lies in, the {what} {given}, which results would spoil"
        elif what == "model" and place.is_dir() and _is_in(folder, place) and _is_in(place, folder):
            fault = f"holds another run or model, the model {given}, which would be overwritten"
        elif any(_is_in(place, owned) for owned in _owned(folder)) or _is_written(place, folder):
            fault = f"holds the {what} {given} at a place that the results take"
        else:
            continue
        raise OutputError(f"The {name} {output} {fault}. Choose another one by {instead}.")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


def _is_in(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it, whatever links and mounts lead there."""
    if not folder.exists():
        return path.resolve().is_relative_to(folder.resolve())
    whole = path.resolve()
    return any(each.exists() and each.samefile(folder) for each in (whole, *whole.parents))


def _owned(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in _OWNED_FOLDERS)
    yield from (path for path in folder.glob("checkpoint-*") if is_owned(path.name))


def _is_written(place: Path, folder: Path) -> bool:
    """Whether an input is a file of which the results would take the place."""
    where, whole = folder.resolve(), place.resolve()
    return place.is_file() and whole.is_relative_to(where) and is_owned(whole.relative_to(where).as_posix())


def _is_linked_from(data: Path, output: Path) -> bool:
    """Whether a link in the upper folders of a data set leads to the output."""
    upper = [*data.glob("*"), *data.glob("*/*")] if output.exists() else []
    return any(path.is_symlink() and path.is_dir() and _is_in(output, path) for path in upper)


def check_result_file(path: str, data: str) -> None:
    """Refuse a file for a diagnosis that would replace something else, or lie among the images.

    Raises:
        OutputError: The file is refused.
    """
    from hf_transfer.diagnosis.result import Diagnosis

    file = Path(path)
    if file.is_dir():
        raise OutputError(f"--json {path} is a folder. Give a file.")
    if file.exists():
        try:
            Diagnosis.load(file)
        except Exception as error:  # whatever it holds, it is somebody's
            raise OutputError(
                f"The file {path} is no diagnosis, and is not replaced. Give another by --json."
            ) from error
    if _exists(data) and Path(data).is_dir() and _is_in(file, Path(data)):
        raise OutputError(f"The file {path} lies in the data set {data}. Give another by --json.")
    check_writable(file.parent)


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to.

    Raises:
        OutputError: It is a file, lies below one, or may not be written to.
    """
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise OutputError(
            f"The folder {folder} cannot be written: {existing} is no folder, or you may not write there."
        )
