"""hf_transfer.data.hub: data sets of the Hub and of save_to_disk, with the Hub's client replaced or on a local Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hf_transfer.data import decode_image, hub, load
from hf_transfer.errors import DataError
from tests.helpers.hub_server import HubServer, Repository
from tests.helpers.hub_server.fixtures import hub as local_hub
from tests.helpers.image_files import encoded, picture

__all__ = ["local_hub"]

NAMES = ["cat", "dog"]


def _dataset(labels: list[int], start: int = 0, names: list[str] | None = None) -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=names or NAMES), "note": Value("string")})
    images = [{"bytes": encoded(picture(start + index)), "path": "x.png"} for index in range(len(labels))]
    return Dataset.from_dict({"image": images, "label": labels, "note": ["n"] * len(labels)}, features=features)


def _serve(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def load_dataset(path: str, **options: Any) -> Any:
        calls.append({"path": path, **options})
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    return calls


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits, names and commit come from the Hub; no code of the repository is ever asked to run."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    parts = DatasetDict(train=_dataset([0, 1, 0, 1]), test=_dataset([1, 0], 20), extra=_dataset([0], 40))
    parts["train"].info.download_checksums = {f"hf://datasets/me/pets@{commit}/data/train.parquet": {}}
    calls = _serve(monkeypatch, parts)
    data = load("me/pets", revision="main", config_name="small")
    assert calls == [{"path": "me/pets", "name": "small", "revision": "main"}]
    assert (data.name, data.hub_id, data.revision) == ("me/pets", "me/pets", commit)
    assert data.evaluation_split == "test"
    assert data.train is not None and data.train["name"][:] == ["train/0", "train/1", "train/2", "train/3"]
    assert decode_image(data.train[2]["image"]).tobytes() == picture(2).tobytes()


def test_labels_are_matched_by_name_between_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits that number the same classes differently mean the same classes."""
    parts = DatasetDict(train=_dataset([0, 1, 0]), validation=_dataset([0, 1, 1], 20, ["dog", "cat"]))
    _serve(monkeypatch, parts)
    data = load("me/pets", revision="v1")
    assert data.revision == "v1"
    assert data.validation is not None and data.validation["label"][:] == [1, 0, 0]
    assert data.counts["validation"] == {"cat": 2, "dog": 1}


def test_unlabelled_test_split_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Benchmarks hide the labels of test as -1; a part of train stands in."""
    _serve(monkeypatch, DatasetDict(train=_dataset([0, 1] * 5), test=_dataset([-1, -1], 20)))
    data = load("me/pets")
    assert data.test is None and data.evaluation_split.startswith("train[")
    assert "test split of me/pets has no labels" in caplog.text


def test_some_missing_labels_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """-1 among labels is a gap."""
    _serve(monkeypatch, DatasetDict(train=_dataset([0, 1, -1])))
    with pytest.raises(DataError, match="1 of the 3 images in train have no label: train/2"):
        load("me/pets")


def test_declared_classes_without_images_are_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The author's class indices stay as they are, with a warning."""
    _serve(monkeypatch, DatasetDict(train=_dataset([0, 2] * 5, names=["a", "b", "c"])))
    data = load("me/pets")
    assert data.label_names == ("a", "b", "c")
    assert data.counts["train"]["b"] == 0
    assert "1 of 3 classes have no images at all: b" in caplog.text


