"""Make the small Fashion-MNIST sample that ships in `hf_transfer/demo/fashion_mnist`.

    python scripts/make_demo_data.py [FOLDER_WITH_IDX_FILES] [--output_dir FOLDER]

The same input gives the same files, byte for byte, with the versions of Pillow and PyArrow in constraints.txt.
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image
from PIL import Image as PILImage

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SHIPPED_FOLDER = Path(__file__).resolve().parent.parent / "hf_transfer" / "demo" / "fashion_mnist"
LABEL_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Enough for an accuracy with a standard error of one percent, small enough to ship.
IMAGES_PER_CLASS = {"train": 200, "test": 100}
IDX_PREFIX = {"train": "train", "test": "t10k"}
SEED = 0


def read_idx(path: Path) -> np.ndarray:
    """Read one gzipped IDX file of unsigned bytes.

    Args:
        path: For example `train-images-idx3-ubyte.gz`.

    Returns:
        `(images, height, width)` for an image file, `(images,)` for a label file, as uint8.

    Raises:
        ValueError: The file is not an IDX file of unsigned bytes, or it is cut short.
    """
    content = gzip.decompress(path.read_bytes())
    zeros, kind, dimensions = content[:2], content[2], content[3]
    if zeros != b"\0\0" or kind != 0x08:
        raise ValueError(f"{path}: expected an IDX file of unsigned bytes, found a header {content[:4]!r}")
    start = 4 + 4 * dimensions
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], dtype=">u4"))
    values = np.frombuffer(content[start:], dtype=np.uint8)
    if values.size != np.prod(shape):
        raise ValueError(f"{path}: the header promises {shape}, found {values.size} bytes. Fetch the file again")
    return values.reshape(shape)


def balanced_sample(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Choose the same number of images of each class, in random order.

    Args:
        labels: `(images,)`, class indices from 0 to 9.
        per_class: How many of each class.
        seed: Seed of the choice and of the order.

    Returns:
        `(classes * per_class,)`, indices into `labels`, none twice.
    """
    random = np.random.default_rng(seed)
    chosen = [
        random.choice(np.flatnonzero(labels == label), size=per_class, replace=False)
        for label in range(len(LABEL_NAMES))
    ]
    return random.permutation(np.concatenate(chosen))


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode a grey image `(height, width)` as PNG without compression.

    Parquet compresses all images of a file together, which takes a quarter less space than each PNG by itself.
    """
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


def write_split(source: Path, split: str, target: Path) -> None:
    """Sample one split of the IDX files and write it as Parquet with Hugging Face's feature description inside."""
    images = read_idx(source / f"{IDX_PREFIX[split]}-images-idx3-ubyte.gz")
    labels = read_idx(source / f"{IDX_PREFIX[split]}-labels-idx1-ubyte.gz")
    chosen = balanced_sample(labels, IMAGES_PER_CLASS[split], SEED)
    features = Features({"image": Image(), "label": ClassLabel(names=list(LABEL_NAMES))})
    columns = {
        "image": [{"bytes": encode_png(images[index]), "path": None} for index in chosen],
        "label": [int(labels[index]) for index in chosen],
    }
    table = pa.Table.from_pydict(columns, schema=features.arrow_schema)
    pq.write_table(
        table, target, compression="zstd", compression_level=19, use_dictionary=False, write_statistics=False
    )


def main(arguments: list[str] | None = None) -> int:
    """Make the files and say how large they are; 1 when the IDX files are missing."""
    parser = argparse.ArgumentParser(description="Make the Fashion-MNIST sample that ships with hf_transfer.")
    parser.add_argument("source", nargs="?", type=Path, default=DEBIAN_FOLDER, help="folder with the four *.gz files")
    parser.add_argument("--output_dir", type=Path, default=SHIPPED_FOLDER, help="where train and test.parquet go")
    options = parser.parse_args(arguments)
    parts = ("images-idx3-ubyte", "labels-idx1-ubyte")
    needed = [f"{prefix}-{part}.gz" for prefix in IDX_PREFIX.values() for part in parts]
    missing = [name for name in needed if not (options.source / name).is_file()]
    if missing:
        sys.stderr.write(
            f"{options.source} lacks {', '.join(missing)}.\nInstall Fashion-MNIST (Debian, Ubuntu: `apt-get install "
            "dataset-fashion-mnist`), or fetch the four files from github.com/zalandoresearch/fashion-mnist and name "
            "their folder: python scripts/make_demo_data.py FOLDER\n"
        )
        return 1
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for split in IMAGES_PER_CLASS:
        target = options.output_dir / f"{split}.parquet"
        write_split(options.source, split, target)
        sys.stdout.write(f"{target}: {target.stat().st_size / 1e6:.2f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
