"""`hf-transfer publish FOLDER REPO_ID`: check, stage, upload and verify a finished run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hf_transfer.cli.flags import DESCRIPTIONS, NO_TOKEN, PublishOptions
from hf_transfer.cli.options import parse
from hf_transfer.cli.terminal import Terminal, quiet_libraries
from hf_transfer.errors import ArgumentError
from hf_transfer.hub import Publication, publish


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    words = list(argv)
    for flag in ("--folder", "--repo_id"):
        position = 0 if flag == "--folder" else 2
        if flag not in words and len(words) > position and not words[position].startswith("-"):
            words.insert(position, flag)
    if any(word.partition("=")[0] in ("--token", "--hub_token") for word in words):
        raise ArgumentError(NO_TOKEN)
    options, _ = parse((PublishOptions,), words, "publish", DESCRIPTIONS["publish"])
    quiet_libraries()
    made = publish(
        options.folder,
        options.repo_id,
        private=not options.public,
        create_pr=options.create_pr,
        dry_run=options.dry_run,
        verify=not options.no_verify,
        license=options.license,
        limitations=_text(options.limitations),
        include_examples=options.include_examples,
        include_checkpoint=options.include_checkpoint,
        widget_images=options.widget_images or (),
        benchmark_task=options.benchmark_task,
    )
    report(Terminal(sys.stdout), made)
    return 0


def report(terminal: Terminal, made: Publication) -> None:
    """Print what was published and how it was verified."""
    visibility = "private" if made.private else "public"
    if made.revision is None:
        terminal.heading(f"Dry run: nothing was uploaded to {made.repo_id} ({visibility})")
        terminal.text("\n".join(made.files))
        return
    what = f"pull request {made.pull_request}" if made.pull_request else "commit"
    terminal.heading(f"Published: {made.repo_id} ({visibility}), {what}, {len(made.files)} files")
    tag = f", tag {made.tag}" if made.tag else ""
    terminal.text(f"{made.url}\nrevision {made.revision}{tag}")
    found = made.verification
    if found is None:
        terminal.text("Not verified.")
        return
    terminal.text(
        f"Verified in a fresh process, loaded from the Hub: {found.description()}; the card holds {found.results} "
        "results."
    )


def _text(value: str | None) -> str | None:
    if value is None or "\n" in value or len(value) > 255:
        return value
    path = Path(value)
    return path.read_text(encoding="utf-8") if path.is_file() else value
