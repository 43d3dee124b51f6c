"""Which key belongs to which tenant. A key is shown once; here only its hash is kept."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from imprint.errors import BrokenStore, NotFound
from imprint.locks import alone
from imprint.registry import check_name
from imprint.run_folder import write_whole

PREFIX = "imp-"


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key."""

    id: str
    """A name to revoke it by; it opens nothing."""
    tenant: str
    sha256: str
    created_at: str
    """ISO 8601, UTC."""


class Keys:
    """The keys of a home, in keys.json, which only its owner may read.

    A change by another process counts from the next look on: revoking needs no restart."""

    def __init__(self, home: Path) -> None:
        self.file = home / "keys.json"
        self._lock = threading.Lock()
        self._seen: tuple[object, list[Key]] = (None, [])

    def add(self, tenant: str, *, now: str) -> tuple[Key, str]:
        """A new key for the tenant, and its secret, which cannot be shown again."""
        check_name(tenant)
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(f"key-{secrets.token_hex(4)}", tenant, _hash(secret), now)
        self._change(lambda keys: [*keys, key])
        return key, secret

    def list(self) -> list[Key]:
        """All keys, oldest first."""
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen[0]:
                self._seen = (stamp, self._read())
            return self._seen[1]

    def revoke(self, id: str) -> Key:
        """Takes a key away. Raises NotFound for an unknown id."""
        found = next((key for key in self.list() if key.id == id), None)
        if found is None:
            raise NotFound(f"No key has the id {id[:80]!r}. See those there are with: imprint keys list")
        self._change(lambda keys: [key for key in keys if key.id != id])
        return found

    def tenant_of(self, secret: str) -> str | None:
        """Whose secret this is; None where it is nobody's.

        Every key is compared, each in constant time, so that the time tells nothing of what is kept."""
        given = _hash(secret)
        tenant = None
        for key in self.list():
            if hmac.compare_digest(given, key.sha256):
                tenant = key.tenant
        return tenant

    def _change(self, change: Callable[[Listed], Listed]) -> None:
        with self._lock, alone(self.file.with_suffix(".lock")):
            kept = change(self._read())
            # write_whole makes files that only their owner may read.
            write_whole(self.file, json.dumps([asdict(key) for key in kept], indent=1) + "\n")

    def _read(self) -> Listed:
        try:
            return [Key(**record) for record in json.loads(self.file.read_text("utf-8"))]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            raise BrokenStore(
                f"{self.file} does not read as a list of keys: {error}. Restore it from a copy, or delete it "
                "and make new keys."
            ) from error

    def _stamp(self) -> object:
        try:
            status = self.file.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size


# The method `list` hides the builtin from the annotations of its class.
Listed = list[Key]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
