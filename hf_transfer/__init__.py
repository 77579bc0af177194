"""Transfer learning for image classifiers of transformers and timm.

The names below are imported on first use, so that `import hf_transfer` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_transfer.architectures.layer_groups import LayerGroup
    from hf_transfer.architectures.lookup import list_wrappers, register_wrapper, select, wrap
    from hf_transfer.architectures.wrapper import ModelWrapper
    from hf_transfer.data.loading import load_images
    from hf_transfer.data.transforms import collate, eval_transform, train_transform
    from hf_transfer.diagnosis.running import diagnose
    from hf_transfer.errors import TransferError
    from hf_transfer.features.extract import extract_features
    from hf_transfer.hub.publishing import publish
    from hf_transfer.linear_probe.probe_file import load_probe
    from hf_transfer.models.truncation import truncate, truncation_points
    from hf_transfer.phases.freezing import frozen
    from hf_transfer.phases.param_groups import param_groups
    from hf_transfer.plans import recipes
    from hf_transfer.plans.plan import Phase, TransferPlan
    from hf_transfer.trainer.args import TransferArguments
    from hf_transfer.trainer.held_out import HeldOut
    from hf_transfer.trainer.probe_trainer import LinearProbeTrainer
    from hf_transfer.trainer.trainer import TransferTrainer

__version__ = "0.1.0"

__all__ = [
    "HeldOut",
    "LayerGroup",
    "LinearProbeTrainer",
    "ModelWrapper",
    "Phase",
    "TransferArguments",
    "TransferError",
    "TransferPlan",
    "TransferTrainer",
    "collate",
    "diagnose",
    "eval_transform",
    "extract_features",
    "frozen",
    "list_wrappers",
    "load_images",
    "load_probe",
    "param_groups",
    "publish",
    "recipes",
    "register_wrapper",
    "select",
    "train_transform",
    "truncate",
    "truncation_points",
    "wrap",
]

_HOME = {
    "HeldOut": "trainer.held_out",
    "LayerGroup": "architectures.layer_groups",
    "LinearProbeTrainer": "trainer.probe_trainer",
    "ModelWrapper": "architectures.wrapper",
    "Phase": "plans.plan",
    "TransferArguments": "trainer.args",
    "TransferError": "errors",
    "TransferPlan": "plans.plan",
    "TransferTrainer": "trainer.trainer",
    "collate": "data.transforms",
    "diagnose": "diagnosis.running",
    "eval_transform": "data.transforms",
    "extract_features": "features.extract",
    "frozen": "phases.freezing",
    "list_wrappers": "architectures.lookup",
    "load_images": "data.loading",
    "load_probe": "linear_probe.probe_file",
    "param_groups": "phases.param_groups",
    "publish": "hub.publishing",
    "register_wrapper": "architectures.lookup",
    "select": "architectures.lookup",
    "train_transform": "data.transforms",
    "truncate": "models.truncation",
    "truncation_points": "models.truncation",
    "wrap": "architectures.lookup",
}
_RETIRED_DOWNLOADER = frozenset({"download", "multipart_upload"})


def __getattr__(name: str) -> Any:
    """Import a public name, or a submodule, when it is first used (PEP 562)."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name == "recipes":
        return importlib.import_module(f"{__name__}.plans.recipes")
    if name in _RETIRED_DOWNLOADER:
        # RuntimeError, not AttributeError: huggingface_hub < 1.0 turns the latter into the advice to install the
        # retired downloader, which would overwrite this very file.
        raise RuntimeError(
            f"hf_transfer.{name} belongs to the retired Rust downloader `hf-transfer`; this package is "
            "`hf-transfer-learning`, which has the same import name. Unset HF_HUB_ENABLE_HF_TRANSFER, or upgrade "
            "huggingface_hub to 1.31 or newer, which does not use that downloader. `hf-transfer doctor` tells more."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
