"""Trying again what failed for a reason that may pass."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError

logger = logging.getLogger(__name__)

# Base of all errors of the network; its library is httpx or httpx2, by the version of huggingface_hub.
_NETWORK = next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError" and c.__module__.startswith("httpx"))


class UploadError(ConnectionError):
    """What hf_xet raised while it sent files: plain errors, which have nothing of the client's or the network's."""


TRANSIENT: tuple[type[Exception], ...] = (
    HfHubHTTPError,
    _NETWORK,
    json.JSONDecodeError,
    ConnectionError,
    TimeoutError,
)
"""Errors of the Hub, of the network, and of a proxy that answers with a page instead of JSON."""
ATTEMPTS = 4
WAITS = (0.5, 2.0, 8.0)
"""Seconds before the second, third and fourth attempt: a restart of the service takes about so long."""
_Result = TypeVar("_Result")


def status_of(error: BaseException) -> int | None:
    """HTTP status of an error, if it has one."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return int(status) if status is not None else None


def may_pass(error: BaseException) -> bool:
    """Whether another attempt could succeed: a fault of the network or the service, not a refusal."""
    status = status_of(error)
    return status is None or status in (408, 429) or status >= 500


def retried(call: Callable[[], _Result], what: str) -> _Result:
    """Run a call that may be repeated without harm, up to `ATTEMPTS` times.

    Raises:
        TRANSIENT: The last attempt failed, or the Hub refused.
    """
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except TRANSIENT as error:
            if attempt == ATTEMPTS - 1 or not may_pass(error):
                raise
            wait(attempt, what, error)
    raise AssertionError("unreachable")


def wait(attempt: int, what: str, error: BaseException) -> None:
    """Say that something failed, and wait before the next attempt."""
    reason = status_of(error) or type(error).__name__
    logger.warning("%s failed (%s); trying again in %g s.", what.capitalize(), reason, WAITS[attempt])
    time.sleep(WAITS[attempt])
