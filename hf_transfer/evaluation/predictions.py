"""Predictions as a Parquet file, and the mistakes that are worth looking at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_transfer.errors import DataError, OutputError
from hf_transfer.evaluation.results import check_label_names
from hf_transfer.evaluation.scores import TOP_K, FloatArray, check_predictions, log_softmax, row_blocks, score_images
from hf_transfer.utils.files import replacing

_ALL_PROBABILITIES_CLASSES = 100


def most_confident_errors(logits: npt.ArrayLike, labels: npt.ArrayLike, limit: int = 12) -> tuple[int, ...]:
    """Indices of the wrong predictions of highest confidence, most confident first.

    Args:
        logits: `(images, classes)`.
        labels: Class indices `(images,)`.
        limit: Largest number of indices; 12 fill one figure.
    """
    scores = score_images(logits, labels)
    wrong = np.flatnonzero(~scores.correct)
    order = np.argsort(-scores.confidences[wrong], kind="stable")[:limit]
    return tuple(int(i) for i in wrong[order])


def write_predictions(
    path: Path | str,
    names: Sequence[str],
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    label_names: Sequence[str],
) -> None:
    """Write one row per image: name, label, prediction, confidence, correct and probabilities.

    `probabilities` is a list of one float32 for each class, in the order of `label_names`. With more than 100 classes
    `top5_labels` and `top5_probabilities`, most probable first, stand in its place. The label names are also in the
    schema's metadata, as JSON under `label_names`. The file appears complete or not at all.

    Args:
        path: The file to write; an existing one is replaced.
        names: What to call each image; of an absolute path only the file's name is kept, since results are published.
        logits: `(images, classes)`.
        labels: Class indices `(images,)`.
        label_names: One name for each class, in the order of the logits.

    Raises:
        DataError: The arguments do not fit each other.
        NonFiniteLossError: Some logits are NaN or infinite.
        OutputError: The file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    scores, targets = check_predictions(logits, labels)
    check_label_names(label_names, scores.shape[1])
    if len(names) != len(targets):
        raise DataError(f"Expected a name for each of {len(targets)} images, found {len(names)}.")
    schema = _schema(scores.shape[1], label_names)
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for rows in row_blocks(*scores.shape):
                columns = _columns(
                    names[rows], np.exp(log_softmax(scores[rows])), targets[rows], label_names, scores[rows]
                )
                writer.write_table(pa.table(columns, schema=schema))
    except OSError as error:
        raise OutputError(
            f"Cannot write the predictions to {target}: {error}. Check space and permissions."
        ) from error


def _schema(classes: int, label_names: Sequence[str]) -> Any:
    import pyarrow as pa

    fields = [
        ("name", pa.string()),
        ("label", pa.string()),
        ("prediction", pa.string()),
        ("confidence", pa.float32()),
        ("correct", pa.bool_()),
    ]
    if classes <= _ALL_PROBABILITIES_CLASSES:
        fields.append(("probabilities", pa.list_(pa.float32(), classes)))
    else:
        fields += [
            ("top5_labels", pa.list_(pa.string(), TOP_K)),
            ("top5_probabilities", pa.list_(pa.float32(), TOP_K)),
        ]
    return pa.schema(fields, metadata={"label_names": json.dumps(list(label_names), ensure_ascii=False)})


def _columns(
    names: Sequence[str],
    probabilities: FloatArray,
    labels: npt.NDArray[np.int64],
    label_names: Sequence[str],
    logits: npt.NDArray[np.floating],
) -> dict[str, Any]:
    # From the logits: probabilities of very confident classes can be equal after rounding.
    predictions = logits.argmax(axis=1)
    columns: dict[str, Any] = {
        "name": [_without_folder(name) for name in names],
        "label": [label_names[i] for i in labels],
        "prediction": [label_names[i] for i in predictions],
        "confidence": probabilities[np.arange(len(labels)), predictions].astype(np.float32),
        "correct": predictions == labels,
    }
    if len(label_names) <= _ALL_PROBABILITIES_CLASSES:
        columns["probabilities"] = list(probabilities.astype(np.float32))
    else:
        top = np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K]
        columns["top5_labels"] = [[label_names[i] for i in row] for row in top]
        columns["top5_probabilities"] = list(np.take_along_axis(probabilities, top, axis=1).astype(np.float32))
    return columns


def _without_folder(name: str) -> str:
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(name).is_absolute():
            return kind(name).name
    return name
