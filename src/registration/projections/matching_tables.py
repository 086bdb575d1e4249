"""How the tables of the matching read model are read and written.

Every lookup has one possible plan, so that one made while the tables were empty stays right when
they are not: LATERAL with OFFSET 0 fixes the order, and scans of whole tables are ruled out.
"""

# ruff: noqa: S608  (statements are put together from constants of these modules alone)

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.aggregate import Stamp
from registration.domain.names import display
from registration.domain.patient_state import PatientState, evolve
from registration.eventstore.records import RecordedEvent
from registration.mpi.record import MatchRecord, decode

MOST_COMPARED = 200
"""Records that one is compared with: those that share most keys with it; of equals, and of all that
share one key, the first by id."""

Connection = AsyncConnection[TupleRow]
Row = tuple[Any, ...]

# What came before the batch, of the streams that it goes on with.
_EARLIER: LiteralString = """
SELECT e.*
  FROM unnest(%s::uuid[], %s::int4[]) AS asked (stream_id, version)
 CROSS JOIN LATERAL (
    SELECT * FROM registration.readable_event AS earlier
     WHERE earlier.tenant = %s AND earlier.stream_id = asked.stream_id
       AND earlier.version < asked.version AND earlier.topic = ANY(%s) OFFSET 0
 ) AS e
 ORDER BY e.stream_id, e.version
"""
_PATIENT: LiteralString = """
SELECT id, current_id, record FROM patient WHERE tenant = %s AND id = %s
"""
_WRITE_PATIENT: LiteralString = """
INSERT INTO patient AS p (tenant, id, version, current_id, merged_into, changed_at, display,
                          birth_date, gender, facility, record)
VALUES (%(tenant)s, %(id)s, %(version)s, %(id)s, NULL, %(at)s, %(display)s, %(birth_date)s,
        %(gender)s, %(facility)s, %(record)s)
    ON CONFLICT (tenant, id) DO UPDATE
   SET version = excluded.version, display = excluded.display, birth_date = excluded.birth_date,
       gender = excluded.gender, facility = excluded.facility, record = excluded.record,
       changed_at = CASE WHEN p.record = excluded.record THEN p.changed_at
                         ELSE excluded.changed_at END
"""
_WRITE_VERSION: LiteralString = "UPDATE patient SET version = %s WHERE tenant = %s AND id = %s"
_DELETE_BLOCKS: LiteralString = """
DELETE FROM block WHERE tenant = %s AND key = ANY(%s) AND patient_id = %s
"""
_WRITE_BLOCKS: LiteralString = """
INSERT INTO block (tenant, key, patient_id) SELECT %(tenant)s, unnest(%(come)s::int8[]), %(id)s
    ON CONFLICT DO NOTHING
"""
_PARTNERS: LiteralString = """
SELECT p.id, p.current_id, p.record
  FROM (
    SELECT other AS id FROM candidate WHERE tenant = %(tenant)s AND one = %(id)s
     UNION ALL
    SELECT one FROM candidate WHERE tenant = %(tenant)s AND other = %(id)s
    OFFSET 0
  ) AS known
 CROSS JOIN LATERAL (
    SELECT * FROM patient
     WHERE patient.tenant = %(tenant)s AND patient.id = known.id OFFSET 0
 ) AS p
"""
_WRITE_CANDIDATE: LiteralString = """
INSERT INTO candidate (tenant, id, one, other, current_one, current_other, status, raised_at,
                       facilities, score, weight, grade, agreement, levels, evidence)
VALUES (%(tenant)s, %(id)s, %(one)s, %(other)s, %(one)s, %(other)s, 'open', %(at)s,
        '{}', %(score)s, %(weight)s, %(grade)s, %(agreement)s, %(levels)s, %(evidence)s)
    ON CONFLICT (tenant, id) DO UPDATE
   SET score = excluded.score, weight = excluded.weight, grade = excluded.grade,
       agreement = excluded.agreement, levels = excluded.levels, evidence = excluded.evidence
"""
_REMOVE: LiteralString = "DELETE FROM candidate WHERE tenant = %s AND id = ANY(%s)"
_WRITE_DISMISSAL: LiteralString = """
INSERT INTO dismissal (tenant, candidate_id, one, other, said_of, evidence, reason, dismissed_by,
                       dismissed_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (tenant, candidate_id) DO UPDATE
   SET said_of = excluded.said_of, evidence = excluded.evidence, reason = excluded.reason,
       dismissed_by = excluded.dismissed_by, dismissed_at = excluded.dismissed_at
"""
_STANDINGS: LiteralString = """
SELECT c.id, c.current_one, c.current_other, c.status, c.raised_at, c.facilities, c.evidence,
       one.current_id, other.current_id, one.facility, other.facility, d.evidence
  FROM unnest(%(ids)s::uuid[]) AS asked (id)
 CROSS JOIN LATERAL (
    SELECT * FROM candidate WHERE tenant = %(tenant)s AND candidate.id = asked.id OFFSET 0
 ) AS c
 CROSS JOIN LATERAL (
    SELECT * FROM patient WHERE tenant = %(tenant)s AND patient.id = c.one OFFSET 0
 ) AS one
 CROSS JOIN LATERAL (
    SELECT * FROM patient WHERE tenant = %(tenant)s AND patient.id = c.other OFFSET 0
 ) AS other
  LEFT JOIN LATERAL (
    SELECT evidence FROM dismissal WHERE tenant = %(tenant)s AND candidate_id = c.id OFFSET 0
 ) AS d ON true
"""
_MOVE_CANDIDATE: LiteralString = """
UPDATE candidate SET current_one = %s, current_other = %s, status = %s, raised_at = %s,
       facilities = %s
 WHERE tenant = %s AND id = %s
"""
_MERGE: LiteralString = "UPDATE patient SET merged_into = %s WHERE tenant = %s AND id = %s"
_FACES: LiteralString = """
WITH RECURSIVE face AS (
    SELECT %(id)s::uuid AS id
     UNION
    SELECT below.id FROM face
     CROSS JOIN LATERAL (
        SELECT patient.id FROM patient
         WHERE tenant = %(tenant)s AND merged_into = face.id OFFSET 0
     ) AS below
)
SELECT id FROM face
"""
_MOVE: LiteralString = "UPDATE patient SET current_id = %s WHERE tenant = %s AND id = ANY(%s)"
_CANDIDATES_OF: LiteralString = """
SELECT found.id
  FROM unnest(%(ids)s::uuid[]) AS asked (id)
 CROSS JOIN LATERAL (
    SELECT id FROM candidate WHERE tenant = %(tenant)s AND one = asked.id
     UNION ALL
    SELECT id FROM candidate WHERE tenant = %(tenant)s AND other = asked.id
    OFFSET 0
 ) AS found
"""
_OF_CURRENT_PAIR: LiteralString = """
SELECT one, other, evidence FROM candidate
 WHERE tenant = %s AND current_one = least(%s::uuid, %s::uuid)
   AND current_other = greatest(%s::uuid, %s::uuid)
"""
_ERASE: tuple[LiteralString, ...] = (
    "DELETE FROM candidate WHERE tenant = %(tenant)s AND one = %(id)s",
    "DELETE FROM candidate WHERE tenant = %(tenant)s AND other = %(id)s",
    "DELETE FROM dismissal WHERE tenant = %(tenant)s AND one = %(id)s",
    "DELETE FROM dismissal WHERE tenant = %(tenant)s AND other = %(id)s",
    "UPDATE dismissal SET reason = '' WHERE tenant = %(tenant)s AND said_of @> ARRAY[%(id)s]",
    "DELETE FROM patient WHERE tenant = %(tenant)s AND id = %(id)s",
)


