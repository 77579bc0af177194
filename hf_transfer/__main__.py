"""`python -m hf_transfer`, so that `accelerate launch -m hf_transfer train ...` works."""

from __future__ import annotations

import sys

from hf_transfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
