"""Which column of a table holds the images and which the labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Array2D, Array3D, ClassLabel, Image, LargeList, List, Value

from hf_transfer.errors import DataError

_IMAGE_NAMES = (
    "image",
    "img",
    "images",
    "pixels",
    "pixel values",
    "picture",
    "photo",
    "file",
    "filename",
    "filepath",
    "path",
    "image path",
    "image file",
    "image filename",
    "image filepath",
    "image bytes",
    "img path",
    "img file",
    "bytes",
    "png",
    "jpg",
)
_LABEL_NAMES = (
    "class",
    "category",
    "target",
    "class name",
    "class label",
    "label name",
    "label text",
    "image label",
    "fine label",
    "y",
)
_LISTS = (List, LargeList, Array2D, Array3D)


def find_image_column(features: Mapping[str, Any], wanted: str | None = None) -> str:
    """Find the column with the images, by its type, then by its name.

    Args:
        features: Column name to feature type, as in `Dataset.features`.
        wanted: The user's choice.

    Raises:
        DataError: The wanted column is missing or holds no images, or there is none, or there are several.
    """
    if wanted is not None:
        _check_present(features, wanted, "image_column")
        if not _can_be_image(features[wanted]):
            raise DataError(
                f"Column {wanted!r} holds {_kind(features[wanted])}, not images: expected images, file paths, bytes "
                f"or arrays of pixels. Choose another with --image_column; {_columns(features)}."
            )
        return wanted
    kinds: tuple[Callable[[Any], bool], ...] = (
        _is_image,
        _is_file_struct,
        _is_binary,
        _is_pixel_list,
        is_text_feature,
    )
    for kind in kinds:
        found = [name for name, feature in features.items() if kind(feature)]
        named = [name for name in found if plain_name(name) in _IMAGE_NAMES]
        candidates = found if kind in (_is_image, _is_file_struct) else named
        chosen = _choose(candidates, ("image", "img"))
        if chosen is not None:
            return chosen
        if candidates:
            raise _ambiguous("image", candidates, features)
    raise DataError(
        f"No column with images was found: {_columns(features)}. Expected images, or file paths in a column called "
        '"image" or "file_name". Name the column with --image_column.'
    )


def find_label_column(features: Mapping[str, Any], wanted: str | None = None, image_column: str | None = None) -> str:
    """Find the column with the labels, by its type, then by its name.

    Args:
        features: Column name to feature type, as in `Dataset.features`.
        wanted: The user's choice.
        image_column: Left out of the search.

    Raises:
        DataError: The wanted column is missing, or there is none, or there are several.
    """
    if wanted is not None:
        _check_present(features, wanted, "label_column")
        return wanted
    others = [name for name in features if name != image_column]
    classes = [name for name in others if isinstance(features[name], ClassLabel)]
    named = [name for name in others if plain_name(name) in ("label", "labels")]
    usual = [name for name in others if plain_name(name) in _LABEL_NAMES]
    for candidates in (classes, named, usual):
        chosen = _choose(candidates, ("label", "labels"))
        if chosen is not None:
            return chosen
        if candidates:
            raise _ambiguous("label", candidates, features)
    raise DataError(
        f'No column with labels was found: {_columns(features)}. Expected one called "label" or "class". Name the '
        "column with --label_column."
    )


def is_image_feature(feature: Any) -> bool:
    """Whether values are stored as `{"bytes", "path"}`."""
    return _is_image(feature) or _is_file_struct(feature)


def is_text_feature(feature: Any) -> bool:
    """Whether values are text: labels, or paths of images."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def _choose(candidates: Sequence[str], preferred: Sequence[str]) -> str | None:
    if len(candidates) == 1:
        return candidates[0]
    for name in preferred:
        same = [candidate for candidate in candidates if plain_name(candidate) == name]
        if len(same) == 1:
            return same[0]
    return None


def plain_name(name: str) -> str:
    """`imagePath`, `image_path` and `Image-Path` alike."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return (
        re.sub(r"[^a-z0-9]+", " ", words.lower())
        .strip()
        .replace("file name", "filename")
        .replace("file path", "filepath")
    )


def _is_image(feature: Any) -> bool:
    return isinstance(feature, Image)


def _is_file_struct(feature: Any) -> bool:
    return isinstance(feature, dict) and {"bytes", "path"} <= set(feature)


def _is_binary(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")


def _is_pixel_list(feature: Any) -> bool:
    return isinstance(feature, _LISTS)


def _can_be_image(feature: Any) -> bool:
    return any(kind(feature) for kind in (_is_image, _is_file_struct, _is_binary, is_text_feature, _is_pixel_list))


def _kind(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, Value) else type(feature).__name__


def _columns(features: Mapping[str, Any]) -> str:
    return f"the columns are {', '.join(f'{name} ({_kind(feature)})' for name, feature in features.items()) or 'none'}"


def _check_present(features: Mapping[str, Any], wanted: str, flag: str) -> None:
    if wanted not in features:
        raise DataError(f"There is no column {wanted!r}, as --{flag} says; {_columns(features)}.")


def _ambiguous(what: str, candidates: Sequence[str], features: Mapping[str, Any]) -> DataError:
    return DataError(
        f"Which column holds the {what}s? It could be {' or '.join(candidates)} ({_columns(features)}). Choose with "
        f"--{what}_column."
    )