def nearest(schema: LiteralString, columns: LiteralString) -> LiteralString:
    """Return the statement that reads the patients who share most of ``keys``, but for ``id``."""
    return f"""
SELECT {columns}
  FROM (
    SELECT found.patient_id AS id
      FROM unnest(%(keys)s::int8[]) AS asked (key)
     CROSS JOIN LATERAL (
        SELECT b.patient_id FROM {schema}block AS b
         WHERE b.tenant = %(tenant)s AND b.key = asked.key
           AND b.patient_id IS DISTINCT FROM %(id)s::uuid
         ORDER BY b.patient_id LIMIT {MOST_COMPARED}
     ) AS found
     GROUP BY found.patient_id ORDER BY count(*) DESC, found.patient_id LIMIT {MOST_COMPARED}
  ) AS near
 CROSS JOIN LATERAL (
    SELECT * FROM {schema}patient
     WHERE patient.tenant = %(tenant)s AND patient.id = near.id OFFSET 0
 ) AS p
"""


# In one round trip: nearly every event of the log is such a one.
_WRITE_AND_LOOK_AROUND: LiteralString = (
    f"WITH patient_written AS ({_WRITE_PATIENT}), blocks_written AS ({_WRITE_BLOCKS})"
    + nearest("", "p.id, p.current_id, p.record")
)


