"""A model's head solved exactly on the features of its frozen body: which layer, which solver, and the result."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_transfer.architectures.lookup import wrap
from hf_transfer.errors import ArgumentError, TruncationError
from hf_transfer.features import LAST
from hf_transfer.features.depths import layers_at_depths
from hf_transfer.features.extract import extract_features
from hf_transfer.features.reading import model_inputs, pixel_values
from hf_transfer.features.taps import Layers
from hf_transfer.linear_probe.head import check_head, has_bias, write_head
from hf_transfer.linear_probe.labels import labels_of
from hf_transfer.linear_probe.layer_choice import LayerChoice, LayerEvidence, judge_layers, latest_within_one_error
from hf_transfer.linear_probe.probe_file import ProbeHead
from hf_transfer.models.truncation import truncate, truncation_points
from hf_transfer.solvers import ClassWeights, Problem, SolvedHead, solve
from hf_transfer.solvers.joined import distinct, solve_joined
from hf_transfer.solvers.rotation import rotate
from hf_transfer.utils.distributed import on_first_rank
from hf_transfer.utils.foreign import configured

logger = logging.getLogger(__name__)

AUTO, ALL = "auto", "all"
_FLAG = "--allow_probe_file (in Python allow_probe_file=True)"
# Enough images to see a head that is not affine, in one small forward pass.
_CHECKED_IMAGES = 8


@dataclass(frozen=True)
class HeadSolution:
    """A solved head and the model that has it.

    Attributes:
        model: The given model, or a truncated one for an earlier layer.
        solved: The solver's result.
        layer: Which layer, and why.
        largest_difference: Largest difference between the model's own scores and the solver's, on samples.
        probe: The solved head, where no ordinary checkpoint can hold it; the model then has `spare`.
        spare: A head on the last layer, so that the ordinary checkpoint is of use, too.
    """

    model: nn.Module
    solved: SolvedHead
    layer: LayerChoice
    largest_difference: float
    probe: ProbeHead | None = None
    spare: SolvedHead | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of `model` whose features the solved head reads, as `extract_features` calls them."""
        return (LAST,) if self.probe is None else self.probe.layers

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        layer = asdict(self.layer) | {"evidence": [asdict(evidence) for evidence in self.layer.evidence]}
        facts = self.solved.to_dict() | {"layer": layer, "largest_difference": self.largest_difference}
        if self.probe is not None and self.spare is not None:
            facts["probe_file"] = {
                "layers": list(self.probe.layers),
                "ordinary_checkpoint": {"layer": LAST, "held_out_accuracy": self.spare.accuracy},
            }
        return facts


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
    allow_probe_file: bool = False,
    **extraction: Any,
) -> HeadSolution:
    """Compute the features of all images once, solve the head on them, and write it into the model.

    Args:
        model: Its head is changed in place; for an earlier layer a truncated copy gets it instead.
        dataset: As in `extract_features`, with labels.
        processor: As in `extract_features`.
        solver: "logistic", "svm", "ridge" or "sgd".
        layer: "last" is what the model's head reads. A group's name: the model is truncated after it, where its
            configuration can say so. "auto": of the blocks and "last" the one closest to the output whose held-out
            accuracy is within one standard error of the best; so "last", an ordinary checkpoint of the same
            architecture, wins where nothing speaks against it. "all": the features of up to 12 layers, evenly
            spread over the depth, and of the last side by side, which only a probe file can hold.
        class_weights: See `hf_transfer.solvers.solve`.
        classes: Number of classes; None takes what the model's configuration or the labels say.
        seed: Seed for all random draws.
        allow_probe_file: Where no ordinary checkpoint can hold the head, keep it next to one whose head reads the last
            layer; `hf_transfer.load_probe` runs it.
        extraction: Further arguments of `extract_features`.

    Raises:
        ArgumentError: The layer is unknown, or "all" without a probe file.
        DataError: Labels are missing, or features and labels cannot be fitted.
        ModelError: The head is not affine, or the model does not give the solver's scores.
    """
    if layer == ALL and not allow_probe_file:
        raise ArgumentError(
            'layer="all" joins the features of all layers, which no head of an ordinary checkpoint can read. Use '
            f'"auto" or the name of a layer; or {_FLAG}, for a result that needs hf_transfer to load.'
        )
    bias = has_bias(model)
    classes = configured(model, "num_labels") if classes is None else classes
    labels, reading = labels_of(dataset)
    source = FeatureSource(reading, processor, labels, class_weights, classes, seed, allow_probe_file, extraction)
    read = _input_of(model, layer, source)

    options: dict[str, Any] = {"classes": classes, "class_weights": class_weights, "seed": seed}
    own, solved = on_first_rank(lambda: _solve(read, labels(), solver, bias, options))
    images = _samples(dataset, processor)
    write_head(read.model, own.head, images)
    difference = check_head(read.model, images, own.head.scores(np.asarray(read.features[: len(images)])))
    if solved is None:
        return HeadSolution(read.model, own, read.choice, difference)
    return HeadSolution(model, solved, read.choice, difference, ProbeHead(tuple(read.parts), solved.head), spare=own)


