"""Losses that Trainer needs to know about.

Which models scale their loss for gradient accumulation, found in the source of their forward pass; and the loss of
models that do not compute one.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hf_transfer.errors import DataError


def is_transformers_model(model: nn.Module) -> bool:
    """Whether the class of a model is one of transformers' own."""
    return type(model).__module__.startswith("transformers.")


def uses_num_items_in_batch(model: nn.Module) -> bool:
    """Whether a model divides its loss for class labels by `num_items_in_batch` when it is given.

    Trainer takes any `**kwargs` in `forward` for a yes and then leaves the loss unscaled; most vision models take
    `**kwargs` for other reasons (https://github.com/huggingface/transformers/issues/47688). A model does it if its
    forward names the argument, or passes its `**kwargs` on to a loss function. For classes that are not transformers'
    own, or declare `accepts_loss_kwargs`, and where the source cannot be read, the answer is yes, as Trainer has it.
    """
    if not is_transformers_model(model) or hasattr(model, "accepts_loss_kwargs"):
        return True
    forward = inspect.unwrap(type(model).forward)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError):
        return True
    return any(_names_items(node) or _passes_kwargs_to_loss(node) for node in ast.walk(tree))


def _names_items(node: ast.AST) -> bool:
    named = {ast.Name: "id", ast.arg: "arg", ast.keyword: "arg", ast.Constant: "value"}.get(type(node))
    return named is not None and getattr(node, named) == "num_items_in_batch"


def _passes_kwargs_to_loss(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not any(keyword.arg is None for keyword in node.keywords):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return "loss" in called


class LogitsLoss:
    """Cross-entropy of a model's logits, for models whose forward takes no labels; a `compute_loss_func` of Trainer.

    PP-LCNet and the distilled variants of DeiT and LeViT are such models. The two heads of the latter are trained on
    the average of their logits, which is what they answer in inference; so does timm where no teacher takes part.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(
        self, outputs: Any, labels: torch.Tensor | None, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Mean loss, or the sum over `num_items_in_batch`, so that accumulated micro-batches add up to the mean.

        Args:
            outputs: What the model returned, with logits `(batch, labels)`.
            labels: Class indices `(batch,)`; -100 is left out. Floats `(batch, labels)` are several labels an image.
            num_items_in_batch: Number of labels in all micro-batches of a step.

        Raises:
            DataError: The batch has no labels.
        """
        logits = logits_of(outputs)
        if labels is None:
            raise DataError("The model is trained on labels, but the batch has none: expected a column 'labels'.")
        reduction = "mean" if num_items_in_batch is None else "sum"
        if labels.is_floating_point():
            loss = functional.binary_cross_entropy_with_logits(logits, labels.view_as(logits), reduction=reduction)
        else:
            loss = functional.cross_entropy(
                logits, labels.view(-1), reduction=reduction, label_smoothing=self.label_smoothing
            )
        return loss if num_items_in_batch is None else loss / num_items_in_batch


def takes_labels(model: nn.Module) -> bool:
    """Whether a model computes its own loss: its forward has an argument `labels`, or takes any."""
    return not is_transformers_model(model) or "labels" in inspect.signature(type(model).forward).parameters


def logits_of(outputs: Any) -> torch.Tensor:
    """The logits in what a classifier returned; PP-LCNet calls them `last_hidden_state`."""
    if isinstance(outputs, Mapping):
        return outputs["logits"] if "logits" in outputs else outputs["last_hidden_state"]
    return outputs[0] if isinstance(outputs, tuple | list) else outputs


def keys_beside_logits(model: nn.Module) -> list[str] | None:
    """Outputs to leave out so that `predictions` are the logits alone; None is Trainer's own choice."""
    if takes_labels(model):
        return None
    kept = getattr(getattr(model, "config", None), "keys_to_ignore_at_inference", None) or []
    return [*kept, "cls_logits", "distillation_logits", "hidden_states"]
