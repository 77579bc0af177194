"""Built-in wrappers. Importing this module registers them."""

from __future__ import annotations

from hf_transfer.architectures import flat, inferred, special, staged, timm_models

__all__ = ["flat", "inferred", "special", "staged", "timm_models"]
