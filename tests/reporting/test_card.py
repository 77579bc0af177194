"""Model cards: what they print is what the record says.

`tests/reporting/card_two_phases.md` is a whole card. After a wanted change of the template, write it again by
`HF_TRANSFER_UPDATE_GOLDEN=1 pytest tests/reporting/test_card.py -k golden` and read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from hf_transfer.errors import ArgumentError, OutputError
from hf_transfer.plans import recipes
from hf_transfer.plans.plan import TransferPlan
from hf_transfer.reporting.card import render_card, validate_metadata, write_card
from hf_transfer.reporting.training_facts import FULL_TABLE_GROUPS
from hf_transfer.utils.clock import duration
from tests.helpers.card_records import PLANS, changed, metadata, record, report, section, tables_in

GOLDEN = Path(__file__).with_name("card_two_phases.md")


@pytest.mark.parametrize("blocks", [3, 12])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_groups_printed_are_those_of_the_record(plan: TransferPlan, blocks: int) -> None:
    """Name, size, learning rate, decay and frozen state of every layer group in every phase are the record's."""
    data = record(plan, blocks)
    resolved = data["training"]["plan"]
    rows = tables_in(section(render_card(data), "What was trained"))[0]
    assert rows[0][4:] == [phase["name"] for phase in resolved["phases"]]
    assert len(rows) == 1 + len(resolved["groups"]) + 1
    for row, group in zip(rows[1:-1], resolved["groups"], strict=True):
        assert row[:4] == [str(group["index"]), f"`{group['name']}`", group["role"], f"{group['parameters']:,}"]
        for cell, phase in zip(row[4:], group["phases"], strict=True):
            if phase["learning_rate"] is None:
                assert cell == "frozen" and phase["trained_tensors"] == 0
                continue
            assert float(cell.split(",")[0]) == pytest.approx(phase["learning_rate"], rel=5e-3)
            decay = re.search(r"decay ([\d.]+)", cell)
            assert (float(decay.group(1)) if decay else 0) == phase["weight_decay"]
            partly = re.search(r"(\d+) of (\d+) tensors", cell)
            counted = tuple(map(int, partly.groups())) if partly else (group["tensors"],) * 2
            assert counted == (phase["trained_tensors"], group["tensors"])
    assert rows[-1][3:] == [
        f"{data['base_model']['parameters']:,}",
        *(f"{phase['trained_parameters']:,} trained" for phase in resolved["phases"]),
    ]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_phases_printed_are_those_of_the_record(plan: TransferPlan) -> None:
    """Steps, schedule, warm-up, batch-norm mode, epochs and trained parameters of each phase are the record's."""
    data = record(plan)
    header, *rows = tables_in(section(render_card(data), "What was trained"))[1]
    for row, phase in zip(rows, data["training"]["plan"]["phases"], strict=True):
        cells = dict(zip(header, row, strict=True))
        train = [phase["train"]] if isinstance(phase["train"], str) else phase["train"]
        assert cells["Phase"] == phase["name"]
        assert cells["Trains"] == ", ".join(f"`{part}`" for part in train)
        assert cells["Schedule"] == phase["lr_scheduler_type"]
        assert cells["Batch norm"] == phase["norm"]
        assert cells["Steps"] == f"50 ({phase['start_step'] + 1} to {phase['end_step']})"
        assert cells["Warm-up steps"] == str(phase["warmup_steps"])
        assert cells.get("Epochs", "") == ("" if phase["epochs"] is None else f"{phase['epochs']:g}")
        assert cells["Trained parameters"] == f"{phase['trained_parameters']:,}"


def test_equal_blocks_of_a_deep_model_share_a_row() -> None:
    """Above 30 groups neighbouring blocks with the same treatment are one row that states its range."""
    plan = recipes.last_blocks(4, 2, 1e-4)
    card = render_card(record(plan, blocks=FULL_TABLE_GROUPS))
    rows = tables_in(section(card, "What was trained"))[0][1:]
    assert [row[0] for row in rows] == ["0", "1–26", "27–30", "31", "32", ""]
    assert rows[1][1] == "`blocks.0` to `blocks.25` (26 groups)" and rows[1][4] == "frozen"
    assert rows[2][1] == "`blocks.26` to `blocks.29` (4 groups)" and rows[2][4].startswith("0.0001")
    groups = record(plan, blocks=FULL_TABLE_GROUPS)["training"]["plan"]["groups"]
    assert rows[2][3] == f"{sum(group['parameters'] for group in groups[27:31]):,}"


