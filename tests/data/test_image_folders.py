"""hf_transfer.data.image_folders: labels and splits from the names of folders."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from hf_transfer.data import load
from hf_transfer.errors import DataError
from tests.helpers.image_files import encoded, picture, write_classes


def test_classes_are_folders(tmp_path: Path) -> None:
    """class/file.jpg: names from folders in natural order, a fifth of each class for evaluation."""
    data = load(str(write_classes(tmp_path / "pets", {"cat10": 5, "cat2": 10})))
    assert data.label_names == ("cat2", "cat10")
    assert data.evaluation_split == "train[stratified fifth, seed 42]"
    assert data.counts == {
        "train": {"cat2": 8, "cat10": 4},
        "train[stratified fifth, seed 42]": {"cat2": 2, "cat10": 1},
    }
    assert (data.name, data.hub_id, data.test) == ("pets", None, None)
    assert data.train is not None and data.train.column_names == ["image", "label", "name"]
    assert set(data.train["name"]) < {f"cat{k}/{i}.png" for k in (2, 10) for i in range(10)}


@pytest.mark.parametrize("word", ["validation", "val", "valid", "dev", "Val"])
def test_validation_has_many_names(word: str, tmp_path: Path) -> None:
    """The evaluation split is found under all of its usual names."""
    write_classes(tmp_path / "train", {"a": 2, "b": 2})
    write_classes(tmp_path / word, {"a": 1, "b": 2}, seed=50)
    data = load(str(tmp_path))
    assert data.evaluation_split == "validation"
    assert data.counts["validation"] == {"a": 1, "b": 2}
    assert data.validation is not None and data.validation["name"][0] == f"{word}/a/0.png"


def test_test_is_for_evaluation_only_without_validation(tmp_path: Path) -> None:
    """`test` is the evaluation split where it is alone, and kept for the end beside `validation`."""
    write_classes(tmp_path / "train", {"a": 2, "b": 2})
    write_classes(tmp_path / "test", {"a": 1, "b": 2}, seed=50)
    alone = load(str(tmp_path))
    assert (alone.evaluation_split, alone.test) == ("test", None)
    assert set(alone.counts) == {"train", "test"}
    write_classes(tmp_path / "val", {"a": 3, "b": 3}, seed=90)
    both = load(str(tmp_path))
    assert both.evaluation_split == "validation"
    assert both.test is not None and len(both.test) == 3
    assert set(both.counts) == {"train", "validation", "test"}


def test_hidden_and_other_files_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Hidden files, notes, archives' leftovers, empty folders and loose images are no data."""
    write_classes(tmp_path, {"a": 3, "b": 3})
    for stray in ("a/.hidden.png", "a/Thumbs.db", "b/notes.txt", ".git/x/1.png", "__MACOSX/a/1.png", "loose.png"):
        (tmp_path / stray).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / stray).write_bytes(encoded(picture(99)))
    (tmp_path / "c").mkdir()
    data = load(str(tmp_path))
    assert data.label_names == ("a", "b")
    assert sum(sum(counts.values()) for counts in data.counts.values()) == 6
    assert "c in train holds no images" in caplog.text
    assert "left out are 1 hidden, 1 .txt, 1 images outside of the class folders, the folder '.git'" in caplog.text


def test_folders_inside_classes_belong_to_the_class(tmp_path: Path) -> None:
    """The label is the first folder below the split, however deep the file lies; links are followed once."""
    write_classes(tmp_path / "data" / "a", {"deep": 2})
    write_classes(tmp_path / "data", {"b": 2})
    (tmp_path / "data" / "b" / "again").symlink_to(tmp_path / "data")
    write_classes(tmp_path / "elsewhere", {"c": 2}, seed=60)
    (tmp_path / "data" / "c").symlink_to(tmp_path / "elsewhere" / "c")
    data = load(str(tmp_path / "data"))
    assert set(data.label_names) == {"a", "b", "c"}
    assert data.train is not None and "a/deep/0.png" in [*data.train["name"], *data.validation["name"]]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """Vehicles: with images right inside, `train` is a class like any other."""
    data = load(str(write_classes(tmp_path, {"bus": 2, "car": 2, "train": 2})))
    assert data.label_names == ("bus", "car", "train")


