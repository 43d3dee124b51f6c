"""What we made, from what, and how good it is.

    store.py     Registry: names, versions, lineage and proofs, in SQLite
    rows.py      versions, reports and shards as rows of its database, and back
    database.py  the database: opened, brought to the newest migration, read and written in transactions
    files.py     the adapters' files, addressed by their content
    names.py     which names are taken, and what an unknown one may have meant
    records.py   Version and Report as JSON, and back
"""

from imprint.registry.names import check_name
from imprint.registry.store import Head, Registry, Tombstone

__all__ = ["Head", "Registry", "Tombstone", "check_name"]
