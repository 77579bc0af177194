"""The YAML metadata at the head of a model card: made from the run's record, and checked without a network."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation import METRIC_TITLES
from hf_transfer.reporting.base_model import hub_base
from hf_transfer.reporting.card_license import (
    _LICENSE_DETAILS,
    LICENSE_KEYS,
    check_license,
    license_details,
    license_keys,
    license_of,
    may_keep_license,
)
from hf_transfer.reporting.markdown import metadata_of
from hf_transfer.run_files import WIDGET_IMAGES
from hf_transfer.utils.hub_ids import is_repo_id
from hf_transfer.utils.privacy import check_private

TASK = "image-classification"
# As the `evaluate` library and the Hub call them; log loss and ECE have no name there.
_HUB_METRICS = {"accuracy": "accuracy", "macro_f1": "f1", "brier_score": "brier_score"}
_RELATIONS = ("finetune", "adapter", "merge", "quantized")
_PLACEHOLDER = re.compile(
    r"\W*(?:todo|tbd|fixme|n/a|none|null|placeholder|more information needed|unknown dataset)\W*",
    re.IGNORECASE,
)
_TEXTS = (
    "library_name",
    "pipeline_tag",
    "license",
    "license_name",
    "license_link",
    "base_model_relation",
    "model_name",
)
_OF_THE_RUN = (
    "library_name",
    "pipeline_tag",
    "base_model",
    "base_model_relation",
    "datasets",
    "metrics",
    "model-index",
)
_TAGS_OF_THE_RUN = (TASK, "vision", "hf_transfer", "timm", "generated_from_trainer")
_LISTS = ("tags", "metrics", "datasets")


def make_metadata(
    record: Mapping[str, Any],
    model_name: str,
    license: str | None = None,
    widget: Sequence[Mapping[str, str]] = (),
) -> str:
    """The metadata of a run's model card as YAML, without the lines of dashes.

    The library is "transformers" for timm models, too: the folder is written by transformers' `save_pretrained`, and
    the Auto classes and `pipeline` load it; the tag "timm" says that timm does as well.

    Args:
        record: Content of `run.json`.
        model_name: Name of the model in its evaluation results.
        license: The Hub's identifier of the model's licence; None takes the base model's.
        widget: Examples for the model page.

    Raises:
        ArgumentError: The licence is not an identifier.
    """
    base, training = record["base_model"], record["training"]
    hub_id = hub_dataset(record)
    derived_from = hub_base(record)
    results = _eval_results(record)
    examples: dict[str, Any] = {"widget": [dict(example) for example in widget]} if widget else {}
    measured = [name for report in record["evaluation"].values() for name in report["metrics"]]
    return ModelCardData(
        # transformers would run another head than the evaluated one.
        library_name="hf_transfer" if _probe_file(record) else "transformers",
        pipeline_tag=TASK,
        tags=[
            TASK,
            "vision",
            "hf_transfer",
            *(["timm"] if base["library"] == "timm" else []),
            *(["generated_from_trainer"] if training.get("steps") else []),
        ],
        license=license_of(record, license),
        **(license_details(record) if license is None else {}),
        base_model=derived_from["id"] if derived_from else None,
        base_model_relation="finetune" if derived_from else None,
        datasets=[hub_id] if hub_id is not None else None,
        metrics=list(dict.fromkeys(_HUB_METRICS[name] for name in measured if name in _HUB_METRICS)) or None,
        model_name=model_name if results else None,
        eval_results=results or None,
        **examples,
    ).to_yaml(line_break="\n")


def _probe_file(record: Mapping[str, Any]) -> bool:
    return bool((record["training"].get("solved_head") or {}).get("probe_file"))


def merge_metadata(ours: str, existing_card: str, keep_license: bool) -> str:
    """The metadata of a card that is written again: ours, with what a user added to the card that is there.

    Args:
        ours: YAML of the new metadata.
        existing_card: The whole card that will be replaced.
        keep_license: The licence in the existing card wins if a user gave it. One that was inherited from the base
            model stays only where ours has none and both cards name the same base model.

    Returns:
        YAML. A user's tags are added to ours. Results, metrics, base model, data sets, library and task describe the
        run and are ours alone. Name and link of a licence stay with it. Every other key of the existing card is kept.
    """
    try:
        theirs = metadata_of(existing_card)
    except ArgumentError:
        return ours
    own = dict(yaml.safe_load(ours))
    keep = keep_license and may_keep_license(own, theirs, existing_card)
    found = _others(own, theirs) | _tags(own, theirs) | license_keys(own, theirs, keep)
    # Ours first, in our order; the name of a licence that is kept stands with the other keys of the user.
    order = dict.fromkeys([*(key for key in own if not (keep and key in _LICENSE_DETAILS)), *theirs])
    merged = {key: found[key] for key in order if key in found}
    return ours if merged == own else yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)


def _others(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our keys, and what a user added under other names."""
    added = {key: value for key, value in theirs.items() if key not in (*_OF_THE_RUN, *LICENSE_KEYS, *own)}
    if isinstance(added.get("widget"), list):
        # Images that an earlier publication made are gone if this one does not make them.
        added["widget"] = [example for example in added["widget"] if WIDGET_IMAGES not in str(example)]
    if not added.get("widget"):
        added.pop("widget", None)
    return {key: value for key, value in own.items() if key not in LICENSE_KEYS} | added


