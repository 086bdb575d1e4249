"""Who may be meant: patients found by their block keys and compared, without storing anything."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.mpi.model import Comparison
from registration.mpi.record import MatchRecord, decode
from registration.projections.matching_model import in_use
from registration.projections.matching_tables import nearest

Connection = AsyncConnection[TupleRow]

_NEAREST = nearest("matching.", "p.id, p.current_id, p.record, p.display, p.birth_date, p.gender")


class Near(NamedTuple):
    """A patient that may be meant, as a list shows it."""

    id: UUID
    current_id: UUID
    data: bytes
    display: str
    birth_date: str | None
    gender: str


class Match(NamedTuple):
    """A patient and how it compares with what was asked for."""

    patient: Near
    made: Comparison


async def near(connection: Connection, tenant: str, keys: Sequence[int]) -> list[Near]:
    """Return the patients that share most of the block keys: one round trip."""
    asked = {"tenant": tenant, "keys": list(keys), "id": None}
    # planned each time: a plan from when the tables were small would be kept for good
    cursor = await connection.execute(_NEAREST, asked, binary=True, prepare=False)
    return [Near(*row) for row in await cursor.fetchall()]


def best(record: MatchRecord, found: Iterable[Near], limit: int) -> list[Match]:
    """Return who may be meant, best first: of the faces of one person the best alone."""
    model = in_use()
    compared = (Match(each, model.score(record, decode(each.data))) for each in found)
    graded = [match for match in compared if match.made.grade is not None]
    graded.sort(key=lambda match: (-match.made.weight, match.patient.id))
    persons: dict[UUID, Match] = {}
    for match in graded:
        persons.setdefault(match.patient.current_id, match)
    return list(persons.values())[:limit]
