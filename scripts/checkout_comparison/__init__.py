"""Parts of `scripts/compare_checkouts.py`: the runs, what they are made of, and how their results are compared."""

from __future__ import annotations
