"""`load_images`: from the name of a data set to checked splits that are ready for training."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low

import PIL.Image
from datasets import ClassLabel, Dataset, List, Value

from hf_transfer.data.checking import CheckedImage, check_images, good_rows
from hf_transfer.data.choosing import Wanted
from hf_transfer.data.columns import find_image_column, find_label_column
from hf_transfer.data.encoded import encoded_images, image_names
from hf_transfer.data.files import HEIF, HEIF_SUFFIXES
from hf_transfer.data.image_data import ImageData, SkippedImage
from hf_transfer.data.images import RANGE_COLUMN
from hf_transfer.data.labels import check_classes, check_known, check_none_missing, read_labels, shown, sorted_names
from hf_transfer.data.pixels import common_range, described
from hf_transfer.data.raw import RawData, RawSplit
from hf_transfer.data.sources import read_source
from hf_transfer.data.spelling import normalised, spellings, warn_of_missing, warn_of_normalised
from hf_transfer.data.split_column import rows_by_folder, rows_by_split
from hf_transfer.data.splits import TEST, TRAIN, VALIDATION, evaluation_split_of, stratified_fifth
from hf_transfer.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Split:
    """Some rows of a table of images, with their labels, names and checks.

    The table stays whole: `datasets` would copy the images of a part to add columns to it.
    """

    table: Dataset
    rows: tuple[int, ...]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    checked: tuple[CheckedImage, ...] = ()

    def select(self, positions: Sequence[int]) -> _Split:
        return _Split(
            self.table,
            tuple(self.rows[position] for position in positions),
            tuple(self.labels[position] for position in positions),
            tuple(self.names[position] for position in positions),
            tuple(self.checked[position] for position in positions),
        )

    def finish(self, label_names: Sequence[str], pixel_range: tuple[float, float] | None) -> Dataset:
        index_of = {name: index for index, name in enumerate(label_names)}
        labels, names = [-1] * len(self.table), [""] * len(self.table)
        for row, label, name in zip(self.rows, self.labels, self.names, strict=True):
            labels[row], names[row] = index_of[label], name
        table = self.table.add_column("label", labels, feature=ClassLabel(names=list(label_names)))
        table = table.add_column("name", names, feature=Value("string"))
        if pixel_range is not None:
            ranges = [list(pixel_range)] * len(table)
            table = table.add_column(RANGE_COLUMN, ranges, feature=List(Value("float64")))
        return table if len(self.rows) == len(table) else table.select(self.rows)


def load_images(
    dataset: str,
    *,
    labels: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    split_seed: int = 42,
    skip_bad_images: bool = False,
    revision: str | None = None,
    config_name: str | None = None,
    label_names: Sequence[str] | None = None,
    require_train: bool = True,
    similar_labels: str | None = None,
    pixel_range: tuple[float, float] | None = None,
    max_image_pixels: int | None = None,
) -> ImageData:
    """Load, check and split labelled images.

    The evaluation split is `validation` if there is one, else `test`, else a stratified fifth of `train`. Every image
    is decoded once, so that a damaged file shows now and not after hours of training.

    Args:
        dataset: Hub id; image folder (`class/file.jpg`, or `train/class/...` with `validation`, `val`, `valid`, `dev`
            or `test`); CSV, JSON Lines or Parquet file with image and label columns, its paths relative to the file; a
            folder of such files named by split; or a folder written by `save_to_disk`.
        labels: Where the labels of a folder are: "folders" or "table". Default: found out; an error asks if both could
            be.
        image_column: Column of the images. Default: found by its type and name.
        label_column: Column of the labels. Default: found by its type and name.
        split_seed: Seed of the stratified fifth.
        skip_bad_images: Go on even if more than 1 % of the images of a split cannot be read.
        revision: Branch, tag or commit of a Hub data set.
        config_name: Configuration of a Hub data set.
        label_names: A model's labels, in the order of its class indices, which the data are mapped onto by name.
            Default: those of the data, as a `ClassLabel` orders them, else sorted.
        require_train: False to evaluate only: there may be no `train`, and a single file called `test.csv` is the test
            split. A single split that is not named is a `train`, and a fifth of it is for evaluation.
        similar_labels: What to do with labels that differ only in case, width or underscores, such as "Cat" and "cat":
            "merge" makes one class of them, spelt as most images of `train` are; "keep" keeps them apart. Default: an
            error that names them. Blanks and the form of Unicode never make a class of their own.
        pixel_range: Range from which grey images of more than 8 bits are scaled, as when a model was trained. Default:
            that of the training images.
        max_image_pixels: Images of more pixels are refused; holds for the whole process. Default: Pillow's limit, 179
            million.

    Raises:
        DataError: The data cannot be found or used; the message says what to do.
    """
    wanted = Wanted(labels, image_column, label_column, require_train, frozenset(map(normalised, label_names or ())))
    raw = read_source(dataset, wanted, revision=revision, config_name=config_name)
    splits, declared = _in_one_spelling(*_aligned(raw, image_column, label_column), similar_labels, label_names)
    _check_splits(raw, splits, require_train)
    _check_labels(splits, label_names, require_train)
    if max_image_pixels is not None:
        PIL.Image.MAX_IMAGE_PIXELS = max_image_pixels // 2  # Pillow refuses above twice this number
    checked, skipped = _without_bad_images(splits, skip_bad_images)
    _check_labels(checked, label_names, require_train)
    divided, evaluation_split = _divided(checked, split_seed)
    names = _class_names(divided, declared) if label_names is None else tuple(label_names)
    counts = {
        evaluation_split if split == VALIDATION else split: _counts(part.labels, names)
        for split, part in divided.items()
    }
    _warn(divided, names, evaluation_split)
    pixel_range = _pixel_range(divided, pixel_range)
    finished = {split: part.finish(names, pixel_range) for split, part in divided.items()}
    return ImageData(
        train=finished.get(TRAIN),
        validation=finished.get(VALIDATION),
        test=finished.get(TEST),
        evaluation_split=evaluation_split,
        label_names=names,
        name=raw.name,
        hub_id=raw.hub_id,
        revision=raw.revision,
        fingerprint=_fingerprint(divided, names),
        skipped=skipped,
        counts=counts,
        median_size=_median_size(divided),
        pixel_range=pixel_range,
        pixels=described(_kinds(divided), pixel_range),
    )


load = load_images
"""The short name inside of the package, where it is clear what is loaded."""


def _check_splits(raw: RawData, splits: Mapping[str, _Split], require_train: bool) -> None:
    if require_train and TRAIN not in splits:
        raise DataError(f"{raw.name} has no train split, only {' and '.join(splits)}. Expected one called train.")


def _aligned(
    raw: RawData, image_column: str | None, label_column: str | None
) -> tuple[dict[str, _Split], tuple[str, ...] | None]:
    """Images, labels and names of each split, and the class names that the first split declares."""
    first = next(iter(raw.splits.values())).table.features
    images = find_image_column(first, image_column)
    labels = find_label_column(first, label_column, images)
    splits: dict[str, _Split] = {}
    declared = None
    changed: Counter[tuple[str, str]] = Counter()
    for split, part in raw.splits.items():
        if len(part.table) == 0:
            raise DataError(f"The {split} split of {raw.name} is empty. Fill it or remove it.")
        if split == TEST and len(raw.splits) > 1 and not _has_labels(part, labels, label_column):
            logger.warning("The test split of %s has no column of labels: it is left out.", raw.name)
            continue
        _check_columns(split, part, (images, labels))
        names = image_names(part, images, split)
        _warn_of_heif(split, names)
        read = read_labels(part.table, labels)
        table = None
        rows_of = _divided_by_table(raw, part, (images, labels), names) or {split: tuple(range(len(names)))}
        for name, rows in rows_of.items():
            values = [read.values[row] for row in rows]
            if name == TEST and max(len(raw.splits), len(rows_of)) > 1 and not any(v is not None for v in values):
                logger.warning("The test split of %s has no labels: it is left out.", raw.name)
                continue
            named = tuple(names[row] for row in rows)
            check_none_missing(name, values, named)
            table = table or encoded_images(part, images)
            splits[name] = _Split(table, rows, tuple(value for value in values if value is not None), named)
        declared = declared or read.declared
        changed.update(read.changed)
    warn_of_normalised(changed)
    return splits, declared


def _divided_by_table(
    raw: RawData, part: RawSplit, taken: tuple[str, str], names: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """The rows of each split, if the table of an only split names splits itself."""
    if len(raw.splits) > 1 or part.names is not None:
        return {}
    return rows_by_split(part.table, taken) or (rows_by_folder(names) if part.folder is not None else {})


def _has_labels(part: RawSplit, column: str, wanted: str | None) -> bool:
    """Whether a split has the column of labels, or another one that could be meant."""
    if column in part.table.features or wanted is not None:
        return column in part.table.features
    try:
        find_label_column(part.table.features)
    except DataError:
        return False
    return True


def _check_columns(split: str, part: RawSplit, wanted: Sequence[str]) -> None:
    for column in wanted:
        if column not in part.table.features:
            raise DataError(
                f"The {split} split has no column {column!r}; its columns are {', '.join(part.table.features)}. Call "
                "the columns the same in all splits."
            )


def _in_one_spelling(
    splits: Mapping[str, _Split],
    declared: tuple[str, ...] | None,
    similar: str | None,
    label_names: Sequence[str] | None,
) -> tuple[dict[str, _Split], tuple[str, ...] | None]:
    """The splits and the declared names, with labels that look alike as one."""
    labels = {split: part.labels for split, part in splits.items()}
    if label_names is None and declared is None:
        warn_of_missing(Counter(label for values in labels.values() for label in values))
    new = spellings(labels, similar, label_names)
    if not new:
        return dict(splits), declared
    renamed = {
        split: replace(part, labels=tuple(new.get(label, label) for label in part.labels))
        for split, part in splits.items()
    }
    return renamed, None if declared is None else tuple(dict.fromkeys(new.get(name, name) for name in declared))


def _check_labels(splits: Mapping[str, _Split], label_names: Sequence[str] | None, require_train: bool) -> None:
    labels = {split: part.labels for split, part in splits.items()}
    if label_names is not None:
        check_known(labels, label_names)
    elif require_train:
        check_classes(labels)


def _without_bad_images(
    splits: Mapping[str, _Split], skip_bad_images: bool
) -> tuple[dict[str, _Split], tuple[SkippedImage, ...]]:
    good: dict[str, _Split] = {}
    skipped: list[SkippedImage] = []
    for split, part in splits.items():
        whole = len(part.rows) == len(part.table)
        checked = check_images(part.table if whole else part.table.select(part.rows), split)
        rows, bad = good_rows(split, part.names, checked, skip_bad_images)
        good[split] = replace(part, checked=tuple(checked)).select(rows)
        skipped.extend(bad)
    return good, tuple(skipped)


def _divided(splits: Mapping[str, _Split], seed: int) -> tuple[dict[str, _Split], str]:
    """The splits under the names of `ImageData`'s attributes, and what the evaluation split is."""
    chosen = evaluation_split_of(splits)
    if chosen is not None:
        rest = {split: part for split, part in splits.items() if split != chosen}
        order = {TRAIN: rest.get(TRAIN), VALIDATION: splits[chosen], TEST: rest.get(TEST)}
        return {split: part for split, part in order.items() if part is not None}, chosen
    whole = splits[TRAIN]
    division = stratified_fifth(whole.labels, [image.digest for image in whole.checked], seed)
    if not division.evaluation:
        raise DataError(
            f"A fifth of the images of each class is set aside for evaluation, but each of the {len(whole.labels):,} "
            "images is the only one of its class. Add images, or a validation split."
        )
    if division.undivided:
        logger.warning(
            "With a single image these classes stay in train and are not evaluated: %s.",
            shown(sorted_names(division.undivided)),
        )
    parts = {TRAIN: whole.select(division.train), VALIDATION: whole.select(division.evaluation)}
    return parts, f"train[stratified fifth, seed {seed}]"


