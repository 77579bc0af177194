"""The sections of docs/architectures.md, one module each, with a function `section()` that returns Markdown lines."""

from __future__ import annotations