def patient_row(
    tenant: str, its_id: UUID, version: int, at: datetime, state: PatientState, record: bytes
) -> dict[str, Any]:
    """Return the row of ``patient`` of one that is merged into no other."""
    return {
        "tenant": tenant,
        "id": its_id,
        "version": version,
        "at": at,
        "display": orjson.dumps(display(state.names)).decode(),
        "birth_date": state.birth_date,
        "gender": state.gender,
        "facility": state.facility,
        "record": record,
    }


class Seen(NamedTuple):
    """A patient as it is compared; ``data`` is its record, encoded."""

    id: UUID
    current_id: UUID
    data: bytes

    @property
    def record(self) -> MatchRecord:
        """What is compared."""
        return decode(self.data)


class Dismissed(NamedTuple):
    """A pair that was found to be two persons, on this evidence."""

    id: UUID
    one: UUID
    other: UUID
    evidence: str


class Said(NamedTuple):
    """What was said when pairs were found to be two persons: of which two, why, by whom, when."""

    of: list[UUID]
    reason: str
    by: str
    at: datetime


class Standing(NamedTuple):
    """How a pair is written, and what that should follow from."""

    id: UUID
    current: tuple[UUID, UUID]
    status: str
    raised_at: datetime
    facilities: list[str]
    evidence: str
    one_now: UUID
    other_now: UUID
    one_facility: str | None
    other_facility: str | None
    dismissed: str | None
    """The evidence that it was dismissed on last."""

    @property
    def facilities_now(self) -> list[str]:
        """The facilities of both records, each once."""
        both = {self.one_facility, self.other_facility}
        return sorted(facility for facility in both if facility is not None)