def _class_names(splits: Mapping[str, _Split], declared: tuple[str, ...] | None) -> tuple[str, ...]:
    used = sorted_names(label for part in splits.values() for label in part.labels)
    if declared is None or not set(used) <= set(declared):
        return used
    without = [name for name in declared if name not in set(used)]
    if without:
        logger.warning("%d of %d classes have no images at all: %s.", len(without), len(declared), shown(without))
    return declared


def _warn(splits: Mapping[str, _Split], names: Sequence[str], evaluation_split: str) -> None:
    evaluation = splits[VALIDATION]
    trained = splits[TRAIN].labels if TRAIN in splits else names
    lacking = set(trained) - set(evaluation.labels)
    undivided = {label for label, count in Counter(trained).items() if count == 1}
    lacking -= undivided if evaluation_split.startswith(f"{TRAIN}[") else set()
    if lacking:
        logger.warning(
            "%d of %d classes have no images in %s and cannot be measured there: %s.",
            len(lacking),
            len(names),
            evaluation_split,
            shown(sorted_names(lacking)),
        )
    if TRAIN not in splits:
        return
    _warn_of_two_labels(splits)
    seen = {image.digest for image in splits[TRAIN].checked}
    for split, part in splits.items():
        copies = sum(image.digest in seen for image in part.checked)
        if split != TRAIN and copies:
            logger.warning(
                "%d of the %d images in %s are also in train, byte for byte: its scores are too good.",
                copies,
                len(part.checked),
                evaluation_split if split == VALIDATION else split,
            )


