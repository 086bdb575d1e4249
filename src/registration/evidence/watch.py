"""What the process that signs checkpoints found, kept in the database for whoever asks there."""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.eventstore.verify import BrokenLink
from registration.evidence import notes

Connection = AsyncConnection[TupleRow]

_READ = """
SELECT verified_to, reviewed_to, whole_at, looked_at, position, stream_id, version, reason,
       unwritten
  FROM registration.log_watch WHERE tenant = %s
"""
_WRITE = """
INSERT INTO registration.log_watch AS old (
    tenant, verified_to, reviewed_to, whole_at, looked_at,
    position, stream_id, version, reason, unwritten, failures)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (tenant) DO UPDATE
   SET verified_to = excluded.verified_to, reviewed_to = excluded.reviewed_to,
       whole_at = excluded.whole_at, looked_at = excluded.looked_at,
       position = excluded.position, stream_id = excluded.stream_id,
       version = excluded.version, reason = excluded.reason, unwritten = excluded.unwritten,
       failures = old.failures + excluded.failures
"""
_SUM = """
SELECT count(*) FILTER (WHERE reason IS NOT NULL), count(*) FILTER (WHERE unwritten IS NOT NULL),
       coalesce(sum(failures), 0)::bigint,
       coalesce(extract(epoch FROM clock_timestamp() - min(looked_at)), 0)::float8
  FROM registration.log_watch
"""
_COPY = """
INSERT INTO registration.log_checkpoint VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
_NOTES = """
SELECT size, key_id, note FROM registration.log_checkpoint
 WHERE tenant = %s AND (size, key_id) < (%s, %s) ORDER BY size DESC, key_id DESC LIMIT %s
"""
_AT_ONCE = 100

NEWEST = 2**62
"""Lies beyond every size."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What is known of a tenant's log.

    Each event was verified once, up to ``verified_to``, before it was signed; a second pass over
    all of them is at ``reviewed_to``, and one came to the end at ``whole_at``. ``broken`` is the
    first link that does not hold; ``unwritten`` says why the last checkpoint was not written.
    """

    looked_at: datetime
    verified_to: int = 0
    reviewed_to: int = 0
    whole_at: datetime | None = None
    broken: BrokenLink | None = None
    unwritten: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Over all tenants: how many logs are broken, how many could not be signed, and since when.

    ``failures`` counts every checkpoint that could not be written; ``age`` is the number of
    seconds since the log that was looked at the longest ago.
    """

    broken: int
    unwritten: int
    failures: int
    age: float


async def read(connection: Connection, tenant: str) -> Watched | None:
    """Return what is known of a tenant's log; ``None`` before anybody looked at it."""
    row = await (await connection.execute(_READ, (tenant,))).fetchone()
    if row is None:
        return None
    verified_to, reviewed_to, whole_at, looked_at, position, stream, version, reason, unwritten = (
        row
    )
    broken = BrokenLink(tenant, position, stream, version, reason) if reason else None
    return Watched(looked_at, verified_to, reviewed_to, whole_at, broken, unwritten)


async def write(connection: Connection, tenant: str, found: Watched) -> None:
    """Keep what was found."""
    broken: Any = found.broken or BrokenLink(tenant, 0, None, None, "")
    place = (broken.position, broken.stream_id, broken.version, broken.reason)
    await connection.execute(
        _WRITE,
        (
            tenant,
            found.verified_to,
            found.reviewed_to,
            found.whole_at,
            found.looked_at,
            *(place if found.broken else (None,) * len(place)),
            found.unwritten,
            int(found.unwritten is not None),
        ),
    )


async def summary(connection: Connection) -> Summary:
    """Return how the logs of all tenants are."""
    row = await (await connection.execute(_SUM)).fetchone()
    return Summary(*row) if row else Summary(0, 0, 0, 0.0)


async def copy(connection: Connection, signed: notes.Signed) -> None:
    """Keep a copy of a checkpoint, to be read over HTTP."""
    said = signed.checkpoint
    await connection.execute(_COPY, (said.tenant, said.size, signed.key_id, signed.note))


async def copies(
    connection: Connection,
    tenant: str,
    keys: Collection[Ed25519PublicKey],
    before: int = NEWEST,
    limit: int = 1,
) -> list[notes.Signed]:
    """Return the newest checkpoints of a size below ``before`` that one of the keys signed.

    Without any key each that is well-formed is returned. What was changed, and what somebody else
    put there, is passed over.
    """
    found: list[notes.Signed] = []
    async for signed in each_copy(connection, tenant, before):
        if not keys or signed.verified(keys):
            found.append(signed)
        if len(found) == limit:
            break
    return found


async def each_copy(
    connection: Connection, tenant: str, before: int = NEWEST
) -> AsyncIterator[notes.Signed]:
    """Yield the checkpoints of a size below ``before``, the newest first; nothing is verified."""
    place = (before, b"")
    while True:
        cursor = await connection.execute(_NOTES, (tenant, *place, _AT_ONCE))
        rows = await cursor.fetchall()
        for size, _, note in rows:
            try:
                signed = notes.parse(note.encode())
            except notes.NoteError:
                continue
            if (signed.checkpoint.tenant, signed.checkpoint.size) == (tenant, size):
                yield signed
        if len(rows) < _AT_ONCE:
            return
        place = rows[-1][:2]
