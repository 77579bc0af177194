"""Privacy: what tells of a machine, a user or an account is found, and what does not is left alone."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_transfer.errors import OutputError
from hf_transfer.utils.privacy import check_private, sanitise_command

TOKEN = "hf_" + "aB3" * 8


@pytest.mark.parametrize(
    "text",
    [
        "/home/anna/pets",
        "see /Users/anna/x.csv for it",
        "file:///mnt/disk/x",
        "data_files=/data/x.csv",
        '{"path": "/scratch/run 1/x"}',
        "a:/home/anna/b",
        str(Path(__file__).resolve()),
        str(Path.home() / "x"),
        "~/pets",
        "~anna/pets",
        "C:\\Users\\anna\\x",
        "D:/data/x",
        "\\\\server\\share\\x",
        "anna@gpu-box",
        "anna.b@example.org",
        "https://anna:secret@host/x",
        TOKEN,
        f"token={TOKEN}",
        "ghp_" + "a1" * 18,
    ],
)
def test_private_text_is_refused_and_its_key_named(text: str) -> None:
    """Paths, users and tokens are found wherever they stand; a token is not repeated in the message."""
    with pytest.raises(OutputError, match=r"data\.splits\[1\]\.name") as caught:
        check_private({"data": {"splits": [{}, {"name": text}]}})
    assert TOKEN not in str(caught.value)


def test_keys_are_checked_as_well() -> None:
    """A label is a key of the counts."""
    with pytest.raises(OutputError, match=r"a key of counts\.train"):
        check_private({"counts": {"train": {"/home/anna/cats": 3}}})


@pytest.mark.parametrize(
    "text",
    [
        "timm/resnet50.a1_in1k",
        "https://huggingface.co/data/work/x",
        "s3://data/x",
        "hf://datasets/a/b",
        "and/or",
        "512 images/s",
        "/m/01g317",
        "runs/home/x",
        "../data/x",
        "precision@1",
        "Intel(R) Xeon(R) CPU @ 2.20GHz",
        "about ~100",
        "hf_transfer_learning",
        "re:blocks\\.3\\.",
        "16:9",
        "0123456789abcdef0123456789abcdef01234567",
        "<user:start>",
    ],
)
def test_harmless_text_passes(text: str) -> None:
    """Ids, URLs, relative paths, hashes and labels are not taken for private."""
    check_private({"key": [text, 1, None, 0.5, True]})


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/opt/venv/bin/hf-transfer", "train", "--dataset", "a/b"], "hf-transfer train --dataset a/b"),
        (["/x/hf_transfer/__main__.py", "doctor"], "python -m hf_transfer doctor"),
        (["t.py", "--output_dir", "/home/anna/runs/pets 1"], "t.py --output_dir 'pets 1'"),
        (["t.py", "--output_dir=/home/anna/runs/out/"], "t.py --output_dir=out"),
        (["t.py", "--output_dir", "/home/anna"], "t.py --output_dir home"),
        (["t.py", "--dataset", "C:\\Users\\anna\\pets"], "t.py --dataset pets"),
        (["t.py", "--dataset", "/m/unknown/place"], "t.py --dataset place"),
        (["t.py", "--dataset", "../pets", "--a"], "t.py --dataset ../pets --a"),
        (["t.py", "--recipe_options", '{"k": 2}'], "t.py --recipe_options '{\"k\": 2}'"),
        (["t.py", "--files", '["/home/anna/a.csv"]'], "t.py --files '[\"a.csv\"]'"),
        (["t.py", "--hub_token", TOKEN, "--seed", "1"], "t.py --seed 1"),
        (["t.py", "--hub-token=x", "--API_KEY", "y", "z"], "t.py z"),
        (["t.py", "--token", "--seed", "1"], "t.py --seed 1"),
        (["t.py", "--tokenizer", "a/b", "--image_key", "x"], "t.py --tokenizer a/b --image_key x"),
        (["t.py", TOKEN, "anna@box:x"], "t.py TOKEN USER:x"),
        ([], ""),
    ],
)
def test_sanitise_command(argv: list[str], command: str) -> None:
    """The command stays as typed, but for paths, tokens and users."""
    assert sanitise_command(argv) == command


PIECES = st.sampled_from(
    [
        "/home/anna/x",
        "~",
        "/",
        "\\",
        "C:",
        "--hub_token",
        "=",
        TOKEN,
        "anna@box",
        " ",
        "'",
        '"',
        ":",
        "file:",
        "tmp",
        "a",
        "-",
    ]
)


@settings(max_examples=50)
@given(st.lists(st.lists(PIECES | st.text(max_size=3), max_size=6).map("".join), max_size=5))
def test_a_sanitised_command_is_never_private(argv: list[str]) -> None:
    """Whatever was typed, the result can be published, and masking ends."""
    command = sanitise_command(argv)
    check_private(command)
    assert TOKEN not in command


@given(st.lists(st.text(st.characters(exclude_characters="/\\~@:-", exclude_categories=("Cs",))), min_size=1))
def test_harmless_commands_are_not_changed(argv: list[str]) -> None:
    """Without paths and tokens a command can be typed again as it stands."""
    assert sanitise_command(["t.py", *argv]) == shlex.join(["t.py", *argv])
