"""What a cut gives to store: columns of captured tensors, their size, what they depend on, and what they cost."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.feature_cache.costs import Costs
from hf_transfer.feature_cache.cut import Cut
from hf_transfer.feature_cache.packing import RowLayout
from hf_transfer.features.extraction import Columns
from hf_transfer.features.fingerprints import tensor_names
from hf_transfer.features.norm_fusion import FUSION_IMAGES, NormFusion
from hf_transfer.features.reading import Row, pixel_values
from hf_transfer.utils.modules import is_inside

# A backward pass computes gradients of weights and of inputs, each about as dear as the forward pass.
_BACKWARD = 2


class CutColumns:
    """From rows of a data set to columns of captured tensors.

    Args:
        cut: Not installed.
        autocast: Type of mixed precision; None for none.
        fusion: Fusion of the model's batch normalisation, while the prefix is computed.

    Attributes:
        facts: About the columns, for the store's entry; filled with the first batch.
        constants: Tensors that are the same for all images, of the latest batch.
    """

    def __init__(self, cut: Cut, autocast: torch.dtype | None, fusion: NormFusion) -> None:
        self.cut = cut
        self.facts: dict[str, Any] = {"kind": "cut", "path": cut.boundary.path}
        self.constants: Sequence[torch.Tensor] = ()
        self._autocast = autocast
        self._fusion = fusion
        self._layout: RowLayout | None = None

    def __call__(self, rows: Sequence[Row]) -> Columns:
        device = next(self.cut.model.parameters()).device
        mixed = torch.autocast(device.type, self._autocast) if self._autocast else contextlib.nullcontext()
        images = pixel_values(rows).to(device)
        with mixed:
            self._fusion.fuse(lambda: self.cut.capture(images[:FUSION_IMAGES]).rows)
            captured = self.cut.capture(images)
        self.constants = captured.constants
        if self._layout is None:
            self._layout = RowLayout.of(captured, rows[0])
            self.facts |= {"layout": self._layout.to_dict(), "constants": len(captured.constants)}
        return self._layout.columns(captured, rows)


def row_bytes(cut: Cut) -> int:
    """Bytes that are stored for one image."""
    leaves = [leaf for leaf in cut.boundary.leaves if leaf.is_rows]
    return sum(torch.Size(leaf.sized(1)).numel() * (leaf.dtype or torch.float32).itemsize for leaf in leaves)


def prefix_tensors(model: nn.Module, groups: Sequence[LayerGroup], cut: Cut) -> list[str]:
    """Names of the parameters and buffers that captured tensors may depend on: all but those of the groups behind."""
    path = cut.boundary.path
    after = [g.index for g in groups if any(is_inside(m, (path,)) or is_inside(path, (m,)) for m in g.module_names)]
    first = min(after, default=len(groups))
    behind = [module for group in groups if group.index >= first for module in group.module_names]
    ran = (*cut.boundary.stubs, *cut.boundary.before)  # groups may be in another order than they run in
    return [name for name in tensor_names(model) if is_inside(name, ran) or not is_inside(name, behind)]


def costs_of(cut: Cut, reading: float) -> Costs:
    """What the parts of a step cost, for one image.

    Args:
        cut: Checked.
        reading: Seconds to read one image.
    """
    prefix, whole = cut.seconds
    return Costs(reading, prefix, max(whole - prefix, 0.0) * (1 + _BACKWARD), 0.0)
