"""Requests to erase a patient over HTTP: one, the list, the history.

Requesting, approving and refusing are commands: see ``command_table``.
"""

from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from registration.api.cursors import next_place, place_of
from registration.api.openapi import problems
from registration.api.reading import AggregateId, Page, from_view, history_of, json_answer
from registration.api.requests import ErasureReader, saw
from registration.api.wire import ErasureList, History
from registration.domain.erasure import Erasure, ErasureStatus
from registration.projections.erasures import NAME, ErasureQuery, list_erasures

router = APIRouter(tags=["erasures"])

_PROBLEMS = problems("FORBIDDEN", "NOT_FOUND", "VALIDATION_FAILED", "READ_MODEL_BEHIND")


class ErasureSearch(Page):
    """What to list; all given criteria must hold."""

    status: ErasureStatus | None = None
    patient_id: UUID | None = None


@router.get(
    "/v1/erasures",
    operation_id="erasure.list",
    summary="Requests to erase a patient, the oldest first",
    response_model=ErasureList,
    responses=_PROBLEMS,
)
async def erasures(
    request: Request, caller: ErasureReader, query: Annotated[ErasureSearch, Query()]
) -> Response:
    """Return requests: with `status=requested`, those that wait for approval."""
    asked = ErasureQuery(
        caller.tenant, query.status, query.patient_id, place_of(query.cursor), query.limit + 1
    )
    rows = await from_view(
        request, NAME, caller.tenant, query.min_position, lambda view: list_erasures(view, asked)
    )
    items = [orjson.loads(document) for _, _, document in rows[: query.limit]]
    saw(request, (item["patientId"] for item in items))
    return json_answer({"items": items, "next": next_place(rows, query.limit)})


@router.get(
    "/v1/erasures/{id}/history",
    operation_id="erasure.history",
    summary="Every event of a request to erase a patient, oldest first",
    response_model=History,
    responses=_PROBLEMS,
)
async def history(
    request: Request, caller: ErasureReader, erasure_id: AggregateId, page: Annotated[Page, Query()]
) -> Response:
    """Return who decided what and when, with each event's place in the hash chain."""
    return await history_of(request, caller, Erasure, erasure_id, page)
