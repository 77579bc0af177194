"""Pretrained models: loaded, fitted to the data, and where their weights came from."""

from __future__ import annotations
