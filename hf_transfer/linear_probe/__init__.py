"""A head solved on a model's features."""

from __future__ import annotations
