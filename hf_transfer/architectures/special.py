"""Architectures that are neither a flat list nor stages of blocks, and those that cannot be trained as classifiers."""

from __future__ import annotations

from hf_transfer.architectures.layout import Layout, LayoutWrapper
from hf_transfer.architectures.registry import register
from hf_transfer.architectures.wrapper import GroupDraft, ModelWrapper
from hf_transfer.errors import UnknownArchitectureError

REFUSED = {
    "shieldgemma2": "it has no classification head: its answer is read from the logits of the words Yes and No of a "
    "language model, so there is nothing that maps features to your labels. Load another checkpoint, for example one "
    "of SigLIP, whose image encoder it shares",
}


@register("perceiver")
class PerceiverWrapper(LayoutWrapper):
    """Perceiver: self-attention layers between a cross-attention that reads the image and one that writes the answer.

    The latter is pretrained, hence neck.
    """

    layout = Layout(
        stem=("perceiver.input_preprocessor", "perceiver.embeddings", "perceiver.encoder.cross_attention"),
        blocks="perceiver.encoder.self_attends.*",
        neck=("perceiver.decoder",),
        head=("perceiver.decoder.decoder.final_layer",),
    )

    @property
    def reused_modules(self) -> tuple[str, ...]:
        """The list of self-attention layers runs `num_blocks` times with the same weights."""
        runs = int(self.model.config.num_blocks)  # type: ignore[union-attr, arg-type]
        return tuple(g.name for g in self.layer_groups if g.role == "block") if runs > 1 else ()


@register(*REFUSED)
class RefusedWrapper(ModelWrapper):
    """An architecture that is registered as an image classifier, but cannot be trained as one."""

    def draft_groups(self) -> list[GroupDraft]:
        reason = REFUSED[str(self.model.config.model_type)]  # type: ignore[union-attr]
        raise UnknownArchitectureError(
            f"{type(self.model).__name__} cannot be trained as an image classifier: {reason}."
        )
