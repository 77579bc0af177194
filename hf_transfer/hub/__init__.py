"""Publishing on the Hub: staged from an allow-list, scanned, sent in one commit, and loaded back from there."""

from __future__ import annotations

from hf_transfer.hub.access import Target, check_target
from hf_transfer.hub.publishing import Publication, publish
from hf_transfer.hub.pushing import TrainingPush

__all__ = ["Publication", "Target", "TrainingPush", "check_target", "publish"]
