"""After the commit: does a fresh process, without hf_transfer, get the same model from the Hub?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_transfer.errors import PublishError

TOLERANCE = 1e-5
"""Relative difference of logits. Weights and code are the same; only the order of sums could differ."""
_TIMEOUT = 1800
_SCRIPT = Path(__file__).with_name("verification_script.py")


@dataclass(frozen=True)
class Verification:
    """What the fresh process found.

    Attributes:
        difference: Largest difference of logits from the folder's model on made images, relative to the largest logit.
        results: Evaluation results that the card holds.
        timm_difference: The same difference when timm loads the model; None if it is no model of timm.
        samples: Number of compared evaluation images, which the run keeps with the trainer's logits.
        sample_difference: Largest difference of logits from the trainer's on those images; None if there are none.
    """

    difference: float
    results: int
    timm_difference: float | None = None
    samples: int = 0
    sample_difference: float | None = None

    def description(self) -> str:
        """What was compared, and how much it differed."""
        by_timm = "" if self.timm_difference is None else f" (by timm {self.timm_difference:.1e})"
        text = f"largest difference of logits from the folder's, on made images, {self.difference:.1e}{by_timm}; "
        if self.sample_difference is None:
            return text + "the run keeps no evaluation images to compare"
        return text + f"from the trainer's, on {self.samples} evaluation images, {self.sample_difference:.1e}"


def verify(repo_id: str, revision: str, folder: Path, endpoint: str, samples: Path | None = None) -> Verification:
    """Load the published model in a fresh process, and compare it with the folder it was made from.

    Args:
        repo_id: The repository.
        revision: Hash of the commit.
        folder: The staged files.
        endpoint: Address of the Hub.
        samples: Folder with evaluation images and the trainer's logits; None if the run keeps none.

    Raises:
        PublishError: It cannot be loaded, or differs. The message names the revision.
    """
    wanted = {"repo_id": repo_id, "revision": revision, "folder": str(folder)}
    wanted |= {} if samples is None else {"samples": str(samples)}
    try:
        code, output = ask(wanted, endpoint)
    except subprocess.TimeoutExpired as error:
        raise _failed(repo_id, revision, f"no answer within {_TIMEOUT} s") from error
    try:
        found = json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise _failed(repo_id, revision, f"the process ended with code {code}") from error
    if "error" in found:
        raise _failed(repo_id, revision, found["error"])
    if wrong := _mismatch(found):
        raise PublishError(
            f"{repo_id} was published at revision {revision}, but is another model there: {wrong}. Do not rely on "
            "that revision."
        )
    return Verification(
        found["difference"],
        found["results"],
        found.get("timm_difference"),
        found.get("samples", 0),
        found.get("sample_difference"),
    )


def ask(wanted: Mapping[str, str], endpoint: str) -> tuple[int, str]:
    """Run the script in a fresh process; returns its exit code and what it printed."""
    with tempfile.TemporaryDirectory(prefix="hf_transfer_verify_") as cache:
        # A cache of its own, so that the files do come from the Hub.
        changes = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": cache, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-I", str(_SCRIPT)],
            input=json.dumps(wanted),
            capture_output=True,
            text=True,
            env={**os.environ, **changes},
            timeout=_TIMEOUT,
            check=False,
        )
    return done.returncode, done.stdout


def _mismatch(found: Mapping[str, Any]) -> str | None:
    """What differs; a difference that is not a number is a mismatch, too."""
    for name, whose in {"difference": "the folder's", "timm_difference": "the folder's when timm loads it"}.items():
        if not found.get(name, 0.0) <= TOLERANCE:
            return f"its logits differ by {found[name]:.1e} of the largest from {whose} on made images"
    if not found["labels_agree"]:
        return "its labels differ from the folder's on made images"
    if not found.get("sample_difference", 0.0) <= found.get("tolerance", 0.0):
        return (
            f"its logits differ by {found['sample_difference']:.1e} of the largest from the trainer's on the "
            f"{found['samples']} evaluation images that the run keeps. The files in the folder, which were sent, are "
            "not those that were evaluated; train, or save the model, again"
        )
    return None


def _failed(repo_id: str, revision: str, what: str) -> PublishError:
    return PublishError(
        f"{repo_id} was published at revision {revision}, but could not be verified: {what}. Do not rely on that "
        "revision before you have looked at it."
    )
