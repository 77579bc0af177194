"""hf_transfer.cli.options: flags, and a YAML file below them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_transfer.cli.flags import ModelOptions, TrainDataOptions
from hf_transfer.cli.options import parse
from hf_transfer.errors import ArgumentError
from hf_transfer.trainer.args import TransferArguments

TYPES = (ModelOptions, TrainDataOptions, TransferArguments)


def test_flags_override_the_file_and_the_file_overrides_defaults(tmp_path: Path) -> None:
    """The order is: defaults of the command, --config, flags; scientific notation and JSON objects are understood."""
    config = tmp_path / "run.yaml"
    config.write_text(
        "dataset: images\nmodel_name_or_path: m\nlearning_rate: 5e-4\nnum_train_epochs: 7\nreset_head: true\n"
        "recipe: last_blocks\nrecipe_options: {k: 1}\nmetrics: [recall, f1]\n"
    )
    argv = ["--config", str(config), "--num_train_epochs", "2", "--output_dir", str(tmp_path)]
    defaults = {"per_device_train_batch_size": 32, "learning_rate": 1.0}
    model, data, args, given = parse(TYPES, argv, "train", "", defaults)
    assert (model.model_name_or_path, model.reset_head, data.dataset) == ("m", True, "images")
    assert (args.learning_rate, args.num_train_epochs, args.per_device_train_batch_size) == (5e-4, 2, 32)
    assert (args.recipe, args.recipe_options, data.metrics) == ("last_blocks", {"k": 1}, ["recall", "f1"])
    assert {"learning_rate", "num_train_epochs", "dataset"} <= given
    assert "per_device_train_batch_size" not in given


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("augmentation: wild\n", "augmentation must be one of none, light, standard"),
        ("num_train_epochs: [1]\n", "num_train_epochs must be one value"),
        ("- a\n- b\n", "flag: value"),
        ("learning_rat: 1\n", "unknown flags: learning_rat"),
        ("a: [", "as YAML"),
    ],
)
def test_bad_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    """A file that is no mapping, has unknown keys or is no YAML gives a clear error."""
    config = tmp_path / "run.yaml"
    config.write_text(content)
    with pytest.raises(ArgumentError, match=message):
        parse(TYPES, [f"--config={config}"], "train", "")


def test_values_are_read_as_the_flags_read_them(tmp_path: Path) -> None:
    """YAML takes 1e-3 for text and no, on and off for truth values; numbers may be in quotes, empty means default."""
    config = tmp_path / "run.yaml"
    config.write_text(
        'learning_rate: 1e-3\nnum_train_epochs: "3"\neval_strategy: no\ncache_features: off\nreset_head: yes\n'
        "resume_from_checkpoint: true\nhub_private_repo: false\nseed: '7'\nhub_model_id: 2024\nsolver: none\n"
        "weight_decay: 1e-2\nimage_size:\nmetrics: f1\nreport_to: no\n"
    )
    argv = ["--config", str(config), "--model_name_or_path", "m", "--dataset", "d", "--output_dir", str(tmp_path)]
    model, data, args, _ = parse(TYPES, argv, "train", "")
    assert (args.learning_rate, args.num_train_epochs, args.seed, args.weight_decay) == (1e-3, 3.0, 7, 1e-2)
    assert (args.eval_strategy, args.cache_features, args.solver, args.hub_model_id) == ("no", "off", "none", "2024")
    assert args.report_to in ([], "none", ["none"])
    assert (args.resume_from_checkpoint, args.hub_private_repo) == ("true", False)
    assert (model.reset_head, model.image_size, data.metrics) == (True, None, ["f1"])


def test_missing_file_is_refused() -> None:
    """A file that does not exist gives a clear error."""
    with pytest.raises(ArgumentError, match="absent.yaml cannot be read"):
        parse(TYPES, ["--config", "absent.yaml"], "train", "")
