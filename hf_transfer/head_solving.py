"""A model's head solved exactly on the features of its frozen body: which layer, which solver, and the result."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import Dataset

from hf_transfer.errors import ArgumentError, DataError, TruncationError
from hf_transfer.features import LAST, extract_features
from hf_transfer.features.ranks import on_first_rank
from hf_transfer.features.reading import model_inputs, pixel_values
from hf_transfer.linear_heads import check_head, has_bias, write_head
from hf_transfer.registry import wrap
from hf_transfer.solvers import ClassWeights, Problem, SolvedHead, ridge_held_out, solve
from hf_transfer.solvers.ridge import RIDGE_REGULARISATIONS
from hf_transfer.truncation import truncate, truncation_points

logger = logging.getLogger(__name__)

AUTO, ALL = "auto", "all"
# Enough images to see a head that is not affine, in one small forward pass.
_CHECKED_IMAGES = 8
_LABELS = ("labels", "label", "label_ids")


@dataclass(frozen=True)
class LayerEvidence:
    """How well a ridge classifier on one layer does on held-out images.

    Attributes:
        layer: Name of the group, or "last".
        accuracy: Held-out accuracy.
        behind_best: By how much it is behind the best layer's.
        standard_error: Of that difference, over the same images.
    """

    layer: str
    accuracy: float
    behind_best: float
    standard_error: float


@dataclass(frozen=True)
class LayerChoice:
    """Which layer the head reads, and why.

    Attributes:
        asked: "auto", "last" or a group's name.
        layer: What the checkpoint's head reads: "last", or the group that the model was truncated after.
        reason: In words.
        evidence: By layer, from input to output; empty where none was gathered.
    """

    asked: str
    layer: str
    reason: str
    evidence: tuple[LayerEvidence, ...] = ()


@dataclass(frozen=True)
class HeadSolution:
    """A solved head and the model that has it.

    Attributes:
        model: The given model, or a truncated one for an earlier layer.
        solved: The solver's result.
        layer: Which layer, and why.
        largest_difference: Of the model's own scores from the solver's, on samples.
    """

    model: nn.Module
    solved: SolvedHead
    layer: LayerChoice
    largest_difference: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        layer = asdict(self.layer) | {"evidence": [asdict(evidence) for evidence in self.layer.evidence]}
        return self.solved.to_dict() | {"layer": layer, "largest_difference": self.largest_difference}


def solve_head(
    model: nn.Module,
    dataset: Any,
    processor: Any = None,
    *,
    solver: str = "logistic",
    layer: str = LAST,
    class_weights: ClassWeights = None,
    classes: int | None = None,
    seed: int = 0,
    **extraction: Any,
) -> HeadSolution:
    """Compute the features of all images once, solve the head on them, and write it into the model.

    Args:
        model: Its head is changed in place; for an earlier layer a truncated copy gets it instead.
        dataset: As in `extract_features`, with labels.
        processor: See there.
        solver: "logistic", "svm", "ridge" or "sgd".
        layer: "last" is what the model's head reads. A group's name: the model is truncated after it, where its
            configuration can say so. "auto": of the blocks and "last" the one closest to the output whose held-out
            accuracy is within one standard error of the best; so "last", an ordinary checkpoint of the same
            architecture, wins where nothing speaks against it.
        class_weights: See `hf_transfer.solvers.solve`.
        classes: Number of classes; None takes what the model's configuration or the labels say.
        seed: Of everything drawn.
        extraction: Further arguments of `extract_features`.

    Raises:
        ArgumentError: The layer is unknown, or "all".
        DataError: Labels are missing, or features and labels cannot be fitted.
        ModelError: The head is not affine, or the model does not give the solver's scores.
    """
    if layer == ALL:
        raise ArgumentError(
            'layer="all" joins the features of all layers, which no head of an ordinary checkpoint can read. Use '
            '"auto" or the name of a layer; extract_features(layers="all") and hf_transfer.solvers.solve give the '
            "accuracy as evidence."
        )
    bias = has_bias(model)
    configured = getattr(getattr(model, "config", None), "num_labels", None)
    classes = configured if classes is None else classes
    labels, reading = labels_of(dataset)
    features, choice, target = _features(
        model, reading, processor, layer, labels, class_weights, classes, seed, extraction
    )
    solved = on_first_rank(
        lambda: solve(features, labels(), solver, classes=classes, class_weights=class_weights, bias=bias, seed=seed)
    )
    images = _samples(dataset, processor)
    write_head(target, solved.head, images)
    difference = check_head(target, images, solved.head.scores(np.asarray(features[: len(images)])))
    return HeadSolution(target, solved, choice, difference)


def labels_of(dataset: Any) -> tuple[Any, Any]:
    """How to get the labels of a data set without decoding its images twice.

    Returns:
        A function that gives the labels `(images,)`, and the data set to read the images from before it is called.
    """
    if isinstance(dataset, datasets.Dataset):
        name = next((name for name in _LABELS if name in dataset.column_names), None)
        if name is None:
            raise DataError(f"A head needs labels: no column {' or '.join(_LABELS)} in {dataset.column_names}.")
        return lambda: np.asarray(dataset.with_format(None)[name][:]), dataset
    recording = _Recording(dataset)
    return recording.labels, recording


class _Recording(Dataset[Any]):
    """A data set that remembers the labels of the rows that were read."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._found: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        row = self.dataset[index]
        name = next((name for name in _LABELS if isinstance(row, Mapping) and name in row), None)
        if name is None:
            raise DataError(f"A head needs labels: image {index} has none of {', '.join(_LABELS)}.")
        try:
            self._found[index] = int(row[name])
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"A head is solved for one label to an image; that of image {index} is none.") from error
        return row

    def labels(self) -> npt.NDArray[np.integer[Any]]:
        """Labels of all images; rows that were read elsewhere, by a worker or another rank, are read here."""
        for index in range(len(self)):
            if index not in self._found:
                self[index]
        return np.array([self._found[index] for index in range(len(self))], np.int64)


