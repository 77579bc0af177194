"""What a diagnosis measures, as plain data: accuracy by depth, similarity, size, data, cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hf_transfer.errors import ArgumentError

LAST = "last"
ALL = "all"


@dataclass(frozen=True)
class MeasuredInterval:
    """A measured value and its confidence interval of 95 %."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.low <= self.value <= self.high):
            raise ArgumentError(f"An interval needs low <= value <= high, all finite; found {self}.")


@dataclass(frozen=True)
class LayerMeasurement:
    """How well a linear classifier on the pooled activations of one layer does.

    Attributes:
        layer: Name of a layer group, "last" for what the model's head reads, or "all" for all of these joined.
        channels: Number of features.
        accuracy: On held-out images, of 1.
        standard_error: Standard error of that accuracy.
        train_accuracy: On the images that the classifier was fitted to.
        behind_best: By how much it is behind the best layer, over the same images; "all" is not among those compared.
        behind_best_error: Standard error of that paired difference.
        random_accuracy: Accuracy of the same layer of the randomly initialised twin, on `Measurements.twin_sample`
            images; None where it was not measured.
        matched_accuracy: Accuracy of this layer on those same images, for comparison; None as before.
        native: Whether an ordinary checkpoint can end here.
    """

    layer: str
    channels: int
    accuracy: float
    standard_error: float
    train_accuracy: float
    behind_best: float
    behind_best_error: float
    random_accuracy: float | None = None
    matched_accuracy: float | None = None
    native: bool = True

    def __post_init__(self) -> None:
        for name in ("accuracy", "train_accuracy"):
            if not 0 <= vars(self)[name] <= 1:
                raise ArgumentError(f"{name} of layer {self.layer!r} must be in 0 to 1, found {vars(self)[name]}.")


@dataclass(frozen=True)
class CurvePoint:
    """Held-out accuracy of a linear classifier that was fitted to `images` images."""

    images: int
    accuracy: float
    standard_error: float


@dataclass(frozen=True)
class DataFindings:
    """What was noticed in the data themselves.

    Attributes:
        class_counts: Training images of each class, by name.
        noise_suspects: Training images whose nearest neighbours agree on another label: index and that label's name.
        duplicates: Pairs of near-duplicates, one in training and one in evaluation data: their indices. A leak.
        checked_evaluation_images: How many evaluation images were compared; 0 where there are none.
        small_images: Share of images whose shorter side is less than half the model's input.
        grey_images: Share of images without colour.
        split_difference: How well a linear classifier tells evaluation from training images: the area under its curve,
            0.5 where not at all; None where they were not compared.
    """

    class_counts: Mapping[str, int]
    noise_suspects: tuple[tuple[int, str], ...] = ()
    duplicates: tuple[tuple[int, int], ...] = ()
    checked_evaluation_images: int = 0
    small_images: float = 0.0
    grey_images: float = 0.0
    split_difference: MeasuredInterval | None = None


@dataclass(frozen=True)
class PassCosts:
    """Measured throughput and what candidate recipes would cost with it, on this machine.

    Attributes:
        forward_seconds: Seconds of one forward pass of one image, decoding included.
        train_seconds: Seconds of one training step's share of one image, all layers trained.
        recipes: Expected seconds of each candidate recipe by its name.
    """

    forward_seconds: float
    train_seconds: float
    recipes: Mapping[str, float]


@dataclass(frozen=True)
class Measurements:
    """All that the decision rests on.

    Attributes:
        images: Training images there are.
        sample: Training images that were measured.
        classes: Number of classes.
        smallest_class: Images of the smallest class in the full training data.
        estimate: How accuracies were estimated, in words.
        layers: From input to output; "last" after all groups, "all" at the very end.
        gain_over_random: Similarity: what the last layer gains over the best layer of the random twin, as share of
            what that one gets wrong; None for a model without pretrained weights, where it has no meaning.
        gain_of_earlier: Accuracy of the best earlier layer minus that of the last, over the same images.
        curve: Accuracy by number of training images, rising, the last at the sample's full size.
        slope: Share of the errors that the last doubling of the images took away.
        gap: Training accuracy minus held-out accuracy at the full size.
        data: What was noticed in the data.
        costs: What candidates would cost; None where nothing was timed.
        pretrained: Whether the model has pretrained weights.
        seed: Seed for all random draws.
        twin_sample: Images of the sample that the random twin was compared on: fewer than `sample` where a second full
            pass would be too dear, and then "last", too, is fitted to no more than these for `gain_over_random`.
        metric: What the layers' scores are: "accuracy" or "balanced_accuracy".
        expected: What to expect on other images of the best linear classifier that is an ordinary checkpoint, its
            choice allowed for; on as many as the evaluation split has where that is known. None in older ones.
    """

    images: int
    sample: int
    classes: int
    smallest_class: int
    estimate: str
    layers: tuple[LayerMeasurement, ...]
    gain_over_random: MeasuredInterval | None
    gain_of_earlier: MeasuredInterval | None
    curve: tuple[CurvePoint, ...]
    slope: MeasuredInterval | None
    gap: float
    data: DataFindings
    costs: PassCosts | None = None
    pretrained: bool = True
    seed: int = 0
    twin_sample: int = 0
    metric: str = "accuracy"
    expected: MeasuredInterval | None = None

    def __post_init__(self) -> None:
        if self.classes < 2 or self.images < self.sample or self.sample < self.classes:
            raise ArgumentError(
                "Measurements need at least two classes, a sample no larger than the data, and an image of each "
                f"class in it; found {self.classes} classes, {self.images} images and a sample of {self.sample}."
            )
        if not any(layer.layer == LAST for layer in self.layers):
            raise ArgumentError('Measurements need the layer "last", which the model\'s head reads.')

    @property
    def images_per_class(self) -> float:
        """Mean number of training images of a class."""
        return self.images / self.classes

    def layer(self, name: str) -> LayerMeasurement:
        """The measurement of one layer.

        Raises:
            ArgumentError: It was not measured.
        """
        found = next((layer for layer in self.layers if layer.layer == name), None)
        if found is None:
            names = ", ".join(layer.layer for layer in self.layers)
            raise ArgumentError(f"The layers that were measured are {names}; found {name!r}.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurements:
        """The inverse of `to_dict`.

        Raises:
            ArgumentError: A field is missing, unknown, or not as described.
        """
        known = {field.name for field in fields(cls)}
        if not known >= set(data):
            raise ArgumentError(f"Measurements have the fields {sorted(known)}; found {sorted(set(data) - known)}.")
        values = dict(data)
        try:
            values["layers"] = tuple(LayerMeasurement(**layer) for layer in data["layers"])
            values["curve"] = tuple(CurvePoint(**point) for point in data["curve"])
            for name in ("gain_over_random", "gain_of_earlier", "slope"):
                values[name] = None if data[name] is None else MeasuredInterval(**data[name])
            findings = dict(data["data"])
            for name in ("noise_suspects", "duplicates"):
                findings[name] = tuple(tuple(pair) for pair in findings.get(name, ()))
            if findings.get("split_difference") is not None:
                findings["split_difference"] = MeasuredInterval(**findings["split_difference"])
            values["data"] = DataFindings(**findings)
            if data.get("expected") is not None:
                values["expected"] = MeasuredInterval(**data["expected"])
            values["costs"] = None if data.get("costs") is None else PassCosts(**data["costs"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ArgumentError(f"These are no measurements: {error}.") from error
