"""Looks at every log now and then: verifies what is new, and signs a checkpoint of it.

What is new is recomputed from the event that the last checkpoint names, and that checkpoint comes
from outside of the database. So nobody who may write there can change the log's end and have the
new end signed. What is old is recomputed too, a part at each look, since a row that is edited in
the midst shows only when somebody reads it.

A file of checkpoints that is gone, or ends before what was signed, is no reason to begin anew:
copies in the database and what was verified say that there was more. Only people can say that this
is in order.

Nothing here holds a lock that an append would wait for.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registration.eventstore import database
from registration.eventstore.merkle import verify_consistency
from registration.eventstore.verify import BrokenLink, Stretch, verify_stretch
from registration.evidence import tree, watch
from registration.evidence.folder import CheckpointFolder, FolderError
from registration.evidence.notes import Checkpoint, Signed, sign
from registration.evidence.signed_before import Before, signed_before
from registration.evidence.watch import Connection, Watched
from registration.printing import printable

log = logging.getLogger(__name__)

REVIEWED_AT_ONCE = 50_000
"""Old events that are recomputed at each look, of all tenants: about a second's work."""

# Any number will do, as long as nothing else in the database uses it.
_ADVISORY_LOCK = 0x7265_6769_7374_7277
_OPTIONS = "-c statement_timeout=60000"
# Whoever has, or once had, a log: head rows can be deleted. Large tables are walked along their
# index, since DISTINCT would read all.
_TENANTS = """
WITH RECURSIVE stored AS (
    SELECT min(tenant) AS tenant FROM registration.event
    UNION ALL
    SELECT (SELECT min(e.tenant) FROM registration.event e WHERE e.tenant > s.tenant)
      FROM stored s WHERE s.tenant IS NOT NULL
), signed AS (
    SELECT min(tenant) AS tenant FROM registration.log_checkpoint
    UNION ALL
    SELECT (SELECT min(c.tenant) FROM registration.log_checkpoint c WHERE c.tenant > s.tenant)
      FROM signed s WHERE s.tenant IS NOT NULL
)
SELECT tenant FROM registration.log_head UNION SELECT tenant FROM registration.log_watch
 UNION SELECT tenant FROM stored UNION SELECT tenant FROM signed
"""


async def run_forever(
    url: str,
    folder: CheckpointFolder,
    key: Ed25519PrivateKey,
    *,
    interval: float,
    stop: asyncio.Event,
) -> None:
    """Look every ``interval`` seconds until ``stop`` is set; gets over whatever goes wrong."""
    witness = Witness(url, folder, key)
    while not stop.is_set():
        try:
            await witness.look()
        except psycopg.OperationalError as error:
            log.warning("the log could not be looked at: %s", type(error).__name__)
        except Exception as error:  # noqa: BLE001 (the read models' process must not end for it)
            # the type only: messages of the database can hold rows
            log.error("the log could not be looked at: %s", type(error).__name__)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval)


class _Inconsistent(Exception):
    """The log does not extend the one that was signed. The message says how it shows."""


