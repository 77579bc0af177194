"""Normalisation layers, found on any model."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

_TORCH_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def norm_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the normalisation layers: torch's, and modules named so whose own parameters are all 1-D.

    The name is the one trait that transformers' and timm's own norm classes share.
    """
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        named = re.search(r"Norm|Affine", type(module).__name__) and all(p.ndim <= 1 for p in own)
        if own and (named or isinstance(module, _TORCH_NORMS)):
            yield name, module


def norm_parameter_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of all normalisation layers."""
    return frozenset(
        f"{module_name}.{name}" if module_name else name
        for module_name, module in norm_modules(model)
        for name, _ in module.named_parameters(recurse=False)
    )
