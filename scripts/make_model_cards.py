"""Write the golden example cards: `python scripts/make_model_cards.py` makes model_cards/*.md from its records."""

from __future__ import annotations

import sys
from pathlib import Path

from hf_transfer.card import render_card, validate_metadata
from hf_transfer.run_record import RunRecord

FOLDER = Path(__file__).parent.parent / "model_cards"


def golden_card(record: Path) -> str:
    """The card of one record."""
    card = render_card(RunRecord.load(record).to_dict(), repo_id=f"example/flowers-{record.stem.replace('_', '-')}")
    validate_metadata(card)
    return card


def main() -> None:
    """Write all cards."""
    for record in sorted((FOLDER / "records").glob("*.json")):
        path = FOLDER / f"{record.stem}.md"
        path.write_text(golden_card(record), encoding="utf-8")
        sys.stdout.write(f"{path.name}\n")


if __name__ == "__main__":
    main()
