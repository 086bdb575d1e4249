"""The master key of an installation: where it comes from, that it is the database's, a new one."""

import os
from base64 import b64encode
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg.rows import TupleRow

from registration.eventstore import database
from registration.eventstore.sealing import KEY_SIZE, KEYRING, MasterKeyError, master_of
from registration.key_files import write_once
from registration.settings import Settings

FILE = "master-key"
_BATCH = 1000

_KNOWN = "SELECT id FROM master_key"
_USE = "INSERT INTO master_key (id) VALUES (%s) ON CONFLICT DO NOTHING"
# Those that nobody else is wrapping anew; an empty one is none.
_OTHERS: LiteralString = """
SELECT tenant, id, wrapped FROM personal_key
 WHERE substring(wrapped FROM 1 FOR 4) <> %s AND wrapped <> '' LIMIT %s FOR UPDATE SKIP LOCKED
"""
_REWRAP = "UPDATE personal_key SET wrapped = %s WHERE tenant = %s AND id = %s"
_FORGET = "DELETE FROM master_key WHERE id <> %s"


def unlock(settings: Settings, url: str) -> None:
    """Have this process open what is sealed in a database, and seal what it writes there.

    Raises :class:`MasterKeyError` without the master keys of the database, and ``psycopg.Error``.
    """
    KEYRING.use(_master_key(settings), [master_of(text) for text in settings.former_master_keys])
    with _connected(url) as connection:
        known = {row[0] for row in connection.execute(_KNOWN).fetchall()}
        if missing := known - KEYRING.names:
            raise MasterKeyError(
                "the database was sealed with another master key "
                f"({', '.join(each.hex() for each in sorted(missing))}): give that one as "
                "REGISTRATION_MASTER_KEY, or among REGISTRATION_FORMER_MASTER_KEYS"
            )
        if KEYRING.current not in known:
            connection.execute(_USE, (KEYRING.current,))


def rewrap(url: str) -> int:
    """Wrap every person's key with the master key of now; returns how many those were.

    Afterwards the former master keys are of no use any more. Safe to run again after a crash.
    """
    done = 0
    with _connected(url) as connection:
        while rows := _rewrapped(connection):
            done += rows
        connection.execute(_FORGET, (KEYRING.current,))
    return done


def _rewrapped(connection: psycopg.Connection[TupleRow]) -> int:
    with connection.transaction(), connection.cursor() as cursor:
        rows = cursor.execute(_OTHERS, (KEYRING.current, _BATCH), binary=True).fetchall()
        cursor.executemany(
            _REWRAP,
            [
                (KEYRING.rewrapped(tenant, its_id, old), tenant, its_id)
                for tenant, its_id, old in rows
            ],
        )
    return len(rows)


def _master_key(settings: Settings) -> bytes:
    """Return the key of the settings, or that of the data folder; made with the embedded server."""
    if settings.master_key is not None:
        return master_of(settings.master_key)
    path = settings.data_dir / FILE
    try:
        if settings.database_url is None and not path.exists():
            write_once(path, b64encode(os.urandom(KEY_SIZE)) + b"\n")
        return _key_in(path)
    except FileNotFoundError:
        raise MasterKeyError(
            "an external database needs REGISTRATION_MASTER_KEY: 32 random bytes in base64, as "
            "`openssl rand -base64 32` prints. Keep it: nobody can read what is stored without it"
        ) from None
    except (OSError, ValueError) as error:
        raise MasterKeyError(f"cannot use the master key in {path}: {error}") from error


def _key_in(path: Path) -> bytes:
    return master_of(path.read_text(encoding="ascii"))


def _connected(url: str) -> psycopg.Connection[TupleRow]:
    options = database.parameters("master key", "-c statement_timeout=60000")
    return psycopg.connect(url, autocommit=True, **options)
