"""Where the weights of a model came from: told by what loaded them, and never guessed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub import HfApi, ModelCard, ResolvedRevision, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.file_download import repo_folder_name
from torch import nn

from hf_transfer.architectures.lookup import architecture_name
from hf_transfer.utils.foreign import configured
from hf_transfer.utils.hub_ids import is_repo_id

logger = logging.getLogger(__name__)

_ORIGIN, _LOADED_AS = "_hf_transfer_origin", "_hf_transfer_loaded_as"
# Base of all errors of the network; its library is httpx or httpx2, by the version of huggingface_hub.
_NETWORK: type[Exception] = next(
    c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError" and c.__module__.startswith("httpx")
)
_WEIGHTS = ("*.safetensors", "*.bin")
_WHERE_THERE_IS = ("license_name", "license_link", "overridden", "head")


@dataclass(frozen=True)
class BaseModel:
    """Where the weights that training starts from came from; goes into the run's record.

    Attributes:
        id: Hub id, the name of a local folder (never its path), or the name of an architecture without weights. None
            where nothing tells what the weights are.
        on_hub: Whether `id` is a Hub id, from which the weights were loaded.
        revision: Commit of the Hub repository, where known.
        architecture: As in `hf_transfer.architectures.lookup.architecture_name`.
        library: "timm" or "transformers".
        parameters: Number of parameters, with the new head.
        license: As the checkpoint states it, on the Hub at `revision`; None where it states none, or it is not known.
        license_name: Name of a licence that is not in the Hub's list, as the checkpoint states it.
        license_link: Address of its text.
        overridden: What its configuration said that does not hold for the new task: field to value.
        head: What became of the rows of its head; None where the head is new.
        lineage: The model on the Hub that the weights of a local folder were made from; see `lineage_of`.
        random_weights: Whether there was no checkpoint, only the name of an architecture.
    """

    id: str | None
    on_hub: bool
    revision: str | None
    architecture: str
    library: str
    parameters: int
    license: str | None = None
    lineage: dict[str, str | None] | None = None
    random_weights: bool = False
    license_name: str | None = None
    license_link: str | None = None
    overridden: dict[str, Any] | None = None
    head: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what few checkpoints have stands there only where there is any."""
        found = asdict(self)
        return {key: value for key, value in found.items() if value is not None or key not in _WHERE_THERE_IS}


def base_model_of(model: nn.Module) -> BaseModel:
    """Where a model's weights came from, as far as there is evidence.

    Evidence is what our own loader noted, or that transformers' `from_pretrained` loaded the weights, together with a
    folder of that name or with weights in the Hub's cache. A configuration alone is none: it names a checkpoint also
    where a model was built from it with new weights.
    """
    known = getattr(model, _ORIGIN, None)
    if known is not None:
        return replace(known, parameters=_count(model))
    name = _loaded_as(model)
    if name and Path(name).is_dir():
        return folder_origin(name, model)
    if name and is_repo_id(name) and (commits := _cached_commits(name)):
        return hub_origin(name, commits[0] if len(commits) == 1 else None, model)
    return _origin(model, None)


def folder_origin(folder: str, model: nn.Module) -> BaseModel:
    """The origin of weights that were loaded from a local folder."""
    stated = _stated_license(Path(folder) / "README.md") or _timm_license(model)
    if not stated.get("license_link", "https://").startswith("https://"):
        del stated["license_link"]  # a file of the folder, which is not published
    return replace(_origin(model, Path(folder).resolve().name), lineage=lineage_of(folder), **stated)


def hub_origin(repo_id: str, revision: str | None, model: nn.Module) -> BaseModel:
    """The origin of weights that were loaded from the Hub.

    Args:
        repo_id: The repository.
        revision: As from `resolve_revision`; None where it is not known, and then the licence is not known either.
        model: What was loaded.
    """
    commit = revision.resolved if isinstance(revision, ResolvedRevision) else revision
    stated = (_hub_license(repo_id, commit) or _timm_license(model)) if commit else {}
    if not stated.get("license_link", "https://").startswith("https://"):
        stated["license_link"] = f"https://huggingface.co/{repo_id}/blob/{commit}/{stated['license_link']}"
    return replace(_origin(model, repo_id), on_hub=True, revision=commit, **stated)


def random_origin(name: str, model: nn.Module) -> BaseModel:
    """The origin of weights that were drawn for the name of an architecture."""
    return replace(_origin(model, name), random_weights=True)


def remember_origin(model: nn.Module, origin: BaseModel) -> None:
    """Note on a model where its weights came from, for `base_model_of`."""
    setattr(model, _ORIGIN, origin)