def test_a_split_of_another_name(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A single split is train, whatever it is called; of several unknown ones we do not choose."""
    _serve(monkeypatch, DatasetDict(full=_dataset([0, 1] * 5)))
    assert load("me/pets").evaluation_split.startswith("train[")
    assert "'full' alone" in caplog.text
    _serve(monkeypatch, DatasetDict(first=_dataset([0, 1]), second=_dataset([0, 1])))
    with pytest.raises(DataError, match="has the splits first, second; expected train"):
        load("me/pets")


def test_offline_says_so() -> None:
    """With the Hub switched off a plausible id fails at once, with advice."""
    if not hub.is_offline_mode():
        pytest.skip("needs HF_HUB_OFFLINE=1")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE=1.*unset HF_HUB_OFFLINE"):
        load("somebody/pets")


def test_errors_of_the_hub_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the client raises becomes our error, with the first line of its reason."""
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    _serve(monkeypatch, RuntimeError("Repository is gated\nlong story"))
    with pytest.raises(DataError, match=r"\(Repository is gated\)\. Check the spelling"):
        load("me/pets")


def test_a_configuration_must_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configurations are listed together with the flag."""
    error = ValueError("Config name is missing.\nPlease pick one among the available configs: ['small', 'large']")
    _serve(monkeypatch, error)
    with pytest.raises(DataError, match="choose one of small, large with --dataset_config"):
        load("me/pets")


def test_text_of_the_hub_never_names_local_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set from elsewhere cannot make us read files of this machine."""
    table = Dataset.from_dict({"image": ["secret.png", "b.png"], "label": ["a", "b"]})
    _serve(monkeypatch, DatasetDict(train=table))
    with pytest.raises(DataError, match="cannot name files of this machine"):
        load("me/pets")


def test_saved_data_sets(tmp_path: Path) -> None:
    """save_to_disk of a Dataset and of a DatasetDict; images stay mapped from disk."""
    _dataset([0, 1] * 5).save_to_disk(tmp_path / "one")
    one = load(str(tmp_path / "one"))
    assert (one.name, one.label_names) == ("one", ("cat", "dog"))
    assert one.train is not None and one.train.cache_files
    DatasetDict(train=_dataset([0, 1]), dev=_dataset([1, 0], 20)).save_to_disk(tmp_path / "two")
    assert load(str(tmp_path / "two")).evaluation_split == "validation"


def test_bad_rows_of_a_saved_data_set_are_not_copied(tmp_path: Path) -> None:
    """Leaving rows out keeps the mapping from disk and writes no cache beside the data."""
    images = [{"bytes": encoded(picture(index)), "path": None} for index in range(9)] + [{"bytes": b"x", "path": None}]
    features = Features({"image": Image(decode=False), "label": Value("int64")})
    Dataset.from_dict({"image": images, "label": [0, 1] * 5}, features=features).save_to_disk(tmp_path / "d")
    before = sorted(tmp_path.rglob("*"))
    data = load(str(tmp_path / "d"), skip_bad_images=True)
    assert data.train is not None and data.train.cache_files
    assert sorted(tmp_path.rglob("*")) == before
    for part in (data.train, data.validation):
        for row in part or ():
            index = int(row["name"].removeprefix("train/"))
            assert decode_image(row["image"]).tobytes() == picture(index).tobytes()
            assert row["label"] == index % 2


def test_damaged_saved_data_set(tmp_path: Path) -> None:
    """A folder that lost its tables is reported by name."""
    _dataset([0, 1]).save_to_disk(tmp_path / "d")
    for file in (tmp_path / "d").glob("*.arrow"):
        file.unlink()
    with pytest.raises(DataError, match="'d' looks as if written by save_to_disk, but cannot be loaded"):
        load(str(tmp_path / "d"))


def test_commit_of_a_data_set_on_the_hub(
    local_hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit that was loaded is recorded, also when it comes from the cache without a network, or by a tag."""
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", local_hub.url)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = local_hub.repositories["datasets/me/pets"] = Repository("datasets/me/pets", private=False)
    commits = []
    for start in (0, 30):
        for split, labels in (("train", [0, 1, 0, 1]), ("test", [1, 0])):
            _dataset(labels, start + 10 * len(labels)).to_parquet(tmp_path / f"{split}.parquet")
            commit = repository.put(f"{split}.parquet", (tmp_path / f"{split}.parquet").read_bytes())
        commits.append(commit)
    repository.tags["v1"] = commits[0]
    newest, tagged = load("me/pets"), load("me/pets", revision="v1")
    assert [newest.revision, tagged.revision] == [commits[1], commits[0]]
    assert newest.fingerprint != tagged.fingerprint
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached = load("me/pets")
    assert cached.revision == {data.fingerprint: data.revision for data in (newest, tagged)}[cached.fingerprint]
