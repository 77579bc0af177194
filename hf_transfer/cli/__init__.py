"""The command line: `hf-transfer COMMAND`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from hf_transfer.errors import InterruptedTrainingError, TransferError
from hf_transfer.utils.imports import collection_paused
from hf_transfer.utils.threads import yield_at_barriers

COMMANDS = {
    "train": "fine-tune an image classifier, evaluate it, and write checkpoint, card and figures",
    "diagnose": "measure which kind of transfer a data set needs, and recommend a recipe with reasons",
    "inspect": "show the layer groups of a model, and what a recipe would train",
    "evaluate": "compute all metrics of a trained model on a data set",
    "publish": "check, upload and verify a finished run on the Hub, private by default",
    "demo": "train on the images of the package, offline, in a few minutes",
    "doctor": "examine the environment: versions, devices, Hub login, name collisions",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments after the program's name; None takes those of the process.

    Returns:
        0 on success, 1 on a failure that was reported in one message on stderr, 2 on bad usage, 130 or 143 when SIGINT
        or SIGTERM ended a training, which has saved a checkpoint.
    """
    yield_at_barriers(os.environ)
    arguments, debug = _split_debug(list(sys.argv[1:] if argv is None else argv))
    if not arguments or arguments[0] in ("-h", "--help"):
        _say(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from hf_transfer import __version__

        _say(f"hf-transfer-learning {__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        from hf_transfer.utils.suggestions import did_you_mean

        guess = did_you_mean(command, COMMANDS)
        _complain(f"unknown command {command!r}. The commands are: {', '.join(COMMANDS)}.{guess}")
        return 2
    if {"-h", "--help", "--help_all", "--help-all"} & set(rest):
        from hf_transfer.cli.help import show

        _say(show(command, everything=not {"-h", "--help"} & set(rest)))
        raise SystemExit(0)
    try:
        with collection_paused():
            module = importlib.import_module(f"hf_transfer.cli.{command}")
        status: int = module.run(rest)
        return status
    except InterruptedTrainingError as error:
        if os.environ.get("RANK", "0") == "0":
            _complain(_one_line(error))
        return error.exit_code
    except Exception as error:
        if debug:
            raise
        return _report(error)
    except KeyboardInterrupt:
        _complain("interrupted.")
        return 1


def _one_line(error: Exception) -> str:
    """The message without line breaks; blanks stay, since a command or a path in it may have two of them."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _report(error: Exception) -> int:
    if isinstance(error, TransferError):
        _complain(_one_line(error))
    elif isinstance(error, OSError) and error.errno is not None:
        _complain(f"{error.strerror}: {error.filename or 'no file named'}. {_advice(error)}")
    elif isinstance(error, ImportError) and not str(error.name or "").startswith("hf_transfer"):
        text = " ".join(str(error).split())[:500].rstrip(".")
        _complain(f"a package is missing, or too old: {text}. Install it, or leave out the flag that needs it.")
    else:
        text = " ".join(str(error).split())[:500]
        _complain(f"unexpected {type(error).__name__}: {text}. Run it again with --debug to see where, and report it.")
    return 1


def _advice(error: OSError) -> str:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space and run the command again; checkpoints that were complete are kept."
    return "Check the path and its permissions."


def _split_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Take a bare `--debug` out; with a value it is Trainer's own flag and stays."""
    kept: list[str] = []
    debug = False
    for position, argument in enumerate(arguments):
        following = arguments[position + 1] if position + 1 < len(arguments) else "--"
        if argument == "--debug" and following.startswith("-"):
            debug = True
        else:
            kept.append(argument)
    return kept, debug


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hf-transfer COMMAND [--flags] [--config FILE.yaml]",
            "",
            "Transfer learning for image classifiers of transformers and timm.",
            "",
            *lines,
            "",
            "`hf-transfer COMMAND --help` lists the flags of a command. --version prints the version.",
        ]
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"hf-transfer: error: {text}\n")
