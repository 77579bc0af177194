"""Write the example cards in model_cards/.

    python scripts/make_model_cards.py                    # again from the records that are there
    python scripts/make_model_cards.py --train [NAME...]  # from new runs: about a minute each on two cores

Each run is `hf-transfer train` on Fashion-MNIST images and, but for the probe, on the ImageNet weights of the extra
`demo`; the card is the one that `hf-transfer publish` would send. Record, card and figures are kept, weights are not.
One run loads model and images from a Hub: the one of the tests, on this machine, to which they are put first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi

from hf_transfer.demo import demo_data_folder
from hf_transfer.demo.weights import write_lite0_checkpoint
from hf_transfer.hub.staging import Contents, stage
from hf_transfer.reporting.card import PublishedFacts, render_card, validate_metadata
from hf_transfer.reporting.record import RunRecord
from hf_transfer.run_files import CARD_NAME

FOLDER = Path(__file__).parent.parent / "model_cards"
REVISIONS = FOLDER / "revisions.json"
MODEL, DATA = "tf_efficientnet_lite0", "fashion_mnist_sample"
IMAGES = {"train": 400, "test": 200}
FROM_THE_HUB = "from_the_hub"
HUB_MODEL, HUB_DATA = "example/tf-efficientnet-lite0", "example/fashion-mnist-sample"
# As the package states whose weights they are.
HUB_CARD = "---\nlicense: apache-2.0\nlibrary_name: timm\n---\n# tf_efficientnet_lite0\n"
COMMON = {"image_size": "64", "augmentation": "none", "seed": "0", "per_device_train_batch_size": "16"}
RUNS = {
    # EfficientNet cannot be cut behind an earlier layer. A ResNet can, but there are no weights of one offline.
    "linear_probe": {"model_name_or_path": "timm:resnet18", "recipe": "linear_probe", "layer": "timm_model.layer4.0"},
    "gradual_unfreezing": {
        "recipe": "gradual_unfreeze",
        "recipe_options": '{"steps": 1, "blocks_per_step": 4, "head_lr_ratio": 5}',
        "learning_rate": "5e-4",
        "num_train_epochs": "1",
    },
    FROM_THE_HUB: {"model_name_or_path": HUB_MODEL, "dataset": HUB_DATA, "recipe": "auto"},
    "timm_fine_tune": {
        "recipe": "fine_tune",
        "learning_rate": "5e-3",
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "num_train_epochs": "3",
        "label_smoothing_factor": "0.1",
    },
    "two_ranks": {
        "recipe": "lp_ft",
        "recipe_options": '{"probe_epochs": 1, "probe_lr_ratio": 20}',
        "learning_rate": "5e-4",
        "num_train_epochs": "2",
        "per_device_train_batch_size": "8",
    },
}


def command(name: str, output: Path) -> list[str]:
    """The command of one run, to be started in the folder that holds `MODEL` and `DATA`."""
    flags = {"model_name_or_path": MODEL, "dataset": DATA, "output_dir": str(output)} | COMMON | RUNS[name]
    words = ["-m", "hf_transfer", "train", *(word for flag, value in flags.items() for word in (f"--{flag}", value))]
    if name != "two_ranks":
        return [sys.executable, *words]
    launcher = "accelerate.commands.accelerate_cli"
    options = ["--multi_gpu", "--num_processes", "2", "--main_process_port", str(_free_port())]
    return [sys.executable, "-m", launcher, "launch", *options, *words]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def write_inputs(folder: Path) -> None:
    """Write the model, and the first images of the demo's."""
    from datasets import Dataset

    write_lite0_checkpoint(folder / MODEL)
    (folder / DATA).mkdir()
    for split, count in IMAGES.items():
        images = Dataset.from_parquet(str(demo_data_folder() / f"{split}.parquet"), cache_dir=str(folder / "cache"))
        images.shuffle(seed=0).select(range(count)).to_parquet(folder / DATA / f"{split}.parquet")


def train(name: str, folder: Path) -> Path:
    """Run one command; returns its output folder."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(FOLDER.parent)}
    if name == FROM_THE_HUB:
        with local_hub(folder) as url:
            environment |= {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
            subprocess.run(command(name, Path(name)), cwd=folder, env=environment, check=True)
    else:
        subprocess.run(command(name, Path(name)), cwd=folder, env=environment, check=True)
    return folder / name


@contextmanager
def local_hub(folder: Path) -> Iterator[str]:
    """A Hub on this machine that holds the inputs of a folder; gives its address."""
    sys.path.insert(0, str(FOLDER.parent))
    from tests.helpers.hub_server import HubServer, Repository

    hub = HubServer()
    for repo_id, source in ((HUB_MODEL, folder / MODEL), (f"datasets/{HUB_DATA}", folder / DATA)):
        repository = hub.repositories[repo_id] = Repository(repo_id, private=False)
        if repo_id == HUB_MODEL:
            repository.put(CARD_NAME, HUB_CARD.encode())
        for path in sorted(source.iterdir()):
            repository.put(path.name, path.read_bytes())
    with hub.running():
        yield hub.url


def keep(name: str, output: Path) -> None:
    """Keep record, figures and card of a run, as they would be published."""
    with tempfile.TemporaryDirectory() as temporary:
        staged = stage(output, Path(temporary), repo_id(name), Contents(), HfApi())
        tag = staged.pin(True)
        target = FOLDER / name
        shutil.rmtree(target, ignore_errors=True)
        for path in staged.files:
            if path in (CARD_NAME, "run.json") or path.startswith("figures/"):
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(staged.folder / path, target / path)
    revisions = json.loads(REVISIONS.read_text(encoding="utf-8")) if REVISIONS.is_file() else {}
    text = json.dumps(revisions | {name: tag}, indent=2, sort_keys=True)
    REVISIONS.write_text(text + "\n", encoding="utf-8")


def repo_id(name: str) -> str:
    """Where the card says that the model is."""
    return f"example/fashion-{name.replace('_', '-')}"


def golden_card(name: str) -> str:
    """The card that a kept record gives."""
    folder = FOLDER / name
    card = render_card(
        RunRecord.load(folder / "run.json").to_dict(),
        repo_id=repo_id(name),
        figures={path.stem: f"figures/{path.name}" for path in sorted(folder.glob("figures/*.png"))},
        published=PublishedFacts(revision=json.loads(REVISIONS.read_text(encoding="utf-8"))[name]),
    )
    validate_metadata(card)
    return card


def main(argv: Sequence[str] | None = None) -> None:
    """Write all cards, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="run the trainings first")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RUNS)}; default: all")
    options = parser.parse_args(argv)
    names = options.names or list(RUNS)
    if options.train:
        with tempfile.TemporaryDirectory() as temporary:
            write_inputs(Path(temporary))
            for name in names:
                keep(name, train(name, Path(temporary)))
    for name in names:
        (FOLDER / name / CARD_NAME).write_text(golden_card(name), encoding="utf-8")
        sys.stdout.write(f"model_cards/{name}/{CARD_NAME}\n")


if __name__ == "__main__":
    main()
