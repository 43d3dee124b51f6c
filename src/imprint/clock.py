"""What time it is. Work that needs it is handed it; only whoever begins the work looks here."""

from __future__ import annotations

import datetime


def now() -> str:
    """This second in ISO 8601, UTC: as versions, certificates and keys keep it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