def carry_origin(source: nn.Module, target: nn.Module) -> None:
    """Note on a model that its weights are those of another one."""
    if (known := getattr(source, _ORIGIN, None)) is not None:
        setattr(target, _ORIGIN, known)
    elif (name := _loaded_as(source)) is not None:
        setattr(target, _LOADED_AS, name)


def resolve_revision(repo_id: str, revision: str | None) -> str | None:
    """The commit that a branch or tag means now, so that all files of a model are of one commit.

    Returns:
        The commit under the name that was asked for; `revision` itself where the Hub and its cache do not tell, so
        that loading reports what is wrong.
    """
    try:
        offline = huggingface_hub.constants.is_offline_mode()
        return HfApi().resolve_revision(repo_id, revision=revision, local_files_only=offline)
    except (RevisionResolutionError, _NETWORK, OSError, ValueError):
        return revision


def _origin(model: nn.Module, name: str | None) -> BaseModel:
    architecture = architecture_name(model)
    library = "timm" if architecture.startswith("timm:") else "transformers"
    return BaseModel(name, False, None, architecture, library, _count(model))


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _loaded_as(model: nn.Module) -> str | None:
    """The name under which `from_pretrained` loaded a model's weights; None if it did not."""
    if (name := getattr(model, _LOADED_AS, None)) is not None:
        return str(name)
    # transformers marks the parameters that it took from a checkpoint, so as not to draw them.
    loaded = any(getattr(parameter, "_is_hf_initialized", False) for parameter in model.parameters())
    name = configured(model, "_name_or_path")
    return str(name) if loaded and name else None


def _cached_commits(repo_id: str) -> list[str]:
    """Commits of a repository whose weights are in the Hub's cache."""
    folder = repo_folder_name(repo_id=repo_id, repo_type="model")
    snapshots = Path(huggingface_hub.constants.HF_HUB_CACHE) / folder / "snapshots"
    return sorted({path.parent.name for pattern in _WEIGHTS for path in snapshots.glob(f"*/{pattern}")})


def _hub_license(repo_id: str, commit: str) -> dict[str, Any]:
    """The licence that a repository's card states at a commit."""
    try:
        return _stated_license(Path(hf_hub_download(repo_id, "README.md", revision=commit)))
    except (_NETWORK, OSError, ValueError) as error:
        # Without a network "not in the cache" is told by a subclass of "not in the repository".
        if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError):
            logger.warning(
                "The licence of %s could not be read from its card, so that the new card will state none. Give one "
                "when you publish: hf-transfer publish --license ID.",
                repo_id,
            )
        return {}


def _stated_license(card: Path) -> dict[str, Any]:
    """The licence in the metadata of a card, with its name and link where it has its own; empty if there is none."""
    if not card.is_file():
        return {}
    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data
    except (ValueError, OSError):
        return {}
    stated = {key: data.get(key) for key in ("license", "license_name", "license_link")}
    found = {key: value for key, value in stated.items() if isinstance(value, str)}
    return found if "license" in found else {}


def _timm_license(model: nn.Module) -> dict[str, Any]:
    """The licence that timm's configuration of a checkpoint states."""
    settings = configured(model, "pretrained_cfg") or {}
    stated = settings.get("license")
    return {"license": stated} if isinstance(stated, str) else {}


def lineage_of(folder: str | Path) -> dict[str, str | None] | None:
    """The model on the Hub that a local folder's weights were made from.

    Args:
        folder: A saved model; `run.json` says the most, else the metadata of `README.md`.

    Returns:
        "id" and "revision" (None where only the id is known); None if the folder does not tell.
    """
    return _from_record(Path(folder) / "run.json") or _from_card(Path(folder) / "README.md")


def _from_record(path: Path) -> dict[str, str | None] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        base, plan = record["base_model"], record["training"]["plan"]
        if plan is not None and plan["plan"]["init"] == "random":
            return None
        told = base if base["on_hub"] else base.get("lineage") or {}
        return _checked(told.get("id"), told.get("revision"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _from_card(path: Path) -> dict[str, str | None] | None:
    try:
        text = path.read_text(encoding="utf-8")
        data: Any = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return None
    base = data.get("base_model") if isinstance(data, Mapping) else None
    if isinstance(base, list):  # of a merge of several models none is the one
        base = base[0] if len(base) == 1 else None
    return _checked(base, None)


def _checked(repo_id: Any, revision: Any) -> dict[str, str | None] | None:
    if not isinstance(repo_id, str) or not is_repo_id(repo_id):
        return None
    return {"id": repo_id, "revision": revision if isinstance(revision, str) else None}
