"""What is published only if asked for: example images for the model page, and results for a leaderboard."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_transfer.data import decode_image
from hf_transfer.errors import ArgumentError, DataError
from hf_transfer.hub.access import explained
from hf_transfer.hub.retrying import TRANSIENT, retried
from hf_transfer.reporting.card_metadata import hub_dataset
from hf_transfer.reporting.facts import drawn_split
from hf_transfer.run_files import EVAL_RESULTS, WIDGET_IMAGES

_LONGEST_SIDE = 512
"""Pixels; more than any common input size, and small enough for a page that shows several."""
_MOST_IMAGES = 8
_METRIC = "accuracy"


def stage_widget_images(images: Sequence[str], target: Path, repo_id: str) -> list[dict[str, str]]:
    """Write example images for the model page.

    They are encoded again: upright, at most 512 pixels a side, and without the camera's metadata, such as the place.

    Args:
        images: Paths. The names of the files, without their ending, are the titles of the examples.
        target: The staged folder.
        repo_id: Where they will be.

    Returns:
        The card's `widget`, whose addresses are valid once the files are on the main branch.

    Raises:
        ArgumentError: There are too many, or one cannot be read.
    """
    if len(images) > _MOST_IMAGES:
        raise ArgumentError(f"At most {_MOST_IMAGES} widget_images are shown, found {len(images)}.")
    widget = []
    for number, path in enumerate(images, start=1):
        try:
            image = decode_image(path)
        except DataError as error:
            raise ArgumentError(f"The widget image {Path(path).name} cannot be published: {error}") from error
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        name = f"{WIDGET_IMAGES}{number}.png"
        (target / name).parent.mkdir(exist_ok=True)
        image.save(target / name)
        address = f"{constants.ENDPOINT}/{repo_id}/resolve/main/{name}"
        widget.append({"src": address, "example_title": Path(path).stem})
    return widget


def write_eval_results(record: Mapping[str, Any], task: str, target: Path, api: HfApi) -> str:
    """Write `.eval_results/*.yaml`, from which the Hub fills the leaderboard of a benchmark.

    The data set must declare the task. Whether the Hub has registered it as a benchmark cannot be asked.

    Args:
        record: Content of `run.json`.
        task: Identifier of the task in the data set's `eval.yaml`.
        target: The staged folder.
        api: The client.

    Returns:
        The file, relative to the folder.

    Raises:
        ArgumentError: The data set is not on the Hub, does not declare the task, or the split of the task was not
            evaluated as the data set has it.
        PublishError: The Hub could not be asked.
    """
    data, hub_id = record["data"], hub_dataset(record)
    if hub_id is None:
        raise ArgumentError("benchmark_task is for data sets of the Hub; this run's has no id there. Leave it out.")
    declared = {str(item.get("id")): item for item in _tasks(hub_id, data.get("revision"), api)}
    if task not in declared:
        found = f"its eval.yaml has {', '.join(declared)}" if declared else "it has no eval.yaml with tasks"
        raise ArgumentError(f"{hub_id} declares no task {task!r} for benchmarks: {found}. Leave benchmark_task out.")
    evaluated = record["evaluation"]
    split = declared[task].get("split") or ("test" if "test" in evaluated else data["evaluation_split"])
    value = evaluated.get(split, {}).get("metrics", {}).get(_METRIC, {}).get("value")
    if value is None or (split == data["evaluation_split"] and drawn_split(data)):
        raise ArgumentError(
            f"The task {task!r} is measured on the split {split!r} of {hub_id}, and this run has no accuracy on that "
            "split as it comes with the data set. Evaluate on it, or leave benchmark_task out."
        )
    revision = {"revision": data["revision"]} if data.get("revision") else {}
    entry = {
        "dataset": {"id": hub_id, "task_id": task, **revision},
        "value": round(value, 6),
        "date": record["created"][:10],
    }
    name = f"{EVAL_RESULTS}{hub_id.rpartition('/')[2]}.yaml"
    (target / name).parent.mkdir(exist_ok=True)
    (target / name).write_text(yaml.safe_dump([entry], sort_keys=False), encoding="utf-8")
    return name


def _tasks(hub_id: str, revision: str | None, api: HfApi) -> list[Mapping[str, Any]]:
    """The tasks that a data set's `eval.yaml` declares; none where there is no such file."""
    with tempfile.TemporaryDirectory(prefix="hf_transfer_benchmark_") as cache:
        try:
            path = retried(
                lambda: api.hf_hub_download(
                    hub_id, "eval.yaml", repo_type="dataset", revision=revision, cache_dir=cache
                ),
                f"asking {hub_id} for its tasks",
            )
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except LocalEntryNotFoundError as error:  # the network, although its base class says that there is no file
            raise explained(error, hub_id) from error
        except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
            return []
        except (yaml.YAMLError, UnicodeError):
            return []
        except TRANSIENT as error:
            raise explained(error, hub_id) from error
    tasks = content.get("tasks") if isinstance(content, Mapping) else None
    return [item for item in tasks if isinstance(item, Mapping)] if isinstance(tasks, list) else []
