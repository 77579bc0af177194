"""The local Hub, and one process that verifies what is published on it for all tests of a worker."""

from __future__ import annotations

from tests.helpers.hub_server.fixtures import hub, xet_hub
from tests.helpers.hub_server.verifying import verified_by_one_process, verifier

__all__ = ["hub", "verified_by_one_process", "verifier", "xet_hub"]
