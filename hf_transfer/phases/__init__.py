"""A plan in time, on one model: freezing, optimizer groups, schedules."""

from __future__ import annotations
