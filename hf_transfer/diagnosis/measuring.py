"""`measure`: one pass over a sample, a shorter one through the random twin, and what they tell."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
from torch import nn
from torch.utils.data import Subset

from hf_transfer.data.preprocessing import output_size
from hf_transfer.diagnosis import comparing
from hf_transfer.diagnosis.data_checks import looks_of, near_duplicates, noise_suspects
from hf_transfer.diagnosis.layer_metric import judged_by, layer_metric, to_expect
from hf_transfer.diagnosis.measurements import ALL, LAST, CurvePoint, DataFindings, LayerMeasurement, Measurements
from hf_transfer.diagnosis.probing import LayerProbe, curve, probe, probe_layers
from hf_transfer.diagnosis.sampling import IntArray, Sample, draw_sample, image_keys, labels_and_names
from hf_transfer.diagnosis.split_difference import FEWEST, matched_rows, split_difference
from hf_transfer.diagnosis.timing import timed
from hf_transfer.diagnosis.twin import CALIBRATION_IMAGES, calibrate, has_statistics, looks_untrained, random_twin
from hf_transfer.errors import DataError, ModelError
from hf_transfer.features.depths import DEPTHS, layers_at_depths
from hf_transfer.features.extract import extract_features
from hf_transfer.features.reading import model_inputs, pixel_values
from hf_transfer.models.image_size import native_image_size
from hf_transfer.models.truncation import truncation_points
from hf_transfer.utils.distributed import on_first_rank

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[Any]

# The twin is asked whether the last layer gains anything at all, which a part of the sample tells.
_TWIN_SHARE = 8
_TWIN_IMAGES = 300
_TWIN_PER_CLASS = 10
_MOST_EVALUATION = 5000
# Images that show size and colour, where there are no evaluation data to compare with.
_LOOKED_AT = 200


def measure(
    model: nn.Module,
    dataset: Any,
    processor: Any = None,
    *,
    evaluation_dataset: Any = None,
    sample: int | None = None,
    seed: int = 0,
    metric: str = "accuracy",
    depths: int = DEPTHS,
    pretrained: bool | None = None,
    cache: bool = True,
    cache_folder: str | Path | None = None,
    cache_gb: float | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    memory_format: str = "auto",
    progress: bool = True,
) -> Measurements:
    """Measure what a decision on the recipe rests on.

    A stratified sample passes through the model once, and a part of it through a twin with random weights. All else is
    linear algebra on what was read on the way. In a process group all ranks must call this; they share the passes, and
    all get the first one's result.

    The result does not depend on the order of images and classes, but for rounding. Only where a data set is no
    `datasets.Dataset` with a column of encoded images, what is drawn depends on the positions of the images, and the
    result on their order by chance alone.

    Args:
        model: An image classifier, whose body is measured; its head may be new. Stays as it is.
        dataset: Training images with labels, as for `hf_transfer.extract_features`.
        processor: As for `hf_transfer.extract_features`.
        evaluation_dataset: Checked for near-duplicates of the sample, and a few hundred of its images for being of the
            same kind; never used for anything else.
        sample: About how many images to measure; None takes 2,000, or 20 a class up to 10,000, but always two a class.
        seed: Seed for all random draws.
        metric: What decides. Layers are judged by accuracy, or for "balanced_accuracy" and "macro_f1" by balanced
            accuracy.
        depths: Most layers to measure, evenly spread over the groups before the head.
        pretrained: Whether the model has pretrained weights; None looks at its norm layers.
        cache: As in `extract_features`. Where the sample is the whole data set, a linear probe on one of these layers
            reads the same features.
        cache_folder: As in `extract_features`.
        cache_gb: As in `extract_features`.
        batch_size: As in `extract_features`.
        workers: As in `extract_features`.
        memory_format: As in `extract_features`.
        progress: As in `extract_features`.

    Raises:
        ArgumentError: A number is not as described.
        DataError: Labels are missing, there are fewer than two classes, no class has two images, or features are not
            finite.
        LayerGroupError: The model has no head.
    """
    metric = layer_metric(metric)
    names = layers_at_depths(model, depths)
    labels, class_names = labels_and_names(dataset, model)
    drawn = draw_sample(dataset, labels, class_names, sample, seed)
    options: dict[str, Any] = {
        "cache": cache,
        "cache_folder": cache_folder,
        "cache_gb": cache_gb,
        "batch_size": batch_size,
        "workers": workers,
        "memory_format": memory_format,
        "progress": progress,
    }
    started = time.perf_counter()
    features = features_of(model, dataset, processor, drawn.rows, names, drawn.is_all, options)
    seconds = time.perf_counter() - started
    pretrained = not looks_untrained(model) if pretrained is None else pretrained
    twin_rows = drawn.first(max(len(drawn.rows) // _TWIN_SHARE, _TWIN_IMAGES, _TWIN_PER_CLASS * len(drawn.names)))
    random = None
    if pretrained:
        random = twin_features(model, dataset, processor, drawn, twin_rows, names, seed, options)
    compared = evaluation_features(model, evaluation_dataset, processor, labels[drawn.rows], seed, options)
    costs = timed(model, dataset, processor, drawn.rows.tolist(), seconds / len(drawn.rows)).costs(drawn.total)

    def conclude() -> Measurements:
        probes = judge(features, drawn.labels, len(drawn.names), seed)
        twin = judge_twin(features, probes, random or {}, drawn.labels, twin_rows, len(drawn.names), seed)
        part = drawn.labels[twin_rows]
        twin = {name: (judged_by(metric, a, part), judged_by(metric, b, part)) for name, (a, b) in twin.items()}
        native = {LAST, *truncation_points(model)}
        found = _measurements(drawn, features, probes, twin, native, seed, metric)
        data = find_in_data(dataset, drawn, features[_best(probes)], evaluation_dataset, _input_edge(model, processor))
        if compared is not None:
            difference = split_difference(features[LAST][compared[0]], compared[1], seed)
            data = replace(data, split_difference=difference)
        ends = [each for name, each in probes.items() if name in native]
        later = None if evaluation_dataset is None else len(evaluation_dataset)
        expected = to_expect(metric, ends, drawn.labels, later)
        return replace(found, data=data, costs=costs, pretrained=pretrained, expected=expected)

    return on_first_rank(conclude)


def features_of(
    model: nn.Module,
    dataset: Any,
    processor: Any,
    rows: IntArray,
    layers: Sequence[str],
    is_all: bool,
    options: Mapping[str, Any],
) -> dict[str, FloatArray]:
    """Features of some images, in the order of `rows`; read in that of the data set, as by any other user."""
    order = np.sort(rows)
    part = dataset if is_all else rows_of(dataset, order)
    found = extract_features(model, part, processor, layers, **options)
    wrong = [name for name, values in found.items() if not np.isfinite(values).all()]
    if wrong:
        raise DataError(
            f"The features of the layers {', '.join(wrong)} are not finite (NaN or infinite). Look for broken "
            "weights, or for pixel values that are not finite."
        )
    places = np.searchsorted(order, rows)
    return {name: np.asarray(values[places], np.float32) for name, values in found.items()}


def twin_features(
    model: nn.Module,
    dataset: Any,
    processor: Any,
    drawn: Sample,
    twin_rows: IntArray,
    layers: Sequence[str],
    seed: int,
    options: Mapping[str, Any],
) -> dict[str, FloatArray] | None:
    """Features of the random twin; None where it cannot be made, with a warning."""
    try:
        twin = random_twin(model, seed)
    except ModelError as error:
        logger.warning("Similarity is not measured, as there is no random twin to compare with: %s", error)
        return None
    rows = drawn.rows[twin_rows]
    if has_statistics(twin):
        inputs = model_inputs(dataset, processor)
        few = pixel_values([inputs[int(row)] for row in rows[:CALIBRATION_IMAGES]])
        calibrate(twin, few.to(next(twin.parameters()).device))
    try:
        return features_of(twin, dataset, processor, rows, layers, len(rows) == drawn.total, options)
    except DataError as error:  # random weights can make activations overflow
        logger.warning("Similarity is not measured, as the random twin is of no use: %s", error)
        return None


def evaluation_features(
    model: nn.Module,
    evaluation_dataset: Any,
    processor: Any,
    labels: IntArray,
    seed: int,
    options: Mapping[str, Any],
) -> tuple[IntArray, FloatArray] | None:
    """Places in the sample, and features of the last layer of as many evaluation images of the same classes.

    None where there are none to compare, with a warning where they cannot be read as the training images are.
    """
    if evaluation_dataset is None:
        return None
    try:
        there = labels_and_names(evaluation_dataset, model)[0]
        order = np.argsort(image_keys(evaluation_dataset, len(there), seed), kind="stable")
        ours, found = matched_rows(labels, there[order])
        theirs = order[found]
        if len(theirs) < FEWEST:
            return None
        is_all = len(theirs) == len(evaluation_dataset)
        return ours, features_of(model, evaluation_dataset, processor, theirs, [LAST], is_all, options)[LAST]
    except DataError as error:
        logger.warning("Evaluation and training images are not compared: %s", error)
        return None


def rows_of(dataset: Any, rows: IntArray) -> Any:
    """Some images of a data set."""
    if isinstance(dataset, datasets.Dataset):
        return dataset.select(rows.tolist())
    return Subset(dataset, rows.tolist())


def judge(features: Mapping[str, FloatArray], labels: IntArray, classes: int, seed: int) -> dict[str, LayerProbe]:
    """A linear classifier on each layer, and on all of them joined."""
    found, joined = probe_layers(list(features.values()), labels, classes, seed)
    probes = dict(zip(features, found, strict=True))
    if len(probes) > 1:
        probes[ALL] = probe(joined, labels, classes, seed, standardise=False)
    return probes


def _probed(features: Mapping[str, FloatArray], labels: IntArray, classes: int, seed: int) -> dict[str, LayerProbe]:
    if not features:
        return {}
    return dict(zip(features, probe_layers(list(features.values()), labels, classes, seed)[0], strict=True))


def judge_twin(
    features: Mapping[str, FloatArray],
    probes: Mapping[str, LayerProbe],
    random: Mapping[str, FloatArray],
    labels: IntArray,
    twin_rows: IntArray,
    classes: int,
    seed: int,
) -> dict[str, tuple[LayerProbe, LayerProbe]]:
    """By layer, a linear classifier on the twin's features and one on the model's own, of the same images."""
    part = labels[twin_rows]
    own = dict(probes)
    if len(part) < len(labels):
        own = _probed({name: features[name][twin_rows] for name in random}, part, classes, seed)
    return {name: (found, own[name]) for name, found in _probed(random, part, classes, seed).items()}


def find_in_data(
    dataset: Any, drawn: Sample, features: FloatArray, evaluation_dataset: Any, edge: int | None
) -> DataFindings:
    """What is noticed in the data: of labels by the best layer's features, of images by their thumbnails."""
    suspected = noise_suspects(features, drawn.labels, len(drawn.names))
    doubtful = np.flatnonzero(suspected >= 0)
    looks = looks_of(dataset, drawn.rows if evaluation_dataset is not None else drawn.rows[:_LOOKED_AT])
    checked, pairs = 0, []
    if evaluation_dataset is not None and looks is not None:
        rows = np.argsort(image_keys(evaluation_dataset, len(evaluation_dataset), 0), kind="stable")[:_MOST_EVALUATION]
        others = looks_of(evaluation_dataset, rows)
        if others is not None:
            checked = len(rows)
            pairs = [(int(drawn.rows[a]), int(rows[b])) for a, b in near_duplicates(looks, others)]
    return DataFindings(
        class_counts=dict(zip(drawn.names, drawn.counts.tolist(), strict=True)),
        noise_suspects=tuple(sorted((int(drawn.rows[i]), drawn.names[suspected[i]]) for i in doubtful)),
        duplicates=tuple(sorted(pairs)),
        checked_evaluation_images=checked,
        small_images=float(looks.smaller_than(edge).mean()) if looks is not None and edge else 0.0,
        grey_images=float(looks.grey.mean()) if looks is not None else 0.0,
    )


