"""Plans of several phases in two processes, started by `accelerate launch` on a CPU (gloo)."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import launched, runs

pytestmark = pytest.mark.slow
LAUNCHED = Path(launched.__file__)
# Sums are taken in another order in two processes; AdamW amplifies that.
TOLERANCE = {"sgd": 1e-5, "adamw_torch": 1e-3}
GRADUAL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit_sgd": ("vit", "sgd", {}),
    "vit_accumulated": ("vit", "sgd", {"gradient_accumulation_steps": 2}),
    "vit_checkpointed": ("vit", "sgd", {"activation_checkpointing": True}),
    "resnet_sgd": ("resnet", "sgd", {}),
    "vit_adamw": ("vit", "adamw_torch", {}),
}


def launch(folder: Path, *names: str, **environment: str) -> str:
    """Run scenarios in two processes; returns what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    how = ["--multi_gpu", "--num_processes", "2", "--main_process_port", str(port)]
    done = subprocess.run(
        [*accelerate, *how, str(LAUNCHED), str(folder), *names],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def launched_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one launch with all scenarios; `output.txt` is what was printed."""
    folder = tmp_path_factory.mktemp("launched")
    # Asks for FSDP, which accelerate does not have on a CPU.
    (folder / "output.txt").write_text(launch(folder, *launched.SCENARIOS, ACCELERATE_USE_FSDP="true"))
    return folder


def results(folder: Path, name: str) -> list[dict[str, Any]]:
    """What each rank found."""
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", GRADUAL)
def test_ranks_are_equal_and_as_one_process(name: str, launched_folder: Path, tmp_path: Path) -> None:
    """After each of 4 phases the ranks agree bit for bit, and the end is that of one process with the same batches.

    Phase borders lie inside epochs, gradients are clipped, and ddp_find_unused_parameters is False.
    """
    first, second = results(launched_folder, name)
    assert first["digests"] == second["digests"]
    assert len(set(first["digests"])) == 4
    model_name, optim, options = GRADUAL[name]
    alone = runs.gradual(model_name, optim, tmp_path, **options)
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    for key, value in alone["weights"].items():
        assert torch.allclose(first["weights"][key], value, rtol=0, atol=TOLERANCE[optim]), key


def test_solved_heads_are_those_of_one_process(launched_folder: Path, tmp_path: Path) -> None:
    """Both ranks start and end with the same bits; heads, estimate and evaluation are those of a single process."""
    first, second = results(launched_folder, "solved")
    assert first["digest"] == second["digest"] and first["probe"] == second["probe"]
    alone = runs.solved(tmp_path)
    assert torch.equal(first["start"], second["start"]) and torch.equal(first["start"], alone["start"])
    assert first["accuracy"] == second["accuracy"] == alone["accuracy"]
    assert first["probe"] == alone["probe"] and first["eval_loss"] == alone["eval_loss"]
    for key, value in alone["weights"].items():
        assert torch.allclose(first["weights"][key], value, rtol=0, atol=TOLERANCE["sgd"]), key


def test_only_what_is_trained_is_averaged(launched_folder: Path) -> None:
    """In each phase the gradients that DDP sends are those of the trained parameters, byte for byte."""
    for name in ("vit_sgd", "resnet_sgd"):
        averaged = results(launched_folder, name)[0]["averaged"]
        assert len(averaged) == 4
        assert all(sent == trained for sent, trained in averaged)
        assert averaged[0][0] < averaged[-1][0]


@pytest.mark.parametrize(("name", "tolerance"), [("fsdp2", 1e-4), ("fsdp2_mixed", 1e-3)])
def test_fsdp2_gives_the_result_of_one_process(name: str, tolerance: float, launched_folder: Path) -> None:
    """Four phases with all parameters sharded over two ranks; in bfloat16, unfreezing works (pytorch#186998)."""
    alone = results(launched_folder, "vit_sgd")[0]  # compared with one process above
    for found in results(launched_folder, name):
        assert found["sharded"]
        for key, value in alone["weights"].items():
            assert torch.allclose(found["weights"][key], value, rtol=0, atol=tolerance), key


def test_the_plan_spares_ddp_the_search(launched_folder: Path) -> None:
    """Without ddp_find_unused_parameters the result is the same, and a parameter that is never used stays frozen."""
    default, asked = (results(launched_folder, name)[0] for name in ("vit_default", "vit_sgd"))
    assert default["digests"] == asked["digests"]
    first, second = results(launched_folder, "dinov2")
    assert first["digests"] == second["digests"]
    output = (launched_folder / "output.txt").read_text()
    assert "never get a gradient and stay frozen: dinov2.embeddings.mask_token." in output
    assert first["find unused"] is False


def test_the_naive_way_diverges_and_is_found(launched_folder: Path) -> None:
    """Stock Trainer with a callback that unfreezes ends in other weights on each rank; our check names them."""
    first, second = results(launched_folder, "stock_trainer")
    assert first["digest"] != second["digest"]
    for found in results(launched_folder, "without_rebuilding"):
        assert re.search(
            r"2 processes hold different weights after phase 'one block': vit\.layers\.2\.\S+ and \d+ more",
            found["error"],
        )


def test_evaluation_counts_each_image_once(launched_folder: Path) -> None:
    """13 images over two ranks give the metrics of one process; batch norms that adapt are made equal."""
    first, second = results(launched_folder, "evaluated")
    assert set(first["seen"]) == {13}
    assert first["evaluations"] == second["evaluations"]
    assert first["digest"] == second["digest"]
    alone = launched.evaluated(launched_folder / "alone")
    # While batch norms are fixed; after that, each rank normalises its own half of a batch.
    for found, expected in zip(first["evaluations"][:4], alone["evaluations"][:4], strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_two_ranks_diagnose_as_one(launched_folder: Path) -> None:
    """Both ranks have the same measurements, times included; but for these they are those of one process."""
    first, second = results(launched_folder, "diagnosed")
    assert first == second
    alone = launched.diagnosed(launched_folder / "diagnosed alone")
    assert first["measured"] == alone["measured"]


def test_a_second_train_trains_again(launched_folder: Path) -> None:
    """train() called twice trains head and body the second time too, and the ranks stay equal."""
    for found in results(launched_folder, "evaluated"):
        assert found["moved"] and found["body moved"]


def test_ignored_labels_count_alike_on_all_ranks(launched_folder: Path, tmp_path: Path) -> None:
    """Labels of -100 that fall unevenly on two ranks, on one rank alone in a step: the result of one process."""
    alone = launched.uneven_labels(tmp_path)
    first, second = results(launched_folder, "uneven_labels")
    for key, value in alone["weights"].items():
        assert torch.equal(first["weights"][key], second["weights"][key])
        assert torch.allclose(first["weights"][key], value, rtol=0, atol=1e-5), key


def test_augmentation_does_not_depend_on_the_ranks(launched_folder: Path, tmp_path: Path) -> None:
    """The same image is augmented alike whichever process reads it: two processes give the result of one."""
    alone = launched.augmented(tmp_path)["weights"]
    for found in results(launched_folder, "augmented"):
        for key, value in alone.items():
            assert torch.allclose(found["weights"][key], value, rtol=0, atol=1e-5), key


def test_a_broken_loss_on_one_rank_stops_both_before_the_step(launched_folder: Path) -> None:
    """The rank that has it names the value, the other says that it was another's; no weight is hurt."""
    first, second = results(launched_folder, "broken_image")
    assert "loss became not finite in another process at step 1" in first["error"]
    assert "loss became nan at step 1" in second["error"]
    assert first["finite"] and second["finite"]


def test_compiled_under_ddp(launched_folder: Path) -> None:
    """torch.compile around DDP: the weights of a run that is not compiled, on both ranks, one compilation a phase."""
    first, second = results(launched_folder, "compiled")
    for key, value in first["plain"].items():
        assert torch.allclose(first["compiled"][key], value, rtol=0, atol=1e-6), key
        assert torch.equal(first["compiled"][key], second["compiled"][key]), key
    for found in (first, second):
        assert 1 <= found["graphs"] <= 2


def test_files_and_logs_are_written_once(launched_folder: Path) -> None:
    """Each step is printed by one process, and no second copy of any file is there."""
    output = (launched_folder / "output.txt").read_text()
    folder = launched_folder / "evaluated"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    names = {path.name for path in (folder / "checkpoint-2").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "transfer_plan.json", "transfer_state.json"} <= names
    lines = [line for line in output.splitlines() if line.startswith("{'train_runtime'")]
    gradual, fsdp, stock, evaluated, interrupted = len(GRADUAL) + 2, 2, 1, 2, 2
    uneven, augmented, compiled, range_test, solved = 2, 1, 2, 1, 2
    trainings = gradual + fsdp + stock + evaluated + interrupted + uneven + augmented + compiled + range_test + solved
    assert len(lines) == trainings


def test_a_signal_to_one_process_stops_both_at_one_step(launched_folder: Path) -> None:
    """SIGTERM to rank 1: both save step 5 and say how to go on; resumed, the weights are exact."""
    for found in results(launched_folder, "interrupted"):
        assert (found["code"], found["step"]) == (143, 5)
        assert "Stopped by SIGTERM at step 5; checkpoint-5" in found["message"]
        assert found["resumed exactly"]


def test_a_range_test_gives_one_rate(launched_folder: Path) -> None:
    """Two processes measure the same losses, choose the same rates in both phases, and end with the same weights."""
    first, second = results(launched_folder, "range_test")
    assert first == second
    assert len(first["rates"]) == 2 and all(len(losses) > 20 for losses in first["losses"])


def test_missing_fsdp_is_reported(launched_folder: Path) -> None:
    """FSDP was asked for and is not there; the user is told that it is DDP."""
    assert "FSDP was asked for, but accelerate runs MULTI_CPU" in (launched_folder / "output.txt").read_text()


def test_ranks_decide_alike_and_as_one_process(launched_folder: Path, tmp_path: Path) -> None:
    """Both ranks come to the same diagnosis, word for word; one process to the same recipe and scenario."""
    first, second = results(launched_folder, "decided")
    assert first["diagnosis"] == second["diagnosis"]
    alone, shared = (json.loads(each["diagnosis"]) for each in (launched.decided(tmp_path), first))
    assert [alone[key] for key in ("scenario", "recipe", "layer")] == [
        shared[key] for key in ("scenario", "recipe", "layer")
    ]
