"""argparse for plain dataclasses, with flags spelled as transformers' `HfArgumentParser` spells them.

Importing the parser of transformers takes half a second of CPU, which commands that do not train can save.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, get_args, get_origin, get_type_hints

from hf_transfer.errors import TransferError
from hf_transfer.utils.suggestions import did_you_mean

_WORDS = {True: ("yes", "true", "t", "y", "1"), False: ("no", "false", "f", "n", "0")}


class Suggesting(argparse.ArgumentParser):
    """A parser that proposes a choice for a wrong one."""

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            cause = error.__context__  # our own words, where argparse would name a function
            if isinstance(cause, TransferError):
                raise argparse.ArgumentError(action, str(cause)) from cause
            raise

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            raise argparse.ArgumentError(
                action, f"must be one of {', '.join(choices)}; found {str(value)!r}.{did_you_mean(value, choices)}"
            )


class PlainParser(Suggesting):
    """A parser whose flags are the fields of dataclasses of texts, numbers, switches and lists.

    Args:
        dataclass_types: The dataclasses; the help of a field is in its metadata, with its choices.
        **settings: As for `argparse.ArgumentParser`.
    """

    def __init__(self, dataclass_types: Sequence[type], **settings: Any) -> None:
        super().__init__(**settings)
        self._types = tuple(dataclass_types)
        for each in self._types:
            hints = get_type_hints(each)
            for field in fields(each):
                self._add(field, hints[field.name])

    def parse_args_into_dataclasses(self, args: Sequence[str], **_: Any) -> tuple[Any, ...]:
        """One instance of each dataclass, the other arguments of the parser, and the unknown words."""
        found, unknown = self.parse_known_args(list(args))
        values = vars(found)
        parsed = [each(**{field.name: values.pop(field.name) for field in fields(each)}) for each in self._types]
        return (*parsed, found, unknown)

    def _add(self, field: Field[Any], hint: Any) -> None:
        kind = next((each for each in get_args(hint) if each is not type(None)), hint) if _is_union(hint) else hint
        names = dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}"))
        settings: dict[str, Any] = dict(field.metadata)
        settings |= {"required": True} if field.default is MISSING else {"default": field.default}
        if kind is bool:
            settings |= {"type": _truth, "nargs": "?", "const": True}
        elif get_origin(kind) is list:
            settings |= {"type": get_args(kind)[0], "nargs": "+"}
        else:
            settings["type"] = kind
        self.add_argument(*names, dest=field.name, **settings)


def _is_union(hint: Any) -> bool:
    return isinstance(hint, types.UnionType)


def _truth(word: str) -> bool:
    for value, words in _WORDS.items():
        if word.lower() in words:
            return value
    raise argparse.ArgumentTypeError(f"expected true or false, found {word!r}")