def _measurements(
    drawn: Sample,
    features: Mapping[str, FloatArray],
    probes: Mapping[str, LayerProbe],
    twin: Mapping[str, tuple[LayerProbe, LayerProbe]],
    native: Collection[str],
    seed: int,
    metric: str,
) -> Measurements:
    plain, probes = probes, {name: judged_by(metric, found, drawn.labels) for name, found in probes.items()}
    best = _best(probes)
    points = curve(features[best], drawn.labels, len(drawn.names), plain[best], seed)
    points = [judged_by(metric, each, drawn.labels) for each in points]
    earlier = [found for name, found in probes.items() if name != ALL and found is not probes[LAST]]
    random = [found for found, _ in twin.values()]
    return Measurements(
        images=drawn.total,
        sample=len(drawn.rows),
        classes=len(drawn.names),
        smallest_class=int(drawn.counts.min()),
        estimate=probes[LAST].estimate,
        layers=tuple(_layer(name, probes, twin, features, name in native) for name in probes),
        gain_over_random=comparing.gain_over_random(twin[LAST][1], random, seed) if LAST in twin else None,
        gain_of_earlier=comparing.gain_of_earlier(probes[LAST], earlier, seed) if earlier else None,
        curve=tuple(CurvePoint(each.fitted, each.accuracy, each.standard_error) for each in points),
        slope=comparing.slope(points[-2], points[-1], seed) if len(points) > 1 else None,
        gap=probes[best].train_accuracy - probes[best].accuracy,
        data=DataFindings({}),
        seed=seed,
        twin_sample=len(random[0].hits) if random else 0,
        metric=metric,
    )


