"""A hand-written accelerate loop: `frozen` freezes a phase, `param_groups` gives its learning rates.

python examples/accelerate_loop.py --output_dir out
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset
from transformers import ResNetConfig, ResNetForImageClassification

import hf_transfer as ht


def main(output_dir: str) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (256,))
    images = torch.randn(256, 3, 32, 32) + labels.view(-1, 1, 1, 1)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic")
    config.num_labels = 4
    model = ResNetForImageClassification(config)
    phase = ht.Phase("last stage", train="last:2", learning_rate=1e-3, head_lr_ratio=10, layer_decay=0.75)
    print(ht.TransferPlan((phase,)).describe(model))

    accelerator = Accelerator()
    with ht.frozen(model, phase):  # before prepare: a DDP wrap must see what is trained
        optimizer = torch.optim.AdamW(ht.param_groups(model, phase, weight_decay=0.05))
        loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)
        prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        for epoch in range(3):
            prepared.train()  # frozen batch norms stay in eval mode all the same
            for pixel_values, targets in loader:
                loss = prepared(pixel_values=pixel_values, labels=targets).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            accelerator.print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    accelerator.unwrap_model(prepared).save_pretrained(output_dir)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", required=True)
    main(parser.parse_args().output_dir)
