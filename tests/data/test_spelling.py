"""hf_transfer.data.spelling: labels that look alike are one class, or a question; never two without a word."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_transfer.data import load
from hf_transfer.data.spelling import normalised, spellings
from hf_transfer.errors import DataError
from tests.helpers.image_files import encoded, picture, write_classes


def _table(folder: Path, *labels: str, times: int = 4) -> str:
    images = [{"bytes": encoded(picture(index)), "path": None} for index in range(times * len(labels))]
    pq.write_table(pa.table({"image": images, "label": list(labels) * times}), folder / "d.parquet")
    return str(folder / "d.parquet")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("cat", "cat "),
        ("cat", "\u00a0cat"),
        ("hot dog", "hot\u00a0dog"),
        ("hot dog", "hot  dog"),
        ("hot dog", "hot\tdog"),
        ("cat", "cat\u200b"),
        ("cat", "\ufeffcat"),
        ("\uac00", "\u1100\u1161"),
    ],
)
def test_blanks_and_forms_of_unicode_make_no_class(
    one: str, other: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Folder names of macOS and blanks of spreadsheets are normalised, with a line that shows both spellings."""
    data = load(_table(tmp_path, one, other, "zebra"))
    assert set(data.label_names) == {one, "zebra"}
    assert f"{ascii(other)} is {one!r} (4 images)" in caplog.text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "Cat"),
        ("1", "\uff11"),
        ("hot dog", "hot_dog"),
        ("hot dog", "Hot-Dog"),
        ("1", "1.0"),
        ("fi", "\ufb01"),
        ("cat", "cat - Copy"),
    ],
)
def test_labels_that_look_alike_are_a_question(one: str, other: str, tmp_path: Path) -> None:
    """Case, width, underscores and decimals may mean something: refused with both spellings, and both answers work."""
    path = _table(tmp_path, one, other, "zebra", one)
    with pytest.raises(DataError, match="look alike: .*4 images.*--similar_labels merge.*--similar_labels keep"):
        load(path)
    assert set(load(path, similar_labels="merge").label_names) == {one, "zebra"}
    assert set(load(path, similar_labels="keep").label_names) == {one, other, "zebra"}


def test_letters_in_both_cases_are_classes_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Handwriting has A and a."""
    assert load(_table(tmp_path, "A", "a", "b")).label_names == ("A", "a", "b")
    assert "'A' (4 images) and 'a' (4 images) are classes of their own" in caplog.text


@pytest.mark.parametrize("label", ["NaN", "None", "null", "N/A", "NA", "?"])
def test_words_for_missing_labels_are_shown(label: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ "None" can be a class and can be a gap: it is taken as a class, with a warning that counts it."""
    assert label in load(_table(tmp_path, label, "cat")).label_names
    assert f"{label!r} (4 images) look like missing ones" in caplog.text


def test_splits_may_not_differ_in_case(tmp_path: Path) -> None:
    """train has cat and test has Cat: the same question, and merging takes the spelling of train."""
    write_classes(tmp_path / "train", {"cat": 3, "dog": 3})
    write_classes(tmp_path / "test", {"Cat": 4, "dog": 3}, seed=50)
    with pytest.raises(DataError, match="'Cat' .* and 'cat' .*--similar_labels"):
        load(str(tmp_path))
    assert load(str(tmp_path), similar_labels="merge").counts["test"] == {"cat": 4, "dog": 3}


def test_a_model_spells_its_labels_itself(tmp_path: Path) -> None:
    """For evaluation labels get the model's spelling: always for blanks and Unicode, with a word for case."""
    path = _table(tmp_path, "caf\u00e9", "Cat")
    with pytest.raises(DataError, match="'Cat' .4 images. and 'cat'.*--similar_labels merge"):
        load(path, label_names=("cafe\u0301 ", "cat"), require_train=False)
    data = load(path, label_names=("cafe\u0301 ", "cat"), require_train=False, similar_labels="merge")
    assert data.label_names == ("cafe\u0301 ", "cat")
    assert sum(data.counts["train"].values()) == 6 and min(data.counts["train"].values()) == 3
    exact = load(_table(tmp_path, "cat", "Cat"), label_names=("cat", "Cat"), require_train=False)
    assert exact.counts["train"] == {"cat": 3, "Cat": 3}


def test_an_unknown_answer_is_refused(tmp_path: Path) -> None:
    """A typing error is no answer."""
    with pytest.raises(DataError, match="similar_labels must be one of merge, keep"):
        load(_table(tmp_path, "a", "b"), similar_labels="join")


@given(st.text())
def test_normalising_twice_changes_nothing(label: str) -> None:
    """What is normalised stays as it is, so that runs of different times agree."""
    assert normalised(normalised(label)) == normalised(label)


@given(st.lists(st.sampled_from(["cat", "Cat", "CAT", "dog", "Dog", "b"])))
def test_merging_leaves_one_spelling(labels: list[str]) -> None:
    """After merging no two labels look alike, and the spelling is one that is there."""
    new = spellings({"train": labels}, "merge")
    merged = {new.get(label, label) for label in labels}
    assert len({label.casefold() for label in merged}) == len(merged)
    assert merged <= set(labels)
