"""The proof after a phase: frozen tensors and replicas are the same, and what was trained has moved."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import torch
from torch import nn

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.phases.freezing import FreezeState, changed_tensors, frozen_changed, frozen_tensors
from hf_transfer.phases.replicas import check_replicas, copy_from_first_rank, replicated
from hf_transfer.utils.distributed import gather_from_ranks
from hf_transfer.utils.hashing import digests
from hf_transfer.utils.modules import named_parameters

logger = logging.getLogger(__name__)


class PhaseCheck:
    """Hashes of a model's tensors when a phase begins, compared once when it ends.

    Args:
        model: The model, not wrapped.
        state: What is frozen and trained in the phase.
        phase: Name of the phase, for messages.
        done: True for a phase in which nothing is trained, which needs no check.
    """

    def __init__(self, model: nn.Module, state: FreezeState, phase: str, done: bool = False) -> None:
        self._model = model
        self._state = state
        self._phase = phase
        self._done = done
        self._frozen = digests(frozen_tensors(model, state))
        self._trained = digests(self.trained_tensors())

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """The parameters that the phase trains, by name."""
        return {name: p.data for name, p in named_parameters(self._model) if name in self._state.trained}

    def synchronise_buffers(self) -> None:
        """Give all processes the running statistics of the first, as DDP does before its next forward pass."""
        copy_from_first_rank({n: b for n, b in self._model.named_buffers() if n not in self._frozen})

    def run(self, groups: Sequence[LayerGroup]) -> None:
        """Compare, unless that was done already.

        Args:
            groups: All layer groups; those that were trained and did not move are logged.

        Raises:
            FrozenChangedError: A frozen tensor changed, in any process; raised in all of them.
            ReplicasDifferError: The processes hold different weights.
        """
        if self._done:
            return
        self._done = True
        self.synchronise_buffers()
        tensors = {name: p.data for name, p in named_parameters(self._model)} | dict(self._model.named_buffers())
        after = digests(tensors)
        # All processes learn of it and raise: one that continued alone would wait for the others for ever.
        changed = sorted({n for rank in gather_from_ranks(changed_tensors(self._frozen, after)) for n in rank})
        if changed:
            raise frozen_changed(changed, self._phase)
        same = replicated(tensors)
        check_replicas({n: digest for n, digest in after.items() if n in same}, f"after phase {self._phase!r}")
        moved = {n for n, digest in self._trained.items() if after[n] != digest}
        still = [group.name for group in groups if self._is_still(group, moved)]
        if still:
            logger.warning("Trained groups did not move in phase %r: %s.", self._phase, ", ".join(still))

    def _is_still(self, group: LayerGroup, moved: Collection[str]) -> bool:
        trained = [name for name in group.parameter_names if name in self._trained]
        return bool(trained) and not any(name in moved for name in trained)