def test_blocks_that_differ_keep_their_rows() -> None:
    """A deep model with layer decay has another rate in every block: nothing is merged away."""
    card = render_card(record(recipes.fine_tune(2, 1e-4, layer_decay=0.9), blocks=40))
    assert len(tables_in(section(card, "What was trained"))[0]) == 1 + 43 + 1


def test_settings_and_optimizer() -> None:
    """The settings are the record's; the defaults that the plan's groups replace are not shown as if they applied."""
    rows = dict(tables_in(section(render_card(record()), "What was trained"))[2][1:])
    assert rows["Optimizer"] == "AdamW (betas 0.9, 0.999; eps 1e-08)"
    assert rows["Effective batch size"] == "32" and rows["Gradient accumulation steps"] == "2"
    assert rows["Label smoothing"] == "0.1" and rows["Last training loss"] == "0.4321"


def test_run_without_a_plan() -> None:
    """Without a plan the optimizer's own rate is shown, no group table, and no statement on the first weights."""
    data = changed(record(), training={"plan": None})
    card = render_card(data)
    assert "lr 9" in card and "Layer group" not in card and "pretrained weights" not in card
    assert "base_model" not in metadata(card)
    validate_metadata(card)


def test_data_and_evaluation_are_those_of_the_record() -> None:
    """Counts per class and split, metrics, intervals, scores per class and mistakes are printed as recorded."""
    card = render_card(record(labels=("cat", "dog", "cow")))
    assert tables_in(section(card, "Data"))[0] == [
        ["Class", "train", "validation"],
        ["cat", "1,000", "60"],
        ["dog", "1,001", "61"],
        ["cow", "1,002", "62"],
        ["**all**", "3,003", "183"],
    ]
    assert "left out: `train` 1. Reasons: it is damaged or cut short (1)." in section(card, "Data")
    metrics, classes, mistakes = tables_in(section(card, "Evaluation"))
    assert metrics[1:] == [["Accuracy", "0.873", "0.840 to 0.900"], ["Calibration error (ECE)", "0.051", "–"]]
    assert classes[2] == ["dog", "0.750", "0.501", "0.601", "101"]
    assert mistakes[1] == ["cat", "dog", "13", "12.5%"]
    assert "Accuracy **0.873** on 300 images of `validation` (95 % interval 0.840 to 0.900)." in card


def test_a_drawn_evaluation_split_is_told() -> None:
    """Images set aside from `train` are no split of the source, and the seed that drew them is given."""
    own = "train[stratified fifth, seed 7]"
    card = render_card(changed(record(), data={"evaluation_split": own}))
    assert f"Evaluation split: `{own}`, set aside" in section(card, "Data")
    assert "Seed of the split | 7 |" in card and "Seed of the split" not in render_card(record())
    assert "Evaluation split: `validation`, as the data came with it." in render_card(record())


TRAIN = "hf-transfer train --dataset pets"


@pytest.mark.parametrize(
    ("command", "hardware", "shown"),
    [
        (TRAIN, {"world_size": 1}, TRAIN),
        (TRAIN, {"world_size": None}, TRAIN),
        (TRAIN, {"world_size": 4, "device": "cuda"}, "accelerate launch --multi_gpu --num_processes 4"),
        (TRAIN, {"world_size": 2}, "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2"),
        (
            TRAIN,
            {"world_size": 16, "machines": 2, "device": "cuda"},
            "accelerate launch --multi_gpu --num_processes 16 --num_machines 2",
        ),
        ("python train.py", {"world_size": 2}, "python train.py"),
    ],
)
def test_command_starts_as_many_processes(command: str, hardware: dict[str, object], shown: str) -> None:
    """The command of a run in several processes begins with the launcher; one that is not ours is left as it is."""
    card = render_card(changed(record() | {"command": command}, hardware=hardware))
    program = "" if shown == command else f" -m hf_transfer{command.removeprefix('hf-transfer')}"
    assert f"```bash\n{shown}{program}\n```" in card


@pytest.mark.parametrize(("by", "flag"), [("FSDP", "--use_fsdp"), ("DeepSpeed", "--use_deepspeed")])
def test_a_sharded_model_is_told(by: str, flag: str) -> None:
    """The launcher of a run whose processes shared the model is told to do that, and the settings say so."""
    hardware = {"world_size": 2, "device": "cuda"}
    card = render_card(changed(record() | {"command": TRAIN}, hardware=hardware, training={"sharded_by": by}))
    assert f"accelerate launch {flag} --num_processes 2 -m hf_transfer train" in card
    assert f"| Model divided over the processes by | {by} |" in card and "divided over" not in render_card(record())


