"""Encounters over HTTP: one, its history, lists, the board of a day, and the state machine."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from registration.api.auth import Caller
from registration.api.command_table import CommandRoute
from registration.api.commands import answer, carried_out
from registration.api.cursors import next_place, place_of
from registration.api.openapi import problems
from registration.api.reading import (
    AggregateId,
    Page,
    as_it_stood,
    from_view,
    has,
    history_of,
    instant,
    json_answer,
)
from registration.api.requests import AnyCaller, EncounterReader, saw, services
from registration.api.wire import EncounterBoard, EncounterList, History, StateMachine
from registration.domain.encounter import INITIAL, STATUSES, TERMINAL, TRANSITIONS, Encounter
from registration.domain.errors import invalid
from registration.domain.resources import EncounterStatus, Facility
from registration.lineage import Current, current_patient
from registration.projections.encounters import (
    NAME,
    BoardQuery,
    EncounterQuery,
    board,
    list_encounters,
)

router = APIRouter(tags=["encounters"])

CURRENT = "currentPatientId"
"""The member that says under which record the patient of an encounter is found now."""
_PROBLEMS = problems("FORBIDDEN", "NOT_FOUND", "VALIDATION_FAILED", "READ_MODEL_BEHIND")
Statuses = Annotated[
    list[EncounterStatus] | None,
    Field(max_length=8, description="Any of these; may stand more than once"),
]


@router.get(
    "/v1/encounters/state-machine",
    operation_id="encounter.state_machine",
    summary="Which status may follow which",
    response_model=StateMachine,
    responses=problems("UNAUTHENTICATED"),
)
async def state_machine(_caller: AnyCaller) -> dict[str, Any]:
    """Return the table that the service itself reads."""
    return {
        "statuses": STATUSES,
        "initial": INITIAL,
        "terminal": [status for status in STATUSES if status in TERMINAL],
        "transitions": [
            {
                "from": move.source,
                "to": move.target,
                "event": move.event.TOPIC,
                "needsReason": move.needs_reason,
                "case": move.case,
            }
            for move in TRANSITIONS.values()
        ],
    }


async def read(request: Request) -> Response:
    """Return one encounter, now or as it stood; its patient as that is found now in any case.

    No 304 where the patient was merged ever: the version alone does not tell whether the caller
    has the ``currentPatientId`` of now.
    """
    caller, encounter = await as_it_stood(request, Encounter)
    current = await _current(request, caller, encounter)
    headers = {"ETag": f'"{encounter.version}"'}
    if current.always and has(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return json_answer({**encounter.plain(), CURRENT: current.patient_id}, headers)


async def carry_out(request: Request, route: CommandRoute) -> Response:
    """Carry out a command on an encounter; the answer says where its patient is found now."""
    caller, reply = await carried_out(request, route)
    if "encounter:read" not in caller.scopes:
        return answer(request, reply, caller)
    encounter: Any = reply.aggregate
    if reply.created and not reply.replayed:
        found_under = encounter.state.patient_id  # none is opened of a merged-away record
    else:
        found_under = (await _current(request, caller, encounter)).patient_id
    return answer(request, reply, caller, {CURRENT: found_under})


async def _current(request: Request, caller: Caller, encounter: Any) -> Current:
    store = services(request).store
    return await current_patient(store, caller.tenant, encounter.state.patient_id)


def shown(document: str, current: UUID) -> dict[str, Any]:
    """Return an encounter of the read model as the wire shows it."""
    return {**orjson.loads(document), CURRENT: current}


class EncounterSearch(Page):
    """What to list; all given criteria must hold."""

    patient_id: Annotated[
        UUID | None,
        Field(description="And of all records that belong to the person by merges, either way"),
    ] = None
    status: Statuses = None
    facility: Facility | None = None
    since: Annotated[
        str | None, Field(alias="from", description="Arrived, or expected, at or after")
    ] = None
    until: Annotated[str | None, Field(alias="to", description="Arrived, or expected, before")] = (
        None
    )


@router.get(
    "/v1/encounters",
    operation_id="encounter.list",
    summary="Encounters, the earliest first",
    response_model=EncounterList,
    responses=_PROBLEMS,
)
async def encounters(
    request: Request, caller: EncounterReader, query: Annotated[EncounterSearch, Query()]
) -> Response:
    """Return encounters by when the patient came or is expected."""
    asked = EncounterQuery(
        caller.tenant,
        query.patient_id,
        query.status or (),
        query.facility,
        instant(query.since, "/from"),
        instant(query.until, "/to"),
        place_of(query.cursor),
        query.limit + 1,
    )
    rows = await from_view(
        request,
        NAME,
        caller.tenant,
        query.min_position,
        lambda view: list_encounters(view, asked),
    )
    items = [shown(*row[2:]) for row in rows[: query.limit]]
    saw(request, (item["patientId"] for item in items))
    return json_answer(
        {
            "items": items,
            "next": next_place(rows, query.limit),
        }
    )


class BoardSearch(Page):
    """Whose board: a day of a facility, or of all."""

    facility: Facility | None = None
    day: Annotated[
        str | None,
        Field(
            pattern=r"^(19|20|21)\d\d-\d\d-\d\d$",
            json_schema_extra={"format": "date"},
            description="Today, if absent",
        ),
    ] = None
    status: Annotated[
        Statuses, Field(description="Any of these; all but entered-in-error, if absent")
    ] = None


@router.get(
    "/v1/encounters/board",
    operation_id="encounter.board",
    summary="Who is there, was there or is expected on a day, with waiting times",
    response_model=EncounterBoard,
    responses=_PROBLEMS,
)
async def encounter_board(
    request: Request, caller: EncounterReader, query: Annotated[BoardSearch, Query()]
) -> Response:
    """Return a day's encounters, the earliest first, and how many there are of each status.

    A day is one of the time zone that the installation is set to. Waiting counts from the arrival
    to the start of care, and runs on until then. `counts` are those of the whole day, whatever
    `status` and the page show.
    """
    its = services(request)
    zone = ZoneInfo(its.settings.time_zone)
    now = its.clock()
    day = _day(query.day) or now.astimezone(zone).date()
    asked = BoardQuery(
        caller.tenant,
        datetime.combine(day, time(), zone).astimezone(UTC),
        datetime.combine(day + timedelta(days=1), time(), zone).astimezone(UTC),
        now,
        query.facility,
        query.status or (),
        place_of(query.cursor),
        query.limit + 1,
    )
    found = await from_view(
        request, NAME, caller.tenant, query.min_position, lambda view: board(view, asked)
    )
    items = [
        {**shown(document, current), "waitingSeconds": waited, "staySeconds": stayed}
        for _, _, document, current, waited, stayed in found.items[: query.limit]
    ]
    saw(request, (item["patientId"] for item in items))
    return json_answer(
        {
            "day": day,
            "timeZone": its.settings.time_zone,
            "counts": {
                status: {
                    "count": count,
                    "longestWaitSeconds": longest,
                    "medianWaitSeconds": median,
                }
                for status, count, longest, median in found.counts
            },
            "items": items,
            "next": next_place(found.items, query.limit),
        }
    )


def _day(said: str | None) -> date | None:
    try:
        return None if said is None else date.fromisoformat(said)
    except ValueError:
        raise invalid("/day", "is no day of the calendar") from None


@router.get(
    "/v1/encounters/{id}/history",
    operation_id="encounter.history",
    summary="Every event of an encounter, oldest first",
    response_model=History,
    responses=_PROBLEMS,
)
async def history(
    request: Request,
    caller: EncounterReader,
    encounter_id: AggregateId,
    page: Annotated[Page, Query()],
) -> Response:
    """Return who moved the encounter on and when, with each event's place in the hash chain."""
    return await history_of(request, caller, Encounter, encounter_id, page)
