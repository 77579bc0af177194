"""The local Hub as fixture, and a folder as a finished run leaves it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.utils import close_session

from hf_transfer.hub import retrying
from tests.helpers.card_records import record
from tests.helpers.checkpoints import save_timm_resnet, save_vit
from tests.helpers.hub_server import HubServer, Token
from tests.helpers.hub_server.xet import XetStorage

TOKEN = "hf_" + "Kq7" * 12
READ_TOKEN = "hf_" + "Rd9" * 12
USER = "someone"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A running Hub to which the process is logged in with a token that may write."""
    server = HubServer()
    server.tokens = {TOKEN: Token(USER, organisations=("lab",)), READ_TOKEN: Token(USER, role="read")}
    with server.running():
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setattr(retrying, "WAITS", (0.01, 0.01, 0.01))
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        close_session()
        yield server
        close_session()


@pytest.fixture
def xet_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HubServer:
    """The same Hub, with Xet storage, and the client as it is by default."""
    pytest.importorskip("hf_xet")
    hub.xet = XetStorage(tmp_path / "xet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.delenv("HF_HUB_DISABLE_XET")
    return hub


def finished_run(folder: Path, timm: bool = False) -> Path:
    """A folder with model, record and figures, and with much that must not be published."""
    save_timm_resnet(folder) if timm else save_vit(folder)
    data = copy.deepcopy(record(labels=("LABEL_0", "LABEL_1", "LABEL_2")))
    if not timm:
        data["base_model"] |= {"id": "google/tiny", "library": "transformers", "architecture": "vit"}
    (folder / "run.json").write_text(json.dumps(data))
    (folder / "transfer_plan.json").write_text(json.dumps(data["training"]["plan"]))
    (folder / "figures").mkdir()
    for name in ("confusion_matrix", "worst_mistakes"):
        (folder / "figures" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("training_args.bin", "optimizer.pt", "pytorch_model.bin", "notes.txt", ".env", "report.html"):
        (folder / name).write_bytes(b"not for others")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "optimizer.pt").write_bytes(b"not for others")
    return folder


PUBLISHED = {
    ".gitattributes",
    "README.md",
    "config.json",
    "figures/confusion_matrix.png",
    "model.safetensors",
    "preprocessor_config.json",
    "run.json",
    "transfer_plan.json",
}
