"""Pushes during training: in the background, checked, and never able to stop or lose a run."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from hf_transfer.card import CARD_NAME
from hf_transfer.errors import TransferError
from hf_transfer.hub.access import Target, check_target
from hf_transfer.hub.publishing import Publication, publish
from hf_transfer.hub.scan import scan
from hf_transfer.hub.staging import allowed_files
from hf_transfer.hub.upload import Upload, make_repository, send

logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"


class TrainingPush:
    """The pushes of one run to one repository.

    What the repository held before the run is not touched: then the run's commits go into one pull request.

    Attributes:
        target: As found before training.
        failures: What went wrong with pushes in the background, in order.
    """

    def __init__(self, repo_id: str, private: bool = True) -> None:
        """Check login, rights and visibility, and make the repository if it is not there.

        Raises:
            ArgumentError: `repo_id` has the wrong form.
            PublishError: Nothing could be published there.
        """
        self._api = HfApi()
        self.target: Target = check_target(repo_id, private, self._api)
        if not self.target.exists:
            make_repository(self._api, self.target.repo_id, private)
        self.failures: list[str] = []
        self._branch = "main"
        self._open_pull_request = bool(self.target.files)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hf_transfer_push")
        self._running: Future[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether a push is on its way."""
        return self._running is not None and not self._running.done()

    def checkpoint(self, checkpoint: Path, message: str, folder_in_repo: str | None = None) -> None:
        """Push a checkpoint's model in the background.

        The files are copied first, so that training may remove the checkpoint meanwhile. There is no card yet: one
        that told of results would be wrong.

        Args:
            checkpoint: Folder with the model and its processor.
            message: Title of the commit.
            folder_in_repo: Also push model, plan and log into this folder, such as "last-checkpoint".
        """
        staged = Path(tempfile.mkdtemp(prefix="hf_transfer_push_"))
        try:
            files = _stage_checkpoint(checkpoint, staged, folder_in_repo)
            scan(staged, files, self.target.repo_id)
        except (TransferError, OSError) as error:
            shutil.rmtree(staged, ignore_errors=True)
            self._note(message, error)
            return
        self._running = self._worker.submit(self._send, staged, files, message)

    def finish(self) -> tuple[str, ...]:
        """Wait for what is on its way; returns what went wrong since the last call."""
        if self._running is not None:
            self._running.result()
        failures, self.failures = tuple(self.failures), []
        return failures

    def publish(self, folder: Path, message: str, **options: Any) -> Publication:
        """Publish the finished run, after what is on its way; arguments and errors are those of `publish`."""
        if failures := self.finish():
            logger.warning("Pushes during training that failed are made up for now: %s", " | ".join(failures))
        made = publish(
            folder,
            self.target.repo_id,
            self.target.private,
            self._open_pull_request,
            commit_message=message,
            branch=self._branch,
            **options,
        )
        if made.pull_request is not None:
            self._goes_on_in(f"refs/pr/{made.pull_request}")
        return made

    def _send(self, staged: Path, files: list[str], message: str) -> None:
        try:
            upload = Upload(staged, files, message)
            commit = send(self._api, self.target.repo_id, upload, self._branch, self._open_pull_request)
            self._goes_on_in(commit.branch)
        except Exception as error:  # in a thread: nobody else would hear of it
            self._note(message, error)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _goes_on_in(self, branch: str) -> None:
        self._branch, self._open_pull_request = branch, False

    def _note(self, message: str, error: Exception) -> None:
        self.failures.append(f"{message}: {error}")
        logger.warning("The push %r failed; training goes on, and it is made up for at the end. %s", message, error)


def _stage_checkpoint(checkpoint: Path, staged: Path, folder_in_repo: str | None) -> list[str]:
    names = [name for name in allowed_files(checkpoint) if name != CARD_NAME]
    files = []
    for prefix in ["", *([f"{folder_in_repo}/"] if folder_in_repo else [])]:
        for name in names:
            (staged / prefix / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint / name, staged / prefix / name)
        files += [prefix + name for name in names]
    if folder_in_repo and (checkpoint / _STATE).is_file():
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        best = state.get("best_model_checkpoint")
        state["best_model_checkpoint"] = best and Path(best).name  # a local path
        (staged / folder_in_repo / _STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        files.append(f"{folder_in_repo}/{_STATE}")
    return files
