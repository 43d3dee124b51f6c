-- Names outlive their versions: a number that was given once is never given again.
CREATE TABLE names (
    name        TEXT PRIMARY KEY,
    last_number INTEGER NOT NULL CHECK (last_number >= 0)
);

CREATE TABLE versions (
    name         TEXT NOT NULL REFERENCES names (name),
    number       INTEGER NOT NULL CHECK (number >= 1),
    adapter_hash TEXT NOT NULL CHECK (length(adapter_hash) = 64),
    base         TEXT NOT NULL,
    corpus_hash  TEXT NOT NULL,
    recipe       TEXT NOT NULL,   -- JSON
    parent       INTEGER,         -- a number of the same name; it may have been removed since
    created_at   TEXT NOT NULL,   -- ISO 8601, UTC
    details      TEXT NOT NULL,   -- JSON
    PRIMARY KEY (name, number)
);
CREATE INDEX versions_by_adapter ON versions (adapter_hash);

CREATE TABLE reports (
    id     INTEGER PRIMARY KEY,
    name   TEXT NOT NULL,
    number INTEGER NOT NULL,
    body   TEXT NOT NULL,         -- JSON
    FOREIGN KEY (name, number) REFERENCES versions (name, number) ON DELETE CASCADE
);
CREATE INDEX reports_by_version ON reports (name, number);

CREATE TRIGGER versions_never_change BEFORE UPDATE ON versions
BEGIN
    SELECT RAISE(ABORT, 'a published version never changes');
END;

-- INSERT OR REPLACE passes an UPDATE trigger by; this one it meets.
CREATE TRIGGER versions_are_never_replaced BEFORE INSERT ON versions
WHEN EXISTS (SELECT 1 FROM versions WHERE name = NEW.name AND number = NEW.number)
BEGIN
    SELECT RAISE(ABORT, 'a published version is never replaced');
END;

CREATE TRIGGER reports_never_change BEFORE UPDATE ON reports
BEGIN
    SELECT RAISE(ABORT, 'a report never changes');
END;

CREATE TRIGGER numbers_only_grow BEFORE UPDATE ON names
WHEN NEW.name <> OLD.name OR NEW.last_number <= OLD.last_number
BEGIN
    SELECT RAISE(ABORT, 'version numbers only grow');
END;