def _warn_of_two_labels(splits: Mapping[str, _Split]) -> None:
    first: dict[bytes, str] = {}
    twice: dict[bytes, str] = {}
    for part in splits.values():
        for image, label, name in zip(part.checked, part.labels, part.names, strict=True):
            if first.setdefault(image.digest, label) != label:
                twice.setdefault(image.digest, name)
    if twice:
        logger.warning(
            "%d images are there with several labels, byte for byte: %s.", len(twice), shown(list(twice.values()))
        )


def _warn_of_heif(split: str, names: Sequence[str]) -> None:
    count = sum(name.lower().endswith(tuple(HEIF_SUFFIXES)) for name in names)
    if count and not HEIF:
        logger.warning(
            "%s: %d images are .heic or .heif files, which pip install 'hf-transfer-learning[heif]' reads.",
            split,
            count,
        )


def _counts(labels: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    counted = Counter(labels)
    return {name: counted[name] for name in names}


def _fingerprint(splits: Mapping[str, _Split], names: Sequence[str]) -> str:
    content = hashlib.sha256(json.dumps(list(names)).encode())
    for split, part in splits.items():
        rows = sorted(f"{i.digest.hex()} {label}" for i, label in zip(part.checked, part.labels, strict=True))
        content.update(json.dumps([split, rows]).encode())
    return content.hexdigest()


def _pixel_range(splits: Mapping[str, _Split], given: tuple[float, float] | None) -> tuple[float, float] | None:
    """The range of the grey images of more than 8 bits: as given, else of those in train; None without such images."""
    deep = {split: [image.pixels for image in part.checked if image.pixels] for split, part in splits.items()}
    everywhere = [pixels for found in deep.values() for pixels in found]
    return None if not everywhere else given or common_range(deep.get(TRAIN) or everywhere)


def _kinds(splits: Mapping[str, _Split]) -> Iterator[str]:
    """In words what each image is that is not just RGB or grey of 8 bits."""
    for image in (image for part in splits.values() for image in part.checked):
        yield image.kind
        if image.pages > 1:
            yield "of several pages or frames, of which the first is used"


def _median_size(splits: Mapping[str, _Split]) -> tuple[int, int]:
    checked = [image for part in splits.values() for image in part.checked]
    return median_low(image.height for image in checked), median_low(image.width for image in checked)
