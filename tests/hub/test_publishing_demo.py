"""The demo, trained and pushed: what arrives at the local Hub, and what a fresh process makes of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_transfer.cli import demo, main
from hf_transfer.hub.staging import local_images
from tests.helpers.hub_server import HubServer
from tests.helpers.hub_server.fixtures import TOKEN

# The demo's own code, data and plan, on smaller images and with a twentieth of its steps.
SHORTER = {
    "image_size": "48",
    "num_train_epochs": "0.2",
}
FRESH = """
import json, sys
sys.modules["hf_transfer"] = None
import torch
from transformers import pipeline
torch.set_num_threads(1)
wanted = json.load(sys.stdin)
model = pipeline("image-classification", model=wanted["repo_id"], device="cpu")
import PIL.Image
images = [PIL.Image.open(path).convert("RGB") for path in wanted["images"]]
with torch.inference_mode():
    logits = model.model(**model.image_processor(images, return_tensors="pt")).logits
print(json.dumps([logits.tolist(), [answer[0]["label"] for answer in model(images)]]))
"""


@pytest.mark.slow
def test_demo_is_pushed_and_loads_by_its_id(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`hf-transfer demo --push_to_hub`: exactly the allowed files arrive, in a private repository; a fresh process
    that knows the id alone gets the logits of the trained folder to 1e-5; nothing that was ever sent holds the token,
    or the user, host or home of the machine."""
    # A short name of the real machine, such as "vm", is in any file of weights by chance.
    real = [name for name in (str(Path.home()), socket.gethostname()) if len(name) > 6]
    private = [TOKEN, str(tmp_path), *real]
    monkeypatch.setenv("HOME", str(tmp_path / "homeofuserx"))
    monkeypatch.setenv("LOGNAME", "userxname")
    monkeypatch.setattr(socket, "gethostname", lambda: "hostxname")
    for name, value in SHORTER.items():
        monkeypatch.setitem(demo.SETTINGS, name, value)
    out = tmp_path / "out"
    assert main(["demo", "--output_dir", str(out), "--push_to_hub", "--hub_model_id", "demo"]) == 0
    assert "Verified in a fresh process" in capsys.readouterr().out

    made = hub.repositories["someone/demo"]
    drawn = ("accuracy_by_depth", "confusion_matrix", "layer_plan", "learning_curves")
    figures = {f"figures/{name}.png" for name in drawn}
    results = {f"{name}_results.json" for name in ("train", "eval", "all")}
    model = {".gitattributes", "config.json", "model.safetensors", "transfer_plan.json", "run.json", "README.md"}
    assert made.private and set(made.files()) == model | figures | results
    card = made.files()["README.md"].content.decode()
    assert set(local_images(card)) == figures and f'revision="{next(iter(made.tags))}"' in card
    for secret in (*private, "userxname", "hostxname", "homeofuserx"):
        assert secret.encode() not in hub.received, secret

    images = []
    for number, colour in enumerate(("white", "grey", "black")):
        image = PIL.Image.linear_gradient("L").resize((90 + 20 * number, 120)).convert("RGB")
        image.paste(colour, (20, 30, 60, 80))
        image.save(tmp_path / f"{number}.png")
        images.append(str(tmp_path / f"{number}.png"))
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", FRESH],
        input=json.dumps({"repo_id": "someone/demo", "images": images}),
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    logits, labels = json.loads(done.stdout.strip().splitlines()[-1])
    local, processor = AutoModelForImageClassification.from_pretrained(out), AutoImageProcessor.from_pretrained(out)
    pixels = processor([PIL.Image.open(path).convert("RGB") for path in images], return_tensors="pt")
    with torch.inference_mode():
        expected = local.eval()(**pixels).logits
    assert float((torch.tensor(logits) - expected).abs().max() / expected.abs().max()) <= 1e-5
    assert labels == [local.config.id2label[int(index)] for index in expected.argmax(dim=1)]