def test_many_classes() -> None:
    """Above 50 classes the tables show the ten worst and best, and the spread of the counts."""
    labels = tuple(f"class {i}" for i in range(60))
    card = render_card(record(labels=labels))
    rows = tables_in(section(card, "Evaluation"))[1]
    assert [row[0] for row in rows[1:]] == [*labels[:10], "*40 classes between*", *labels[50:]]
    assert tables_in(section(card, "Data"))[0][1] == ["train", "61,770", "60", "1,000", "1,029.5", "1,059"]
    assert tables_in(section(card, "Labels")) == [] and "60 classes" in section(card, "Labels")


def test_class_without_images_has_no_scores() -> None:
    """The zeros that stand for unknown scores are not printed as if they were measured."""
    data = record()
    data["evaluation"]["validation"]["per_class"][1].update(precision=0.0, recall=0.0, f1=0.0, support=0)
    assert ["dog", "–", "–", "–", "0"] in tables_in(section(render_card(data), "Evaluation"))[1]


def test_random_weights_are_no_fine_tuning() -> None:
    """A model trained from scratch names no base model, inherits no licence and says where its weights come from."""
    card = render_card(record(recipes.from_scratch(4, 1e-3)))
    assert not {"base_model", "base_model_relation", "license"} & set(metadata(card))
    assert "drawn at random" in card and "fine-tuned" not in card and "licensed" not in card
    assert "Frozen:" not in card


def test_an_architecture_without_weights_is_no_base_model() -> None:
    """Trained from the name of an architecture: from scratch, with no base model and no licence."""
    base = {"id": "timm:resnet18", "on_hub": False, "license": None, "random_weights": True}
    card = render_card(changed(record(), base_model=base))
    assert "trained from scratch" in card
    assert not {"base_model", "base_model_relation", "license"} & set(metadata(card))


def test_local_base_model_is_not_published_as_a_hub_id() -> None:
    """A folder's name is shown as text: as `base_model` it could be somebody else's model."""
    card = render_card(changed(record(), base_model={"id": "my-folder", "on_hub": False}))
    assert not {"base_model", "base_model_relation"} & set(metadata(card))
    assert "pretrained weights of my-folder " in card and "huggingface.co/my-folder" not in card


def test_local_data_are_no_hub_dataset() -> None:
    """Own data have no `datasets` entry, no link and no id of another's data set in the results."""
    card = render_card(changed(record(), data={"hub_id": None}))
    assert "datasets" not in metadata(card) and "huggingface.co/datasets" not in card
    assert metadata(card)["model-index"][0]["results"][0]["dataset"] == {
        "name": "pets",
        "type": "custom",
        "split": "validation",
    }


def test_unknown_things_are_left_out() -> None:
    """No empty section, no row without a value, no placeholder, no word for nothing."""
    data = record()
    data["base_model"] |= {"revision": None, "license": None}
    data["data"] |= {
        "name": None,
        "hub_id": None,
        "revision": None,
        "fingerprint": None,
        "skipped": [],
        "median_size": None,
    }
    data["training"] = {"plan": None, "optimizer": {"class": "SGD"}}
    data |= {
        "evaluation": {},
        "preprocessing": {"resize_to": []},
        "timing": {},
        "command": "",
        "versions": {"python": "3.11"},
    }
    data["hardware"] = {"device": "cpu"}
    card = render_card(data)
    for gone in (
        "## Evaluation",
        "## Preprocessing",
        "```bash",
        "license",
        "revision",
        "left out",
        "interval",
        "model-index",
    ):
        assert gone not in card
    assert not re.search(r"\bNone\b|\bnan\b|nformation needed|unknown|\bTODO\b", card)
    assert not re.search(r"^(#+ .*|\*\*.*\*\*)\n+(?=#|\Z)", card, re.MULTILINE), "an empty section"
    assert all(all(row[1:]) for found in tables_in(card) for row in found), "an empty cell"
    assert "generated_from_trainer" not in metadata(card)["tags"]
    validate_metadata(card)


def test_transformers_model_has_no_timm_example() -> None:
    """Only a timm model is tagged and explained as one; the id is in the examples once it is known."""
    timm_card = render_card(record(), repo_id="someone/pets-model")
    assert 'create_model("hf-hub:someone/pets-model"' in timm_card and 'model="someone/pets-model"' in timm_card
    card = render_card(changed(record(), base_model={"library": "transformers", "architecture": "transformers:vit"}))
    assert "import timm" not in card and "timm" not in metadata(card)["tags"]
    assert 'model="path/to/this/folder"' in card


def test_results_that_are_not_finite_are_not_published() -> None:
    """A metric that could not be computed is in neither the metadata nor the table."""
    data = record()
    data["evaluation"]["validation"]["metrics"]["ece"]["value"] = None
    card = render_card(data)
    assert [m["type"] for m in metadata(card)["model-index"][0]["results"][0]["metrics"]] == ["accuracy"]
    assert "Calibration" not in card
    validate_metadata(card)


