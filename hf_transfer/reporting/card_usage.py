"""The parts of a model card that say how the published model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_transfer.reporting.facts import score
from hf_transfer.reporting.markdown import code, fenced, paragraphs

_FOLDER = "path/to/this/folder"


def probe_file_of(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the record says of a result that is a probe file; None for all other results."""
    found = (record["training"].get("solved_head") or {}).get("probe_file")
    return found if isinstance(found, Mapping) else None


def probe_file_note(record: Mapping[str, Any]) -> str | None:
    """What a reader must know before loading a probe file."""
    probe = probe_file_of(record)
    if probe is None:
        return None
    held_out = score(probe["ordinary_checkpoint"]["held_out_accuracy"])
    return (
        f"**This result needs hf_transfer to load.** Its head reads {_layers(probe['layers'])}, which no ordinary\n"
        "checkpoint can express. Install it by `pip install hf-transfer-learning`, then call `hf_transfer.load_probe` "
        "as shown\nbelow. The checkpoint in the same folder is a different classifier: its head reads the last layer "
        f"and reaches a held-out\naccuracy of {held_out} on the training images. The evaluation below does not apply "
        "to that checkpoint."
    )


def usage(record: Mapping[str, Any], repo_id: str | None, revision: str | None, checkpoint_step: int | None) -> str:
    """Examples that load the model.

    Args:
        record: Content of `run.json`.
        repo_id: Where the model is on the Hub; None for a folder.
        revision: What the examples pin; None pins nothing.
        checkpoint_step: The step of the checkpoint in the repository; None if there is none.
    """
    source, mode = repo_id or _FOLDER, input_mode(record["preprocessing"])
    limits = record["data"].get("pixel_range")
    if probe_file_of(record) is not None:
        text: str | None = fenced(_PROBE.format(source=source), "python")
    else:
        is_timm = record["base_model"]["library"] == "timm"
        with_timm = _with_timm(repo_id, revision, mode, limits) if is_timm else None
        text = paragraphs(
            "Grey images of more than 8 bits must be scaled as they were in training." if limits else None,
            _with_transformers(source, revision, mode, limits),
            with_timm,
        )
    if checkpoint_step is not None and repo_id:
        text = paragraphs(text, _resuming(repo_id, revision, checkpoint_step))
    assert text is not None
    return text


def input_mode(preprocessing: Mapping[str, Any]) -> str:
    """Pillow's mode of the images that the model takes, by the number of channels that are normalised."""
    mean = preprocessing.get("mean")
    return {1: "L", 4: "RGBA"}.get(len(mean), "RGB") if isinstance(mean, list) else "RGB"


def _layers(layers: Sequence[str]) -> str:
    if len(layers) == 1:
        return f"the layer {code(layers[0])}"
    return f"{len(layers)} layers side by side, {code(layers[0])} to {code(layers[-1])}"


def _with_transformers(source: str, revision: str | None, mode: str, limits: Sequence[float] | None) -> str | None:
    if mode == "RGB":
        shown = (_PINNED_PIPELINE if revision else _PIPELINE).format(source=source, revision=revision)
        return fenced(_scaling(shown, mode, limits), "python")
    kind = "grey images" if mode == "L" else "images with opacity"
    pinned = f', "revision": "{revision}"' if revision else ""
    return paragraphs(
        f"The model takes {kind}; `pipeline` would convert them to RGB.",
        fenced(_scaling(_OTHER_MODES.format(source=source, pinned=pinned, mode=mode), mode, limits), "python"),
    )


def _scaling(example: str, mode: str, limits: Sequence[float] | None) -> str:
    """An example that reads images as they were read in training, where they have more than 8 bits."""
    if not limits:
        return example
    low, high = limits
    read = _READ.format(low=f"{low:g}", width=f"{high - low:g}", mode=mode)
    for plain in (f'Image.open("path/to/image.jpg").convert("{mode}")', '"path/to/image.jpg"'):
        if plain in example:
            example = example.replace(plain, 'read("path/to/image.jpg")')
            break
    return read + example.replace("from PIL import Image\n", "")


def _with_timm(repo_id: str | None, revision: str | None, mode: str, limits: Sequence[float] | None) -> str | None:
    source = f"local-dir:{_FOLDER}" if repo_id is None else f"hf-hub:{repo_id}{f'@{revision}' if revision else ''}"
    return paragraphs(
        "The architecture comes from timm, which must be installed. timm alone also loads the model:",
        fenced(_scaling(_TIMM.format(source=source, mode=mode), mode, limits), "python"),
    )


def _resuming(repo_id: str, revision: str | None, step: int) -> str | None:
    pinned = f'    revision="{revision}",\n' if revision else ""
    return paragraphs(
        "The training can be resumed: the folder `checkpoint` holds weights, optimizer, schedule and random numbers "
        f"after step\n{step:,}, as safetensors and JSON.",
        fenced(_RESUMING.format(repo_id=repo_id, pinned=pinned), "python"),
    )


_PROBE = """\
import hf_transfer  # pip install hf-transfer-learning

probe = hf_transfer.load_probe("{source}")
print(probe.predict("path/to/image.jpg"))"""

_READ = """\
import numpy as np
from PIL import Image, ImageOps


def read(path):
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode[0] in "IF":
        pixels = np.nan_to_num(np.asarray(image).astype(np.float64), nan={low})
        pixels = np.clip(np.rint((pixels - {low}) * (255 / {width})), 0, 255)
        image = Image.fromarray(pixels.astype(np.uint8))
    return image.convert("{mode}")


"""

_PIPELINE = """\
from transformers import pipeline

classifier = pipeline("image-classification", model="{source}")
print(classifier("path/to/image.jpg"))"""

_PINNED_PIPELINE = """\
from transformers import pipeline

classifier = pipeline(
    "image-classification",
    model="{source}",
    revision="{revision}",
)
print(classifier("path/to/image.jpg"))"""

_OTHER_MODES = """\
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

source = {{"pretrained_model_name_or_path": "{source}"{pinned}}}
processor = AutoImageProcessor.from_pretrained(**source)
model = AutoModelForImageClassification.from_pretrained(**source)
image = Image.open("path/to/image.jpg").convert("{mode}")
with torch.inference_mode():
    logits = model(**processor(image, return_tensors="pt")).logits
print(model.config.id2label[logits.argmax().item()])"""

_TIMM = """\
import timm
import torch
from PIL import Image

model = timm.create_model("{source}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.inference_mode():
    logits = model(transform(Image.open("path/to/image.jpg").convert("{mode}")).unsqueeze(0))
print(model.pretrained_cfg["label_names"][logits.argmax().item()])"""

_RESUMING = """\
from huggingface_hub import snapshot_download

folder = snapshot_download(
    "{repo_id}",
{pinned}    allow_patterns="checkpoint/*",
)
# With hf_transfer and the same data: TransferTrainer(...).train(resume_from_checkpoint=f"{{folder}}/checkpoint")"""
