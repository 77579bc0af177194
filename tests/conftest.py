"""Settings of every test run: offline, quiet, few threads, caches in a folder of the session alone.

They are made before transformers, datasets or matplotlib are imported, which read them at import.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import tempfile

import pytest

_SESSION_FOLDER = tempfile.mkdtemp(prefix="hf_transfer_tests_")
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "HF_DATASETS_CACHE": f"{_SESSION_FOLDER}/datasets",
        "HF_HOME": f"{_SESSION_FOLDER}/huggingface",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": f"{_SESSION_FOLDER}/matplotlib",
        "TRANSFORMERS_VERBOSITY": "error",
    }
)
# A developer's own login must not reach a test.
for _name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
    os.environ.pop(_name, None)

# Their asserts tell what was compared, as those of test modules do.
pytest.register_assert_rewrite("tests.helpers.card_records", "tests.helpers.group_checks", "tests.helpers.timm_zoo")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Settings of torch and hypothesis; the process that only hands tests to workers imports neither."""
    if session.config.getoption("numprocesses", 0) and not hasattr(session.config, "workerinput"):
        return
    import hypothesis
    import torch

    torch.set_num_threads(min(2, torch.get_num_threads()))
    # No deadline: a busy machine is not a fault. No database: nothing is written beside the sources.
    hypothesis.settings.register_profile("project", deadline=None, database=None)
    hypothesis.settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker have the tests that share a process, so that only one such process is started."""
    items.sort(key=lambda item: "verifier" not in getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def fresh_process_state() -> None:
    """Undo what commands that ran in this process did to logging; a shell may ignore SIGINT in the background."""
    ours = logging.getLogger("hf_transfer")
    ours.handlers.clear()
    ours.propagate = True
    ours.setLevel(logging.NOTSET)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take what the imports made out of sight of the garbage collector, which each `train()` runs: 0.3 s otherwise."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_SESSION_FOLDER, ignore_errors=True)
