"""Runs by itself in a fresh process, without hf_transfer: load what was published, and compare it with the folder.

Reads one JSON object from stdin: "repo_id", "revision", "folder", and "samples" where there are any. Prints one JSON
object as its last line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

SAMPLES = 3


def main() -> None:
    """Compare, and print what was found."""
    sys.modules["hf_transfer"] = None  # type: ignore[assignment]  # people who download the model have no hf_transfer
    wanted = json.load(sys.stdin)
    try:
        found = compare(wanted["repo_id"], wanted["revision"], wanted["folder"], wanted.get("samples"))
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def compare(repo_id: str, revision: str, folder: str, samples: str | None = None) -> dict[str, Any]:
    """Load the model from both places, and compare logits and labels on made images; and with stored logits.

    Returns:
        "difference" (largest of all logits, relative to the largest logit), "labels_agree", "results" (number in the
        card), "timm_difference" where timm loads the model, too, and with samples "samples" (their number),
        "sample_difference" and its "tolerance".
    """
    import torch
    from huggingface_hub import ModelCard, hf_hub_download
    from transformers import pipeline

    torch.set_num_threads(1)
    published = pipeline(
        "image-classification", model=repo_id, revision=revision, device="cpu", trust_remote_code=False
    )
    local = pipeline("image-classification", model=folder, device="cpu", trust_remote_code=False)
    for model in (published, local):
        model.model.float()  # half precision would hide differences of the stored weights
    images = made_images(mode_of(published.image_processor))
    outputs = [logits_of(model, images) for model in (published, local)]
    labels = [
        predicted_labels(model, images, logits) for model, logits in zip((published, local), outputs, strict=True)
    ]
    with open(hf_hub_download(repo_id, "README.md", revision=revision), encoding="utf-8") as file:  # noqa: PTH123
        card = ModelCard(file.read())
    found = {
        "difference": relative(outputs[0], outputs[1]),
        "labels_agree": labels[0] == labels[1],
        "results": len(getattr(card.data, "eval_results", None) or []),
    }
    if published.model.config.model_type == "timm_wrapper":
        found["timm_difference"] = relative(timm_logits(repo_id, revision, images, published), outputs[1])
    if samples is not None:
        found |= compare_samples(samples, published)
    return found


def compare_samples(folder: str, published: Any) -> dict[str, Any]:
    """Compare the published model with the logits that the trainer had for a few evaluation images."""
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    with open(f"{folder}/samples.json", encoding="utf-8") as file:  # noqa: PTH123
        stored = json.load(file)
    if "images" in stored:
        logits = logits_of(published, [Image.open(f"{folder}/{name}") for name in stored["images"]])
    else:
        with torch.inference_mode():
            logits = published.model(**load_file(f"{folder}/{stored['inputs']}")).logits
    expected = torch.tensor(stored["logits"])
    if logits.shape != expected.shape:
        raise ValueError(f"expected logits of shape {tuple(expected.shape)}, found {tuple(logits.shape)}")
    return {
        "samples": len(expected),
        "sample_difference": relative(logits, expected),
        "tolerance": stored["tolerance"],
    }


def timm_logits(repo_id: str, revision: str, images: Any, published: Any) -> Any:
    """What timm alone makes of the same pixels."""
    import timm
    import torch

    model = timm.create_model(f"hf-hub:{repo_id}@{revision}", pretrained=True).eval()
    with torch.inference_mode():
        return torch.cat([model(published.image_processor([i], return_tensors="pt")["pixel_values"]) for i in images])


def logits_of(model: Any, images: Any) -> Any:
    """What a pipeline's model makes of images; one by one, as some processors keep their sizes."""
    import torch

    with torch.inference_mode():
        return torch.cat([model.model(**model.image_processor([i], return_tensors="pt")).logits for i in images])


def predicted_labels(model: Any, images: Any, logits: Any) -> list[str]:
    """The most probable labels; a pipeline's own answers for colour images, which it makes of all others, too."""
    if images[0].mode == "RGB":
        return [answer[0]["label"] for answer in model(images)]
    return [model.model.config.id2label[int(index)] for index in logits.argmax(-1)]


def mode_of(processor: Any) -> str:
    """Pillow's mode of the images that a processor takes: "RGB", "L" for one channel or "RGBA" for four."""
    settings, mean = getattr(processor, "data_config", None), getattr(processor, "image_mean", None)
    channels = settings["input_size"][0] if settings else len(mean) if isinstance(mean, list | tuple) else 3
    return {1: "L", 4: "RGBA"}.get(channels, "RGB")


def made_images(mode: str = "RGB") -> Any:
    """Coloured gradients of several sizes: the same in every process, and not blank after any crop."""
    import numpy as np
    from PIL import Image

    images = []
    for index in range(SAMPLES):
        y, x = np.mgrid[0 : 160 + 32 * index, 0 : 224 - 16 * index]
        pixels = np.stack([(x * (index + 1)) % 256, (y * 2) % 256, (x + y) % 256], axis=-1)
        images.append(Image.fromarray(pixels.astype("uint8")).convert(mode))
    return images


def relative(first: Any, second: Any) -> float:
    """Largest difference of two arrays, relative to the largest number of the second."""
    return float((first - second).abs().max() / second.abs().max().clamp_min(1e-12))


if __name__ == "__main__":
    main()