def _tags(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our tags with those that a user added."""
    if not isinstance(theirs.get("tags"), list):
        return {}
    added = [tag for tag in theirs["tags"] if tag not in _TAGS_OF_THE_RUN]
    return {"tags": list(dict.fromkeys([*own.get("tags", []), *added]))}


def hub_dataset(record: Mapping[str, Any]) -> str | None:
    """The data set's id on the Hub, if it has a valid one."""
    hub_id = record["data"].get("hub_id")
    return hub_id if isinstance(hub_id, str) and is_repo_id(hub_id) else None


def validate_metadata(card_text: str) -> None:
    """Check the metadata of a model card as far as that is possible without the Hub.

    Args:
        card_text: The whole card.

    Raises:
        ArgumentError: There are no metadata, or a value would be refused by the Hub, is not finite or is a
            placeholder; the message names the key.
        OutputError: A value is private.
    """
    data = metadata_of(card_text)
    check_private(data)
    for key, value in _leaves(data, ""):
        if isinstance(value, float) and not math.isfinite(value):
            raise ArgumentError(f"The card's {key} must be a finite number, found {value}. Leave it out.")
        # A data set may be named "todo": that is the user's name, not a gap.
        named = key.startswith("model-index") and key.endswith(".name")
        if value is None or (isinstance(value, str) and _PLACEHOLDER.fullmatch(value) and not named):
            raise ArgumentError(f"The card's {key} must say something, found {value!r}. Leave the key out.")
    for key in (*_TEXTS, *_LISTS, "base_model"):
        if key in data:
            _check_type(key, data[key])
    _check_identifiers(data)
    if "widget" in data and not isinstance(data["widget"], list):
        raise ArgumentError(f"The card's widget must be a list of examples, found {type(data['widget']).__name__}.")
    _check_model_index(data.get("model-index", []))
    try:
        ModelCard(card_text)
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError(f"huggingface_hub cannot read the card's metadata: {error}") from error


def _eval_results(record: Mapping[str, Any]) -> list[EvalResult]:
    data = record["data"]
    if not data.get("name"):
        return []
    return [
        EvalResult(
            task_type=TASK,
            task_name="Image classification",
            # Required by the Hub; an invented id could be that of somebody else's data set.
            dataset_type=hub_dataset(record) or "custom",
            dataset_name=" ".join(str(data["name"]).split()),
            dataset_split=split,
            dataset_revision=data.get("revision") if hub_dataset(record) else None,
            metric_type=_HUB_METRICS.get(name, name),
            metric_name=METRIC_TITLES.get(name, name),
            metric_value=round(metric["value"], 6),
            metric_args=_confidence(metric),
        )
        for split, report in record["evaluation"].items()
        for name, metric in report["metrics"].items()
        if isinstance(metric["value"], int | float) and math.isfinite(metric["value"])
    ]


def _confidence(metric: Mapping[str, Any]) -> dict[str, Any] | None:
    """The interval of a metric, as the arguments with which the Hub's format lets a result be told more exactly."""
    low, high = metric.get("low"), metric.get("high")
    if low is None or high is None:
        return None
    return {"confidence_level": 0.95, "confidence_interval": [round(low, 6), round(high, 6)]}


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{key}[{index}]")
    else:
        yield key, value


def _check_type(key: str, value: Any) -> None:
    text = isinstance(value, str)
    texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    allowed = {"base_model": text or texts} | dict.fromkeys(_TEXTS, text) | dict.fromkeys(_LISTS, texts)
    if not allowed[key]:
        wanted = "a text" if key in _TEXTS else "a list of texts"
        raise ArgumentError(f"The card's {key} must be {wanted}, found {value!r}.")


def _check_identifiers(data: Mapping[str, Any]) -> None:
    for key in ("base_model", "datasets"):
        values = data.get(key, [])
        for repo_id in [values] if isinstance(values, str) else values:
            if not is_repo_id(repo_id):
                raise ArgumentError(f"The card's {key} must be an id on the Hub, owner/name, found {repo_id!r}.")
    if "license" in data:
        check_license(data["license"])
    relation = data.get("base_model_relation")
    if relation is not None and relation not in _RELATIONS:
        raise ArgumentError(f"The card's base_model_relation must be one of {_RELATIONS}, found {relation!r}.")


def _check_model_index(index: Any) -> None:
    key = "model-index"
    for i, model in enumerate(_items(index, key)):
        _check_has(model, f"{key}[{i}]", "name", str)
        for j, result in enumerate(_items(model.get("results"), f"{key}[{i}].results")):
            where = f"{key}[{i}].results[{j}]"
            for part, names in {"task": ("type",), "dataset": ("type", "name")}.items():
                _check_has(result, where, part, dict)
                for name in names:
                    _check_has(result[part], f"{where}.{part}", name, str)
            for name in set(result["dataset"]) & {"config", "split", "revision"}:
                _check_has(result["dataset"], f"{where}.dataset", name, str)
            for k, metric in enumerate(_items(result.get("metrics"), f"{where}.metrics")):
                _check_has(metric, f"{where}.metrics[{k}]", "type", str)
                _check_has(metric, f"{where}.metrics[{k}]", "value", (int, float))


def _items(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise ArgumentError(f"The card's {key} must be a list, found {type(value).__name__}.")
    return value


def _check_has(data: Any, where: str, name: str, kind: type | tuple[type, ...]) -> None:
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ArgumentError(f"The card's {where} must have a valid {name!r}, found {value!r}.")
