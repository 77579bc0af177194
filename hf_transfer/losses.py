"""Which models scale their loss for gradient accumulation, found in the source of their forward pass."""

from __future__ import annotations

import ast
import inspect
import textwrap

from torch import nn


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
