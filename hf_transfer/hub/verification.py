"""After the commit: does a fresh process, without hf_transfer, get the same model from the Hub?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hf_transfer.errors import PublishError

TOLERANCE = 1e-5
"""Relative difference of logits. Weights and code are the same; only the order of sums could differ."""
_TIMEOUT = 1800
_SCRIPT = Path(__file__).with_name("verification_script.py")


@dataclass(frozen=True)
class Verification:
    """What the fresh process found.

    Attributes:
        difference: Largest difference of logits, relative to the largest logit.
        results: Evaluation results that the card holds.
        timm_difference: The same difference when timm loads the model; None where timm has no part in it.
    """

    difference: float
    results: int
    timm_difference: float | None = None


def verify(repo_id: str, revision: str, folder: Path, endpoint: str) -> Verification:
    """Load the published model in a fresh process, and compare it with the folder it was made from.

    Args:
        repo_id: The repository.
        revision: Hash of the commit.
        folder: The staged files.
        endpoint: Of the Hub.

    Raises:
        PublishError: It cannot be loaded, or differs. The message names the revision.
    """
    with tempfile.TemporaryDirectory(prefix="hf_transfer_verify_") as cache:
        # A cache of its own, so that the files do come from the Hub.
        changes = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": cache, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
        wanted = {"repo_id": repo_id, "revision": revision, "folder": str(folder)}
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(_SCRIPT)],
                input=json.dumps(wanted),
                capture_output=True,
                text=True,
                env={**os.environ, **changes},
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _failed(repo_id, revision, f"no answer within {_TIMEOUT} s") from error
    lines = done.stdout.strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise _failed(repo_id, revision, f"the process ended with code {done.returncode}") from error
    if "error" in found:
        raise _failed(repo_id, revision, found["error"])
    differences = [found["difference"], found.get("timm_difference", 0.0)]
    if not found["labels_agree"] or not all(value <= TOLERANCE for value in differences):
        raise _failed(repo_id, revision, f"its logits differ by {max(differences):.1e} of the largest")
    return Verification(found["difference"], found["results"], found.get("timm_difference"))


def _failed(repo_id: str, revision: str, what: str) -> PublishError:
    return PublishError(
        f"{repo_id} was published at revision {revision}, but could not be verified: {what}. Do not rely on that "
        "revision before you have looked at it."
    )
