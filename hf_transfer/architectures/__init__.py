"""Architectures: which layer groups a model has, in the order in which its forward pass runs them."""

from __future__ import annotations
