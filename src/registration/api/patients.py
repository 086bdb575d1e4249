"""Reading patients: one, its parts, its history; the search."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from registration.api.openapi import problems
from registration.api.past_search import search_past
from registration.api.reading import (
    AggregateId,
    Page,
    from_view,
    history_of,
    instant,
    json_answer,
    loaded_aggregate,
    versioned,
)
from registration.api.requests import Reader, saw
from registration.api.wire import FoundPatients, History
from registration.domain.errors import not_found
from registration.domain.patient_resource import Patient
from registration.domain.resources import Identifier, Name, NextOfKin
from registration.projections.search import NAME
from registration.projections.search_query import SearchQuery, search

router = APIRouter()


@router.get(
    "/v1/patients/{id}/history",
    operation_id="patient.history",
    summary="Every event of a patient, oldest first",
    response_model=History,
    responses=problems(
        "FORBIDDEN", "NOT_FOUND", "VALIDATION_FAILED", "READ_MODEL_BEHIND", "UNAVAILABLE"
    ),
    tags=["patients"],
)
async def history(
    request: Request, caller: Reader, patient_id: AggregateId, page: Annotated[Page, Query()]
) -> Response:
    """Return who did what to the record and when, with each event's place in the hash chain."""
    return await history_of(request, caller, Patient, patient_id, page)


_ENTRIES = (
    # path, parameter, member of the resource, operation, summary, what comes back
    ("names", "nameId", "names", "patient.name", "One name", Name),
    (
        "identifiers",
        "identifierId",
        "identifiers",
        "patient.identifier",
        "One identifier",
        Identifier,
    ),
    ("next-of-kin", "nokId", "nextOfKin", "patient.next_of_kin", "One next of kin", NextOfKin),
)


def _entry_endpoint(member: str, parameter: str) -> Callable[..., Awaitable[Response]]:
    async def entry(
        request: Request,
        caller: Reader,
        patient_id: AggregateId,
        entry_id: Annotated[UUID, Path(alias=parameter)],
    ) -> Response:
        """Return one live entry of a patient, as the Location of its creation names it."""
        patient = await loaded_aggregate(request, caller, Patient, patient_id)
        for found in patient.plain()[member]:
            if found["id"] == str(entry_id):
                return versioned(request, patient.version, found)
        raise not_found("entry")

    return entry


for _path, _parameter, _member, _operation, _summary, _model in _ENTRIES:
    router.add_api_route(
        f"/v1/patients/{{id}}/{_path}/{{{_parameter}}}",
        _entry_endpoint(_member, _parameter),
        operation_id=_operation,
        summary=_summary,
        response_model=_model,
        responses=problems("UNAUTHENTICATED", "FORBIDDEN", "NOT_FOUND", "VALIDATION_FAILED"),
        tags=["patients"],
    )


class PatientSearch(Page):
    """What to search patients by; all given criteria must hold."""

    name: Annotated[
        str | None,
        Field(max_length=200, pattern=r"\S", description="Words of the name, any order"),
    ] = None
    family: Annotated[str | None, Field(max_length=200, pattern=r"\S")] = None
    given: Annotated[str | None, Field(max_length=200, pattern=r"\S")] = None
    birth_date: Annotated[
        str | None,
        Field(
            pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$",
            description="FHIR date; a year or month finds all in it",
        ),
    ] = None
    identifier: Annotated[
        str | None,
        Field(max_length=401, pattern=r"^[^|\s]+\|.+$", description="system|value, exact"),
    ] = None
    gender: Literal["male", "female", "other", "unknown"] | None = None
    facility: Annotated[str | None, Field(max_length=64)] = None
    fuzzy: bool = False
    include_inactive: bool = False
    as_of: Annotated[
        str | None,
        Field(
            description="As patients were known at this instant; by a name, in whole words, or an "
            "identifier"
        ),
    ] = None


@router.get(
    "/v1/patients",
    operation_id="patient.search",
    summary="Search patients, best first, in any script",
    response_model=FoundPatients,
    responses=problems(
        "UNAUTHENTICATED", "FORBIDDEN", "VALIDATION_FAILED", "READ_MODEL_BEHIND", "UNAVAILABLE"
    ),
    tags=["patients"],
)
async def search_patients(
    request: Request, caller: Reader, query: Annotated[PatientSearch, Query()]
) -> Response:
    """Search the read model; ``minPosition`` makes it include what the caller wrote.

    With `asOf` the answer is who met the criteria then, each as it was known then, by their ids.
    """
    asked = SearchQuery(**query.model_dump(exclude={"min_position", "as_of"}))
    as_of = instant(query.as_of, "/asOf")
    if as_of is not None:
        return await search_past(request, caller, asked, as_of, query.min_position)
    page = await from_view(
        request,
        NAME,
        caller.tenant,
        query.min_position,
        lambda view: search(view, caller.tenant, asked),
    )
    saw(request, (item["id"] for item in page.items))
    return json_answer({"items": page.items, "next": page.next})