class Tables:
    """The tables of one tenant, within the caller's transaction."""

    def __init__(self, connection: Connection, tenant: str) -> None:
        self._connection = connection
        self.tenant = tenant

    async def read_by_keys(self) -> None:
        """Rule scans of whole tables out, to the end of the transaction."""
        await self._connection.execute("SET LOCAL enable_seqscan = off")

    async def states_before(
        self, events: Sequence[RecordedEvent], topics: Sequence[str]
    ) -> dict[UUID, PatientState]:
        """Return the patients that events of these topics are about, as they were before."""
        first: dict[UUID, int] = {}
        for recorded in events:
            if recorded.topic in topics:
                first.setdefault(recorded.stream_id, recorded.version)
        older = {its_id: version for its_id, version in first.items() if version > 1}
        states: dict[UUID, PatientState] = {}
        if not older:
            return states
        cursor = await self._connection.execute(
            _EARLIER, (list(older), list(older.values()), self.tenant, topics), binary=True
        )
        for row in await cursor.fetchall():
            recorded = RecordedEvent(*row)
            its_id = recorded.stream_id
            if recorded.is_about_the_erased and its_id in states:
                continue  # blank: there is nothing to make a key of
            states[its_id] = evolve(states.get(its_id), recorded.event, Stamp.of(recorded))
        return states

    async def patient(self, its_id: UUID) -> Seen | None:
        """Return a patient."""
        cursor = await self._connection.execute(_PATIENT, (self.tenant, its_id), binary=True)
        row = await cursor.fetchone()
        return Seen(*row) if row else None

    async def partners(self, its_id: UUID) -> list[Seen]:
        """Return the patients that one is a candidate with."""
        return await self._seen(_PARTNERS, id=its_id)

    async def candidates_of(self, ids: Iterable[UUID]) -> set[UUID]:
        """Return the pairs that any of these patients is of."""
        return await self._ids(_CANDIDATES_OF, ids=list(ids))

    async def of_current_pair(self, one: UUID, other: UUID) -> list[tuple[UUID, UUID, str]]:
        """Return the pairs that these two are found as now, each with its evidence."""
        asked = (self.tenant, one, other, one, other)
        cursor = await self._connection.execute(_OF_CURRENT_PAIR, asked)
        return [(mine, its, evidence) for mine, its, evidence in await cursor.fetchall()]

    async def standings(self, ids: Iterable[UUID]) -> list[Standing]:
        """Return how pairs are written, and what that should follow from."""
        asked = {"ids": list(ids), "tenant": self.tenant}
        if not asked["ids"]:
            return []
        cursor = await self._connection.execute(_STANDINGS, asked)
        return [
            Standing(its_id, (one, other), *rest)
            for its_id, one, other, *rest in await cursor.fetchall()
        ]

    async def write_patient(self, row: Mapping[str, Any]) -> None:
        """Write a patient as it is now; where it is found stays as it was."""
        await self._connection.execute(_WRITE_PATIENT, row)

    async def write_and_look_around(
        self, row: Mapping[str, Any], old: Sequence[int], keys: Sequence[int]
    ) -> list[Seen]:
        """Write a patient and its keys; returns the patients that share most of these."""
        if gone := sorted({*old} - {*keys}):
            await self._connection.execute(_DELETE_BLOCKS, (self.tenant, gone, row["id"]))
        come = sorted({*keys} - {*old})
        return await self._seen(_WRITE_AND_LOOK_AROUND, **row, come=come, keys=keys)

    async def write_versions(self, versions: Mapping[UUID, int]) -> None:
        """Write the versions of patients that changed in nothing else."""
        rows = [(version, self.tenant, its_id) for its_id, version in versions.items()]
        await self._each(_WRITE_VERSION, rows)

    async def write_candidates(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write pairs as they compare; new ones are open, others what they were."""
        await self._each(_WRITE_CANDIDATE, [{"tenant": self.tenant, **row} for row in rows])

    async def remove(self, ids: Sequence[UUID]) -> None:
        """Take pairs away that are no candidates any more."""
        if ids:
            await self._connection.execute(_REMOVE, (self.tenant, ids))

    async def write_dismissals(self, found: Iterable[Dismissed], said: Said) -> None:
        """Remember pairs that were found to be two persons, each on its evidence."""
        await self._each(
            _WRITE_DISMISSAL,
            [
                (self.tenant, pair.id, pair.one, pair.other, said.of, pair.evidence, *said[1:])
                for pair in found
            ],
        )

    async def erase(self, its_id: UUID, keys: Sequence[int]) -> None:
        """Take away all that is about a patient; ``keys`` are those of the record."""
        await self._connection.execute(_DELETE_BLOCKS, (self.tenant, keys, its_id))
        for statement in _ERASE:
            # planned each time: a plan from when the tables were empty would be kept for good
            asked = {"tenant": self.tenant, "id": its_id}
            await self._connection.execute(statement, asked, prepare=False)

    async def move(self, its_id: UUID, into: UUID | None) -> set[UUID]:
        """Write that a patient was merged, or restored; returns it with all its faces."""
        await self._connection.execute(_MERGE, (into, self.tenant, its_id))
        faces = await self._ids(_FACES, id=its_id)
        await self._connection.execute(_MOVE, (into or its_id, self.tenant, list(faces)))
        return faces

    async def move_candidates(self, rows: Sequence[Row]) -> None:
        """Write (current_one, current_other, status, raised_at, facilities, id) of pairs."""
        await self._each(_MOVE_CANDIDATE, [(*row[:5], self.tenant, row[5]) for row in rows])

    async def _seen(self, query: LiteralString, **asked: Any) -> list[Seen]:
        asked["tenant"] = self.tenant
        cursor = await self._connection.execute(query, asked, binary=True)
        return [Seen(*row) for row in await cursor.fetchall()]

    async def _ids(self, query: LiteralString, **asked: Any) -> set[UUID]:
        cursor = await self._connection.execute(query, {"tenant": self.tenant, **asked})
        return {row[0] for row in await cursor.fetchall()}

    async def _each(self, statement: LiteralString, rows: Sequence[Any]) -> None:
        if rows:
            async with self._connection.cursor() as cursor:
                await cursor.executemany(statement, rows)
