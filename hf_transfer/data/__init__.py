"""The data side of training and evaluation: labelled images in, checked splits and a model's input out.

data = load("pets/")
trainer = TransferTrainer(
    train_dataset=data.train.with_transform(train_transform(processor, "light")),
    eval_dataset=data.validation.with_transform(eval_transform(processor)),
    data_collator=collate, ...
)
"""

from __future__ import annotations

from hf_transfer.data.image_data import ImageData, SkippedImage
from hf_transfer.data.images import decode_image, decode_row
from hf_transfer.data.loading import load
from hf_transfer.data.preprocessing import Preprocessing, with_image_size, with_num_channels
from hf_transfer.data.transforms import collate, eval_transform, train_transform

__all__ = [
    "ImageData",
    "Preprocessing",
    "SkippedImage",
    "collate",
    "decode_image",
    "decode_row",
    "eval_transform",
    "load",
    "train_transform",
    "with_image_size",
    "with_num_channels",
]
