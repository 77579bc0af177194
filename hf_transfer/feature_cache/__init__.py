"""The frozen part of a network, computed once per image."""

from __future__ import annotations
