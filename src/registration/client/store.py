"""The one file of a device: SQLite, durable after each commit, open in one process at a time."""

import importlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registration.client.errors import CannotOpen, StoreBusy

_MIGRATIONS: tuple[str, ...] = (
    """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE scope (
    name       TEXT PRIMARY KEY,
    cursor     TEXT,
    generation INTEGER NOT NULL DEFAULT 0,
    resyncing  INTEGER NOT NULL DEFAULT 0,
    position   INTEGER NOT NULL DEFAULT 0,
    synced_at  TEXT
) WITHOUT ROWID;
CREATE TABLE record (
    scope      TEXT NOT NULL,
    kind       TEXT NOT NULL,
    id         TEXT NOT NULL,
    version    INTEGER NOT NULL,
    position   INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    patient_id TEXT,
    body       TEXT NOT NULL,
    UNIQUE (scope, kind, id)
);
CREATE INDEX record_patient ON record (scope, patient_id) WHERE patient_id IS NOT NULL;
CREATE TABLE mutation (
    number        INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,
    subject       TEXT NOT NULL,
    operation     TEXT NOT NULL,
    kind          TEXT NOT NULL,
    aggregate_id  TEXT NOT NULL,
    patient_id    TEXT,
    entry         TEXT,
    payload       TEXT NOT NULL,
    base_version  INTEGER,
    after_id      TEXT,
    supersedes    TEXT,
    made_at       TEXT NOT NULL,
    facility      TEXT,
    own_at        INTEGER NOT NULL,
    uncertain     INTEGER NOT NULL,
    changes       INTEGER NOT NULL,
    state         TEXT NOT NULL,
    doubtful      INTEGER NOT NULL DEFAULT 0,
    version       INTEGER,
    position      INTEGER,
    pulled        INTEGER NOT NULL DEFAULT 0,
    problem       TEXT,
    reason        TEXT,
    superseded_by TEXT,
    settled_at    TEXT
);
CREATE INDEX mutation_open ON mutation (subject, aggregate_id, number)
 WHERE state = 'queued' OR (state = 'applied' AND pulled = 0);
CREATE INDEX mutation_state ON mutation (state, subject, id);
CREATE INDEX mutation_not_pulled ON mutation (subject) WHERE state = 'applied' AND pulled = 0;
CREATE INDEX mutation_after ON mutation (after_id) WHERE after_id IS NOT NULL;
CREATE TABLE word (
    owner   TEXT NOT NULL,
    word    TEXT NOT NULL,
    patient TEXT NOT NULL,
    PRIMARY KEY (owner, word, patient)
) WITHOUT ROWID;
CREATE INDEX word_patient ON word (owner, patient);
""",
)
"""One script a version of the file; a released one never changes."""


class Store:
    """Transactions on the file. Not to be shared between threads."""

    def __init__(self, path: Path, passphrase: str | None = None) -> None:
        """Open the file, made when missing, and take it for this process.

        With a passphrase the file is encrypted (SQLCipher, of the extra ``cipher``). Raises
        :class:`StoreBusy` where another process has it, :class:`CannotOpen` for a wrong
        passphrase, a missing cipher, or a file that is none of this program's.
        """
        driver = _driver(encrypted=passphrase is not None)
        try:
            # patients are nobody else's business; SQLite makes its other files alike
            path.touch(mode=0o600)
        except OSError as error:
            raise CannotOpen(f"cannot open {path}: {error.strerror}") from None
        try:
            self._connection = driver.connect(str(path), isolation_level=None, timeout=0.2)
        except driver.Error as error:
            raise CannotOpen(f"cannot open {path}: {error}") from None
        try:
            self._prepare(passphrase)
        except driver.Error as error:
            self._connection.close()
            raise _why(error, path, encrypted=passphrase is not None) from None
        except CannotOpen:
            self._connection.close()
            raise

    def _prepare(self, passphrase: str | None) -> None:
        run = self._connection.execute
        if passphrase is not None:
            run("PRAGMA cipher_log_level = NONE")
            run("PRAGMA key = '{}'".format(passphrase.replace("'", "''")))
        # Held until the connection closes, by the kernel's word even when the process is killed.
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA secure_delete = ON")  # who is erased is not to be found in what is free
        run("BEGIN EXCLUSIVE")
        run("COMMIT")
        self._migrate()

    def _migrate(self) -> None:
        (version,) = self.one("PRAGMA user_version") or (0,)
        if version > len(_MIGRATIONS):
            raise CannotOpen("the file was made by a newer version of this program")
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            with self.transaction():
                for statement in script.split(";\n"):
                    if statement.strip():
                        self.run(statement)
                self.run(f"PRAGMA user_version = {number}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all that is done inside, or nothing; one inside another is part of it."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def run(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement; returns how many rows it changed."""
        return int(self._connection.execute(statement, values).rowcount)

    def run_many(self, statement: str, values: Iterator[Sequence[Any]]) -> None:
        """Execute a statement for each row of values."""
        self._connection.executemany(statement, values)

    def one(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Return the first row, if there is one."""
        row: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        return row

    def all(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return every row."""
        rows: list[tuple[Any, ...]] = self._connection.execute(query, values).fetchall()
        return rows

    def meta(self, name: str) -> str | None:
        """Return a value that the device remembers under a name."""
        row = self.one("SELECT value FROM meta WHERE name = ?", (name,))
        return None if row is None else str(row[0])

    def remember(self, name: str, value: str) -> None:
        """Keep a value under a name."""
        self.run(
            "INSERT INTO meta VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )

    def close(self) -> None:
        """Give the file free."""
        self._connection.close()


def _driver(*, encrypted: bool) -> Any:
    if not encrypted:
        return sqlite3
    try:
        return importlib.import_module("sqlcipher3.dbapi2")
    except ImportError:
        raise CannotOpen(
            "an encrypted file needs the extra: pip install 'registration[cipher]'"
        ) from None


def _why(error: Exception, path: Path, *, encrypted: bool) -> CannotOpen | StoreBusy:
    """Return what an error of SQLite means to whoever opened the file."""
    said = str(error)
    if "locked" in said or "busy" in said:
        return StoreBusy(f"another process has {path} open")
    if "not a database" in said and encrypted:
        return CannotOpen(f"the passphrase does not open {path}, or it is not encrypted")
    if "not a database" in said:
        return CannotOpen(f"{path} is encrypted, or no file of this program")
    return CannotOpen(f"cannot open {path}: {said}")
