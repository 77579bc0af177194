"""`hf-transfer publish FOLDER REPO_ID`: check, stage, upload and verify a finished run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_transfer.cli.options import parse
from hf_transfer.cli.terminal import Terminal, quiet_libraries
from hf_transfer.errors import ArgumentError
from hf_transfer.hub import Publication, publish


@dataclass
class PublishOptions:
    """What to publish, where, and how."""

    folder: str = field(metadata={"help": "The --output_dir of a finished run; also the first word."})
    repo_id: str = field(metadata={"help": "owner/name, or name for the logged-in user's; also the second word."})
    public: bool = field(default=False, metadata={"help": "Make a public repository. Default: private."})
    create_pr: bool | None = field(
        default=None,
        metadata={"help": "By pull request. Default: only into a repository that holds something already."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Check and stage everything, send nothing."})
    no_verify: bool = field(default=False, metadata={"help": "Do not load the published model back to compare it."})
    license: str | None = field(
        default=None, metadata={"help": "The Hub's identifier, such as mit. Default: the base model's."}
    )
    limitations: str | None = field(
        default=None, metadata={"help": "Markdown, or a file that holds it, for the card's section of that name."}
    )
    include_examples: bool = field(
        default=False,
        metadata={"help": "Also publish what shows images or file names: worst mistakes, predictions, report."},
    )
    include_checkpoint: bool = field(
        default=False,
        metadata={"help": "Also publish the last checkpoint, as safetensors and JSON, for others to go on from."},
    )
    widget_images: list[str] | None = field(
        default=None,
        metadata={"help": "Image files that everybody may see, as examples on the model page.", "nargs": "+"},
    )
    benchmark_task: str | None = field(
        default=None,
        metadata={"help": "Task in the eval.yaml of a data set that is a benchmark: report the accuracy to it."},
    )


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    words = list(argv)
    for flag in ("--folder", "--repo_id"):
        position = 0 if flag == "--folder" else 2
        if flag not in words and len(words) > position and not words[position].startswith("-"):
            words.insert(position, flag)
    if any(word.partition("=")[0] in ("--token", "--hub_token") for word in words):
        raise ArgumentError(
            "A token is not taken as an argument, where others could read it. Log in by `hf auth login`, or set "
            "HF_TOKEN in the environment."
        )
    options, _ = parse((PublishOptions,), words, "publish", __doc__ or "")
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
    """Print what was published."""
    visibility = "private" if made.private else "public"
    if made.revision is None:
        terminal.heading(f"Dry run: nothing was sent to {made.repo_id} ({visibility})")
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