def test_names_that_differ_in_case_are_asked_about(tmp_path: Path) -> None:
    """We do not guess whether Cat and cat are the same; either answer is taken."""
    write_classes(tmp_path, {"Cat": 2, "cat": 3, "dog": 2})
    with pytest.raises(DataError, match=r"'Cat' \(2 images\) and 'cat' \(3 images\).*--similar_labels merge"):
        load(str(tmp_path))
    assert load(str(tmp_path), similar_labels="keep").label_names == ("Cat", "cat", "dog")
    assert load(str(tmp_path), similar_labels="merge").label_names == ("cat", "dog")


def test_folders_beside_splits_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images beside the splits would be lost silently otherwise."""
    write_classes(tmp_path / "train", {"a": 2, "b": 2})
    write_classes(tmp_path, {"extra": 2}, seed=70)
    assert load(str(tmp_path)).label_names == ("a", "b")
    assert "extra" in caplog.text


def test_unlabelled_test_images_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Competitions ship a test folder without classes: it cannot measure anything."""
    write_classes(tmp_path / "train", {"a": 5, "b": 5})
    write_classes(tmp_path, {"test": 3}, seed=80)
    data = load(str(tmp_path))
    assert data.evaluation_split.startswith("train[")
    assert "without folders of classes" in caplog.text


def test_unlabelled_train_or_validation_is_an_error(tmp_path: Path) -> None:
    """Images of a split that are in no class's folder have no label."""
    write_classes(tmp_path, {"train": 3, "test": 3})
    with pytest.raises(DataError, match="train split holds images without labels"):
        load(str(tmp_path))
    shutil.rmtree(tmp_path / "train")
    write_classes(tmp_path / "train", {"a": 2, "b": 2})
    write_classes(tmp_path, {"val": 2})
    with pytest.raises(DataError, match="validation split holds images without labels"):
        load(str(tmp_path))


def test_empty_split_is_an_error(tmp_path: Path) -> None:
    """A split's folder without images is a mistake, not a missing split."""
    write_classes(tmp_path / "train", {"a": 2, "b": 2})
    (tmp_path / "val" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="'val' of the validation split holds no images"):
        load(str(tmp_path))


def test_two_folders_for_one_split_are_an_error(tmp_path: Path) -> None:
    """val and dev both mean validation: we do not choose."""
    for name in ("train", "val", "dev"):
        write_classes(tmp_path / name, {"a": 2, "b": 2})
    with pytest.raises(DataError, match="'dev' and 'val' both mean the validation split"):
        load(str(tmp_path))


def test_folders_without_images_or_labels_say_so(tmp_path: Path) -> None:
    """No images, and images without class folders, are different mistakes."""
    with pytest.raises(DataError, match="holds no images. Expected an image folder"):
        load(str(tmp_path))
    (tmp_path / "1.png").write_bytes(encoded(picture()))
    with pytest.raises(DataError, match="holds images without labels"):
        load(str(tmp_path))


def test_name_is_never_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder one is in is named by its name, and nothing in the record tells where it lies."""
    write_classes(tmp_path / "pets", {"a": 2, "b": 2})
    monkeypatch.chdir(tmp_path / "pets")
    data = load(".")
    assert data.name == "pets"
    assert str(tmp_path) not in str(data.to_dict())
    with caplog.at_level(logging.DEBUG):
        assert load("../pets/").to_dict() == data.to_dict()


def test_file_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A name that is not UTF-8 cannot go into tables and JSON."""
    write_classes(tmp_path, {"a": 2, "b": 2})
    try:
        (tmp_path / "a" / "caf\udce9.png").write_bytes(encoded(picture()))
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    with pytest.raises(DataError, match="not valid UTF-8"):
        load(str(tmp_path))


