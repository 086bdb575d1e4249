"""Queries over the search read model: ranked, in any script, page by page.

How results are ordered is in ``search_ranking``, how they are read in ``search_walk``. A patient
met by several rows is given at the best of them, which ``Asked.best`` computes from the patient
alone: nothing is remembered from page to page.
"""

# ruff: noqa: S608  (statements are put together from constants of these modules alone)

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.errors import invalid
from registration.projections.search_ranking import (
    LIKELY_TIERS,
    LITERAL_TIERS,
    TIERS,
    Asked,
    Place,
    score,
    with_likes,
)
from registration.projections.search_walk import COLUMNS, Candidate, Filters, read, walk_of

Connection = AsyncConnection[TupleRow]

MOST_LIMIT = 200
_FEW = 200
"""Up to so many patients of one birth date are ranked by themselves, without ``name_pair``."""
_MOST_SCANNED = 5_000
"""After so many rows that came to nothing a page is given as it is, with where to go on."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What ``GET /v1/patients`` asks, as it came.

    ``identifier`` is ``system|value``; ``birth_date`` ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD``, a
    shorter one meaning all in it. Without any criterion all patients are listed by their ids.
    """

    name: str | None = None
    family: str | None = None
    given: str | None = None
    birth_date: str | None = None
    identifier: str | None = None
    gender: str | None = None
    facility: str | None = None
    fuzzy: bool = False
    include_inactive: bool = False
    limit: int = 20
    cursor: str | None = None


class SearchPage(NamedTuple):
    """A page of results, and the cursor of the next one, ``None`` after the last.

    A page may hold fewer items than asked for (a rare filter on a common name) and yet not be the
    last.
    """

    items: list[dict[str, Any]]
    next: str | None


async def search(connection: Connection, tenant: str, query: SearchQuery) -> SearchPage:
    """Return one page of the tenant's patients that meet the query, best first.

    Raises ``VALIDATION_FAILED`` for a birth date, identifier, limit or cursor that is none.
    """
    if not 1 <= query.limit <= MOST_LIMIT:
        raise invalid("/limit", f"The limit is from 1 to {MOST_LIMIT}.")
    asked = Asked.of(query.name, query.family, query.given)
    if asked is None:
        return SearchPage([], None)
    filters = Filters.of(
        tenant,
        gender=query.gender,
        facility=query.facility,
        birth_date=query.birth_date,
        identifier=query.identifier,
        inactive=query.include_inactive,
    )
    after = _read_cursor(query)
    few = await _few(connection, filters, asked)
    if few is not None:
        if asked.words:
            asked = await with_likes(connection, tenant, asked, fuzzy=query.fuzzy)
        found = _rank(asked, few, after, query.limit)
    elif asked.words:
        found = await _walk(connection, filters, asked, after, query)
    else:
        found = await _list(connection, filters, after, query.limit)
    items = [_item(place, patient) for place, patient in found.placed]
    return SearchPage(items, _write_cursor(query, found.end) if found.end else None)


class _Found(NamedTuple):
    placed: list[tuple[Place, Candidate]]
    end: Place | None
    """Where the next page goes on; ``None`` when there is none."""


_BY_IDENTIFIER = f"""
SELECT {COLUMNS}
  FROM (SELECT DISTINCT patient_id FROM search.identifier
         WHERE tenant = %s AND system = %s AND value = ANY(%s)) AS i
 CROSS JOIN LATERAL (
    SELECT * FROM search.patient WHERE tenant = %s AND id = i.patient_id OFFSET 0
 ) AS p
"""
_BY_BIRTH_DATE = f"""
SELECT {COLUMNS} FROM search.patient AS p
 WHERE p.tenant = %s AND p.birth_date = %s ORDER BY p.tenant, p.birth_date, p.id LIMIT {_FEW + 1}
"""


async def _few(connection: Connection, filters: Filters, asked: Asked) -> list[Candidate] | None:
    """Return all candidates where an identifier or a birth date leaves few, else ``None``."""
    if filters.identifier:
        system, values = filters.identifier
        parameters = [filters.tenant, system, values, filters.tenant]
        cursor = await connection.execute(_BY_IDENTIFIER, parameters)
    elif asked.words and len(filters.born) == 10:
        cursor = await connection.execute(_BY_BIRTH_DATE, [filters.tenant, filters.born])
    else:
        return None
    rows = await cursor.fetchall()
    if len(rows) > _FEW and not filters.identifier:
        return None
    return [patient for patient in map(Candidate.of, rows) if filters.admit(patient)]


