"""What is trained when, as plain data: plans and recipes."""

from __future__ import annotations
