"""Compare two checkouts of this repository: the same trainings in each must give the same bits.

    python scripts/compare_checkouts.py OLD NEW [--only NAME ...] [--work DIR]

Runs tiny trainings on one CPU core in both checkouts, with public names and commands alone, and compares losses and
learning rates, weights, checkpoints, cards and all other files that they write. What differs between two runs of the
same code (times and speeds) is listed in `checkout_comparison/volatile.py`. The exit code is 1 where anything else
differs. `--list` tells the names of the runs.

Differences that were agreed upon are named one by one:

    --ignore_files learning_rate_range.json 'figures/*'        # files, by name or path
    --ignore_entries trainer_state.json:learning_rate_range    # entries of JSON files, by their dotted place
    --ignore_card_text                                         # of cards, compare metadata and numbers alone
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from checkout_comparison.folders import Allowed, compare_folders, file_differences
from checkout_comparison.material import make_material
from checkout_comparison.reporting import Result, details, table
from checkout_comparison.running import Place, StepFailed, check_checkout
from checkout_comparison.runs import RUNS, Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print a table, and return the exit code: 0 where all is equal, 1 where not, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    if options.list:
        sys.stdout.write("\n".join(run.name for run in RUNS) + "\n")
        return 0
    if options.old is None or options.new is None:
        sys.stderr.write("Give two checkouts: python scripts/compare_checkouts.py OLD NEW\n")
        return 2
    chosen = [run for run in RUNS if not options.only or run.name in options.only]
    if options.work is not None:
        return _compare(options, chosen, options.work.resolve())
    with tempfile.TemporaryDirectory() as folder:
        return _compare(options, chosen, Path(folder).resolve())


def compare_run(run: Run, place: Place, new: Path, allowed: Allowed) -> Result:
    """Run in both checkouts and compare.

    Args:
        run: What is done.
        place: Where, with the old checkout.
        new: The new checkout.
        allowed: What may differ.
    """
    result, seconds = Result(run.name), []
    for side, checkout in (("old", place.old), ("new", new)):
        try:
            seconds.append(place.run(run, checkout, side))
        except StepFailed as error:
            result.failures.append(f"in the {side} checkout, {error}")
            return result
    result.seconds = (seconds[0], seconds[1])
    outputs = {side: place.results(side, run) / "out" for side in ("old", "new")}
    result.comparison = compare_folders(outputs["old"], outputs["new"], allowed)
    for aspect in run.expected:
        if not result.comparison.files[aspect]:
            result.comparison.add(aspect, ["neither checkout wrote such a file"])
    for side, output in outputs.items():
        for first, second in run.same:
            found = file_differences(output / first, output / second)
            result.comparison.add("weights", [f"within {side}, {first} and {second}: {line}" for line in found])
    return result


def _compare(options: argparse.Namespace, chosen: Sequence[Run], work: Path) -> int:
    old, new = options.old.resolve(), options.new.resolve()
    material = work / "material"
    work.mkdir(parents=True, exist_ok=True)
    try:
        for checkout in (old, new):
            check_checkout(checkout, work)
    except StepFailed as error:
        sys.stderr.write(f"{error}\n")
        return 2
    shutil.rmtree(material, ignore_errors=True)
    make_material(material)
    place, results = Place(work, old), []
    for run in chosen:
        results.append(compare_run(run, place, new, _allowed(options)))
        sys.stderr.write(f"{run.name}: {'equal' if results[-1].is_equal else 'DIFFERENT'}\n")
    sys.stdout.write(table(results) + "\n")
    for text in filter(None, (details(result, options.show) for result in results)):
        sys.stdout.write(f"\n{text}\n")
    return 0 if all(result.is_equal for result in results) else 1


def _allowed(options: argparse.Namespace) -> Allowed:
    entries: dict[str, tuple[str, ...]] = {}
    for file, place in options.ignore_entries:
        entries[file] = (*entries.get(file, ()), place)
    return Allowed(tuple(options.ignore_files), entries, options.ignore_card_text)


def _entry(text: str) -> tuple[str, str]:
    file, colon, place = text.partition(":")
    if not (file and colon and place):
        raise argparse.ArgumentTypeError(f"expected FILE:ENTRY, found {text!r}")
    return file, place


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare what two checkouts of this repository train, bit for bit.")
    parser.add_argument("old", nargs="?", type=Path, help="a checkout")
    parser.add_argument("new", nargs="?", type=Path, help="another one")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[run.name for run in RUNS], help="these runs")
    parser.add_argument("--list", action="store_true", help="print the names of the runs")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep what the runs write in this folder")
    parser.add_argument("--show", type=int, default=5, metavar="N", help="differences shown for each aspect")
    parser.add_argument("--ignore_files", nargs="+", default=[], metavar="NAME", help="leave out files of this name")
    parser.add_argument(
        "--ignore_entries", nargs="+", default=[], type=_entry, metavar="FILE:ENTRY", help="leave out entries of JSON"
    )
    parser.add_argument("--ignore_card_text", action="store_true", help="of cards: only metadata and numbers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
