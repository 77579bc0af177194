"""The trainers: a thin seam to transformers' Trainer."""

from __future__ import annotations
