"""An existing Trainer script gains layer-wise freezing and learning-rate groups by its class names alone.

The two imports marked "was" are the only change; with no recipe the script trains as before, loss by loss.

    python examples/drop_in_trainer.py --output_dir out --recipe last_blocks --recipe_options '{"k": 1}'
"""

from __future__ import annotations

import torch
from torch.utils.data import Dataset
from transformers import HfArgumentParser, ViTConfig, ViTForImageClassification

from hf_transfer import TransferArguments as TrainingArguments  # was: from transformers import TrainingArguments
from hf_transfer import TransferTrainer as Trainer  # was: from transformers import Trainer


class BrightSquares(Dataset):
    """Made-up images: the class is the quarter in which the square is bright."""

    def __init__(self, n: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 4, (n,), generator=generator)
        self.images = torch.randn(n, 3, 32, 32, generator=generator)
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            image[:, 16 * (label // 2) :, 16 * (label % 2) :][:, :16, :16] += 1

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def main() -> None:
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
    args.report_to, args.learning_rate, args.eval_strategy = [], 1e-3, "epoch"
    torch.manual_seed(args.seed)
    config = ViTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96, image_size=32, patch_size=8
    )
    config.num_labels = 4
    trainer = Trainer(
        model=ViTForImageClassification(config),
        args=args,
        train_dataset=BrightSquares(512, seed=0),
        eval_dataset=BrightSquares(128, seed=1),
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.train()
    trainer.save_model()
    print(trainer.evaluate())


if __name__ == "__main__":
    main()
