"""The real Hub, over Xet: only where the environment names a token that may write; see CONTRIBUTING.md.

What the local Hub cannot show is shown here alone: the Hub's own rules for cards, its storage, its tokens.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import ViTImageProcessor

import hf_transfer as ht
from hf_transfer.reporting.verification_samples import write_samples
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments

TOKEN = os.environ.get("HF_TRANSFER_TEST_TOKEN")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(TOKEN is None, reason="HF_TRANSFER_TEST_TOKEN names no token for the real Hub"),
]

_LOOK = """
import json, sys
from huggingface_hub import HfApi
api, name = HfApi(), sys.argv[1]
repo_id = f"{api.whoami()['name']}/{name}"
files = {file.path: getattr(file, "xet_hash", None) for file in api.list_repo_tree(repo_id)}
print(json.dumps({"private": api.model_info(repo_id).private, "files": files}))
"""
_DELETE = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.delete_repo(f"{api.whoami()['name']}/{sys.argv[1]}", missing_ok=True)
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user would, online and with Xet: these are settled when the client is imported."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_XET"}
    environment |= {"HF_TOKEN": str(TOKEN), "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, timeout=900, check=False
    )


@pytest.fixture
def repository() -> Iterator[str]:
    """The name of a repository that is not there; it is deleted at the end."""
    name = f"hf-transfer-test-{secrets.token_hex(6)}"
    yield name
    deleted = run("-c", _DELETE, name)
    assert deleted.returncode == 0, f"delete {name} by hand: {deleted.stderr[-500:]}"


def test_published_to_the_real_hub(repository: str, tmp_path: Path) -> None:
    """A run arrives in a new private repository, its weights in Xet storage, and is verified with the logits that the
    trainer had; published again, nothing is sent."""
    trainer = ht.TransferTrainer(
        model=tiny.vit(),
        args=arguments(tmp_path / "run"),
        train_dataset=RandomImages(),
        eval_dataset=RandomImages(8),
        processing_class=ViTImageProcessor(size={"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}),
        plan=ht.recipes.linear_probe(),
    )
    trainer.train()
    trainer.save_model()
    trainer.write_missing_card(tmp_path / "run")
    write_samples(trainer, tmp_path / "run")
    revisions = []
    for _ in range(2):
        done = run("-m", "hf_transfer", "publish", str(tmp_path / "run"), repository, "--license", "mit")
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"/{repository} (private)" in done.stdout and "on 4 evaluation images" in done.stdout
        revisions.append(next(line for line in done.stdout.splitlines() if line.startswith("revision ")))
    assert revisions[0] == revisions[1]
    looked = run("-c", _LOOK, repository)
    assert looked.returncode == 0, looked.stderr[-2000:]
    found = json.loads(looked.stdout.strip().splitlines()[-1])
    assert found["private"] and found["files"]["model.safetensors"]
    assert set(found["files"]) == {
        *(".gitattributes", "README.md", "config.json", "model.safetensors"),
        *("preprocessor_config.json", "run.json", "transfer_plan.json"),
    }
