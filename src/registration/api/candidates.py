"""Possible duplicates over HTTP: the queue, one pair side by side, and finding it two persons."""

import asyncio
import math
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from registration.api.auth import Caller
from registration.api.command_table import CommandRoute
from registration.api.commands import answer, command_of, no_query
from registration.api.cursors import decode_cursor, encode_cursor
from registration.api.json_body import parse
from registration.api.mpi_wire import (
    CandidateCounts,
    CandidateDetail,
    CandidateList,
    CandidateStatus,
    Grade,
)
from registration.api.openapi import problems
from registration.api.reading import (
    AggregateId,
    Freshness,
    Page,
    from_view,
    json_answer,
    loaded_aggregate,
)
from registration.api.requests import (
    IndexReader,
    authenticated,
    context_of,
    path_id,
    read_body,
    saw,
    services,
)
from registration.command import require_scope
from registration.domain import candidate as decided
from registration.domain.commands import DismissCandidate, Reason
from registration.domain.contract import rule_for
from registration.domain.errors import invalid, not_found
from registration.domain.patient_resource import Patient
from registration.domain.resources import Facility
from registration.domain.validation import validated
from registration.projections.matching import NAME
from registration.projections.matching_queue import (
    Candidate,
    CandidateQuery,
    Count,
    Place,
    candidate,
    candidates,
    counts,
)

router = APIRouter(tags=["mpi"])

_PROBLEMS = problems("FORBIDDEN", "NOT_FOUND", "VALIDATION_FAILED", "READ_MODEL_BEHIND")


class CandidateSearch(Page):
    """Which pairs to list; all given criteria must hold."""

    status: CandidateStatus = "open"
    grade: Grade | None = None
    facility: Annotated[Facility | None, Field(description="That of either record")] = None
    min_score: Annotated[float | None, Field(ge=0, le=1)] = None
    patient_id: Annotated[
        UUID | None, Field(description="Pairs of this patient's, whichever record it is found as")
    ] = None


@router.get(
    "/v1/mpi/candidates",
    operation_id="mpi.candidates",
    summary="Possible duplicates, the likeliest first",
    response_model=CandidateList,
    responses=problems("FORBIDDEN", "VALIDATION_FAILED", "READ_MODEL_BEHIND"),
)
async def list_candidates(
    request: Request, caller: IndexReader, query: Annotated[CandidateSearch, Query()]
) -> Response:
    """Return pairs of records that may be one person's, of equally likely ones the oldest first.

    Where several records of the same two persons look alike, the likeliest pair stands for all.
    """
    asked = CandidateQuery(
        caller.tenant,
        query.status,
        query.grade,
        query.facility,
        query.min_score,
        query.patient_id,
        _after(query.cursor),
        query.limit + 1,
    )
    found = await from_view(
        request, NAME, caller.tenant, query.min_position, lambda view: candidates(view, asked)
    )
    page = found[: query.limit]
    saw(request, (its_id for each in page for its_id in (each.one.id, each.other.id)))
    return json_answer(
        {
            "items": [each.shown() for each in page],
            "next": encode_cursor(page[-1].place) if len(found) > query.limit else None,
        }
    )


def _after(cursor: str | None) -> Place | None:
    if cursor is None:
        return None
    try:
        score, raised_at, its_id = decode_cursor(cursor)
        place = float(score), datetime.fromisoformat(raised_at).astimezone(UTC), UUID(its_id)
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise invalid("/cursor", "is no cursor of this list") from None
    if not math.isfinite(place[0]):
        raise invalid("/cursor", "is no cursor of this list")
    return place


class CountSearch(Freshness):
    """What to count."""

    facility: Annotated[Facility | None, Field(description="That of either record")] = None


