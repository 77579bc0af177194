"""Pushes during training: in the background, checked, and never able to stop or lose a run."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from hf_transfer.errors import PublishError, TransferError
from hf_transfer.hub.access import Target, check_target, look_again, warn_of_visibility
from hf_transfer.hub.publishing import Publication, publish
from hf_transfer.hub.scan import scan
from hf_transfer.hub.staging import allowed_files
from hf_transfer.hub.upload import Upload, make_repository, send
from hf_transfer.run_files import CARD_NAME, TRAINER_STATE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Push:
    """One push of a checkpoint.

    Attributes:
        number: Position among the pushes of the run.
        checkpoint: The checkpoint's folder.
        message: Title of the commit.
        places: Where in the repository: "" for the model at its root, or the name of a folder for a checkpoint.
    """

    number: int
    checkpoint: Path
    message: str
    places: tuple[str, ...]


class TrainingPush:
    """The pushes of one run to one repository.

    What the repository held before the run is not touched: in that case all commits of the run are one pull request.

    Attributes:
        target: The repository as found before training.
        failures: Errors of pushes in the background, in order.
    """

    def __init__(self, repo_id: str, private: bool = True) -> None:
        """Check login, rights and visibility, and make the repository if it does not exist.

        Raises:
            ArgumentError: `repo_id` has the wrong form.
            PublishError: Nothing could be published there.
        """
        self._api = HfApi()
        self.target: Target = check_target(repo_id, private, self._api)
        if not self.target.exists:
            make_repository(self._api, self.target.repo_id, private)
            self.target = look_again(self._api, self.target, private)
        warn_of_visibility(self.target, private)
        self.failures: list[str] = []
        self._branch = "main"
        self._open_pull_request = bool(self.target.files)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hf_transfer_push")
        self._running: Future[None] | None = None
        self._count = 0
        self._owed: dict[str, _Push] = {}
        self._lock = threading.Lock()

    @property
    def is_running(self) -> bool:
        """Whether a push is running."""
        return self._running is not None and not self._running.done()

    def checkpoint(
        self, checkpoint: Path, message: str, folder_in_repo: str | None = None, always: bool = True
    ) -> None:
        """Push a checkpoint's model in the background.

        The files are copied first, so that training may remove the checkpoint meanwhile. There is no card yet: its
        results would be wrong. A push that fails is owed until a later push to the same place succeeds or `make_up`
        sends it.

        Args:
            checkpoint: Folder with the model and its processor.
            message: Title of the commit.
            folder_in_repo: Also push model, plan and log into this folder, such as "last-checkpoint".
            always: Also while another push is running; else this one is owed.
        """
        self._count += 1
        push = _Push(self._count, checkpoint, message, ("", *([folder_in_repo] if folder_in_repo else [])))
        if self.is_running and not always:
            self._owe(push)
            return
        try:
            staged, files = self._stage(push)
        except (TransferError, OSError) as error:
            self._note(push, error)
            return
        self._running = self._worker.submit(self._send_noting, push, staged, files)

    def finish(self) -> tuple[str, ...]:
        """Wait for the running push; returns the failures since the last call."""
        if self._running is not None:
            self._running.result()
        failures, self.failures = tuple(self.failures), []
        return failures

    def make_up(self) -> tuple[str, ...]:
        """Send what is owed from the checkpoints' own folders, after the running push.

        Returns:
            What is still missing and why, one line for each checkpoint.
        """
        self.finish()
        missing = []
        for push in self._pushes_owed():
            names = " and ".join(place or "the model" for place in push.places)
            if not push.checkpoint.is_dir():
                self._settle(push)
                logger.warning(
                    "The push %r cannot be made up for: %s was removed meanwhile. A larger save_total_limit keeps it.",
                    push.message,
                    push.checkpoint.name,
                )
                continue
            try:
                self._send(push, *self._stage(push))
            except Exception as error:
                missing.append(f"{names} of {push.checkpoint.name} ({error})")
        return tuple(missing)

    def publish(self, folder: Path, message: str, **options: Any) -> Publication:
        """Publish the finished run, after the running push and what is owed.

        Arguments and errors are those of `hf_transfer.publish`.

        Raises:
            PublishError: Also if the model was published, but a folder of a checkpoint could not be sent.
        """
        if failures := self.finish():
            logger.warning("Pushes during training that failed are made up for now: %s", " | ".join(failures))
        self._owed.pop("", None)  # the model is what is published
        missing = self.make_up()
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
            self._continue_on(f"refs/pr/{made.pull_request}")
        if missing and made.revision is not None:
            raise PublishError(
                f"{made.repo_id} was published at revision {made.revision}, but {'; '.join(missing)} is missing. "
                "push_to_hub() again sends it; `hf-transfer publish --include_checkpoint` sends the last checkpoint."
            )
        return made

    def _stage(self, push: _Push) -> tuple[Path, list[str]]:
        """Copy and scan what is pushed."""
        staged = Path(tempfile.mkdtemp(prefix="hf_transfer_push_"))
        try:
            files = _stage_checkpoint(push.checkpoint, staged, push.places)
            scan(staged, files, self.target.repo_id)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return staged, files

    def _send_noting(self, push: _Push, staged: Path, files: list[str]) -> None:
        try:
            self._send(push, staged, files)
        except Exception as error:  # in a thread, where an error is otherwise lost
            self._note(push, error)

    def _send(self, push: _Push, staged: Path, files: list[str]) -> None:
        try:
            upload = Upload(staged, files, push.message)
            commit = send(self._api, self.target.repo_id, upload, self._branch, self._open_pull_request)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        self._continue_on(commit.branch)
        self._settle(push)

    def _continue_on(self, branch: str) -> None:
        self._branch, self._open_pull_request = branch, False

    def _note(self, push: _Push, error: Exception) -> None:
        self.failures.append(f"{push.message}: {error}")
        self._owe(push)
        logger.warning(
            "The push %r failed; training continues, and it is made up for at the end. %s", push.message, error
        )

    def _owe(self, push: _Push) -> None:
        with self._lock:
            self._owed |= dict.fromkeys(push.places, push)

    def _settle(self, push: _Push) -> None:
        """Drop what was owed to the same places before this push."""
        with self._lock:
            for place in push.places:
                if place in self._owed and self._owed[place].number <= push.number:
                    del self._owed[place]

    def _pushes_owed(self) -> list[_Push]:
        """What is owed, oldest first, with the places of one checkpoint together."""
        places: dict[_Push, list[str]] = {}
        for place, push in self._owed.items():
            places.setdefault(push, []).append(place)
        ordered = sorted(places, key=lambda push: push.number)
        return [replace(push, places=tuple(places[push])) for push in ordered]


def _stage_checkpoint(checkpoint: Path, staged: Path, places: Sequence[str]) -> list[str]:
    names = [name for name in allowed_files(checkpoint) if name != CARD_NAME]
    files = []
    for place in places:
        for path in [f"{place}/{name}" if place else name for name in names]:
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint / path.removeprefix(f"{place}/"), staged / path)
            files.append(path)
        if place and (checkpoint / TRAINER_STATE).is_file():
            state = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
            best = state.get("best_model_checkpoint")
            state["best_model_checkpoint"] = best and Path(best).name  # a local path
            (staged / place / TRAINER_STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            files.append(f"{place}/{TRAINER_STATE}")
    return files
