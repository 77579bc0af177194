"""Checkpoints: written whole, resumed exactly, portable without pickles."""

from __future__ import annotations
