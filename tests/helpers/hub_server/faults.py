"""Faults that the local Hub injects."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Fault:
    """What goes wrong with the next requests of a kind.

    Attributes:
        method: HTTP method.
        path: Regular expression that is searched for in the path.
        count: How many requests it hits.
        status: Answer with this status before anything is done.
        drop: Close the connection without an answer; before anything is done, or, with `after`, once it is done.
        after: See `drop`.
        action: Runs before the request is handled, such as a commit by somebody else.
    """

    method: str
    path: str
    count: int = 1
    status: int | None = None
    drop: bool = False
    after: bool = False
    action: Callable[[], None] | None = None
    hits: int = 0

    def matches(self, method: str, path: str) -> bool:
        """Whether the fault hits this request; counts it."""
        if self.hits >= self.count or method != self.method or not re.search(self.path, path):
            return False
        self.hits += 1
        return True
