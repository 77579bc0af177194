"""The runs that are compared: each a few processes that write below the folder `out`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

DRIVER = Path(__file__).resolve().parent / "driver.py"


@dataclass(frozen=True)
class Step:
    """One call of Python in the folder of the run.

    Attributes:
        words: Arguments of Python, or of the launcher.
        processes: More than one are started by accelerate's launcher.
        by_old: Use the old checkout, also where the new one is examined.
    """

    words: tuple[str, ...]
    processes: int = 1
    by_old: bool = False


@dataclass(frozen=True)
class Run:
    """What is done with each checkout.

    Attributes:
        name: Of the run.
        steps: In this order.
        expected: Aspects of which there must be files: equal because there is nothing is no result.
        same: Pairs of files below `out` that must be the same within each checkout.
    """

    name: str
    steps: tuple[Step, ...]
    expected: tuple[str, ...] = ("losses", "weights", "checkpoints")
    same: tuple[tuple[str, str], ...] = ()


def _driver(*words: str, processes: int = 1, by_old: bool = False) -> Step:
    counted = ("--processes", str(processes)) if processes > 1 else ()
    return Step((str(DRIVER), *words, *counted), processes, by_old)


def _command(*words: str, processes: int = 1) -> Step:
    return Step(("-m", "hf_transfer", *words), processes)


def _train(output: str, *words: str, model: str = "vit", processes: int = 1) -> Step:
    """The command `train` on the image folder."""
    fixed = ("train", "--model_name_or_path", f"material/{model}", "--dataset", "material/photos")
    cache = () if "--cache_features" in words else ("--cache_features", "off")
    length = ("--num_train_epochs", "2", "--per_device_train_batch_size", str(8 // processes), "--logging_steps", "1")
    where = ("--output_dir", output, "--save_total_limit", "9", "--use_cpu", "true")
    return _command(*fixed, *length, *where, *cache, *words, processes=processes)


_STEPS_ALONE = json.dumps({"probe_epochs": 1, "layer_decay": 0.8})
_WHOLE = ("losses", "weights", "card", "record")
RUNS = (
    Run("plain", (_driver("plain", "out"),)),
    Run("lp_ft", (_driver("lp_ft", "out"),)),
    Run("gradual_unfreeze", (_driver("gradual_unfreeze", "out"),)),
    Run(
        "linear_probe",
        (_driver("linear_probe", "out/driver"), _train("out/command", "--recipe", "linear_probe")),
        _WHOLE,
    ),
    Run(
        "resume",
        (_driver("resume", "out/whole"), _driver("resume", "out/resumed", "--from", "out/whole")),
        same=tuple(
            (f"whole/{name}/model.safetensors", f"resumed/{name}/model.safetensors")
            for name in ("phases", "averaged", "solved", "cached", "plain")
        ),
    ),
    Run(
        "resume_old",
        (_driver("resume", "out/whole", by_old=True), _driver("resume", "out/resumed", "--from", "out/whole")),
    ),
    Run(
        "two_ranks",
        (
            _driver("two_ranks", "out/driver", processes=2),
            _train("out/command", "--recipe", "lp_ft", "--recipe_options", _STEPS_ALONE, processes=2),
        ),
        ("checkpoints", *_WHOLE),
    ),
    Run(
        "command",
        (
            _train("out/trained", "--recipe", "lp_ft", "--augmentation", "light"),
            _train(
                "out/cached",
                *("--recipe", "last_blocks", "--recipe_options", '{"k": 1}', "--cache_features", "on"),
                *("--augmentation", "none"),
                model="resnet",
            ),
            _command(
                *("evaluate", "out/trained", "--dataset", "material/photos", "--split", "test"),
                *("--output_dir", "out/evaluated"),
            ),
        ),
        ("checkpoints", *_WHOLE),
    ),
    Run("best", (_driver("best", "out"),)),
)