def _layer(
    name: str,
    probes: Mapping[str, LayerProbe],
    twin: Mapping[str, tuple[LayerProbe, LayerProbe]],
    features: Mapping[str, FloatArray],
    native: bool,
) -> LayerMeasurement:
    found = probes[name]
    behind, error = comparing.paired_difference(probes[_best(probes)], found)
    random, matched = twin.get(name, (None, None))
    channels = {each: values.shape[1] for each, values in features.items()}
    return LayerMeasurement(
        layer=name,
        channels=sum(channels.values()) if name == ALL else channels[name],
        accuracy=max(found.accuracy, 0.0),  # weighted means may be below by rounding
        standard_error=found.standard_error,
        train_accuracy=found.train_accuracy,
        behind_best=behind,
        behind_best_error=error,
        random_accuracy=None if random is None else random.accuracy,
        matched_accuracy=None if matched is None else matched.accuracy,
        native=native,
    )


def _best(probes: Mapping[str, LayerProbe]) -> str:
    """The best single layer; of equals the first."""
    return max((name for name in probes if name != ALL), key=lambda name: probes[name].accuracy)


def _input_edge(model: nn.Module, processor: Any) -> int | None:
    """Shorter edge of the images that the model gets, in pixels."""
    sizes = output_size(processor) if processor is not None else native_image_size(model)
    known = [size for size in sizes or () if size is not None]
    return min(known) if known else None
