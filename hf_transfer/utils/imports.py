"""Imports of large libraries, made cheaper."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Pause Python's garbage collector while the context lasts.

    It runs hundreds of times while torch, transformers and timm are imported, and finds nothing to free. What they
    made stays to the end, so that later collections, and the one at exit, need not look at it either.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
