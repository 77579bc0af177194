"""Fine-tune in ten lines: load images, load a model with a new head, train by a recipe, evaluate, save."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import hf_transfer as ht
from hf_transfer.data import collate, eval_transform, load, train_transform
from hf_transfer.demo import demo_data_folder
from hf_transfer.demo.weights import write_lite0_checkpoint
from hf_transfer.evaluation import make_compute_metrics
from hf_transfer.models.loading import load_for_training


def main(model: str, dataset: str, output_dir: str) -> None:
    data = load(dataset)
    loaded = load_for_training(model, data.label_names)
    plan = ht.recipes.lp_ft(probe_epochs=1, train="blocks:2")
    print(plan.describe(loaded.model))
    args = ht.TransferArguments(
        output_dir, num_train_epochs=1, per_device_train_batch_size=32, learning_rate=1e-3, report_to="none"
    )
    trainer = ht.TransferTrainer(
        loaded.model,
        args,
        collate,
        data.train.with_transform(train_transform(loaded.processor, "light")),
        data.validation.with_transform(eval_transform(loaded.processor)),
        processing_class=loaded.processor,
        compute_metrics=make_compute_metrics(data.label_names),
        plan=plan,
    )
    trainer.train()
    print(trainer.evaluate())
    trainer.save_model()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        main(str(write_lite0_checkpoint(Path(folder) / "lite0")), str(demo_data_folder()), options.output_dir)
