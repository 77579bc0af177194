"""What we rely on inside transformers and timm; a new version that breaks it fails here, with the reason."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from accelerate import skip_first_batches
from accelerate.utils import DistributedDataParallelKwargs
from timm.models import _manipulate
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import Trainer

import hf_transfer as ht
from hf_transfer.architectures import timm_layouts
from hf_transfer.run_files import TRAINER_STATE
from hf_transfer.trainer.probe_trainer import LinearProbeTrainer
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments


def test_constructor_takes_what_trainer_takes() -> None:
    """Our explicit argument list is Trainer's, in its order, and our own after it."""
    ours = list(inspect.signature(ht.TransferTrainer.__init__).parameters)
    assert ours == [*inspect.signature(Trainer.__init__).parameters, "plan", "held_out"]


PRIVATE = {
    "_determine_best_metric",
    "_finish_current_push",
    "_get_collator_with_removed_columns",
    "_get_output_dir",
    "_load_best_model",
    "_load_from_checkpoint",
    "_load_optimizer_and_scheduler",
    "_push_from_checkpoint",
    "_save",
    "_save_checkpoint",
}
"""Methods of Trainer that are overridden although they are private; a further one is put here with a reason."""


def test_overridden_methods_exist_and_take_the_same_arguments() -> None:
    """Each method of Trainer that we override takes Trainer's arguments, or hands on whatever it is given."""
    found = set()
    for parent in LinearProbeTrainer.__mro__:
        if parent.__module__.partition(".")[0] != "hf_transfer":
            continue
        for name, method in vars(parent).items():
            theirs = getattr(Trainer, name, None)
            if name.startswith("__") or not callable(theirs):
                continue
            found.add(name)
            parameters = inspect.signature(method).parameters
            passes_on = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
            assert passes_on or list(parameters) == list(inspect.signature(theirs).parameters), (parent, name)
    assert {name for name in found if name.startswith("_")} == PRIVATE
    assert {"train", "create_optimizer", "create_scheduler", "evaluate", "get_batch_samples"} <= found
    assert all(callable(getattr(Trainer, name, None)) for name in PRIVATE)


def test_initial_values_have_steps_per_epoch_second_and_all_steps_last(tmp_path: Path) -> None:
    """The tuple of `set_initial_training_values` is read by position."""
    trainer = Trainer(tiny.vit(), arguments(tmp_path, num_train_epochs=3), train_dataset=RandomImages(20))
    values = trainer.set_initial_training_values(trainer.args, DataLoader(RandomImages(20), batch_size=8))
    assert (values[1], values[-1], len(values)) == (3, 9, 7)