def _solve(
    read: HeadInput, labels: Any, solver: str, bias: bool, options: Mapping[str, Any]
) -> tuple[SolvedHead, SolvedHead | None]:
    """The head of the model, and that on the parts where there are any."""
    parts = list(read.parts.values())
    # What the model's own head reads is often one of the parts, which need not be decomposed twice.
    place = next((at for at, part in enumerate(parts) if np.array_equal(part, read.features)), None)
    shared = None
    if len(parts) > 1 and bias and place is not None and solver in ("logistic", "svm"):
        Problem.of(read.features, labels)
        shared = rotate(read.features, dtype=np.float32)
    own = solve(read.features, labels, solver, bias=bias, rotation=shared, **options)
    if not parts:
        return own, None
    known = None if shared is None or place is None else {place: shared}
    return own, solve_joined(parts, labels, solver, known=known, **options)


@dataclass(frozen=True)
class FeatureSource:
    """Where features come from, and how layers are judged."""

    dataset: Any
    processor: Any
    labels: Any
    class_weights: ClassWeights
    classes: int | None
    seed: int
    allow_probe_file: bool
    extraction: Mapping[str, Any]

    def extract(self, model: nn.Module, layers: Layers) -> dict[str, Any]:
        """Features by layer."""
        return extract_features(model, self.dataset, self.processor, layers, **self.extraction)

    def judge(self, found: Mapping[str, Any]) -> tuple[LayerEvidence, ...]:
        """Evidence by layer."""
        evidence: tuple[LayerEvidence, ...] = on_first_rank(
            lambda: judge_layers(found, self.labels(), self.classes, self.class_weights, self.seed)
        )
        return evidence


@dataclass(frozen=True)
class HeadInput:
    """Features that a head is solved on.

    Attributes:
        features: `(images, channels)`: what the model's own head reads.
        choice: Why these.
        model: Whose head can read them.
        parts: Where no head of a checkpoint can read the chosen features, these by layer.
    """

    features: Any
    choice: LayerChoice
    model: nn.Module
    parts: Mapping[str, Any] = field(default_factory=dict)


def _input_of(model: nn.Module, layer: str, source: FeatureSource) -> HeadInput:
    """Features of the layer, why it is that one, and the model whose head reads them."""
    if layer == LAST:
        return HeadInput(source.extract(model, LAST)[LAST], LayerChoice(LAST, LAST, "asked for"), model)
    if layer == ALL:
        return _all_joined(model, source)
    if layer == AUTO:
        return _best_of_all(model, source)
    found = source.extract(model, [layer, LAST])
    return _after(model, layer, LayerChoice(layer, layer, "asked for", source.judge(found)), found, source)


def _all_joined(model: nn.Module, source: FeatureSource) -> HeadInput:
    """The features of all depths side by side, equal ones once."""
    found = source.extract(model, layers_at_depths(model))
    names = list(found)
    parts = {names[place]: found[names[place]] for place in distinct(list(found.values()))}
    return HeadInput(found[LAST], LayerChoice(ALL, ALL, "asked for"), model, parts)


def _best_of_all(model: nn.Module, source: FeatureSource) -> HeadInput:
    """The features of the layer closest to the output that is within one standard error of the best."""
    blocks = [group.name for group in wrap(model).layer_groups if group.role == "block"]
    found = source.extract(model, [*blocks, LAST])
    evidence = source.judge(found)
    wanted = latest_within_one_error(evidence)
    if wanted == LAST:
        return HeadInput(found[LAST], LayerChoice(AUTO, LAST, "no earlier layer is clearly better", evidence), model)
    reason = "the last layer is more than one standard error behind the best"
    return _after(model, wanted, LayerChoice(AUTO, wanted, reason, evidence), found, source)


def _after(
    model: nn.Module, wanted: str, choice: LayerChoice, found: Mapping[str, Any], source: FeatureSource
) -> HeadInput:
    """The features of a model that ends after a layer; else those for a probe file, or of the last layer."""
    try:
        smaller = truncate(model, after=wanted, seed=source.seed)
    except TruncationError as error:
        if source.allow_probe_file:
            why = f"{choice.reason}; no ordinary checkpoint can end there, so it is kept as a probe file"
            return HeadInput(found[LAST], replace(choice, reason=why), model, {wanted: found[wanted]})
        native = _native(model, choice.evidence)
        reason = f"{wanted!r} was wanted, but no ordinary checkpoint can end there: {error}{native}"
        logger.warning("The head reads the last layer: %s %s keeps it, for hf_transfer to load.", reason, _FLAG)
        return HeadInput(found[LAST], replace(choice, layer=LAST, reason=reason), model)
    return HeadInput(source.extract(smaller, LAST)[LAST], choice, smaller)


def _native(model: nn.Module, evidence: Sequence[LayerEvidence]) -> str:
    """The best layer that an ordinary checkpoint can end after."""
    points = {*truncation_points(model), LAST}
    native = [layer for layer in evidence if layer.layer in points]
    best = max(native, key=lambda layer: layer.accuracy)
    return f" The best that one can end at is {best.layer!r} (held-out accuracy {best.accuracy:.3f})."


def _samples(dataset: Any, processor: Any) -> torch.Tensor:
    images = model_inputs(dataset, processor)
    return pixel_values([images[index] for index in range(min(len(images), _CHECKED_IMAGES))])
