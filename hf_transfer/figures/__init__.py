"""The figures of a run, drawn from plain data."""

from __future__ import annotations
