"""The queue of possible duplicates: pairs to look at, pairs that were decided, how many there are.

Of several open pairs that a merge would be of one pair of persons now, the queue shows the best: a
record that was merged away is a further face of its survivor, not a further person.
"""

# ruff: noqa: S608  (statements are put together from constants of this module alone)

from datetime import datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

Connection = AsyncConnection[TupleRow]
Place = tuple[float, datetime, UUID]
"""Where a page ended: score, when it was raised, id."""


class Face(NamedTuple):
    """One of the two records of a pair; ``version`` is the last that matching knows of."""

    id: UUID
    version: int
    current_id: UUID
    current_version: int | None
    display: str
    birth_date: str | None
    gender: str
    facility: str | None
    changed_at: datetime

    def shown(self) -> dict[str, Any]:
        """Return it as the wire shows it."""
        return {
            "patientId": self.id,
            "version": self.version,
            "currentPatientId": self.current_id,
            "currentVersion": self.current_version,
            "display": orjson.Fragment(self.display),
            "birthDate": self.birth_date,
            "gender": self.gender,
            "facility": self.facility,
            "changedAt": self.changed_at,
        }


class Candidate(NamedTuple):
    """A pair of records that may be one person's."""

    id: UUID
    score: float
    grade: str
    agreement: str
    levels: str
    evidence: str
    raised_at: datetime
    status: str
    reason: str | None
    dismissed_by: str | None
    dismissed_at: datetime | None
    one: Face
    other: Face

    @classmethod
    def of(cls, row: TupleRow) -> "Candidate":
        """Return what a row says."""
        own = len(cls._fields) - 2
        faces = row[own:]
        half = len(Face._fields)
        return cls._make([*row[:own], Face._make(faces[:half]), Face._make(faces[half:])])

    @property
    def place(self) -> Place:
        """Where it stands in the queue."""
        return self.score, self.raised_at, self.id

    def shown(self) -> dict[str, Any]:
        """Return it as the wire shows it."""
        shown = {
            "id": self.id,
            "patients": [self.one.shown(), self.other.shown()],
            "score": self.score,
            "grade": self.grade,
            "agreement": orjson.Fragment(self.agreement),
            "raisedAt": self.raised_at,
            "status": self.status,
        }
        if self.status == "dismissed":
            shown["dismissal"] = {
                "reason": self.reason,
                "by": self.dismissed_by,
                "at": self.dismissed_at,
            }
        return shown


class CandidateQuery(NamedTuple):
    """What to list: all given criteria hold. ``facility`` is that of either record."""

    tenant: str
    status: str = "open"
    grade: str | None = None
    facility: str | None = None
    min_score: float | None = None
    patient_id: UUID | None = None
    after: Place | None = None
    limit: int = 50


# Sub-selects in the SELECT list or with OFFSET 0 are carried out row by row: pairs are read in the
# order of the queue, and no further than a page goes.
_FACE: LiteralString = """
    SELECT p.id, p.version, p.current_id,
           (SELECT n.version FROM matching.patient AS n
             WHERE n.tenant = p.tenant AND n.id = p.current_id),
           p.display, p.birth_date, p.gender, p.facility, p.changed_at
      FROM matching.patient AS p
     WHERE p.tenant = %(tenant)s AND p.id ="""


def _shown(pairs: LiteralString) -> LiteralString:
    return f"""
SELECT c.id, c.score, c.grade, c.agreement, c.levels, c.evidence, c.raised_at, c.status,
       d.reason, d.dismissed_by, d.dismissed_at, one.*, other.*
  FROM ({pairs}) AS c
 CROSS JOIN LATERAL ({_FACE} c.one OFFSET 0) AS one
 CROSS JOIN LATERAL ({_FACE} c.other OFFSET 0) AS other
  LEFT JOIN LATERAL (
    SELECT * FROM matching.dismissal
     WHERE dismissal.tenant = %(tenant)s AND candidate_id = c.id OFFSET 0
 ) AS d ON true
 ORDER BY -c.score, c.raised_at, c.id
"""


