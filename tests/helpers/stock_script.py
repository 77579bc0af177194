"""A fine-tuning script as users have it, with the names of the two classes swapped, for tests and for reading.

Follows what transformers' example for image classification does: an image folder, labels that are numbered by text, a
transform, a trainer, and a card at the end.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from datasets import load_dataset
from torchvision.transforms import v2
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, HfArgumentParser

from hf_transfer import TransferArguments, TransferTrainer


def main(words: list[str]) -> None:
    """Train on a folder of images: MODEL IMAGES and the flags of the training arguments."""
    model_name, images, *flags = words
    (args,) = HfArgumentParser(TransferArguments).parse_args_into_dataclasses(args=flags)
    dataset = load_dataset("imagefolder", data_dir=images)
    names = dataset["train"].features["label"].names
    label2id = {name: str(index) for index, name in enumerate(names)}
    id2label = {str(index): name for index, name in enumerate(names)}
    config = AutoConfig.from_pretrained(model_name, num_labels=len(names), label2id=label2id, id2label=id2label)
    model = AutoModelForImageClassification.from_pretrained(model_name, config=config, ignore_mismatched_sizes=True)
    processor = AutoImageProcessor.from_pretrained(model_name)

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        images = [v2.functional.horizontal_flip(image.convert("RGB")) for image in batch["image"]]
        return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"], "label": batch["label"]}

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = torch.stack([row["pixel_values"] for row in rows])
        return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}

    def compute_metrics(predicted: Any) -> dict[str, float]:
        return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}

    for split in dataset.values():
        split.set_transform(transform)
    trainer = TransferTrainer(
        model=model,
        args=args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        compute_metrics=compute_metrics,
        processing_class=processor,
        data_collator=collate,
    )
    result = trainer.train()
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    trainer.create_model_card(
        finetuned_from=model_name, tasks="image-classification", dataset="my images", tags=["vision"]
    )


if __name__ == "__main__":
    main(sys.argv[1:])
