"""The read model of encounters: one row each, for lists and for the board of a day.

``document`` is the encounter as recorded, folded by the same code as for ``GET``. Beside it stands
under which record its patient is found now: it follows merges, and the document stays as it is.
``moment`` is when the patient came, or is expected. Waiting is the time from the arrival to the
start of care, and runs on until care starts.

The indexes hold the status before the moment, and every query names statuses, if need be all: so
a list walks one index in its order for each status, and a rare one is found among millions.

The encounters of a patient who is erased are gone.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

from registration.domain.aggregate import Stamp
from registration.domain.encounter import (
    STATUSES,
    TERMINAL,
    Encounter,
    EncounterResource,
)
from registration.domain.events import EVENTS as ALL
from registration.domain.events import EncounterEvent, EncounterOpened, Event, PatientErased
from registration.eventstore.records import RecordedEvent
from registration.projections import links

NAME = "encounters"
VERSION = 3
EVENTS: tuple[type[Event], ...] = (
    *(kind for kind in ALL if issubclass(kind, EncounterEvent)),
    PatientErased,
    *links.EVENTS,
)
DDL = (
    links.DDL
    + """
CREATE TABLE encounter (
    tenant     text COLLATE "C" NOT NULL,
    id         uuid NOT NULL,
    patient_id uuid NOT NULL,
    current_id uuid NOT NULL,
    status     text COLLATE "C" NOT NULL,
    facility   text COLLATE "C",
    moment     timestamptz NOT NULL,
    arrived_at timestamptz,
    started_at timestamptz,
    ended_at   timestamptz,
    document   text NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX encounter_patient ON encounter (tenant, patient_id);
CREATE INDEX encounter_current ON encounter (tenant, current_id, status, moment, id);
CREATE INDEX encounter_status ON encounter (tenant, status, moment, id);
CREATE INDEX encounter_facility ON encounter (tenant, facility, status, moment, id);
CREATE INDEX encounter_stay ON encounter USING gist (tstzrange(arrived_at, ended_at, '[]'))
 WHERE arrived_at IS NOT NULL AND ended_at IS NOT NULL;
"""
)
_LOAD = """
SELECT e.tenant, e.id, e.document
  FROM unnest(%s::text[], %s::uuid[]) AS asked (tenant, id)
 CROSS JOIN LATERAL (
    SELECT * FROM encounter
     WHERE encounter.tenant = asked.tenant AND encounter.id = asked.id OFFSET 0
 ) AS e
"""
_WRITE = """
INSERT INTO encounter (tenant, id, patient_id, current_id, status, facility, moment, arrived_at,
                       started_at, ended_at, document)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (tenant, id) DO UPDATE
   SET status = excluded.status, moment = excluded.moment, arrived_at = excluded.arrived_at,
       started_at = excluded.started_at, ended_at = excluded.ended_at, document = excluded.document
"""
_MOVE = """
UPDATE encounter SET current_id = %s WHERE tenant = %s AND patient_id = ANY(%s)
"""
_ERASE = "DELETE FROM encounter WHERE tenant = %s AND patient_id = %s"

Connection = AsyncConnection[TupleRow]
Place = tuple[datetime, UUID]
"""Where a page ended: moment and id."""


async def apply(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Take in what happened to encounters of one tenant, who was merged, and who was erased."""
    told = [recorded for recorded in events if isinstance(recorded.event, EncounterEvent)]
    if told:
        await _take(connection, told)
    for recorded in events:
        if isinstance(recorded.event, PatientErased):
            # each record of a person has such an event; nothing comes after it
            erased = (recorded.tenant, recorded.stream_id)
            await connection.execute(_ERASE, erased, prepare=False)
        led = await links.follow(connection, recorded.tenant, recorded.stream_id, recorded.event)
        if led is not None:
            current, patients = led
            # planned each time: a plan from when the table was empty would be kept for good
            await connection.execute(_MOVE, (current, recorded.tenant, patients), prepare=False)


async def _take(connection: Connection, told: Sequence[RecordedEvent]) -> None:
    """Write the rows; new ones as the links were before the batch, which come after it."""
    tenant = told[0].tenant
    keys = list(dict.fromkeys((tenant, recorded.stream_id) for recorded in told))
    cursor = await connection.execute(_LOAD, [list(column) for column in zip(*keys, strict=True)])
    known = {its_id: _known(text) for _, its_id, text in await cursor.fetchall()}
    for recorded in told:
        known.setdefault(recorded.stream_id, Encounter(recorded.stream_id)).apply(
            recorded.event, Stamp.of(recorded)
        )
    opened = [each.event.patient_id for each in told if isinstance(each.event, EncounterOpened)]
    current = await links.current_of(connection, tenant, opened) if opened else {}
    rows = [_row(tenant, encounter, current) for encounter in known.values()]
    async with connection.cursor() as cursor:
        await cursor.executemany(_WRITE, rows)


def _known(document: str) -> Encounter:
    return Encounter.from_shown(EncounterResource.model_validate_json(document))


def _row(tenant: str, encounter: Encounter, current: Mapping[UUID, UUID]) -> tuple[Any, ...]:
    shown = encounter.shown()
    first = {step.status: step.at for step in reversed(shown.status_history)}
    started_at = first.get("in-progress")
    arrived_at = first.get("arrived") or started_at
    return (
        tenant,
        shown.id,
        shown.patient_id,
        current.get(shown.patient_id, shown.patient_id),
        shown.status,
        shown.facility,
        arrived_at or shown.planned_start or shown.status_history[0].at,
        arrived_at,
        started_at,
        shown.status_history[-1].at if shown.status in TERMINAL else None,
        shown.encoded().decode(),
    )


class EncounterQuery(NamedTuple):
    """What to list: all given criteria hold; ``since`` <= moment < ``until``.

    ``patient_id`` stands for the record that it is found under now, and all that belongs there.
    """

    tenant: str
    patient_id: UUID | None = None
    statuses: Sequence[str] = ()
    facility: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: Place | None = None
    limit: int = 50


_LIST: LiteralString = """
SELECT found.moment, found.id, found.document, found.current_id
  FROM unnest(%(statuses)s::text[]) AS wanted (status)
 CROSS JOIN LATERAL (
    SELECT moment, id, document, current_id FROM encounters.encounter AS e
     WHERE {} AND e.status = wanted.status
     ORDER BY moment, id LIMIT %(limit)s
 ) AS found
 ORDER BY found.moment, found.id LIMIT %(limit)s
"""


_OF_PATIENT: LiteralString = """
current_id = coalesce((SELECT link.current_id FROM encounters.link
                        WHERE link.tenant = %(tenant)s AND link.patient_id = %(patient_id)s),
                      %(patient_id)s)
"""


async def list_encounters(connection: Connection, query: EncounterQuery) -> list[TupleRow]:
    """Return (moment, id, document, current patient) of encounters, the earliest first."""
    where: list[LiteralString] = ["tenant = %(tenant)s"]
    if query.patient_id is not None:
        where.append(_OF_PATIENT)
    if query.facility is not None:
        where.append("facility = %(facility)s")
    if query.since is not None:
        where.append("moment >= %(since)s")
    if query.until is not None:
        where.append("moment < %(until)s")
    if query.after is not None:
        where.append("(moment, id) > (%(after_moment)s, %(after_id)s)")
    moment, its_id = query.after or (None, None)
    # planned each time: a plan from when the tables were empty would take any index for good
    cursor = await connection.execute(
        _with(_LIST, where),
        query._asdict()
        | {
            "after_moment": moment,
            "after_id": its_id,
            "statuses": list(dict.fromkeys(query.statuses or STATUSES)),
        },
        prepare=False,
    )
    return await cursor.fetchall()


def _with(query: LiteralString, where: Sequence[LiteralString]) -> sql.Composed:
    return sql.SQL(query).format(sql.SQL(" AND ").join(map(sql.SQL, where)))


# Whoever came that day, is expected that day, was there when it began, or left during it. A day
# that has not begun shows who is expected: nobody knows who will still be there.
_BOARD: LiteralString = """
WITH shown AS (
    SELECT * FROM encounters.encounter
     WHERE {0} AND status = ANY(%(all)s) AND moment >= %(since)s AND moment < %(until)s
    UNION ALL
    SELECT * FROM encounters.encounter
     WHERE {0} AND status IN ('arrived', 'triaged', 'in-progress', 'onleave')
       AND moment < %(since)s AND %(since)s <= %(now)s
    UNION ALL
    SELECT * FROM encounters.encounter
     WHERE {0} AND tstzrange(arrived_at, ended_at, '[]') @> %(since)s AND moment < %(since)s
       AND arrived_at IS NOT NULL AND ended_at IS NOT NULL
), chosen AS (
    SELECT *,
           CASE WHEN status <> 'entered-in-error' AND arrived_at IS NOT NULL THEN
             greatest(0, extract(epoch FROM coalesce(started_at, ended_at, %(now)s) - arrived_at))
           END AS waited,
           CASE WHEN status <> 'entered-in-error' AND arrived_at IS NOT NULL THEN
             greatest(0, extract(epoch FROM coalesce(ended_at, %(now)s) - arrived_at))
           END AS stayed
      FROM shown
)
"""
_BOARD_ITEMS: LiteralString = (
    _BOARD
    + """
SELECT moment, id, document, current_id, waited::bigint, stayed::bigint FROM chosen
 WHERE status = ANY(%(statuses)s)
   AND (%(after_id)s::uuid IS NULL OR (moment, id) > (%(after_moment)s, %(after_id)s))
 ORDER BY moment, id LIMIT %(limit)s
"""
)
_BOARD_COUNTS: LiteralString = (
    _BOARD
    + """
SELECT status, count(*), max(waited)::bigint,
       (percentile_cont(0.5) WITHIN GROUP (ORDER BY waited))::bigint
  FROM chosen GROUP BY status ORDER BY status
"""
)
_ON_A_BOARD = [status for status in STATUSES if status != "entered-in-error"]


class BoardQuery(NamedTuple):
    """One day of a facility, or of all: ``since`` and ``until`` are its bounds.

    Without ``statuses`` what was entered in error is counted but not shown.
    """

    tenant: str
    since: datetime
    until: datetime
    now: datetime
    facility: str | None = None
    statuses: Sequence[str] = ()
    after: Place | None = None
    limit: int = 50


class Board(NamedTuple):
    """Who is there, was there or is expected on a day.

    ``counts`` are those of the whole day by status: how many, the longest and the median wait.
    ``items`` are (moment, id, document, current patient, seconds waited, seconds stayed), the
    earliest first.
    """

    counts: list[TupleRow]
    items: list[TupleRow]


async def board(connection: Connection, query: BoardQuery) -> Board:
    """Return a day's board."""
    where: list[LiteralString] = ["tenant = %(tenant)s"]
    if query.facility is not None:
        where.append("facility = %(facility)s")
    moment, its_id = query.after or (None, None)
    asked = query._asdict() | {
        "after_moment": moment,
        "after_id": its_id,
        "statuses": list(query.statuses or _ON_A_BOARD),
        "all": list(STATUSES),
    }
    async with connection.transaction():
        # both queries see the same moment of the read model
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        counts = await connection.execute(_with(_BOARD_COUNTS, where), asked)
        items = await connection.execute(_with(_BOARD_ITEMS, where), asked)
        return Board(await counts.fetchall(), await items.fetchall())
