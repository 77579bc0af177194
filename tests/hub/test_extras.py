"""What is published only if asked for: example images for the model page, and results for a leaderboard."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import Request, urlopen

import PIL.Image
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

import hf_transfer as ht
from hf_transfer.cli import main
from hf_transfer.errors import ArgumentError, PublishError
from tests.helpers.card_records import metadata
from tests.helpers.hub_server import Fault, HubServer, Repository
from tests.helpers.hub_server.fixtures import PUBLISHED, TOKEN, finished_run

DATA = "datasets/someone/pets"


def test_widget_images_resolve(hub: HubServer, tmp_path: Path) -> None:
    """Each example of the card's widget is an image that its address gives, small, upright, and without what a camera
    wrote beside the pixels; nothing else of the folder of images is sent."""
    place = PIL.Image.Exif()
    place[0x010E], place[0x0112] = "taken at home", 6
    PIL.Image.new("RGB", (2000, 1000), "red").save(tmp_path / "a cat.jpg", exif=place)
    PIL.Image.new("L", (20, 30)).save(tmp_path / "dog.png")
    images = [str(tmp_path / "a cat.jpg"), str(tmp_path / "dog.png")]
    run = str(finished_run(tmp_path / "run"))
    assert main(["publish", run, "pets", "--no_verify", "--widget_images", *images]) == 0
    files = hub.repositories["someone/pets"].files()
    assert set(files) == PUBLISHED | {"examples/widget_1.png", "examples/widget_2.png"}
    widget = metadata(files["README.md"].content.decode())["widget"]
    assert [example["example_title"] for example in widget] == ["a cat", "dog"]
    sizes = []
    for example in widget:
        with urlopen(Request(example["src"], headers={"Authorization": f"Bearer {TOKEN}"})) as answer:
            image = PIL.Image.open(answer)
            assert not image.getexif() and not image.info
            sizes.append(image.size)
    assert sizes == [(256, 512), (20, 30)] and b"taken at home" not in hub.received


def test_without_a_record_there_is_no_widget(hub: HubServer, tmp_path: Path) -> None:
    """A card that was not written here is not changed: what would change it is refused."""
    folder = finished_run(tmp_path / "run")
    (folder / "run.json").unlink()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Pets\n")
    for options in ({"widget_images": ["x.png"]}, {"benchmark_task": "breeds"}):
        with pytest.raises(PublishError, match=r"no run\.json"):
            ht.publish(folder, "pets", **options)


def test_a_widget_image_that_is_none(hub: HubServer, tmp_path: Path) -> None:
    """What is no image is refused, and nothing is sent."""
    (tmp_path / "x.jpg").write_text("no image")
    with pytest.raises(ArgumentError, match=r"widget image x\.jpg"):
        ht.publish(finished_run(tmp_path / "run"), "pets", widget_images=[tmp_path / "x.jpg"])
    assert hub.writes() == []


def test_eval_results(hub: HubServer, tmp_path: Path) -> None:
    """For a task that the data set declares, huggingface_hub reads from the published file what run.json says."""
    folder = finished_run(tmp_path / "run")
    data = hub.repositories[DATA] = Repository(DATA, private=False)
    data.put("eval.yaml", b"tasks:\n- id: breeds\n  split: validation\n")
    data.tags["fedc321"] = data.refs["main"]
    ht.publish(folder, "pets", verify=False, benchmark_task="breeds")
    files = hub.repositories["someone/pets"].files()
    assert set(files) == PUBLISHED | {".eval_results/hf_transfer_pets.yaml"}
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/hf_transfer_pets.yaml"].content))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("someone/pets", "breeds", 0.8725)
    hub.repositories["someone/pets"].put(".eval_results/other.yaml", b"[]")
    ht.publish(folder, "pets", create_pr=False, verify=False)
    left = hub.repositories["someone/pets"].files()
    assert [name for name in left if name.startswith(".eval_results/")] == [".eval_results/other.yaml"]
    assert entry.dataset_revision == "fedc321" and entry.date == json.loads(files["run.json"].content)["created"][:10]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "declares no task 'breeds'.*no eval.yaml"),
        (b"tasks:\n- id: other\n", "its eval.yaml has other"),
        (b"tasks:\n- id: breeds\n  split: test\n", "measured on the split 'test'.*no accuracy"),
        (b": [", "no eval.yaml with tasks"),
    ],
)
def test_no_such_benchmark(hub: HubServer, tmp_path: Path, content: bytes | None, message: str) -> None:
    """A data set that declares no such task, or one on a split that was not evaluated: refused before anything is
    sent."""
    data = hub.repositories[DATA] = Repository(DATA, private=False)
    if content is not None:
        data.put("eval.yaml", content)
    data.tags["fedc321"] = data.refs["main"]
    with pytest.raises(ArgumentError, match=message):
        ht.publish(finished_run(tmp_path / "run"), "pets", benchmark_task="breeds")
    assert hub.writes() == []


def test_benchmark_that_cannot_be_asked(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub that does not answer is not a data set without tasks."""
    hub.faults = [Fault("HEAD", "eval.yaml", drop=True, count=1000)]
    with pytest.raises(PublishError, match="could not be reached"):
        ht.publish(finished_run(tmp_path / "run"), "pets", benchmark_task="breeds")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hub_id": None}, "no id there"),
        ({"evaluation_split": "train[fifth, seed 7]"}, "as it comes with the data set"),
    ],
)
def test_own_data_is_no_benchmark(hub: HubServer, tmp_path: Path, change: dict[str, str | None], message: str) -> None:
    """Data that are not on the Hub, and a split that was drawn here, give no result for a leaderboard."""
    data = hub.repositories[DATA] = Repository(DATA, private=False)
    data.put("eval.yaml", b"tasks:\n- id: breeds\n")
    data.tags["fedc321"] = data.refs["main"]
    folder = finished_run(tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    record["data"] |= change
    record["evaluation"] = {record["data"]["evaluation_split"]: record["evaluation"]["validation"]}
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(ArgumentError, match=message):
        ht.publish(folder, "pets", benchmark_task="breeds")
