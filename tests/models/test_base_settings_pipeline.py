"""hf_transfer.models.base_settings: whatever a base says, the finished folder answers as the trainer did."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import pipeline

from hf_transfer.data import collate, eval_transform
from hf_transfer.errors import TransferError
from hf_transfer.models.loading import check_trainable, load_for_training
from hf_transfer.trainer.args import TransferArguments
from hf_transfer.trainer.trainer import TransferTrainer
from tests.helpers.checkpoints import save_timm_resnet, save_vit
from tests.helpers.image_files import picture

pytestmark = pytest.mark.slow
# Without shrinking, which would train for minutes.
FEW = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
LABELS = ("ant", "bee", "cat")
NAMES = st.lists(st.sampled_from(["ant", "bee", "cat", "dog", "LABEL_1"]), min_size=3, max_size=3, unique=True)
TASK = {
    "problem_type": st.sampled_from([None, "regression", "single_label_classification", "multi_label_classification"]),
    "output_attentions": st.booleans(),
    "output_hidden_states": st.booleans(),
    "return_dict": st.booleans(),
    "dtype": st.sampled_from(["float32", "float16", "bfloat16"]),
    "torch_dtype": st.sampled_from(["float32", "float16"]),
    "function_to_apply": st.sampled_from(["none", "sigmoid"]),
    "task_specific_params": st.just({"image-classification": {"function_to_apply": "none"}}),
    "attn_implementation": st.sampled_from(["eager", "sdpa", "flash_attention_2"]),
    "use_cache": st.booleans(),
    "torchscript": st.booleans(),
    "chunk_size_feed_forward": st.sampled_from([0, 4]),
    "quantization_config": st.sampled_from([None, None, None, {"quant_method": "gptq", "bits": 4}]),
    "gradient_checkpointing": st.booleans(),
}
VIT = TASK | {
    "id2label": NAMES.map(lambda names: {str(index): name for index, name in enumerate(names)}),
    "hidden_dropout_prob": st.sampled_from([0.0, 0.3]),
    "attention_probs_dropout_prob": st.sampled_from([0.0, 0.3]),
    "layer_norm_eps": st.sampled_from([1e-12, 1e-5]),
    "hidden_act": st.sampled_from(["gelu", "relu"]),
    "initializer_range": st.sampled_from([0.0, 0.02, 1.0]),
}
PROCESSOR = {
    "do_resize": st.booleans(),
    "do_rescale": st.booleans(),
    "do_normalize": st.booleans(),
    "do_convert_rgb": st.sampled_from([None, True, False]),
    "resample": st.sampled_from([0, 2, 3]),
    "size": st.sampled_from([{"height": 32, "width": 32}, {"height": 48, "width": 48}, {"shortest_edge": 32}]),
    "data_format": st.sampled_from(["channels_first", "channels_last"]),
    "input_data_format": st.sampled_from([None, "channels_last"]),
    "image_mean": st.sampled_from([[0.5, 0.5, 0.5], [0.0, 0.1, 0.2], [0.5]]),
    "rescale_factor": st.sampled_from([1 / 255, 1 / 127.5]),
    "do_center_crop": st.booleans(),
    "crop_size": st.just({"height": 32, "width": 32}),
}
TIMM = TASK | {
    "label_names": NAMES,
    "model_args": st.fixed_dictionaries(
        {"channels": st.just([8, 16, 24, 32]), "stem_width": st.just(8)},
        optional={
            "drop_rate": st.just(0.3),
            "global_pool": st.sampled_from(["avg", "max"]),
            "num_classes": st.just(7),
            "features_only": st.booleans(),
            "scriptable": st.just(True),
        },
    ),
    "pretrained_cfg": st.fixed_dictionaries(
        {"input_size": st.just([3, 32, 32]), "classifier": st.just("fc")},
        optional={
            "mean": st.sampled_from([[0.5, 0.5, 0.5], [0.0, 0.1, 0.2]]),
            "std": st.just([0.2, 0.3, 0.4]),
            "interpolation": st.sampled_from(["bilinear", "bicubic", "random"]),
            "crop_pct": st.sampled_from([0.875, 1.0]),
            "crop_mode": st.sampled_from(["center", "squash", "border"]),
            "num_classes": st.just(1000),
        },
    ),
}


def _some(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint of each library."""
    folder = tmp_path_factory.mktemp("bases")
    return {"vit": save_vit(folder / "vit"), "timm": save_timm_resnet(folder / "timm")}


def _changed(base: Path, folder: Path, config: dict[str, Any], processor: dict[str, Any]) -> Path:
    shutil.copytree(base, folder)
    for file, fields in (("config.json", config), ("preprocessor_config.json", processor)):
        path = folder / file
        if path.exists():
            path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def _check(base: Path, config: dict[str, Any], processor: dict[str, Any], recipe: str) -> None:
    """Train a step from the base; `pipeline` gives the trainer's softmax on every image, unless it was refused."""
    features = Features({"image": Image(), "label": ClassLabel(names=list(LABELS))})
    pictures = [picture(seed, 40, 48) for seed in range(6)]
    images = Dataset.from_dict({"image": pictures, "label": [0, 1, 2] * 2}, features=features)
    with tempfile.TemporaryDirectory() as place:
        name = str(_changed(base, Path(place, "base"), config, processor))
        try:
            check_trainable(name)
            loaded = load_for_training(name, LABELS)
        except TransferError:
            return
        transformed = images.with_transform(eval_transform(loaded.processor))
        trainer = TransferTrainer(
            model=loaded.model,
            args=TransferArguments(
                output_dir=f"{place}/out",
                recipe=recipe,
                num_train_epochs=1,
                per_device_train_batch_size=3,
                save_strategy="epoch",
                eval_strategy="epoch",
                report_to="none",
                remove_unused_columns=False,
                use_cpu=True,
                disable_tqdm=True,
            ),
            data_collator=collate,
            train_dataset=transformed,
            eval_dataset=transformed,
            processing_class=loaded.processor,
        )
        trainer.train()
        trainer.save_model()
        logits = trainer.predict(transformed).predictions
        expected = torch.tensor(logits).softmax(-1).numpy()
        answers = pipeline("image-classification", f"{place}/out", device="cpu")(pictures)
        for row, answer in enumerate(answers):
            scores = {each["label"]: each["score"] for each in answer}
            assert np.allclose([scores[label] for label in LABELS], expected[row], atol=2e-5)


@FEW
@given(config=_some(VIT), processor=_some(PROCESSOR), recipe=st.sampled_from(["lp_ft", "fine_tune"]))
def test_transformers_bases(
    bases: dict[str, Path], config: dict[str, Any], processor: dict[str, Any], recipe: str
) -> None:
    """A ViT under any configuration and processor."""
    _check(bases["vit"], config, processor, recipe)


@FEW
@given(config=_some(TIMM), recipe=st.sampled_from(["lp_ft", "fine_tune"]))
def test_timm_bases(bases: dict[str, Path], config: dict[str, Any], recipe: str) -> None:
    """A timm ResNet under any configuration."""
    _check(bases["timm"], config, {}, recipe)
