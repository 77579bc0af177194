"""Verification for many tests by one process, which imports torch and transformers once.

The script is the real one, in a process without hf_transfer, and each request downloads all files anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hf_transfer.hub import publishing, verification
from hf_transfer.hub.verification import Verification
from tests.helpers.hub_server.server import HubServer

_SERVE = """
import importlib.util, json, os, shutil, sys
sys.modules["hf_transfer"] = None
from huggingface_hub import constants
from huggingface_hub.utils import close_session
spec = importlib.util.spec_from_file_location("verification_script", sys.argv[1])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
answers = sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    wanted = json.loads(line)
    os.environ["HF_TOKEN"] = wanted.pop("token")
    constants.ENDPOINT = wanted.pop("endpoint")
    constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    shutil.rmtree(os.environ["HF_HUB_CACHE"], ignore_errors=True)
    close_session()
    try:
        found = script.compare(**wanted)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(found), file=answers, flush=True)
"""


@pytest.fixture(scope="session")
def verifier() -> Iterator[subprocess.Popen[str]]:
    """The process: a request and an answer per line."""
    with tempfile.TemporaryDirectory(prefix="hf_transfer_verifier_") as cache:
        changes = {"HF_HUB_CACHE": cache, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _SERVE, str(Path(verification.__file__).with_name("verification_script.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **changes},
        )
        with process:
            yield process
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture
def verified_by_one_process(
    hub: HubServer, verifier: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> HubServer:
    """The local Hub; `publish` asks that process, and `hub.verified` holds the revisions that it found right."""

    def ask(wanted: Mapping[str, str], endpoint: str) -> tuple[int, str]:
        assert verifier.stdin is not None and verifier.stdout is not None
        verifier.stdin.write(json.dumps({"token": os.environ["HF_TOKEN"], "endpoint": endpoint, **wanted}) + "\n")
        verifier.stdin.flush()
        return 0, verifier.stdout.readline()

    def verify(repo_id: str, revision: str, *others: Any) -> Verification:
        found = verification.verify(repo_id, revision, *others)
        hub.verified.append(revision)
        return found

    monkeypatch.setattr(verification, "ask", ask)
    monkeypatch.setattr(publishing, "verify", verify)
    return hub