def test_evaluation_split_comes_first_and_choice_is_told() -> None:
    """With a test split both are reported, and a checkpoint chosen on one of them is said to be."""
    data = changed(record(), training={"best_checkpoint_step": 40})
    data["evaluation"] = {"test": report("test", ("cat", "dog")).to_dict(), **data["evaluation"]}
    card = render_card(data)
    assert re.findall(r"^### (\w+)", card, re.MULTILINE) == ["validation", "test"]
    assert re.search(r"step 40, chosen by their result on\s`validation`", card)
    assert "chosen" not in render_card(record())


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5.0 s"), (123.4, "2 min 3 s"), (3599.6, "59 min 59 s"), (7300, "2 h 2 min")]
)
def test_duration(seconds: float, text: str) -> None:
    """Times are given in the units that fit them."""
    assert duration(seconds) == text


def test_golden_card() -> None:
    """A whole card is the one beside this file, so that every change of the text is looked at."""
    figures = {"learning_curves": "figures/learning_curves.png", "confusion_matrix": "figures/confusion_matrix.png"}
    card = render_card(record(PLANS["two phases"], labels=("cat", "dog", "t_shirt|top")), figures=figures)
    if os.environ.get("HF_TRANSFER_UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(card, encoding="utf-8")
    assert card == GOLDEN.read_text(encoding="utf-8")
    assert card == render_card(record(PLANS["two phases"], labels=("cat", "dog", "t_shirt|top")), figures=figures)


def test_write_card_keeps_the_users_text(tmp_path: Path) -> None:
    """Text between the two marks survives byte for byte, however often the card is written."""
    path = write_card(tmp_path, record())
    text = "\n## Mine\n\n\n\nkept | `as` <b>it</b> is\n"
    path.write_text(path.read_text().replace("start -->\n<!--", f"start -->{text}<!--"))
    for _ in range(2):
        write_card(tmp_path, record(recipes.from_scratch()), repo_id="someone/other")
        assert f"<!-- user:start -->{text}<!-- user:end -->" in path.read_text()
    assert path.read_text().startswith("---\n") and "\n# other\n" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_write_card_does_not_lose_text_without_an_end(tmp_path: Path) -> None:
    """With the closing mark missing the card is left as it is, and the message says what to do."""
    (tmp_path / "README.md").write_text("<!-- user:start -->\nprecious")
    with pytest.raises(OutputError, match="user:end"):
        write_card(tmp_path, record())
    assert (tmp_path / "README.md").read_text() == "<!-- user:start -->\nprecious"


def test_write_card_shows_only_figures_that_exist(tmp_path: Path) -> None:
    """A figure whose file is missing would be a broken picture on the Hub."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "confusion_matrix.png").touch()
    names = ("confusion_matrix", "learning_curves")
    card = write_card(tmp_path, record(), figures={name: f"figures/{name}.png" for name in names}).read_text()
    assert "![Confusion matrix](figures/confusion_matrix.png)" in card and "learning_curves" not in card


@pytest.mark.parametrize("path", ["/home/anna/x.png", "../x.png", "C:\\x.png"])
def test_figures_must_be_relative(path: str) -> None:
    """A figure outside of the folder would tell a path and be missing on the Hub."""
    with pytest.raises(ArgumentError, match="relative"):
        render_card(record(), figures={"x": path})


def test_write_card_refuses_what_is_private(tmp_path: Path) -> None:
    """A path in the record stops the card, which is made to be published."""
    with pytest.raises(OutputError, match=r"data\.name"):
        write_card(tmp_path, changed(record(), data={"name": "/home/anna/pets"}))
    assert not list(tmp_path.iterdir())


def test_no_absolute_path_in_a_card() -> None:
    """The only slashes at the start of a word are those of URLs."""
    assert not re.search(r"(?<![\w:/)])/(?:home|tmp|root|work|usr)\b", render_card(record()))


def test_license_and_limitations() -> None:
    """The user's own licence and limitations are used; a licence that is no identifier is refused."""
    card = render_card(record(), license="cc-by-nc-4.0", limitations="Only *cats*.\n")
    assert metadata(card)["license"] == "cc-by-nc-4.0" and section(card, "Limitations") == "\nOnly *cats*.\n\n"
    with pytest.raises(ArgumentError, match="license"):
        render_card(record(), license="Apache License")
    with pytest.raises(ArgumentError, match="repo_id"):
        render_card(record(), repo_id="not an id")
