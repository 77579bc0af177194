"""The loss of a step: who computes it, who scales it for gradient accumulation, and what each micro-batch weighs.

Trainer leaves the loss of most vision models unscaled (https://github.com/huggingface/transformers/issues/47688).
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Trainer

from hf_transfer.errors import DataError
from hf_transfer.utils.foreign import configured, logits_of

_ITEMS = "num_items_in_batch"


class LossScaling:
    """The weights of micro-batches in the loss of one optimizer step.

    Args:
        trainer: The trainer, once it has its model. Its attributes `model_accepts_loss_kwargs`, `label_names` and
            `compute_loss_func` are corrected.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._weights: Iterator[float] = iter(())
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        # A loss of a subclass that divides by the number of items needs that number, and is scaled by it.
        accepts = uses_num_items_in_batch(model) or divides_by_items(type(trainer))
        trainer.model_accepts_loss_kwargs = trainer.model_accepts_loss_kwargs and accepts
        if not takes_labels(model):
            trainer.label_names = trainer.args.label_names or ["labels"]
            trainer.compute_loss_func = trainer.compute_loss_func or LogitsLoss(trainer.args.label_smoothing_factor)

    def begin_step(self, batches: Sequence[Any], num_items: Any) -> Any:
        """Note what part of an optimizer step each of its micro-batches is.

        Args:
            batches: The micro-batches of this process.
            num_items: Trainer's number of labels in the step, or None.

        Returns:
            The number of labels to divide by, or None where the weights scale the loss.
        """
        trainer = self._trainer
        several = trainer.model_accepts_loss_kwargs and has_float_labels(batches)
        if several and is_transformers_model(trainer.model) and not divides_by_items(type(trainer)):
            # Losses for several labels and for regression ignore num_items_in_batch.
            trainer.model_accepts_loss_kwargs, num_items = False, None
        self._weights = iter(()) if self._scaled_by_items() else iter(self._of(batches))
        return num_items

    def next_weight(self, training: bool) -> float:
        """The weight of the next micro-batch; 1 outside of training, and where the loss is scaled by items."""
        return next(self._weights, 1.0) if training and not self._scaled_by_items() else 1.0

    def no_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False) -> Any:
        """A loss of 0 that depends on all that is trained.

        For a micro-batch without labels: the mean over none is not a number, and DDP waits for a gradient.
        """
        inputs = {key: value for key, value in inputs.items() if key not in self._trainer.label_names}
        outputs = model(**inputs)
        logits = logits_of(outputs)
        loss = logits.sum() * 0.0
        return (loss, outputs) if return_outputs else loss

    def snapshot(self) -> Iterator[float]:
        """The weights that are left of the present step, for `restore`."""
        return self._weights

    def restore(self, weights: Iterator[float]) -> None:
        """Continue with the weights of an earlier `snapshot`."""
        self._weights = weights

    def _scaled_by_items(self) -> bool:
        """Whether the loss is divided by the number of items of the whole step already."""
        return self._trainer.model_accepts_loss_kwargs or self._trainer.compute_loss_func is not None

    def _of(self, batches: Sequence[Any]) -> list[float]:
        """The weight of each of this process's micro-batches; all processes must call it."""
        accelerator, sizes = self._trainer.accelerator, micro_batch_sizes(batches)
        total = sum(sizes)
        if accelerator.num_processes > 1:
            total = int(accelerator.reduce(torch.tensor(total, device=accelerator.device), "sum"))
        return micro_batch_weights(sizes, total, accelerator.num_processes)


def weighted(result: Any, weight: float) -> Any:
    """What `compute_loss` returned, a loss or a loss with outputs, times a weight."""
    if weight == 1.0:
        return result
    return (result[0] * weight, *result[1:]) if isinstance(result, tuple) else result * weight


def divides_by_items(trainer: type) -> bool:
    """Whether a subclass's own `compute_loss` uses `num_items_in_batch`, and not only passes it on."""
    owner: type = next((each for each in trainer.__mro__ if "compute_loss" in vars(each)), trainer)
    if owner.__module__.startswith(("hf_transfer.", "transformers.")):
        return False
    tree = _source(vars(owner)["compute_loss"])
    if tree is None:
        return True
    passed_on = {
        id(inner)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "compute_loss"
        for inner in ast.walk(call)
    }
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == _ITEMS)
    return any(id(node) not in passed_on for node in names)


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
    tree = _source(type(model).forward)
    return tree is None or any(_names_items(node) or _passes_kwargs_to_loss(node) for node in ast.walk(tree))


def _source(function: Any) -> ast.AST | None:
    """The syntax tree of a function; None where its source cannot be read."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return None


def _names_items(node: ast.AST) -> bool:
    named = {ast.Name: "id", ast.arg: "arg", ast.keyword: "arg", ast.Constant: "value"}.get(type(node))
    return named is not None and getattr(node, named) == _ITEMS


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


def keys_beside_logits(model: nn.Module) -> list[str] | None:
    """Outputs to leave out so that `predictions` are the logits alone; None is Trainer's own choice."""
    if takes_labels(model):
        return None
    kept = configured(model, "keys_to_ignore_at_inference") or []
    return [*kept, "cls_logits", "distillation_logits", "hidden_states"]


def has_float_labels(batches: Sequence[Any]) -> bool:
    """Whether the labels are several per image, or numbers to be predicted."""
    return any(labels.is_floating_point() for labels in _labels(batches))


def micro_batch_sizes(batches: Sequence[Any]) -> list[int]:
    """How many labels of each micro-batch count; empty where there are none to count."""
    return [len(labels) if labels.is_floating_point() else int(labels.ne(-100).sum()) for labels in _labels(batches)]


def micro_batch_weights(sizes: Sequence[int], total: int, processes: int = 1) -> list[float]:
    """The weight of each micro-batch's mean loss, so that the mean over micro-batches and processes is that of labels.

    Args:
        sizes: Labels of each micro-batch of this process that count.
        total: Sum of the sizes over all processes.
        processes: Number of processes.

    Returns:
        Each micro-batch's share of all labels, times the number of micro-batches, times that of processes.
    """
    return [size * len(sizes) * processes / total for size in sizes] if total else []


def _labels(batches: Sequence[Any]) -> list[torch.Tensor]:
    found = [batch.get("labels") if isinstance(batch, Mapping) else None for batch in batches]
    tensors = [labels for labels in found if isinstance(labels, torch.Tensor)]
    return tensors if len(tensors) == len(batches) else []
