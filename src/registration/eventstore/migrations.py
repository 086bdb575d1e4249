"""Numbered SQL files, applied forward only, each in a transaction of its own.

All tables live in the PostgreSQL schema `registration`; migrations run with it as search path.
What was applied is recorded in `schema_migration`, with the file's checksum: history that was
edited afterwards is refused.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import LiteralString, NamedTuple

import psycopg

SCHEMA = "registration"
OLDEST_SERVER = 15
# Any number will do, as long as nothing else in the database uses it.
ADVISORY_LOCK = 0x7265_6769_7374_7261

_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

_LEDGER: LiteralString = """
CREATE SCHEMA IF NOT EXISTS registration;
CREATE TABLE IF NOT EXISTS registration.schema_migration (
    name       text        PRIMARY KEY,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationError(RuntimeError):
    """The schema cannot be brought, or trusted to be, where the code needs it."""


class ChangedMigration(MigrationError):
    """A file that was applied reads differently now."""


class SchemaAhead(MigrationError):
    """The database has migrations that this version of the program does not know."""


class Migration(NamedTuple):
    """One file of the schema folder."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """The SHA-256 of the file, in hexadecimal."""
        return sha256(self.sql.encode()).hexdigest()


def migrate(url: str, folder: Traversable | None = None) -> list[str]:
    """Apply the migrations that are pending, in order, and return their names.

    Safe to call from several processes at once: one works, the others wait and find nothing
    left to do. A migration that fails leaves no trace of itself; those before it stay.

    Raises `MigrationError` (`ChangedMigration`, `SchemaAhead`) or `psycopg.Error`.
    """
    migrations = load(folder)
    applied = []
    with connect(url) as connection, alone(connection):
        connection.execute(_LEDGER)
        connection.execute(f"SET search_path TO {SCHEMA}")
        for migration in _missing(migrations, _applied(connection)):
            _apply(connection, migration)
            applied.append(migration.name)
    return applied


def pending(url: str, folder: Traversable | None = None) -> list[str]:
    """The names of the migrations that `migrate` would apply; changes nothing.

    Raises like `migrate`: an empty list means that the schema is exactly what the code knows.
    """
    with connect(url) as connection:
        return [migration.name for migration in _missing(load(folder), _applied(connection))]


def load(folder: Traversable | None = None) -> list[Migration]:
    """The migrations of a folder (by default the ones that ship with the package), in order."""
    folder = folder or files("registration.eventstore").joinpath("schema")
    found: dict[str, Migration] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if not path.name.endswith(".sql"):
            continue
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named like 0001_what_it_does.sql")
        if match[1] in found:
            raise MigrationError(f"{found[match[1]].name} and {path.name} have the same number")
        found[match[1]] = Migration(path.name, path.read_text(encoding="utf-8"))
    return list(found.values())


@contextmanager
def connect(url: str) -> Iterator[psycopg.Connection]:
    """Connect as who owns the tables. Raises `MigrationError` where the server is too old."""
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        version = connection.info.server_version // 10000
        if version < OLDEST_SERVER:
            raise MigrationError(f"PostgreSQL {version} is too old: {OLDEST_SERVER} is the oldest")
        yield connection


@contextmanager
def alone(connection: psycopg.Connection) -> Iterator[None]:
    """Be the only one who changes the schema meanwhile."""
    # A lock of the session, for it spans several transactions; it goes with the connection.
    connection.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
    yield
    connection.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])


def _applied(connection: psycopg.Connection) -> dict[str, str]:
    ledger = connection.execute("SELECT to_regclass('registration.schema_migration')").fetchone()
    if ledger is None or ledger[0] is None:
        return {}
    rows = connection.execute("SELECT name, sha256 FROM registration.schema_migration")
    return dict(rows.fetchall())


def _missing(migrations: list[Migration], applied: dict[str, str]) -> list[Migration]:
    unknown = sorted(applied.keys() - {migration.name for migration in migrations})
    if unknown:
        raise SchemaAhead(
            f"the database has migrations that this version does not know ({', '.join(unknown)}): "
            "it was used with a newer version of registration"
        )
    for migration in migrations:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise ChangedMigration(
                f"{migration.name} was changed after it was applied: migrations are history, "
                "add a new one instead"
            )
    return [migration for migration in migrations if migration.name not in applied]


def _apply(connection: psycopg.Connection, migration: Migration) -> None:
    with connection.transaction():
        connection.execute(migration.sql.encode())
        connection.execute(
            "INSERT INTO registration.schema_migration (name, sha256) VALUES (%s, %s)",
            [migration.name, migration.checksum],
        )
