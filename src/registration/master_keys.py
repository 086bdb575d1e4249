"""The master key of an installation: where it comes from, that it is the database's, a new one."""

import os
from base64 import b64encode
from pathlib import Path
from typing import LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow

from registration.eventstore import database
from registration.eventstore.sealing import KEY_SIZE, KEYRING, MasterKeyError, master_of
from registration.key_files import write_once
from registration.settings import Settings

FILE = "master-key"
NOBODY = UUID(int=0)
"""Under this id stands the secret of a tenant."""
_BATCH = 1000

_KNOWN = "SELECT id FROM master_key"
_USE = "INSERT INTO master_key (id) VALUES (%s) ON CONFLICT DO NOTHING"
# In the order of the index, each once: by the end a search from the start would find little.
_NEXT: LiteralString = """
SELECT tenant, id, wrapped FROM personal_key
 WHERE (tenant, id) > (%s, %s) AND substring(wrapped FROM 1 FOR 4) <> %s AND wrapped <> ''
 ORDER BY tenant, id LIMIT %s FOR UPDATE
"""
_MAKE = "INSERT INTO personal_key VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
_READ = "SELECT wrapped FROM personal_key WHERE tenant = %s AND id = %s"
_REWRAP = "UPDATE personal_key SET wrapped = %s WHERE tenant = %s AND id = %s"
# Not those that somebody still writes with who was not told of the new one.
_FORGET = """
DELETE FROM master_key m WHERE m.id <> %s AND NOT EXISTS (
    SELECT FROM personal_key k WHERE substring(k.wrapped FROM 1 FOR 4) = m.id)
"""


def unlock(settings: Settings, url: str) -> None:
    """Have this process open what is sealed in a database, and seal what it writes there.

    Raises :class:`MasterKeyError` without the master keys of the database, and ``psycopg.Error``.
    """
    with _connected(url) as connection:
        known = {row[0] for row in connection.execute(_KNOWN).fetchall()}
        key = _master_key(settings, is_new=not known)
        KEYRING.use(key, [master_of(text) for text in settings.former_master_keys])
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
    done, last = 0, ("", UUID(int=0))
    with _connected(url) as connection:
        while rows := _rewrapped(connection, last):
            done += len(rows)
            last = rows[-1]
        connection.execute(_FORGET, (KEYRING.current,))
    return done


def _rewrapped(
    connection: psycopg.Connection[TupleRow], last: tuple[str, UUID]
) -> list[tuple[str, UUID]]:
    """Wrap the keys that come after a place; returns whose those were."""
    with connection.transaction(), connection.cursor() as cursor:
        asked = (*last, KEYRING.current, _BATCH)
        rows = cursor.execute(_NEXT, asked, binary=True).fetchall()
        cursor.executemany(
            _REWRAP,
            [
                (KEYRING.rewrapped(tenant, its_id, old), tenant, its_id)
                for tenant, its_id, old in rows
            ],
        )
    return [(tenant, its_id) for tenant, its_id, _ in rows]


def secret_of(url: str, tenant: str) -> bytes:
    """Return 32 random bytes that are the tenant's for good; wrapped, as people's keys are.

    It stands among these as the key of nobody: what follows from it cannot be guessed from a copy
    of the database.
    """
    with _connected(url) as connection:
        connection.execute(_MAKE, (tenant, NOBODY, KEYRING.new(tenant, NOBODY)))
        row = connection.execute(_READ, (tenant, NOBODY), binary=True).fetchone()
    if row is None:
        raise MasterKeyError(f"the secret of the tenant {tenant} is gone")
    return KEYRING.unwrapped(tenant, NOBODY, row[0])


def _master_key(settings: Settings, *, is_new: bool) -> bytes:
    """Return the key of the settings, or that of the data folder.

    It is made with the embedded server. Nothing was sealed there before (``is_new``): a key that
    is missed must not be put in the place of the one that somebody has a copy of.
    """
    if settings.master_key is not None:
        return master_of(settings.master_key)
    path = settings.data_dir / FILE
    try:
        if settings.database_url is None and is_new and not path.exists():
            write_once(path, b64encode(os.urandom(KEY_SIZE)) + b"\n")
        return _key_in(path)
    except FileNotFoundError:
        if settings.database_url is None:
            raise MasterKeyError(
                f"the master key of this database is missing: put {path} back, or give the key as "
                "REGISTRATION_MASTER_KEY. Nobody can read what is stored without it"
            ) from None
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
