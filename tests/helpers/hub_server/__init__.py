"""A small local Hub: real HTTP, the part of the Hub's API that publishing uses, faults on request."""

from __future__ import annotations

from tests.helpers.hub_server.faults import Fault
from tests.helpers.hub_server.repositories import Repository, Token
from tests.helpers.hub_server.server import HubServer

__all__ = ["Fault", "HubServer", "Repository", "Token"]
