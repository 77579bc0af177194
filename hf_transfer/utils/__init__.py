"""Helpers of all packages: files, random numbers, ranks, hashes."""

from __future__ import annotations