_ALL: LiteralString = "SELECT * FROM matching.candidate WHERE tenant = %(tenant)s"
_OF_PATIENT: LiteralString = """
SELECT of.*
  FROM (SELECT coalesce((SELECT current_id FROM matching.patient
                          WHERE tenant = %(tenant)s AND id = %(patient_id)s),
                        %(patient_id)s) AS id) AS person
 CROSS JOIN LATERAL (
    SELECT * FROM matching.candidate WHERE tenant = %(tenant)s AND current_one = person.id
     UNION ALL
    SELECT * FROM matching.candidate
     WHERE tenant = %(tenant)s AND current_other = person.id AND current_one <> person.id
    OFFSET 0
 ) AS of
"""
_BEST: LiteralString = """
(c.status = 'merged' OR (
    SELECT true FROM matching.candidate AS b
     WHERE b.tenant = c.tenant AND b.current_one = c.current_one
       AND b.current_other = c.current_other AND b.status = c.status
       AND (-b.score, b.raised_at, b.id) < (-c.score, c.raised_at, c.id)
     LIMIT 1) IS NULL)
"""
_AT_FACILITY: LiteralString = """
(SELECT true FROM matching.patient AS p
  WHERE p.tenant = c.tenant AND p.id IN (c.one, c.other) AND p.facility = %(facility)s LIMIT 1)
"""
_COUNTS: LiteralString = """
SELECT c.status, c.grade, count(*), min(c.raised_at)
  FROM matching.candidate AS c
 WHERE c.tenant = %(tenant)s AND """


async def candidates(connection: Connection, query: CandidateQuery) -> list[Candidate]:
    """Return pairs by their score, of one score the oldest first."""
    where: LiteralString = f"c.status = %(status)s AND {_BEST}"
    if query.grade is not None:
        where += " AND c.grade = %(grade)s"
    if query.min_score is not None:
        where += " AND -c.score <= -%(min_score)s::float8"
    if query.facility is not None:
        where += f" AND {_AT_FACILITY}"
    if query.after is not None:
        where += " AND (-c.score, c.raised_at, c.id) > (-%(score)s::float8, %(raised_at)s, %(id)s)"
    source = _ALL if query.patient_id is None else _OF_PATIENT
    page = _shown(f"""
SELECT c.* FROM ({source}) AS c
 WHERE {where}
 ORDER BY -c.score, c.raised_at, c.id LIMIT %(limit)s""")
    score, raised_at, its_id = query.after or (None, None, None)
    asked = query._asdict() | {"score": score, "raised_at": raised_at, "id": its_id}
    # planned each time: a plan from when the tables were empty would be kept for good
    cursor = await connection.execute(page, asked, prepare=False)
    return [Candidate.of(row) for row in await cursor.fetchall()]


async def candidate(connection: Connection, tenant: str, its_id: UUID) -> Candidate | None:
    """Return one pair."""
    query = _shown(f"{_ALL} AND id = %(id)s")
    cursor = await connection.execute(query, {"tenant": tenant, "id": its_id})
    row = await cursor.fetchone()
    return Candidate.of(row) if row else None


class Count(NamedTuple):
    """How many pairs there are of a status and a grade, and since when the oldest is there."""

    status: str
    grade: str
    number: int
    oldest: datetime


async def counts(connection: Connection, tenant: str, facility: str | None) -> list[Count]:
    """Count what the lists show, of one facility or of all."""
    query = _COUNTS + _BEST
    if facility is not None:
        query += f" AND {_AT_FACILITY}"
    query += " GROUP BY c.status, c.grade"
    asked = {"tenant": tenant, "facility": facility}
    cursor = await connection.execute(query, asked, prepare=False)
    return [Count(*row) for row in await cursor.fetchall()]
