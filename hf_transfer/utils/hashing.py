"""Hashes of tensors."""

from __future__ import annotations

import hashlib
from typing import Any

import torch


def digests(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """A hash of each tensor's bytes, shape and type."""
    return {name: _digest(tensor) for name, tensor in tensors.items()}


def _digest(tensor: Any) -> str:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # of a sharded tensor, this rank's part
    data = local.detach().reshape(-1).cpu().contiguous()
    content = hashlib.blake2b(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), digest_size=16)
    content.update(data.view(torch.uint8).numpy().data)
    return content.hexdigest()
