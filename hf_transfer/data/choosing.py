"""Where folders of images and tables lie side by side: which of them tells the labels."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Image, LargeList, List

from hf_transfer.data.columns import find_image_column, find_label_column
from hf_transfer.data.files import has_image, images_in, is_image, subfolders
from hf_transfer.data.image_folders import is_container
from hf_transfer.data.labels import read_labels, shown
from hf_transfer.data.spelling import normalised
from hf_transfer.data.split_column import has_splits
from hf_transfer.data.splits import TRAIN, by_split, split_in, split_of
from hf_transfer.data.tables import all_tables, columns_of, find_metadata, find_tables, holds_images, read_table
from hf_transfer.errors import DataError

logger = logging.getLogger(__name__)

LABELS = ("folders", "table")
"""What `--labels` can say of where the labels are."""
_MOST_TABLES = 20
Form = dict[str, list[Path]]


@dataclass(frozen=True)
class Wanted:
    """What the user says of a data set.

    Attributes:
        labels: "folders", "table", or None to find out.
        image_column: Column of the images.
        label_column: Column of the labels.
        require_train: Whether there must be a split to train on.
        known: A model's labels, normalised: a folder with such a name is a class.
    """

    labels: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    require_train: bool = True
    known: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if self.labels not in (None, *LABELS):
            raise DataError(f"labels must be one of {', '.join(LABELS)}; found {self.labels!r}.")


@dataclass(frozen=True)
class _Table:
    """A table with columns of images and labels.

    Attributes:
        path: The file.
        images: Column of the images.
        labels: Column of the labels.
    """

    path: Path
    images: str
    labels: str

    def rows(self) -> dict[str, str | None]:
        """Absolute path to label of the images that the table names; empty if it holds the images themselves."""
        if holds_images(self.path, self.images):
            return {}
        table = read_table(self.path).table
        values = table.select_columns([self.images]).with_format(None)
        if isinstance(table.features[self.images], Image):
            values = values.cast_column(self.images, Image(decode=False))
        start = self.path.parent.absolute()
        found = {}
        for row, label in zip(values[:][self.images], read_labels(table, self.labels).values, strict=True):
            path = row.get("path") if isinstance(row, Mapping) and not row.get("bytes") else row
            if isinstance(path, str):
                found[os.path.normpath(start / path)] = label
        return found

    def has_splits(self) -> bool:
        """Whether a column names splits."""
        return has_splits(read_table(self.path).table, (self.images, self.labels))


def choose_tables(folder: Path, wanted: Wanted) -> Form | None:
    """The tables of each split that tell the labels; None if the folders do, or nothing does.

    Images and tables that are left out are counted and named.

    Raises:
        DataError: Folders and tables say something else, and the user has to choose.
    """
    form = _chosen(folder, wanted)
    if form:
        _warn_of_others(folder, form, wanted)
    return form


def has_table(folder: Path, wanted: Wanted) -> bool:
    """Whether a folder holds a table with columns of images and labels."""
    return any(_described(path, wanted) is not None for path in all_tables(folder)[:_MOST_TABLES])


def _chosen(folder: Path, wanted: Wanted) -> Form | None:
    folders = [entry for entry in subfolders(folder) if has_image(entry)]
    rivals = [] if wanted.labels == "table" else [entry for entry in folders if _may_be_class(entry)]
    forms = list(_forms(folder, wanted))
    for form in forms:
        if _is_complete(form, rivals, wanted):
            _warn_of_folders(form, rivals, wanted)
            return _without_strays(form, wanted)
    images = {file.name.split(".")[0] for file in folder.iterdir() if is_image(file)}
    others = [path for path in all_tables(folder) if split_in(path.stem) is None]
    others = [path for path in others if path.suffix != ".json" or path.name.split(".")[0] not in images]
    others = others if len(others) <= _MOST_TABLES else []
    usable = [table for path in others if (table := _described(path, wanted)) is not None]
    if rivals:
        found = _beside_classes(usable, rivals, wanted)
        return None if found is None else _among([found], folders)
    in_form = [path for form in forms for paths in form.values() for path in paths if _described(path, wanted)]
    if not in_form and (usable or (folders and len(others) == 1)):
        return _among([table.path for table in usable] or others, folders)
    if len(folders) > 1 and others:
        raise _question(folders, f"the tables {shown([path.name for path in others])}")
    return forms[0] if forms else None


def _may_be_class(folder: Path) -> bool:
    """Whether a folder with images may be a class or hold classes, by its name."""
    if split_of(folder.name) is not None:
        return any(map(has_image, subfolders(folder)))
    return not is_container(folder.name)


def _forms(folder: Path, wanted: Wanted) -> Iterator[Form]:
    """The tables that are found by their names: those of splits, metadata, and metadata in folders of splits."""

    def usable(path: Path) -> bool:
        return _described(path, wanted) is not None

    metadata = find_metadata(folder)
    inside = {entry.name: find_metadata(entry) for entry in subfolders(folder)}
    for form in (
        find_tables(folder, usable) or find_tables(folder / "data", usable),
        {} if metadata is None else {TRAIN: [metadata]},
        by_split((name, [table]) for name, table in inside.items() if table is not None),
    ):
        if form:
            yield form


def _described(path: Path, wanted: Wanted) -> _Table | None:
    """The table with its columns of images and labels, if it has both."""
    try:
        features = columns_of(path)
        images = find_image_column(features, wanted.image_column)
        labels = find_label_column(features, wanted.label_column, images)
    except DataError:
        return None
    several = isinstance(features[labels], List | LargeList)  # several labels for one image
    return None if several else _Table(path, images, labels)


def _is_complete(form: Form, rivals: Sequence[Path], wanted: Wanted) -> bool:
    """Whether a form has the split that is needed, with images and labels; beside classes, with images that exist."""
    trains = any(split_of(entry.name) == TRAIN for entry in rivals)
    needed = [TRAIN] if wanted.require_train or trains else list(form)
    tables = [_described(form[split][0], wanted) for split in needed if split in form]
    return any(table is not None and (not rivals or _exists(table)) for table in tables)


def _exists(table: _Table) -> bool:
    rows = table.rows()
    return not rows or any(map(os.path.isfile, rows))


def _without_strays(form: Form, wanted: Wanted) -> Form:
    """The form without tables that name a split by the way, such as `val_ids.csv`, and hold no images and labels."""
    strays = [
        split
        for split, paths in form.items()
        if len(paths) == 1
        and split_of(paths[0].stem) is None
        and split_in(paths[0].stem) is not None
        and _described(paths[0], wanted) is None
    ]
    return {split: paths for split, paths in form.items() if split not in strays}


def _warn_of_others(folder: Path, form: Form, wanted: Wanted) -> None:
    """Name the tables that are left out, and count the images that no table names."""
    used = [path for paths in form.values() for path in paths]
    others = [path.name for path in all_tables(folder) if path not in used]
    tables = [_described(path, wanted) for path in used]
    named: set[str] = set()
    for table in tables:
        named.update(table.rows() if table is not None else ())
    unnamed = 0
    if TRAIN not in form or tables[used.index(form[TRAIN][0])] is not None:
        unnamed = sum(os.path.normpath(file.absolute()) not in named for file in images_in(folder))
    found = [*others, *([f"{unnamed:,} images that no table names"] if unnamed else [])]
    if found:
        logger.warning("Beside %s, left out are %s.", shown([path.name for path in used]), shown(found))


def _warn_of_folders(form: Form, rivals: Sequence[Path], wanted: Wanted) -> None:
    """Say that the folders are no classes, where they could be."""
    classes = [entry for entry in rivals if split_of(entry.name) is None]
    table = _described(next(iter(form.values()))[0], wanted)
    if len(classes) > 1 and table is not None and not _agrees(table.rows(), table.path.parent):
        logger.warning(
            "The labels are those of %s; the folders %s are no classes. --labels folders takes them as classes.",
            table.path.name,
            shown([entry.name for entry in classes]),
        )


def _beside_classes(usable: Sequence[_Table], folders: Sequence[Path], wanted: Wanted) -> Path | None:
    """A table of any name beside folders that could be classes: it must name all their images, or nothing of them."""
    named = [(table, rows) for table in usable if (rows := table.rows()) and any(map(os.path.isfile, rows))]
    if len(named) > 1:
        raise _question(folders, f"the tables {' and '.join(table.path.name for table, _ in named)}")
    images = {os.path.normpath(file.absolute()): entry.name for entry in folders for file in images_in(entry)}
    if not named:
        _check_names(usable, images, folders)
        return None
    table, rows = named[0]
    missing = [path for path in images if path not in rows]
    asked = wanted.image_column is not None or wanted.label_column is not None
    if not asked and _agrees(rows, table.path.parent) and not table.has_splits():
        if missing:
            logger.warning(
                "%s names %d of %d images; all are used, with their folders as labels. --labels table uses it.",
                table.path.name,
                len(images) - len(missing),
                len(images),
            )
        return None
    if missing and not asked:
        found = f"{len(images) - len(missing):,} of the {len(images):,} images there"
        raise _question(folders, f"{table.path.name}, which names {found}")
    return table.path


def _check_names(usable: Sequence[_Table], images: Mapping[str, str], folders: Sequence[Path]) -> None:
    """Check that no table names the images by other paths, such as their names alone, and with other labels."""
    folders_of: defaultdict[str, set[str]] = defaultdict(set)
    for path, top in images.items():
        folders_of[Path(path).stem] |= {normalised(top), normalised(Path(path).parent.name)}
    for table in usable:
        rows = [(Path(path), label) for path, label in table.rows().items()]
        stems = [(path.name if path.name in folders_of else path.stem, label) for path, label in rows]
        agree = [label in folders_of[stem] for stem, label in stems if stem in folders_of]
        if 2 * len(agree) > len(rows) and not all(agree):
            found = "names the images by other paths: write them relative to the table"
            raise _question(folders, f"{table.path.name}, which {found}")


def _among(paths: Sequence[Path], folders: Sequence[Path]) -> Form:
    """The one table that tells the labels, with a line that says so."""
    if len(paths) > 1:
        raise _question(folders, f"the tables {shown([path.name for path in paths])}")
    if folders:
        logger.warning(
            "The labels are those of %s; the folders %s are no classes.",
            paths[0].name,
            shown([entry.name for entry in folders]),
        )
    return {TRAIN: [paths[0]]}


def _agrees(rows: Mapping[str, str | None], root: Path) -> bool:
    """Whether each image lies in a folder, below the root, with the name of its label."""
    start = root.absolute()
    below = ((Path(os.path.relpath(path, start)).parts[:-1], label) for path, label in rows.items())
    return all(label in map(normalised, parts) for parts, label in below if label is not None)


def _question(folders: Sequence[Path], tables: str) -> DataError:
    return DataError(
        f"The labels could be the folders {shown([entry.name for entry in folders])}, or in {tables}. Choose with "
        "--labels folders or --labels table, or name the table as the data set. --image_column and --label_column "
        "name its columns."
    )
