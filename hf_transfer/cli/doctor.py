"""`hf-transfer doctor`: examine the environment."""

from __future__ import annotations

from collections.abc import Sequence

from hf_transfer import doctor


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    return doctor.main(list(argv))