def _rank(asked: Asked, few: list[Candidate], after: Place | None, limit: int) -> _Found:
    placed = [
        (place, patient)
        for patient in few
        if (place := asked.best(patient.names, patient.id)) is not None
        and (after is None or place > after)
    ]
    placed.sort(key=lambda one: one[0])
    return _cut(placed, limit)


def _cut(placed: list[tuple[Place, Candidate]], limit: int) -> _Found:
    """Keep a page of what was read for one more than a page."""
    page = placed[:limit]
    return _Found(page, page[-1][0] if len(placed) > limit else None)


async def _list(
    connection: Connection, filters: Filters, after: Place | None, limit: int
) -> _Found:
    """List patients by their ids, no name being asked for."""
    parameters = filters.parameters
    statement = f"SELECT {COLUMNS} FROM search.patient p WHERE p.tenant = %(tenant)s"
    statement += filters.conditions + filters.condition_on_birth("p")
    if not filters.inactive:
        statement += " AND p.active"
    if after is not None:
        statement += " AND p.id > %(after)s"
        parameters["after"] = after.id
    statement += f" ORDER BY p.id LIMIT {_step(limit + 1)}"
    cursor = await connection.execute(statement, parameters)
    patients = map(Candidate.of, await cursor.fetchall())
    return _cut([(Place(0, 0, "", "", "", one.id), one) for one in patients], limit)


async def _walk(
    connection: Connection, filters: Filters, asked: Asked, after: Place | None, query: SearchQuery
) -> _Found:
    """Read tier after tier until the page is full."""
    placed: list[tuple[Place, Candidate]] = []
    scanned = 0
    begin = after
    for tiers in (LITERAL_TIERS, LIKELY_TIERS):
        if begin is not None and begin.tier >= tiers.stop:
            continue
        if tiers is LIKELY_TIERS:
            # What a patient is met by better does not depend on it, so it is looked up only now.
            asked = await with_likes(connection, filters.tenant, asked, fuzzy=query.fuzzy)
        walks = [walk for tier in tiers if (walk := walk_of(asked, tier)) is not None]
        while True:
            left = [walk for walk in walks if begin is None or walk.tier >= begin.tier]
            if not left:
                break
            step = _step(query.limit + 1 - len(placed))
            rows = await read(connection, filters, left, begin, step)
            placed += _met(filters, asked, rows)
            if len(placed) > query.limit:
                return _cut(placed, query.limit)
            begin = rows[-1][0] if rows else begin
            scanned += len(rows)
            if len(rows) < step:
                break
            if scanned >= _MOST_SCANNED:
                return _Found(placed, begin)
    return _cut(placed, query.limit)


def _met(
    filters: Filters, asked: Asked, rows: list[tuple[Place, Candidate]]
) -> list[tuple[Place, Candidate]]:
    """Keep who meets everything, and of one met by several rows the best."""
    return [
        (place, candidate)
        for place, candidate in rows
        if filters.admit(candidate) and asked.best(candidate.names, candidate.id) == place
    ]


def _step(wanted: int) -> int:
    """Round up, so that few statements differ and PostgreSQL keeps their plans."""
    return next(step for step in (25, 51, 101, MOST_LIMIT + 1) if wanted <= step)


def _item(place: Place, patient: Candidate) -> dict[str, Any]:
    return {
        "id": str(patient.id),
        "version": patient.version,
        "active": patient.active,
        "score": score(place),
        **patient.shown,
    }


def _fingerprint(query: SearchQuery) -> str:
    """Return what tells one query's cursors from another's; the limit may change on the way."""
    said = repr(replace(query, limit=0, cursor=None)).encode("utf-8", "surrogatepass")
    return blake2b(said, digest_size=6).hexdigest()


def _write_cursor(query: SearchQuery, place: Place) -> str:
    said = orjson.dumps([_fingerprint(query), *place])
    return urlsafe_b64encode(said).rstrip(b"=").decode()


def _read_cursor(query: SearchQuery) -> Place | None:
    if query.cursor is None:
        return None
    try:
        said = urlsafe_b64decode(query.cursor[:2000] + "==")
        fingerprint, tier, cost, word, role, other, patient_id = orjson.loads(said)
        place = Place(int(tier), int(cost), str(word), str(role), str(other), UUID(patient_id))
    except (ValueError, TypeError, AttributeError):
        fingerprint, place = "", None
    if place is None or fingerprint != _fingerprint(query) or not 0 <= place.tier < len(TIERS):
        raise invalid("/cursor", "The cursor is not one that this search gave.")
    return place
