"""The read model of portraits: which there are, and when each has to go as far as is known.

One row a patient who has a portrait or ever said something about having one: ``due_at`` is when
the portrait has to go, ``ends_at`` when consent is not in force any more, portrait or not. The
retention job looks here for what is due, also by what was said on the record that another was
merged into, and asks the patients' own histories before it removes anything.

Who was erased has no rows; their pictures went with the keys, before this is told.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain import events as happened
from registration.domain.aggregate import Stamp
from registration.domain.consent import PORTRAIT, granted_until
from registration.domain.patient_state import PatientState, evolve
from registration.domain.portrait import due
from registration.domain.resources import Consent, Portrait
from registration.eventstore.records import RecordedEvent
from registration.projections import links

NAME = "portraits"
VERSION = 3
EVENTS: tuple[type[happened.Event], ...] = (
    happened.PortraitSet,
    happened.PortraitRemoved,
    happened.ConsentGranted,
    happened.ConsentRefused,
    happened.ConsentWithdrawn,
    *links.EVENTS,
)
DDL = (
    links.DDL
    + """
CREATE TABLE portrait (
    tenant     text COLLATE "C" NOT NULL,
    patient_id uuid NOT NULL,
    id         uuid,
    due_at     timestamptz,
    ends_at    timestamptz,
    document   text NOT NULL,
    PRIMARY KEY (tenant, patient_id)
);
CREATE INDEX portrait_id ON portrait (tenant, id);
CREATE INDEX portrait_due ON portrait (due_at) WHERE due_at IS NOT NULL;
"""
)
_LOAD = """
SELECT p.tenant, p.patient_id, p.document
  FROM unnest(%s::text[], %s::uuid[]) AS asked (tenant, id)
 CROSS JOIN LATERAL (
    SELECT * FROM portrait
     WHERE portrait.tenant = asked.tenant AND portrait.patient_id = asked.id OFFSET 0
 ) AS p
"""
_WRITE = """
INSERT INTO portrait (tenant, patient_id, id, due_at, ends_at, document)
VALUES (%s, %s, %s, %s, %s, %s)
    ON CONFLICT (tenant, patient_id) DO UPDATE
   SET id = excluded.id, due_at = excluded.due_at, ends_at = excluded.ends_at,
       document = excluded.document
"""
_ERASE = "DELETE FROM portrait WHERE tenant = %s AND patient_id = %s"
_DUE = """
SELECT tenant, patient_id FROM portraits.portrait WHERE due_at <= %s ORDER BY due_at LIMIT %s
"""
# Of each merged-away record that has a portrait: whether consent ended on any record above it.
_OUTLIVED = """
SELECT had.tenant, had.patient_id
  FROM portraits.link
 CROSS JOIN LATERAL (
    SELECT tenant, patient_id FROM portraits.portrait
     WHERE tenant = link.tenant AND patient_id = link.patient_id AND id IS NOT NULL OFFSET 0
 ) AS had
 WHERE EXISTS (
    WITH RECURSIVE above (id) AS (
        SELECT link.survivor_id
        UNION
        SELECT next.survivor_id FROM above CROSS JOIN LATERAL (
            SELECT survivor_id FROM portraits.link AS higher
             WHERE higher.tenant = link.tenant AND higher.patient_id = above.id OFFSET 0
        ) AS next
    )
    SELECT FROM above CROSS JOIN LATERAL (
        SELECT FROM portraits.portrait
         WHERE tenant = link.tenant AND patient_id = above.id AND ends_at <= %s OFFSET 0
    ) AS ended
 )
 LIMIT %s
"""

Connection = AsyncConnection[TupleRow]
_BLANK = PatientState(names=(), gender="unknown")


async def apply(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Take in portraits, what was said about the flag ``portrait``, who was merged, and erased."""
    for recorded in events:
        await links.follow(connection, recorded.tenant, recorded.stream_id, recorded.event)
    # what is blank is of somebody whose erasure is still to come, and goes with it
    told = [
        recorded
        for recorded in events
        if _counts(recorded.event) and not recorded.is_about_the_erased
    ]
    await _take(connection, told)
    for recorded in events:
        if isinstance(recorded.event, happened.PatientErased):
            await connection.execute(_ERASE, (recorded.tenant, recorded.stream_id), prepare=False)


async def _take(connection: Connection, told: Sequence[RecordedEvent]) -> None:
    """Write the rows of those to whom something happened."""
    if not told:
        return
    keys = list(dict.fromkeys((recorded.tenant, recorded.stream_id) for recorded in told))
    cursor = await connection.execute(_LOAD, [list(column) for column in zip(*keys, strict=True)])
    states = {(tenant, its_id): _state(text) for tenant, its_id, text in await cursor.fetchall()}
    due_at, ends_at = {}, {}
    for recorded in told:
        key = (recorded.tenant, recorded.stream_id)
        states[key] = evolve(states.get(key, _BLANK), recorded.event, Stamp.of(recorded))
        due_at[key] = due(states[key], recorded.recorded_at)
        said = states[key].consents.get(PORTRAIT, ())
        ends_at[key] = granted_until(said, recorded.recorded_at) if said else None
    async with connection.cursor() as cursor:
        await cursor.executemany(
            _WRITE,
            [
                (*key, _id(states[key]), due_at[key], ends_at[key], _document(states[key]))
                for key in keys
            ],
        )


async def due_portraits(
    connection: Connection, now: datetime, limit: int
) -> list[tuple[str, UUID]]:
    """Return tenant and patient of portraits that have to go at ``now``, the oldest first."""
    return [
        (row[0], row[1]) for row in await (await connection.execute(_DUE, (now, limit))).fetchall()
    ]


async def outlived_portraits(
    connection: Connection, now: datetime, limit: int
) -> list[tuple[str, UUID]]:
    """Return tenant and patient of portraits of merged-away records that may have to go at ``now``.

    Consent has ended on a record that they were merged into; whether it did so since the merge is
    for the histories to tell.
    """
    cursor = await connection.execute(_OUTLIVED, (now, limit))
    return [(row[0], row[1]) for row in await cursor.fetchall()]


def _counts(event: happened.Event) -> bool:
    if isinstance(event, happened.ConsentEvent):
        return event.flag == PORTRAIT
    return isinstance(event, happened.PortraitSet | happened.PortraitRemoved)


def _id(state: PatientState) -> UUID | None:
    return None if state.portrait is None else state.portrait.id


def _document(state: PatientState) -> str:
    shown = {
        "consents": [said.plain() for said in state.consents.get(PORTRAIT, ())],
        "portrait": None if state.portrait is None else state.portrait.plain(),
    }
    return orjson.dumps(shown).decode()


def _state(document: str) -> PatientState:
    known = orjson.loads(document)
    portrait = known["portrait"]
    return _BLANK._replace(
        consents={PORTRAIT: tuple(map(Consent.model_validate, known["consents"]))},
        portrait=None if portrait is None else Portrait.model_validate(portrait),
    )
