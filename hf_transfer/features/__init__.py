"""Features of a frozen network, computed once: extraction, and the cache on disk that keeps them."""

from __future__ import annotations

from hf_transfer.features.cache_folder import CACHE_VARIABLE, DEFAULT_CACHE_GB, CacheFolder, default_cache_folder
from hf_transfer.features.extract import extract_features
from hf_transfer.features.taps import LAST, head_branches

__all__ = [
    "CACHE_VARIABLE",
    "DEFAULT_CACHE_GB",
    "LAST",
    "CacheFolder",
    "default_cache_folder",
    "extract_features",
    "head_branches",
]