def _features(
    model: nn.Module,
    dataset: Any,
    processor: Any,
    layer: str,
    labels: Any,
    class_weights: ClassWeights,
    classes: int | None,
    seed: int,
    extraction: Mapping[str, Any],
) -> tuple[Any, LayerChoice, nn.Module]:
    """Features of the layer, why it is that one, and the model whose head reads them."""
    if layer == LAST:
        found = extract_features(model, dataset, processor, LAST, **extraction)
        return found[LAST], LayerChoice(LAST, LAST, "asked for"), model
    blocks = [group.name for group in wrap(model).layer_groups if group.role == "block"]
    names = [*blocks, LAST] if layer == AUTO else [layer, LAST]
    found = extract_features(model, dataset, processor, names, **extraction)
    evidence = on_first_rank(lambda: judge_layers(found, labels(), classes, class_weights, seed))
    wanted = latest_within_one_error(evidence) if layer == AUTO else layer
    if wanted == LAST:
        return found[LAST], LayerChoice(layer, LAST, "no earlier layer is clearly better", evidence), model
    try:
        smaller = truncate(model, after=wanted, seed=seed)
    except TruncationError as error:
        reason = f"{wanted!r} was wanted, but no ordinary checkpoint can end there: {error}{_native(model, evidence)}"
        logger.warning("The head reads the last layer: %s", reason)
        return found[LAST], LayerChoice(layer, LAST, reason, evidence), model
    reason = "asked for" if layer != AUTO else "the last layer is more than one standard error behind the best"
    features = extract_features(smaller, dataset, processor, LAST, **extraction)[LAST]
    return features, LayerChoice(layer, wanted, reason, evidence), smaller


def _native(model: nn.Module, evidence: Sequence[LayerEvidence]) -> str:
    """The best layer that an ordinary checkpoint can end after."""
    points = {*truncation_points(model), LAST}
    native = [layer for layer in evidence if layer.layer in points]
    best = max(native, key=lambda layer: layer.accuracy)
    return f" The best that one can end at is {best.layer!r} (held-out accuracy {best.accuracy:.3f})."


def judge_layers(
    features: Mapping[str, Any],
    labels: Any,
    classes: int | None = None,
    class_weights: ClassWeights = None,
    seed: int = 0,
) -> tuple[LayerEvidence, ...]:
    """Held-out accuracy of a ridge classifier on each layer, compared with the best over the same images.

    Args:
        features: By layer, from input to output, `(images, channels)`.
        labels: `(images,)`.
        classes: Number of classes.
        class_weights: See `hf_transfer.solvers.solve`.
        seed: Of the folds, where images are few.
    """
    right = {}
    for name, values in features.items():
        problem = Problem.of(values, labels, classes, class_weights)
        held_out = ridge_held_out(problem, RIDGE_REGULARISATIONS, seed=seed)
        hits = (held_out.scores.argmax(axis=2) == problem.labels)[:, held_out.rows]
        weights = problem.image_weights[held_out.rows]
        right[name] = hits[np.average(hits, axis=1, weights=weights).argmax()]
    accuracies = {name: float(np.average(hits, weights=weights)) for name, hits in right.items()}
    best = max(accuracies, key=lambda name: accuracies[name])
    found = []
    for name, hits in right.items():
        difference = right[best].astype(float) - hits
        mean = float(np.average(difference, weights=weights))
        variance = float(np.average((difference - mean) ** 2, weights=weights))
        found.append(LayerEvidence(name, accuracies[name], mean, float(np.sqrt(variance / len(hits)))))
    return tuple(found)


def latest_within_one_error(evidence: Sequence[LayerEvidence]) -> str:
    """The layer closest to the output that is at most one standard error behind the best."""
    return next(e.layer for e in reversed(evidence) if e.behind_best <= e.standard_error)


def _samples(dataset: Any, processor: Any) -> torch.Tensor:
    images = model_inputs(dataset, processor)
    return pixel_values([images[index] for index in range(min(len(images), _CHECKED_IMAGES))])
