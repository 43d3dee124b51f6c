"""Each tenant has a home of its own, so that nothing of one can be named, listed or used by another."""

from __future__ import annotations

import threading
from pathlib import Path

from imprint.hosting.jobs import Jobs
from imprint.hosting.uploads import Uploads
from imprint.registry import Registry, check_name
from imprint.registry.names import fits

LOCAL = "local"
"""The tenant whose home is the user's own: what `imprint teach` has taught is served to it."""


class Tenants:
    """The tenants of a home."""

    def __init__(self, home: Path, *, max_uploaded_bytes: int) -> None:
        self._home = home
        self._max_uploaded_bytes = max_uploaded_bytes
        self._registries: dict[str, Registry] = {}
        self._lock = threading.Lock()

    def home(self, tenant: str) -> Path:
        """Where a tenant's things are. Raises BadName for what cannot be a tenant."""
        return self._home if tenant == LOCAL else self._home / "tenants" / check_name(tenant)

    def registry(self, tenant: str) -> Registry:
        with self._lock:
            if tenant not in self._registries:
                self._registries[tenant] = Registry(self.home(tenant))
            return self._registries[tenant]

    def uploads(self, tenant: str) -> Uploads:
        return Uploads(self.home(tenant) / "uploads", max_total_bytes=self._max_uploaded_bytes)

    def jobs(self, tenant: str) -> Jobs:
        return Jobs(self.home(tenant) / "jobs")

    def names(self) -> list[str]:
        """Every tenant that has a home here."""
        folder = self._home / "tenants"
        others = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        return [LOCAL, *(name for name in others if name != LOCAL and fits(name))]
