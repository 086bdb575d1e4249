"""The job that lets go of what is past its time: portraits, bytes left behind, and old reads.

A portrait that is due is not shown from that very instant, whether this job has run or not. The
job makes it final: an event in the patient's history says so, and the bytes are deleted.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import psycopg
import uuid_utils.compat as uuids
from psycopg.errors import InvalidSchemaName, UndefinedTable
from psycopg_pool import PoolTimeout

from registration.command import Command, Refusal
from registration.domain.commands import OutlivedPortrait, RemovePortrait
from registration.domain.context import Context
from registration.domain.contract import Operation
from registration.domain.events import PatientMergedAway, PortraitCause
from registration.domain.merge import Parties
from registration.domain.patient_resource import Patient
from registration.domain.patient_state import PatientState
from registration.domain.portrait import ended_above, why_gone
from registration.eventstore import database
from registration.eventstore.store import (
    EventStore,
    LoadRequest,
    StoreOverloadedError,
    StoreUnavailableError,
)
from registration.gate import Gate
from registration.lineage import lineage
from registration.portraits import Portraits
from registration.projections.portraits import due_portraits, outlived_portraits

log = logging.getLogger(__name__)

ACTOR = "system:retention"
"""Who the history names."""
MOST_AT_ONCE = 10_000
_REASONS: dict[PortraitCause, str] = {
    "consent-ended": "The consent to it has ended.",
    "retention-passed": "The time for which it is kept has passed.",
}


_ENDED_ABOVE = "The consent to it has ended on the record that this one was merged into."


class Swept(NamedTuple):
    """What one look did: portraits that were let go, pictures deleted, portraits left for later."""

    removed: int = 0
    deleted: int = 0
    left: int = 0


async def sweep(url: str, clock: Callable[[], datetime] | None = None) -> Swept:
    """Let go of every portrait that is due, and delete bytes that no history shows any more.

    Safe to run from several processes at once, and again after a crash at any point.
    """
    now = clock() if clock else datetime.now(UTC)
    store = EventStore(url, ttl=timedelta(hours=24), clock=clock)
    pool = database.pool(url, name="retention", size=2)
    await store.open()
    await pool.open()
    try:
        return await _Sweep(store, Portraits(pool), now).run(pool)
    finally:
        await store.close()
        await pool.close()


async def run_forever(
    url: str, *, interval: float, stop: asyncio.Event, access_log_days: int | None = None
) -> None:
    """Sweep every ``interval`` seconds until ``stop`` is set; gets over whatever goes wrong."""
    while not stop.is_set():
        try:
            swept = await sweep(url)
            if access_log_days is not None:
                before = datetime.now(UTC) - timedelta(days=access_log_days)
                forgotten = await forget_reads(url, before)
                if forgotten:
                    log.info("reads that the access log lets go: %d", forgotten)
            if any(swept):
                log.info("portraits let go: %d, pictures deleted: %d, left: %d", *swept)
        except (psycopg.OperationalError, PoolTimeout, StoreUnavailableError) as error:
            log.warning("the retention job could not run: %s", type(error).__name__)
        except Exception as error:  # noqa: BLE001 (the read models' process must not end for it)
            log.error("the retention job failed: %s", type(error).__name__)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval)


async def forget_reads(url: str, before: datetime) -> int:
    """Delete what the access log and its gaps hold of before an instant; returns how many reads."""
    deleted = 0
    async with await database.connect(url, name="retention") as connection:
        await connection.execute("DELETE FROM access_log_gap WHERE until < %s", (before,))
        while True:
            # by parts, so that none holds its locks for long
            cursor = await connection.execute(_FORGET_READS, (before, MOST_AT_ONCE))
            deleted += cursor.rowcount
            if cursor.rowcount < MOST_AT_ONCE:
                return deleted


_FORGET_READS = """
DELETE FROM access_log WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM access_log WHERE at < %s LIMIT %s
))
"""


class _Sweep:
    def __init__(self, store: EventStore, portraits: Portraits, now: datetime) -> None:
        self._store = store
        self._gate = Gate(store)
        self._portraits = portraits
        self._now = now

    async def run(self, pool: database.Pool) -> Swept:
        try:
            async with pool.connection() as connection:
                due = await due_portraits(connection, self._now, MOST_AT_ONCE)
                due += await outlived_portraits(connection, self._now, MOST_AT_ONCE)
            unclaimed = await self._portraits.unclaimed()
        except (UndefinedTable, InvalidSchemaName):
            return Swept()  # the read model is being made; nothing is shown that should not be
        outcomes = [await self._let_go(*each) for each in dict.fromkeys(due)]
        deleted = outcomes.count(True)
        for image in unclaimed:
            patient = await self._patient(image.tenant, image.patient_id)
            shown = patient and patient.state and patient.state.portrait
            if not shown or shown.id != image.portrait_id:
                deleted += await self._portraits.delete(image.tenant, image.portrait_id)
        return Swept(outcomes.count(True), deleted, outcomes.count(False))

    async def _let_go(self, tenant: str, patient_id: UUID) -> bool | None:
        """Return whether the portrait was let go; ``None`` where it need not go, or has gone."""
        known = await lineage(self._store, tenant, [patient_id])
        if patient_id not in known:
            return None
        patient, state = known[patient_id].patient, known[patient_id].state
        if state.portrait is None:
            return None
        payload: RemovePortrait
        if (cause := why_gone(state, self._now)) is not None:
            payload = RemovePortrait(reason=_REASONS[cause])
        elif ended_above(list(_above(known, patient_id)), self._now):
            payload = OutlivedPortrait(reason=_ENDED_ABOVE)
        else:
            return None
        picture = state.portrait.id
        command = Command(
            Operation.REMOVE_PORTRAIT,
            payload,
            {},
            aggregate_id=patient_id,
            version=patient.version,  # what was looked at must still be so
            housekeeping=True,
        )
        context = Context(
            now=self._now,
            new_id=uuids.uuid7,
            tenant=tenant,
            actor=ACTOR,
            scopes=frozenset({"patient:write"}),
        )
        try:
            await self._gate.handle(command, context)
        except (Refusal, StoreOverloadedError):
            return False
        await self._portraits.delete(tenant, picture)
        return True

    async def _patient(self, tenant: str, patient_id: UUID) -> Patient | None:
        loaded = await self._store.load(LoadRequest(tenant, patient_id))
        return Patient.of(patient_id, loaded.events)


def _above(known: Parties, patient_id: UUID) -> Iterator[tuple[datetime, PatientState]]:
    """Yield the records that a patient was merged into, each with since when it stands for it."""
    since = datetime.min.replace(tzinfo=UTC)
    at = patient_id
    while (above := known[at].state.merged_into) is not None:
        since = max(
            since,
            *(r.recorded_at for r in known[at].history if isinstance(r.event, PatientMergedAway)),
        )
        yield since, known[above].state
        at = above