def test_epochs_begin_before_their_batches_are_read(tmp_path: Path) -> None:
    """on_epoch_begin precedes the data loader's first batch, at the epoch's first step; a generator is kept."""
    seen: list[Any] = []

    class Read(RandomImages):
        def __getitem__(self, index: int) -> Any:
            seen.append("read")
            return super().__getitem__(index)

    class Watch(transformers.TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(state.global_step)

    trainer = Trainer(tiny.vit(), arguments(tmp_path, num_train_epochs=2), train_dataset=Read(16), callbacks=[Watch()])
    trainer.train()
    assert [each for each in seen if each != "read"] == [0, 2]
    assert seen[0] == 0 and seen.index(2) == 17  # all 16 images of the first epoch, and none of the second
    loader = trainer.get_train_dataloader()
    loader.base_dataloader.generator = torch.Generator()
    assert skip_first_batches(loader, 1).generator is loader.base_dataloader.generator


def test_optimizer_takes_ready_groups(tmp_path: Path) -> None:
    """`optimizer_cls_and_kwargs` with "params" makes an optimizer with exactly those groups."""
    model = tiny.vit()
    groups = [{"params": [model.classifier.bias], "name": "only", "lr": 0.5}]
    trainer = Trainer(
        model, arguments(tmp_path), optimizer_cls_and_kwargs=(torch.optim.SGD, {"params": groups, "lr": 0.1})
    )
    assert [(g["name"], g["lr"]) for g in trainer.create_optimizer().param_groups] == [("only", 0.5)]


def test_step_events_come_in_the_order_that_phases_need(tmp_path: Path) -> None:
    """on_step_begin precedes the forward pass, on_optimizer_step the scheduler, on_step_end the evaluation."""
    seen: list[str] = []

    class Watch(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(f"begin {state.global_step}")

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(f"optimizer {kwargs['lr_scheduler'].last_epoch}")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(f"end {state.global_step} {kwargs['lr_scheduler'].last_epoch}")

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append("evaluate")

    args = arguments(tmp_path, max_steps=1, eval_strategy="steps", eval_steps=1)
    images = RandomImages(8)
    Trainer(tiny.vit(), args, train_dataset=images, eval_dataset=images, callbacks=[Watch()]).train()
    assert seen == ["begin 0", "optimizer 0", "end 1 1", "evaluate"]


def test_ddp_can_be_constructed_again_in_place() -> None:
    """What `rebuild_reducer` deletes and hands on is there; only __init__ decides which gradients are averaged."""
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    assert list(parameters)[1:4] == ["module", "device_ids", "output_device"]
    assert "process_group" in parameters
    source = inspect.getsource(DistributedDataParallel)
    for name in ("reducer", "logger", "process_group", "device_ids", "output_device"):
        assert f"self.{name} = " in source or f"self.{name}: " in source
    handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    assert set(handler.to_kwargs()) <= set(parameters)


def test_checkpoints_are_written_below_the_output_folder_alone(tmp_path: Path) -> None:
    """Trainer takes the place of a checkpoint from `_get_output_dir`, and writes its state last."""
    seen: list[str] = []

    class Elsewhere(Trainer):
        def _get_output_dir(self, trial: Any) -> str:
            return str(tmp_path / "elsewhere")

        def _save_rng_state(self, output_dir: str) -> None:
            super()._save_rng_state(output_dir)
            seen.extend(path.name for path in Path(output_dir).iterdir())

    args = arguments(tmp_path / "out", max_steps=1, save_strategy="steps", save_steps=1)
    Elsewhere(tiny.vit(), args, train_dataset=RandomImages(8)).train()
    assert not (tmp_path / "out" / "checkpoint-1").exists()
    assert "optimizer.pt" in seen and TRAINER_STATE not in seen
    assert (tmp_path / "elsewhere" / "checkpoint-1" / TRAINER_STATE).is_file()


def test_timm_groups_names_by_patterns() -> None:
    """timm's private grouping gives names by number, and its mark for "joins the previous group" is ours."""
    grouped = _manipulate.group_with_matcher(
        ((name, name) for name in ("stem.w", "blocks.1.w", "blocks.0.w", "head.w")),
        {"stem": r"^stem", "blocks": r"^blocks\.(\d+)"},
    )
    assert dict(grouped) == {0: ["stem.w"], 1: ["blocks.0.w"], 2: ["blocks.1.w"], 3: ["head.w"]}
    assert timm_layouts.MATCH_PREV_GROUP == _manipulate.MATCH_PREV_GROUP


def test_timm_adapts_weights_that_it_is_given() -> None:
    """`pretrained_cfg_overlay` with a state_dict loads it through timm's own interpolation, and fetches nothing."""
    source = timm.create_model("test_vit", num_classes=3)
    overlay = {"state_dict": source.state_dict(), "num_classes": 3, "custom_load": False}
    made = timm.create_model("test_vit", num_classes=3, img_size=96, pretrained=True, pretrained_cfg_overlay=overlay)
    assert made.pos_embed.shape[1] < source.pos_embed.shape[1]
    assert torch.equal(made.head.weight, source.head.weight)


def test_timm_remembers_how_a_model_was_made() -> None:
    """`get_model_args` gives the factory's arguments, with which a bare model can be made again."""
    model = timm.create_model("resnet18", num_classes=3, channels=(8, 16, 24, 32), in_chans=1)
    assert {"channels": (8, 16, 24, 32), "in_chans": 1}.items() <= timm.models.get_model_args(model).items()


def test_loading_info_tells_what_is_new(tmp_path: Path) -> None:
    """`output_loading_info` names missing keys, and mismatched ones first in their tuples."""
    tiny.vit().save_pretrained(tmp_path)
    model = type(tiny.vit())
    options = {"num_labels": 5, "ignore_mismatched_sizes": True, "output_loading_info": True}
    info = model.from_pretrained(tmp_path, **options)[1]
    assert {key[0] for key in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    tiny.vit().vit.save_pretrained(tmp_path)
    assert set(model.from_pretrained(tmp_path, **options)[1]["missing_keys"]) == {
        "classifier.weight",
        "classifier.bias",
    }


def test_data_loaders_tell_their_data_set_the_epoch(tmp_path: Path) -> None:
    """Trainer and accelerate call `set_epoch` of a data set: stored views of augmented images are chosen by it."""

    class Told(RandomImages):
        epochs: list[int] = []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    Trainer(tiny.vit(), arguments(tmp_path, num_train_epochs=3), train_dataset=Told(8)).train()
    assert sorted(set(Told.epochs)) == [0, 1, 2]


def test_columns_are_removed_by_a_method_that_takes_a_description() -> None:
    """The feature cache sees a data set as Trainer's own loader would."""
    for name in ("_remove_unused_columns", "_get_collator_with_removed_columns"):
        assert list(inspect.signature(getattr(Trainer, name)).parameters)[1:] in (
            ["dataset", "description"],
            ["data_collator", "description"],
        )


def test_parameters_tell_that_they_were_loaded(tmp_path: Path) -> None:
    """from_pretrained marks the parameters that it loaded, our evidence of pretrained weights; a model that was
    built from the same configuration, with the checkpoint's name in it, has no such mark."""
    tiny.vit().save_pretrained(tmp_path)
    loaded = type(tiny.vit()).from_pretrained(tmp_path)
    built = type(loaded)(loaded.config)
    assert loaded.config._name_or_path == built.config._name_or_path == str(tmp_path)
    assert all(getattr(parameter, "_is_hf_initialized", False) for parameter in loaded.parameters())
    assert not any(getattr(parameter, "_is_hf_initialized", False) for parameter in built.parameters())