@router.get(
    "/v1/mpi/candidates/counts",
    operation_id="mpi.candidate_counts",
    summary="How many possible duplicates there are, and how long one waits",
    response_model=CandidateCounts,
    responses=problems("FORBIDDEN", "VALIDATION_FAILED", "READ_MODEL_BEHIND"),
)
async def count_candidates(
    request: Request, caller: IndexReader, query: Annotated[CountSearch, Query()]
) -> Response:
    """Count what the lists show: by status, and of the open ones by grade."""
    found: list[Count] = await from_view(
        request,
        NAME,
        caller.tenant,
        query.min_position,
        lambda view: counts(view, caller.tenant, query.facility),
    )
    status = {"open": 0, "merged": 0, "dismissed": 0}
    grade = {"certain": 0, "probable": 0, "possible": 0}
    for each in found:
        status[each.status] += each.number
        if each.status == "open":
            grade[each.grade] += each.number
    oldest = min((each.oldest for each in found if each.status == "open"), default=None)
    waits = None if oldest is None else services(request).clock() - oldest
    return json_answer(
        {
            "status": status,
            "openGrade": grade,
            "oldestOpenAt": oldest,
            "oldestOpenSeconds": None if waits is None else max(0, int(waits.total_seconds())),
        }
    )


@router.get(
    "/v1/mpi/candidates/{id}",
    operation_id="mpi.candidate",
    summary="A possible duplicate, both records side by side",
    response_model=CandidateDetail,
    responses=_PROBLEMS,
)
async def get_candidate(
    request: Request,
    caller: IndexReader,
    candidate_id: AggregateId,
    query: Annotated[Freshness, Query()],
) -> Response:
    """Return a pair with what each field says and, with patient:read, where the records differ."""
    found = await _found(request, caller, candidate_id, query.min_position)
    if found is None:
        raise not_found("candidate")
    levels, agreement = orjson.loads(found.levels), orjson.loads(found.agreement)
    shown = found.shown()
    shown["fields"] = [
        {"field": name, "level": levels.get(name), "weight": agreement.get(name)}
        for name in dict.fromkeys([*levels, *agreement])
    ]
    if Patient.READ_SCOPE in caller.scopes:
        left, right = await asyncio.gather(
            loaded_aggregate(request, caller, Patient, found.one.id),
            loaded_aggregate(request, caller, Patient, found.other.id),
        )
        shown["records"] = [orjson.Fragment(each.encoded()) for each in (left, right)]
        shown["differences"] = decided.differences(left.plain(), right.plain())
    saw(request, (found.one.id, found.other.id))
    return json_answer(shown)


async def _found(
    request: Request, caller: Caller, its_id: UUID, position: int | None = None
) -> Candidate | None:
    return await from_view(
        request, NAME, caller.tenant, position, lambda view: candidate(view, caller.tenant, its_id)
    )


async def dismiss(request: Request, route: CommandRoute) -> Response:
    """Find a pair to be two persons, on the evidence that the queue has for it now."""
    request.scope["observation"].operation = route.operation.value
    its = services(request)
    caller = await authenticated(request)
    require_scope(caller.scopes, rule_for(route.operation).scope)
    no_query(request)
    body = await read_body(request, its.settings.body_limit, route.media_types)
    said: dict[str, Any] = parse(body)
    reason = validated(Reason, body).reason
    its_id = path_id(request, "id", "candidate")
    context = context_of(caller, its)
    seen = await _found(request, caller, its_id)
    if seen is not None:
        pair, evidence = (seen.one.id, seen.other.id), seen.evidence
    else:
        # gone from the queue: only who has dismissed it before with this key is answered
        before = await loaded_aggregate(request, caller, decided.Candidate, its_id)
        pair, evidence = before.state.patient_ids, before.state.evidence
    payload = DismissCandidate(patient_ids=pair, evidence=evidence, reason=reason)
    # two requests are the same by what was said, whatever the queue has by then
    command = command_of(request, route, payload, said)
    if seen is None and (
        command.key is None or await its.gate.version_before(command, context) is None
    ):
        raise not_found("candidate")
    reply = await its.gate.handle(command, context)
    return answer(request, reply._replace(created=False), caller)