class Witness:
    """Verifies logs and signs what they come to.

    ``accepted`` names tenants of whom people said that a new file may begin where there is none.
    """

    def __init__(
        self,
        url: str,
        folder: CheckpointFolder,
        key: Ed25519PrivateKey,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        accepted: Collection[str] = (),
    ) -> None:
        self._url = url
        self._folder = folder
        self._key = key
        self._clock = clock
        self._accepted = accepted

    async def look(self) -> dict[str, Watched]:
        """Look at every tenant's log once, and return what was found.

        That is nothing where another process is at it. Raises ``psycopg.Error``.
        """
        with ExitStack() as stack:
            unusable = None
            try:
                if not stack.enter_context(self._folder.alone()):
                    return {}
                self._folder.publish(self._key.public_key())
            except OSError as error:
                unusable = error
            async with await database.connect(
                self._url, name="witness", options=_OPTIONS
            ) as connection:
                if not await _alone(connection):
                    return {}
                cursor = await connection.execute(_TENANTS)
                tenants = {tenant for (tenant,) in await cursor.fetchall() if tenant}
                tenants |= set(self._folder.tenants())
                share = REVIEWED_AT_ONCE // max(1, len(tenants)) + 1
                found = {
                    tenant: await self._looked_at(connection, tenant, share, unusable)
                    for tenant in sorted(tenants)
                }
                # now, not when the server notices that the connection is gone
                await connection.execute("SELECT pg_advisory_unlock(%s)", (_ADVISORY_LOCK,))
                return found

    async def _looked_at(
        self, connection: Connection, tenant: str, share: int, unusable: OSError | None
    ) -> Watched:
        """Look at one log; what goes wrong with it must not hide the others."""
        try:
            return await self._look_at(connection, tenant, share, unusable)
        except Exception as error:
            if connection.closed:
                raise
            # the type only: messages of the database can hold rows
            why = f"it could not be looked at ({type(error).__name__})"
        log.error("the log of %s: %s", printable(tenant), why)
        found = await watch.read(connection, tenant) or Watched(self._clock())
        broken = found.broken or BrokenLink(tenant, found.verified_to, None, None, why)
        found = replace(found, looked_at=self._clock(), broken=broken, unwritten=why)
        await watch.write(connection, tenant, found)
        return found

    async def _look_at(
        self, connection: Connection, tenant: str, share: int, unusable: OSError | None
    ) -> Watched:
        before = await watch.read(connection, tenant) or Watched(self._clock())
        found = replace(before, looked_at=self._clock(), broken=None, unwritten=None)
        try:
            if unusable:
                raise unusable
            found = await self._sign_what_is_new(connection, tenant, found)
        except (OSError, FolderError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            log.error("no checkpoint of the log of %s: %s", printable(tenant), said)
            found = replace(found, unwritten=said or type(error).__name__)
        if found.broken is None:
            found = await self._review(tenant, found, share)
        if found.broken is not None:
            place, reason = found.broken.position, found.broken.reason
            log.error(
                "the log of %s is broken at position %d: %s", printable(tenant), place, reason
            )
        await watch.write(connection, tenant, found)
        return found

    async def _sign_what_is_new(
        self, connection: Connection, tenant: str, found: Watched
    ) -> Watched:
        before = await signed_before(
            connection, self._folder, tenant, self._key.public_key(), found.verified_to
        )
        if before.last is None and tenant in self._accepted:
            before = before.anew()
        size, head = before.size, before.last.head if before.last else None
        if lost := before.lost():
            return replace(found, broken=BrokenLink(tenant, size, None, None, lost))
        new = await asyncio.to_thread(verify_stretch, self._url, tenant, size, head)
        if new.broken:
            return replace(found, broken=new.broken)
        if new.position < before.reached:
            reason = f"the log was cut off: {before.reached} events were verified before"
            return replace(found, broken=BrokenLink(tenant, new.position + 1, None, None, reason))
        if new.position > size:
            try:
                signed = await self._signed(connection, tenant, before, new)
            except (_Inconsistent, tree.TreeError) as error:
                return replace(found, broken=BrokenLink(tenant, size, None, None, str(error)))
            self._folder.append(tenant, signed.note)
            await watch.copy(connection, signed)
        if before.last is None:
            found = replace(found, reviewed_to=0, whole_at=found.looked_at)
        return replace(found, verified_to=new.position)

    async def _signed(
        self, connection: Connection, tenant: str, before: Before, new: Stretch
    ) -> Signed:
        """Return a checkpoint of a log that provably extends what was signed before."""
        size = new.position
        if before.last is None:
            await tree.forget(connection, tenant)
        try:
            await tree.extend(connection, tenant, size)
            root = await _extended(connection, tenant, before, size)
        except (_Inconsistent, tree.TreeError):
            # The tree in the database is only a help: what counts is the log.
            await tree.forget(connection, tenant)
            await tree.extend(connection, tenant, size)
            root = await _extended(connection, tenant, before, size)
        now = self._clock()
        at = max(now, before.not_before or now)
        return sign(Checkpoint(tenant, size, root, new.head, at), self._key)

    async def _review(self, tenant: str, found: Watched, share: int) -> Watched:
        """Verify the next part of what was verified before, ``share`` events of it."""
        if found.verified_to == 0:
            return found
        old = await asyncio.to_thread(
            verify_stretch, self._url, tenant, found.reviewed_to, None, share
        )
        if old.broken:
            return replace(found, broken=old.broken)
        if old.position >= found.verified_to:
            return replace(found, reviewed_to=0, whole_at=found.looked_at)
        return replace(found, reviewed_to=old.position)


async def _extended(connection: Connection, tenant: str, before: Before, size: int) -> bytes:
    """Return the root of a tree that is proved to extend those that were signed before."""
    root = await tree.root(connection, tenant, size)
    for each in before.to_extend:
        proof, _, _ = await tree.consistency(connection, tenant, each.size, size)
        if not verify_consistency(each.size, size, proof, each.root, root):
            raise _Inconsistent("the log up to here is not the one that was signed")
    return root


async def _alone(connection: Connection) -> bool:
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (_ADVISORY_LOCK,))
    row = await cursor.fetchone()
    return bool(row and row[0])
