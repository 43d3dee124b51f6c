-- A version may be made of several adapters, each of some of its documents.
CREATE TABLE shards (
    name         TEXT NOT NULL,
    number       INTEGER NOT NULL,
    place        INTEGER NOT NULL CHECK (place >= 0),
    adapter_hash TEXT NOT NULL CHECK (length(adapter_hash) = 64),
    PRIMARY KEY (name, number, place),
    FOREIGN KEY (name, number) REFERENCES versions (name, number) ON DELETE CASCADE
);
CREATE INDEX shards_by_adapter ON shards (adapter_hash);

CREATE TRIGGER shards_never_change BEFORE UPDATE ON shards
BEGIN
    SELECT RAISE(ABORT, 'a published version never changes');
END;

-- What is to be forgotten, from the moment on that somebody asked for it; they outlive the versions of their name.
CREATE TABLE tombstones (
    id    INTEGER PRIMARY KEY,
    name  TEXT NOT NULL,
    since TEXT NOT NULL,          -- ISO 8601, UTC
    ended TEXT,                   -- when nothing of it was left; NULL before
    body  TEXT NOT NULL           -- JSON
);
CREATE INDEX tombstones_by_name ON tombstones (name);
