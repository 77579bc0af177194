"""Loading of pretrained image classifiers with a head for the labels at hand."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging as transformers_logging

from hf_transfer.errors import ModelError
from hf_transfer.lineage import lineage_of
from hf_transfer.registry import architecture_name
from hf_transfer.repo_ids import is_repo_id

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaseModel:
    """Where the weights that training starts from came from; goes into the run's record.

    Attributes:
        id: Hub id, or the name of a local folder (never its path).
        on_hub: Whether `id` is a Hub id.
        revision: Commit of the Hub repository, where known.
        architecture: As in `hf_transfer.registry.architecture_name`.
        library: "timm" or "transformers".
        parameters: Number of parameters, with the new head.
        license: As the checkpoint states it; None where it states none.
        lineage: Of a local folder, the model on the Hub that its weights were made from; see `lineage_of`.
    """

    id: str
    on_hub: bool
    revision: str | None
    architecture: str
    library: str
    parameters: int
    license: str | None = None
    lineage: dict[str, str | None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class LoadedModel:
    """A model, its image processor and its origin."""

    model: nn.Module
    processor: Any
    base: BaseModel
    new_head: bool


def load_for_training(
    name: str,
    label_names: Sequence[str],
    *,
    revision: str | None = None,
    reset_head: bool = False,
    seed: int = 42,
) -> LoadedModel:
    """Load a pretrained classifier with a head for the given labels.

    Args:
        name: Hub id or local folder.
        label_names: In the order of the class indices.
        revision: Branch, tag or commit of a Hub repository.
        reset_head: Draw a new head even if the checkpoint has one with the same number of labels.
        seed: Of the new head's weights.

    Raises:
        ModelError: The checkpoint is not found or is not an image classifier.
    """
    labels = {"id2label": dict(enumerate(label_names)), "label2id": {n: i for i, n in enumerate(label_names)}}
    config = _load(AutoConfig, name, revision)
    same_count = getattr(config, "num_labels", None) == len(label_names)
    torch.manual_seed(seed)
    with _quiet():
        model = _load(
            AutoModelForImageClassification,
            name,
            revision,
            num_labels=len(label_names),
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            **labels,
        )
    if reset_head and same_count:
        _draw_new_head(model, seed)
    return LoadedModel(
        model, load_processor(name, revision), _base_model(name, revision, model), reset_head or not same_count
    )


def load_trained(folder: str, revision: str | None = None) -> LoadedModel:
    """Load a classifier with the head that it has, to evaluate it.

    Raises:
        ModelError: The checkpoint is not found or is not an image classifier.
    """
    with _quiet():
        model = _load(AutoModelForImageClassification, folder, revision, use_safetensors=True)
    return LoadedModel(model, load_processor(folder, revision), _base_model(folder, revision, model), False)


def load_structure(name: str, revision: str | None = None, num_labels: int | None = None) -> nn.Module:
    """Build a model without its weights, on the meta device: enough to see its layer groups.

    Args:
        name: Hub id or local folder, of which only the configuration is read.
        revision: Branch, tag or commit of a Hub repository.
        num_labels: For the head; None keeps the checkpoint's.

    Raises:
        ModelError: The configuration is not found or is not that of an image classifier.
    """
    config = _load(AutoConfig, name, revision, **({"num_labels": num_labels} if num_labels else {}))
    try:
        with torch.device("meta"), _quiet():
            model: nn.Module = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise _not_a_classifier(name, error) from error
    return model


def load_processor(name: str, revision: str | None = None) -> Any:
    """Load a checkpoint's image processor.

    Raises:
        ModelError: There is none.
    """
    with _quiet():
        return _load(AutoImageProcessor, name, revision)


def check_image_size(model: nn.Module, size: int) -> None:
    """Check by one forward pass that a model takes images of a size.

    Args:
        model: Its first convolution says how many channels the image has.
        size: Side in pixels.

    Raises:
        ModelError: Names the size that the model was made for, where its configuration says so.
    """
    config: Any = getattr(model, "config", None)
    settings = getattr(config, "pretrained_cfg", None) or {}
    made_for = getattr(config, "image_size", None) or (settings.get("input_size") or (None,))[-1]
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    parameter = next(model.parameters())
    blank = torch.zeros(1, convolution.in_channels if convolution else 3, size, size, device=parameter.device)
    was_training = model.training
    try:
        with torch.inference_mode():
            model.eval()
            model(blank)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        native = f"; it was made for {made_for}" if made_for else ""
        raise ModelError(
            f"This model takes no images of {size} pixels{native} ({_first_line(error)}). Choose another --image_size."
        ) from error
    finally:
        model.train(was_training)


def label_names_of(model: nn.Module) -> tuple[str, ...]:
    """A model's label names, in the order of the class indices."""
    id2label: dict[int, str] = model.config.id2label  # type: ignore[assignment, union-attr]
    return tuple(str(id2label[index]) for index in sorted(id2label))


def base_model_of(model: nn.Module) -> BaseModel:
    """Where a loaded model came from, as far as it knows; a model that was built here came from its architecture."""
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    if name and (Path(name).exists() or ("/" in name and is_repo_id(name))):
        return _base_model(name, None, model)
    # The folder that it came from is gone, or it never had one.
    name = Path(name).name or architecture_name(model)
    return replace(_base_model(name, None, model), on_hub=False, revision=None)


def _load(loader: Any, name: str, revision: str | None, **options: Any) -> Any:
    try:
        return loader.from_pretrained(name, revision=revision or "main", trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        if isinstance(error, OSError) and not Path(name).is_dir():
            raise ModelError(
                f"No model {name!r} was found: it is neither a folder here nor can it be read from the Hub "
                f"({_first_line(error)}). Check the spelling, the connection (HF_HUB_OFFLINE), and your access to it."
            ) from error
        raise _not_a_classifier(name, error) from error


def _not_a_classifier(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"{name!r} cannot be loaded as an image classifier: expected a folder or Hub repository with the config.json "
        f"of a transformers or timm image model and safetensors weights; found: {_first_line(error)}"
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _draw_new_head(model: nn.Module, seed: int) -> None:
    from hf_transfer.registry import wrap

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(model)(copy.deepcopy(model.config)).state_dict()
    own = model.state_dict()
    for name in wrap(model).head.parameter_names:
        own[name].copy_(fresh[name])


def _base_model(name: str, revision: str | None, model: nn.Module) -> BaseModel:
    local = Path(name).is_dir()
    architecture = architecture_name(model)
    settings = getattr(model.config, "pretrained_cfg", None) or {}
    return BaseModel(
        id=Path(name).resolve().name if local else name,
        on_hub=not local,
        revision=getattr(model.config, "_commit_hash", None) or (revision if not local else None),
        architecture=architecture,
        library="timm" if architecture.startswith("timm:") else "transformers",
        parameters=sum(p.numel() for p in model.parameters()),
        license=settings.get("license") or _card_license(name),
        lineage=lineage_of(name) if local else None,
    )


def _card_license(name: str) -> str | None:
    """The licence that a local folder's card or configuration states."""
    from huggingface_hub import ModelCard

    card = Path(name) / "README.md"
    if not card.is_file():
        return None
    try:
        stated = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    except (ValueError, OSError, json.JSONDecodeError):
        return None
    return stated if isinstance(stated, str) else None


class _quiet:
    """Keep transformers from listing every weight of the replaced head; the plan's table says what is new."""

    def __enter__(self) -> None:
        self._before = transformers_logging.get_verbosity()
        self._bar = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *details: object) -> None:
        transformers_logging.set_verbosity(self._before)
        if self._bar:
            transformers_logging.enable_progress_bar()
