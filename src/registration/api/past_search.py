"""Searching patients as they were known at an instant."""

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from registration.api.auth import Caller
from registration.api.cursors import decode_cursor, encode_cursor
from registration.api.reading import from_view, json_answer, known_at
from registration.api.requests import saw, services
from registration.domain.errors import invalid
from registration.domain.patient_resource import Patient
from registration.eventstore.moments import just_after, position_before
from registration.eventstore.store import LoadRequest
from registration.projections.past import NAME, PastQuery, ever_called
from registration.projections.search_query import SearchQuery
from registration.projections.search_ranking import Asked
from registration.projections.search_walk import Filters

MOST_CANDIDATES = 200
"""Patients whose history is looked at for one search."""


async def search_past(
    request: Request,
    caller: Caller,
    query: SearchQuery,
    as_of: datetime,
    min_position: int | None,
) -> Response:
    """Return who met the query at an instant, by their ids; each as it was known then.

    Raises ``VALIDATION_FAILED`` for a query that names nobody, or too many: what cannot be looked
    at whole is not answered in part.
    """
    asked = _asked(caller.tenant, query)
    if asked is None:
        saw(request, ())
        return json_answer({"items": [], "next": None})
    its, tenant = services(request), caller.tenant
    known = await from_view(
        request, NAME, tenant, None, lambda view: position_before(view, tenant, just_after(as_of))
    )
    candidates = await from_view(
        request,
        NAME,
        tenant,
        max(known, min_position or 0),
        lambda view: ever_called(view, tenant, asked, MOST_CANDIDATES + 1),
    )
    if len(candidates) > MOST_CANDIDATES:
        raise invalid("/asOf", f"more than {MOST_CANDIDATES} patients ever bore this: say more")
    after = _place(query.cursor)
    loaded = await asyncio.gather(
        *(its.store.load(LoadRequest(tenant, each)) for each in candidates if each > after)
    )
    histories = (known_at(as_of, read.events) for read in loaded)
    there = (each for each in histories if each and not each[0].is_about_the_erased)
    patients = (Patient.of(each[0].stream_id, each) for each in there)
    found = [patient for patient in patients if patient is not None and asked.meets(patient)]
    shown = found[: query.limit]
    saw(request, (patient.id for patient in shown))
    more = len(found) > query.limit
    return json_answer(
        {
            "items": [_item(patient) for patient in shown],
            "next": encode_cursor(str(shown[-1].id)) if more else None,
        }
    )


def _asked(tenant: str, query: SearchQuery) -> PastQuery | None:
    """Return what is asked; ``None`` where a name is asked for that has no word at all."""
    if query.fuzzy:
        raise invalid("/fuzzy", "cannot be combined with asOf: names of the past are met as spelt")
    words = Asked.of(query.name, query.family, query.given)
    if words is None:
        return None
    filters = Filters.of(
        tenant,
        gender=query.gender,
        facility=query.facility,
        birth_date=query.birth_date,
        identifier=query.identifier,
        inactive=query.include_inactive,
    )
    asked = PastQuery(words, filters)
    if not asked.says_who:
        raise invalid("/asOf", "needs a name or an identifier to search by")
    return asked


def _place(cursor: str | None) -> UUID:
    if cursor is None:
        return UUID(int=0)
    try:
        return UUID(decode_cursor(cursor))
    except (ValueError, TypeError, AttributeError):
        raise invalid("/cursor", "is no cursor of this list") from None


def _item(patient: Patient) -> dict[str, Any]:
    shown = patient.plain()
    members = ("display", "names", "gender", "birthDate", "identifiers", "facility")
    return {
        "id": patient.id,
        "version": patient.version,
        "active": shown["active"],
        "score": 1.0,
        **{name: shown.get(name) for name in members},
    }
