"""Bad input of every kind to every command: one line that says what to do, the right exit code, and nothing lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hf_transfer.cli import main
from tests.helpers.checkpoints import save_vit
from tests.helpers.quick_train import write_photos

TRAIN = ("train", "--model_name_or_path", "vit", "--dataset", "photos", "--output_dir", "out")
DIAGNOSE = ("diagnose", "--model_name_or_path", "vit", "--dataset", "photos")
EVALUATE = ("evaluate", "vit", "--dataset", "photos")
INSPECT = ("inspect", "timm:resnet18")

Case = tuple[tuple[str, ...], int, str]

USAGE: tuple[Case, ...] = (
    (("trian",), 2, "Did you mean train?"),
    (("publsh", "x"), 2, "Did you mean publish?"),
    ((*TRAIN, "--learning-rat", "1"), 2, "Did you mean --learning_rate"),
    ((*TRAIN, "--augmentation", "standart"), 2, "Did you mean standard?"),
    ((*TRAIN, "--num_train_epochs", "three"), 2, "num_train_epochs"),
    ((*TRAIN, "--seed", "1.5"), 2, "seed"),
    ((*TRAIN, "--reset_head", "perhaps"), 2, "reset_head"),
    ((*TRAIN, "--num_channels", "2"), 2, "1, 3, 4"),
    ((*TRAIN, "stray"), 2, "unknown: stray"),
    (("train", "--dataset", "photos", "--output_dir", "out"), 2, "model_name_or_path"),
    (("train", "--model_name_or_path", "vit", "--output_dir", "out"), 2, "dataset"),
    ((*TRAIN, "--config"), 2, "--config"),
    ((*DIAGNOSE, "--prefer", "bets"), 2, "Did you mean best?"),
    ((*DIAGNOSE, "--sample", "many"), 2, "sample"),
    ((*EVALUATE, "--splt", "test"), 2, "Did you mean --split"),
    (("evaluate",), 2, "model_name_or_path"),
    ((*INSPECT, "--granularity", "blok"), 2, "Did you mean block?"),
    ((*INSPECT, "--reciep", "svm"), 2, "Did you mean --recipe"),
    (("publish", "run"), 2, "repo_id"),
    (("publish", "run", "me/x", "--publick"), 2, "Did you mean --public"),
    (("demo", "--output", "x"), 2, "Did you mean --output_dir"),
    (("doctor", "--jsn"), 2, "--jsn"),
)
REFUSED: tuple[Case, ...] = (
    ((*TRAIN, "--recipe", "lpft"), 1, "Did you mean lp_ft?"),
    ((*TRAIN, "--recipe", "last_blocks", "--recipe_options", '{"kk": 2}'), 1, "Did you mean k?"),
    ((*TRAIN, "--recipe", "lp_ft", "--recipe_options", "{k: 2"), 1, "must be a JSON object"),
    ((*TRAIN, "--recipe", "lp_ft", "--recipe_options", "[1]"), 1, "must be a JSON object"),
    ((*TRAIN, "--recipe", "gradual_unfreeze", "--recipe_options", '{"steps": "3"}'), 1, "positive whole number"),
    ((*TRAIN, "--learning_rate", "fast"), 2, "must be a number or auto"),
    ((*TRAIN, "--learning_rate", "nan"), 1, "learning_rate must be above 0"),
    ((*TRAIN, "--learning_rate", "inf"), 1, "learning_rate must be above 0"),
    ((*TRAIN, "--num_train_epochs", "-1"), 1, "num_train_epochs must be above 0"),
    ((*TRAIN, "--per_device_train_batch_size", "0"), 1, "per_device_train_batch_size must be above 0"),
    ((*TRAIN, "--gradient_accumulation_steps", "0"), 1, "gradient_accumulation_steps"),
    ((*TRAIN, "--seed", "-1"), 1, "seed must be from 0"),
    ((*TRAIN, "--dataloader_num_workers", "-2"), 1, "dataloader_num_workers"),
    ((*TRAIN, "--label_smoothing_factor", "2"), 1, "label_smoothing_factor must be from 0 to 1"),
    ((*TRAIN, "--weight_decay", "-1"), 1, "weight_decay must be from 0"),
    ((*TRAIN, "--optim_args", "momentum"), 1, "must be NAME=VALUE"),
    ((*TRAIN, "--fsdp", "full_shard"), 1, "The flags do not fit: Using fsdp only works in distributed training"),
    ((*TRAIN, "--fsdp_config", "nowhere.json"), 1, "There is no file nowhere.json"),
    ((*TRAIN, "--optim", "adamw_bnb_8bit"), 1, "bitsandbytes"),
    ((*TRAIN, "--lr_scheduler_kwargs", "{"), 1, "do not fit"),
    ((*TRAIN, "--eval_strategy", "no", "--load_best_model_at_end"), 1, "save and eval strategy to match"),
    ((*TRAIN, "--class_weights", "blanced", "--recipe", "linear_probe"), 1, "must be balanced"),
    ((*DIAGNOSE, "--seed", "-1"), 1, "seed must be from 0"),
    ((*DIAGNOSE, "--sample", "0"), 1, "sample=0"),
    (("inspect", "vit", "--plan", "vit/config.json"), 1, "A plan has the fields"),
    (("evaluate", "timm:resnet18", "--dataset", "photos"), 1, "without trained weights"),
    ((*TRAIN, "--report_to", "tensorbord"), 1, "Did you mean tensorboard?"),
    ((*TRAIN, "--report_to", "comet_ml"), 1, "pip install comet_ml"),
    ((*TRAIN, "--metrics", "f11"), 1, "'f11' cannot be loaded"),
    ((*TRAIN, "--metric_for_best_model", "acuracy"), 1, "Did you mean accuracy"),
    ((*TRAIN, "--optim", "adamw_torhc"), 2, "Did you mean adamw_torch"),
    ((*TRAIN, "--lr_scheduler_type", "cosin"), 2, "Did you mean cosine"),
    ((*TRAIN, "--plan", "nowhere.json"), 1, "nowhere.json"),
    ((*TRAIN, "--plan", "bad.json"), 1, "bad.json"),
    ((*TRAIN, "--plan", "photos"), 1, "No plan can be read"),
    ((*TRAIN, "--deepspeed", "nowhere.json"), 1, "do not fit"),
    ((*TRAIN, "--resume_from_checkpoint", "true"), 1, "no complete checkpoint"),
    ((*TRAIN, "--resume_from_checkpoint", "~/nowhere"), 1, "no checkpoint folder"),
    ((*TRAIN, "--layer", "blocks.9", "--recipe", "linear_probe"), 1, "There is no layer 'blocks.9'"),
    ((*TRAIN, "--solver", "ridge", "--recipe", "fine_tune"), 1, "are for a head that is solved"),
    ((*TRAIN, "--prefer", "fast"), 1, "give --recipe auto"),
    ((*TRAIN, "--hub_token", "hf_" + "q" * 34), 1, "HF_TOKEN"),
    ((*TRAIN, "--config", "nowhere.yaml"), 1, "cannot be read as YAML"),
    ((*TRAIN, "--config", "photos"), 1, "cannot be read as YAML"),
    ((*TRAIN, "--config", "binary.yaml"), 1, "cannot be read as YAML"),
    ((*TRAIN, "--config", "unknown.yaml"), 1, "Did you mean learning_rate?"),
    ((*TRAIN, "--config", "word.yaml"), 1, "num_train_epochs cannot be 'three'"),
    ((*TRAIN, "--config", "truth.yaml"), 1, "per_device_train_batch_size cannot be True"),
    ((*TRAIN, "--config", "mapping.yaml"), 1, "num_train_epochs must be one value"),
    ((*DIAGNOSE, "--json", "notes.txt"), 1, "is no diagnosis"),
    ((*DIAGNOSE, "--json", "photos"), 1, "is a folder"),
    ((*DIAGNOSE, "--json", "photos/d.json"), 1, "lies in the data set"),
    ((*DIAGNOSE, "--json", "notes.txt/d.json"), 1, "is no folder"),
    ((*DIAGNOSE, "--output_dir", "photos/x"), 1, "in, the data set"),
    ((*DIAGNOSE, "--output_dir", "vit"), 1, "which would be overwritten"),
    ((*DIAGNOSE, "--output_dir", "run"), 1, "holds a run"),
    ((*DIAGNOSE, "--output_dir", "notes.txt"), 1, "is a file"),
    ((*DIAGNOSE, "--budget", "-1"), 1, "budget"),
    ((*EVALUATE, "--output_dir", "vit"), 1, "holds another run"),
    ((*EVALUATE, "--output_dir", "run"), 1, "holds another run"),
    ((*EVALUATE, "--output_dir", "photos"), 1, "in, the data set"),
    ((*EVALUATE, "--output_dir", "run/checkpoint-3/x"), 1, "belongs to a run"),
    ((*EVALUATE, "--metrics", "f11"), 1, "'f11' cannot be loaded"),
    ((*EVALUATE, "--per_device_eval_batch_size", "0"), 1, "above 0"),
    (("evaluate", "nowhere/model", "--dataset", "photos"), 1, "nowhere/model"),
    ((*EVALUATE, "--dataset", "nowhere"), 1, "nowhere"),
    ((*EVALUATE, "--split", "tset"), 1, "Did you mean test?"),
    ((*INSPECT, "--recipe", "svn"), 1, "Did you mean svm?"),
    ((*INSPECT, "--recipe", "lp_ft", "--recipe_options", "{"), 1, "must be JSON"),
    ((*INSPECT, "--recipe_options", "{}"), 1, "need a recipe"),
    ((*INSPECT, "--plan", "~nobody/x.json"), 1, "No plan can be read"),
    ((*INSPECT, "--learning_rate", "-1"), 1, "above 0"),
    (("inspect", "timm:resnet19"), 1, "resnet"),
    (("publish", "nowhere", "me/x", "--dry_run"), 1, "nowhere"),
    (("publish", "notes.txt", "me/x", "--dry_run"), 1, "notes.txt"),
    (("publish", "vit", "a/b/c", "--dry_run"), 1, "id on the Hub"),
    (("publish", "vit", "me/x", "--token", "x"), 1, "HF_TOKEN"),
    (("publish", "vit", "me/x"), 1, "No login"),
    (("demo", "--output_dir", "notes.txt"), 1, "is a file"),
    (("demo", "--output_dir", "run"), 1, "holds another run"),
)
PLACES: tuple[Case, ...] = (
    ((*TRAIN, "--output_dir", "photos"), 1, "in, the data set"),
    ((*TRAIN, "--output_dir", "photos/train/new"), 1, "in, the data set"),
    ((*TRAIN, "--output_dir", "other/../photos"), 1, "in, the data set"),
    ((*TRAIN, "--output_dir", "link_to_photos/x"), 1, "in, the data set"),
    ((*TRAIN, "--dataset", "link_to_photos", "--output_dir", "photos"), 1, "in, the data set"),
    ((*TRAIN, "--dataset", "linked", "--output_dir", "linked_out"), 1, "in, the data set"),
    (
        (*TRAIN, "--dataset", "run/figures", "--output_dir", "run", "--overwrite_output_dir"),
        1,
        "that the results take",
    ),
    ((*TRAIN, "--output_dir", "vit"), 1, "which would be overwritten"),
    ((*TRAIN, "--output_dir", "vit", "--overwrite_output_dir"), 1, "which would be overwritten"),
    ((*TRAIN, "--output_dir", "link_to_vit", "--overwrite_output_dir"), 1, "which would be overwritten"),
    (
        (*TRAIN, "--model_name_or_path", "run/checkpoint-3", "--output_dir", "run", "--overwrite_output_dir"),
        1,
        "that the results take",
    ),
    ((*TRAIN, "--output_dir", "vit_copy", "--overwrite_output_dir"), 1, "no run of hf-transfer wrote"),
    ((*TRAIN, "--output_dir", "run"), 1, "holds another run"),
    ((*TRAIN, "--output_dir", "run/checkpoint-3"), 1, "holds another run"),
    (
        (*TRAIN, "--plan", "run/transfer_plan.json", "--output_dir", "run", "--overwrite_output_dir"),
        1,
        "that the results take",
    ),
    ((*TRAIN, "--config", "run/figures/c.yaml", "--output_dir", "run", "--overwrite_output_dir"), 1, "results take"),
    ((*TRAIN, "--output_dir", "notes.txt"), 1, "is a file"),
    ((*TRAIN, "--output_dir", "notes.txt/x"), 1, "cannot be written"),
    ((*TRAIN, "--output_dir", "cache"), 1, "in, the feature cache"),
)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, images, a run and files of all sorts, which each test gets a copy of."""
    folder = tmp_path_factory.mktemp("origin")
    write_photos(folder / "photos")
    save_vit(folder / "vit")
    shutil.copytree(folder / "vit", folder / "vit_copy")
    shutil.copytree(folder / "vit", folder / "run" / "checkpoint-3")
    for name in ("other", "cache", "linked_out", "linked", "run/figures"):
        (folder / name).mkdir(parents=True)
    for link, target in (("link_to_photos", "photos"), ("link_to_vit", "vit"), ("linked/a", "../linked_out")):
        (folder / link).symlink_to(target, target_is_directory=True)
    texts = {
        "notes.txt": "mine",
        "bad.json": "{",
        "run/run.json": "{}",
        "run/transfer_plan.json": "{}",
        "run/figures/c.yaml": "seed: 1",
        "unknown.yaml": "learning_rat: 1",
        "word.yaml": "num_train_epochs: three",
        "truth.yaml": "per_device_train_batch_size: yes",
        "mapping.yaml": "num_train_epochs: {a: 1}",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    return folder


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of all files, without following links."""
    paths = (Path(base) / name for base, _, names in os.walk(folder) for name in names)
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [*USAGE, *REFUSED, *PLACES],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, tuple) else None,
)
def test_bad_input_is_told_in_one_line(
    argv: tuple[str, ...],
    code: int,
    words: str,
    origin: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line with what to do, exit code 1 for a failure and 2 for bad usage, and no file made, changed or lost."""
    monkeypatch.chdir(origin)
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(origin / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("hf_transfer.hub.access.get_token", lambda: None)
    monkeypatch.setattr("hf_transfer.hub.publishing.get_token", lambda: None)
    before = _state(origin)
    try:
        found = main(list(argv))
    except SystemExit as stop:  # argparse's
        found = int(stop.code or 0)
    written = capsys.readouterr().err
    errors = [line for line in written.splitlines() if "error:" in line]
    assert len(errors) == 1 and words in errors[0], written
    assert found == code
    assert "Traceback" not in written and "unexpected" not in written
    assert _state(origin) == before


def test_the_table_has_all_commands() -> None:
    """At least sixty kinds of bad input, and each command among them."""
    table = [*USAGE, *REFUSED, *PLACES]
    assert len(table) >= 60
    assert {"train", "diagnose", "inspect", "evaluate", "publish", "demo", "doctor"} <= {
        argv[0] for argv, _, _ in table
    }
