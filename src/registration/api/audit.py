"""For auditors: what was done (the log, filtered) and what was seen (the access log)."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from registration.access_query import (
    MOST_GAPS,
    Accessed,
    AccessQuery,
    Gap,
    find_gaps,
    find_reads,
)
from registration.api.auth import Caller
from registration.api.cursors import encode_cursor, place_of
from registration.api.openapi import problems
from registration.api.reading import AggregateId, Part, from_view, instant, json_answer
from registration.api.requests import AuditReader, detached, saw, services
from registration.api.wire_audit import AccessList, AuditedEvents
from registration.audit_trail import shown_event, shown_gap, shown_read
from registration.domain.errors import invalid, not_found
from registration.domain.patient_resource import Patient
from registration.eventstore.mapper import TOPICS
from registration.eventstore.store import LoadRequest
from registration.projections.audit import NAME, AuditQuery, find_events

router = APIRouter(tags=["audit"])

_FLUSH_SECONDS = 1.0
_PROBLEMS = problems("FORBIDDEN", "VALIDATION_FAILED", "READ_MODEL_BEHIND")
Actor = Annotated[str | None, Field(max_length=255, description="The `sub` of who did it")]
Since = Annotated[str | None, Field(alias="from", description="At or after this instant")]
Until = Annotated[str | None, Field(alias="to", description="Before this instant")]


class EventSearch(BaseModel):
    """Which events to list; all given criteria must hold."""

    model_config = ConfigDict(alias_generator=to_camel, hide_input_in_errors=True)

    after: Annotated[int, Field(ge=0, lt=2**62, description="Events past this position")] = 0
    type: Annotated[str | None, Field(max_length=64)] = None
    actor: Actor = None
    patient_id: Annotated[
        UUID | None, Field(description="Their own events, those of their encounters and merges")
    ] = None
    since: Since = None
    until: Until = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    min_position: Annotated[
        int | None,
        Field(ge=0, lt=2**63, description="Wait up to 2 s until the answer includes this position"),
    ] = None

    @field_validator("type")
    @classmethod
    def _is_known(cls, kind: str | None) -> str | None:
        # a slip of the pen must not read as "nothing happened"
        if kind is not None and kind not in TOPICS:
            raise ValueError("is no type of event")
        return kind

    @field_validator("actor")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("holds a NUL character")
        return value


@router.get(
    "/v1/audit/events",
    operation_id="audit.events",
    summary="What was done, in the order of the log",
    response_model=AuditedEvents,
    responses=_PROBLEMS,
)
async def audit_events(
    request: Request, caller: AuditReader, query: Annotated[EventSearch, Query()]
) -> Response:
    """Return events of the log; with patient:read, also what each one says.

    By time alone they are read from the log itself. By type, actor or patient they are found
    through a read model; `position` says how far that had come.
    """
    asked = AuditQuery(
        caller.tenant,
        query.after,
        query.type,
        query.actor,
        query.patient_id,
        *_time(query),
        query.limit + 1,
    )
    found = await from_view(
        request, NAME, caller.tenant, query.min_position, lambda view: find_events(view, asked)
    )
    shown = found.events[: query.limit]
    saw(request, (its_id for event in shown for its_id in found.subjects[event.stream_id]))
    with_data = Patient.READ_SCOPE in caller.scopes
    return json_answer(
        {
            "items": [
                shown_event(event, found.subjects[event.stream_id], with_data=with_data)
                for event in shown
            ],
            "next": shown[-1].position if len(found.events) > query.limit else None,
            "position": found.position,
        }
    )


class PatientAccessSearch(Part):
    """Which reads of a patient to list; all given criteria must hold."""

    actor: Actor = None
    break_glass: Annotated[bool, Field(description="Only with broken glass")] = False
    since: Since = None
    until: Until = None


class AccessSearch(PatientAccessSearch):
    """Which reads to list; all given criteria must hold."""

    patient_id: UUID | None = None


@router.get(
    "/v1/audit/access",
    operation_id="audit.access",
    summary="Who read what, the newest first",
    response_model=AccessList,
    responses=_PROBLEMS,
)
async def audit_access(
    request: Request, caller: AuditReader, query: Annotated[AccessSearch, Query()]
) -> Response:
    """Return who read data of which patient, when and why, and what is missing of that."""
    return await _reads(request, caller, query, query.patient_id)


@router.get(
    "/v1/patients/{id}/access",
    operation_id="patient.access",
    summary="Who saw this record, the newest first",
    response_model=AccessList,
    responses=_PROBLEMS | problems("NOT_FOUND"),
)
async def patient_access(
    request: Request,
    caller: AuditReader,
    patient_id: AggregateId,
    query: Annotated[PatientAccessSearch, Query()],
) -> Response:
    """Return who read this patient's data, for an auditor to answer the patient's question."""
    first = await services(request).store.load(LoadRequest(caller.tenant, patient_id, until=1))
    if Patient.of(patient_id, first.events) is None:
        raise not_found("patient")
    return await _reads(request, caller, query, patient_id)


def _time(query: EventSearch | PatientAccessSearch) -> tuple[datetime | None, datetime | None]:
    """Return the time that was asked for; none at all must not read as "nothing happened"."""
    since, until = instant(query.since, "/from"), instant(query.until, "/to")
    if since is not None and until is not None and since >= until:
        raise invalid("/to", "must be later than from")
    return since, until


async def _reads(
    request: Request, caller: Caller, query: PatientAccessSearch, patient_id: UUID | None
) -> Response:
    its = services(request)
    asked = AccessQuery(
        caller.tenant,
        patient_id,
        query.actor,
        query.break_glass,
        *_time(query),
        place_of(query.cursor),
        query.limit + 1,
    )
    # what this process showed so far is in the answer, or it is late by as much as the database
    await its.access.flush(_FLUSH_SECONDS)

    async def found() -> tuple[list[Accessed], list[Gap]]:
        async with its.views.connection() as view:
            reads = await find_reads(view, asked)
            return reads, await find_gaps(view, asked.tenant, asked.since, asked.until)

    reads, gaps = await detached(found())
    shown = reads[: query.limit]
    saw(request, [patient_id] if patient_id else [r.patient_id for r in shown if r.patient_id])
    last = shown[-1] if len(reads) > query.limit else None
    return json_answer(
        {
            "items": [shown_read(read) for read in shown],
            "next": last and encode_cursor([last.at.isoformat(), str(last.id)]),
            "gaps": [shown_gap(gap) for gap in gaps[:MOST_GAPS]],
            "moreGaps": len(gaps) > MOST_GAPS,
        }
    )
