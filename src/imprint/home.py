"""Where imprint keeps things on this machine. Torch is not needed to know it."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home_folder() -> Path:
    """Where adapters, runs and kept documents live: $IMPRINT_HOME, else the user's data folder."""
    return Path(os.environ.get("IMPRINT_HOME") or platformdirs.user_data_path("imprint"))


def cache_folder() -> Path:
    """Where things that can be made again are kept: $IMPRINT_CACHE, else the user's cache folder."""
    return Path(os.environ.get("IMPRINT_CACHE") or platformdirs.user_cache_path("imprint"))
