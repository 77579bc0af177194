"""What a run leaves for people: record, card, report."""

from __future__ import annotations
