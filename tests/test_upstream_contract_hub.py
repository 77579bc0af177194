"""What publishing relies on inside Trainer and huggingface_hub; a failure here says what moved."""

from __future__ import annotations

import inspect

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers import Trainer

from hf_transfer.hub import retrying


def test_trainers_hooks_for_pushing() -> None:
    """Trainer calls the hooks that we override, and with the arguments that ours take."""
    assert list(inspect.signature(Trainer._push_from_checkpoint).parameters) == ["self", "checkpoint_folder"]
    assert list(inspect.signature(Trainer._finish_current_push).parameters) == ["self"]
    assert list(inspect.signature(Trainer.init_hf_repo).parameters) == ["self", "token", "private"]
    assert "_push_from_checkpoint" in inspect.getsource(Trainer._save_checkpoint)
    assert "self.init_hf_repo()" in inspect.getsource(Trainer.__init__)
    assert "_internal_call" in inspect.signature(Trainer.save_model).parameters


def test_clients_commit() -> None:
    """One commit takes a parent and can be a pull request; errors of the Hub are errors of the network, too."""
    assert {"parent_commit", "create_pr", "revision"} <= set(inspect.signature(HfApi.create_commit).parameters)
    assert issubclass(HfHubHTTPError, retrying._NETWORK)
