"""Who may be meant: a person described as at a registration, compared with everybody."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from registration.api.command_table import JSON
from registration.api.json_body import parse
from registration.api.mpi_wire import Matched, MatchQuery
from registration.api.openapi import problems
from registration.api.reading import Freshness, from_view, json_answer
from registration.api.requests import IndexReader, read_body, saw, services
from registration.domain.dates import confirm_birth_date
from registration.domain.validation import validated
from registration.mpi.blocking import block_keys
from registration.mpi.record import record_of
from registration.projections.matching import NAME
from registration.projections.matching_query import best, near

router = APIRouter(tags=["mpi"])


class MatchPage(Freshness):
    """How many to name, and how recent the answer has to be."""

    limit: Annotated[int, Field(ge=1, le=50)] = 10


@router.post(
    "/v1/mpi/match",
    operation_id="mpi.match",
    summary="Who may be meant by what is known of a person; stores nothing",
    response_model=Matched,
    responses=problems(
        "MALFORMED_REQUEST",
        "FORBIDDEN",
        "PAYLOAD_TOO_LARGE",
        "UNSUPPORTED_MEDIA_TYPE",
        "VALIDATION_FAILED",
        "READ_MODEL_BEHIND",
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/MatchQuery"}}
            },
        },
    },
)
async def match(
    request: Request, caller: IndexReader, page: Annotated[MatchPage, Query()]
) -> Response:
    """Return patients who may be the person described, one entry a person."""
    its = services(request)
    body = await read_body(request, its.settings.body_limit, JSON)
    parse(body)
    asked = validated(MatchQuery, body)
    if asked.birth_date is not None:
        confirm_birth_date(asked.birth_date, its.clock())
    record = record_of(
        asked.names,
        asked.gender,
        asked.birth_date,
        asked.birth_date_estimated,
        asked.identifiers,
        asked.telecom,
        asked.addresses,
    )
    keys = block_keys(record)
    found = await from_view(
        request,
        NAME,
        caller.tenant,
        page.min_position,
        lambda view: near(view, caller.tenant, keys),
    )
    matches = best(record, found, page.limit)
    saw(request, (each.id for each, _ in matches))
    return json_answer(
        {
            "items": [
                {
                    "patientId": each.id,
                    "currentPatientId": each.current_id,
                    "score": made.score,
                    "grade": made.grade,
                    "agreement": made.agreement,
                    "display": orjson.Fragment(each.display),
                    "birthDate": each.birth_date,
                    "gender": each.gender,
                }
                for each, made in matches
            ]
        }
    )