@pytest.mark.parametrize("depth", ["d", "d/d", "d/train", "train/train"])
def test_archives_unpack_into_a_folder_of_their_own(
    depth: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The only folder with images is the data set or the split, with a word."""
    write_classes(tmp_path / depth, {"cat": 3, "dog": 3})
    data = load(str(tmp_path))
    assert data.label_names == ("cat", "dog")
    assert "the only folder" in caplog.text or "the classes are the folders in train/train" in caplog.text


def test_splits_that_are_unpacked_twice(tmp_path: Path) -> None:
    """train/train and test/test, of two archives."""
    write_classes(tmp_path / "train" / "train", {"cat": 3, "dog": 3})
    write_classes(tmp_path / "test" / "test", {"cat": 3, "dog": 3}, seed=50)
    assert load(str(tmp_path)).counts["test"] == {"cat": 3, "dog": 3}


def test_the_only_class_is_no_data_set(tmp_path: Path) -> None:
    """A folder of cats by breed is one class for a model that knows cats, and for a split beside others."""
    write_classes(tmp_path / "one" / "cat", {"siamese": 3, "persian": 3})
    data = load(str(tmp_path / "one"), label_names=("cat", "dog"), require_train=False)
    assert sum(counts["cat"] for counts in data.counts.values()) == 6
    write_classes(tmp_path / "two" / "train", {"cat": 3, "dog": 3})
    write_classes(tmp_path / "two" / "test" / "cat", {"siamese": 3, "persian": 3}, seed=50)
    assert load(str(tmp_path / "two")).counts["test"] == {"cat": 6, "dog": 0}


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("train", "eval", "validation"),
        ("train", "evaluation", "validation"),
        ("training_set", "test_set", "test"),
        ("train_images", "val_images", "validation"),
        ("train2017", "val2017", "validation"),
        ("Training Data", "Test Data", "test"),
        ("trainset", "testset", "test"),
        ("train", "test_set", "test"),
    ],
)
def test_splits_in_other_words(train: str, other: str, split: str, tmp_path: Path) -> None:
    """Folders of classes in folders that are called almost as splits are no classes."""
    write_classes(tmp_path / train, {"cat": 3, "dog": 3})
    write_classes(tmp_path / other, {"cat": 3, "dog": 3}, seed=50)
    data = load(str(tmp_path))
    assert (data.label_names, data.evaluation_split) == (("cat", "dog"), split)


def test_usual_words_win_over_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """eval beside val is left out with a word, as ever."""
    for seed, name in enumerate(("train", "val", "eval")):
        write_classes(tmp_path / name, {"cat": 3, "dog": 3}, seed=30 * seed)
    assert load(str(tmp_path)).evaluation_split == "validation"
    assert "the folders eval next to them" in caplog.text


def test_classes_may_be_called_like_splits_in_other_words(tmp_path: Path) -> None:
    """Without a train beside them, and with other folders, these are classes."""
    write_classes(tmp_path, {"eval": 3, "test_set/x": 3, "other/y": 3})
    assert load(str(tmp_path)).label_names == ("eval", "other", "test_set")


def test_two_parts_of_train_are_no_classes(tmp_path: Path) -> None:
    """train_1 and train_2 with the same classes in them."""
    for name in ("train_1", "train_2"):
        write_classes(tmp_path / name, {"cat": 3, "dog": 3})
    with pytest.raises(DataError, match="'train_1' and 'train_2' both mean the train split"):
        load(str(tmp_path))


def test_splits_inside_of_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """cat/train and cat/test: test images are not trained on; all classes must be arranged so."""
    write_classes(tmp_path / "cat", {"train": 4, "test": 2})
    write_classes(tmp_path / "dog", {"train": 3, "test": 1}, seed=50)
    data = load(str(tmp_path))
    assert data.counts == {"train": {"cat": 4, "dog": 3}, "test": {"cat": 2, "dog": 1}}
    assert "splits train, test are taken from inside the class folders" in caplog.text
    write_classes(tmp_path, {"cow": 3}, seed=90)
    with pytest.raises(DataError, match="classes cat, dog hold folders of splits, those of cow do not"):
        load(str(tmp_path))


def test_folders_that_say_nothing_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Parts without any labels are taken as classes with a word, but not if they hold the same classes."""
    write_classes(tmp_path / "one", {"part_1": 3, "part_2": 3})
    assert load(str(tmp_path / "one")).label_names == ("part_1", "part_2")
    assert "part_1, part_2 are taken as classes" in caplog.text
    for part in ("part_1", "part_2"):
        write_classes(tmp_path / "two" / part, {"cat": 3, "dog": 3})
    with pytest.raises(DataError, match="part_1, part_2 do not look like classes"):
        load(str(tmp_path / "two"))
    assert load(str(tmp_path / "two"), labels="folders").label_names == ("part_1", "part_2")


def test_the_same_folders_in_each_class_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """colour/cat and grey/cat: the classes may be one level deeper."""
    for variant in ("colour", "grey"):
        write_classes(tmp_path / variant, {"cat": 3, "dog": 3})
    assert load(str(tmp_path)).label_names == ("colour", "grey")
    assert "Each of these folders holds the folders cat, dog" in caplog.text


def test_files_beside_the_only_folder_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Lists of labels in a form that is not read, for example."""
    write_classes(tmp_path / "images", {"cat": 3, "dog": 3})
    (tmp_path / "train_test_split.txt").write_text("1 0")
    assert load(str(tmp_path)).label_names == ("cat", "dog")
    assert "left out are 1 .txt" in caplog.text
