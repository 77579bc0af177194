"""Publishing on the Hub: staged from an allow-list, scanned, sent in one commit, and loaded back from there."""

from __future__ import annotations

from hf_transfer.hub.access import Target, check_target
from hf_transfer.hub.publishing import Publication, publish
from hf_transfer.hub.pushing import TrainingPush
from hf_transfer.hub.staging import PROBE_IS_NOT_PUBLISHED

__all__ = ["PROBE_IS_NOT_PUBLISHED", "Publication", "Target", "TrainingPush", "check_target", "publish"]
