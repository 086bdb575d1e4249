"""Reading patients: one, as it is or as it stood; its parts; its history; the search."""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Path, Query
from psycopg import AsyncConnection
from psycopg.errors import InvalidSchemaName, UndefinedTable
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from registration.api.cursors import decode_cursor, encode_cursor
from registration.api.openapi import problems
from registration.api.requests import (
    Reader,
    authenticated,
    detached,
    path_id,
    services,
)
from registration.api.wire import FoundPatients, History
from registration.domain.errors import DomainError, invalid, not_found
from registration.domain.patient_resource import Patient
from registration.domain.resources import Identifier, Name, NextOfKin
from registration.eventstore.records import RecordedEvent
from registration.eventstore.store import LATEST, LoadRequest
from registration.gate import require_scope
from registration.projections.search import NAME
from registration.projections.search_query import SearchPage, SearchQuery, search
from registration.projections.status import wait_for

router = APIRouter()

PatientId = Annotated[UUID, Path(alias="id")]

_POSITION_WAIT = 2.0
_QUERY = frozenset({"asOf", "version", "minPosition"})
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


async def get_patient(request: Request) -> Response:
    """Answer ``GET /v1/patients/{id}``: the stream folded, now or as it stood then.

    A plain Starlette endpoint, since this is the hottest query.
    """
    request.scope["observation"].operation = "patient.read"
    caller = await authenticated(request)
    require_scope(caller.scopes, "patient:read")
    patient_id = path_id(request, "id", "patient")
    as_of, version = _moment(request)
    await _reached(request, caller.tenant, request.query_params.get("minPosition"))
    loaded = await services(request).store.load(
        LoadRequest(caller.tenant, patient_id, until=version or LATEST)
    )
    history = [r for r in loaded.events if as_of is None or r.recorded_at <= as_of]
    if not history or (version is not None and history[-1].version != version):
        raise not_found("patient" if version is None else "version of the patient")
    etag = f'"{history[-1].version}"'
    if _has(request, etag):
        return Response(status_code=304, headers={"ETag": etag})
    body = Patient(patient_id, history).json()
    return Response(body, 200, {"ETag": etag}, "application/json")


def _has(request: Request, etag: str) -> bool:
    """Whether the caller has this version already (RFC 9110, If-None-Match)."""
    seen = request.headers.get("if-none-match", "")
    return etag in seen or seen.strip() == "*"


async def _reached(request: Request, tenant: str, position: int | str | None) -> None:
    """Raise ``READ_MODEL_BEHIND`` where the log itself is not at ``minPosition``.

    What folds the stream is never behind; a position of another tenant, or from before a restored
    backup, must not go unnoticed all the same.
    """
    store = services(request).store
    if position is None or int(position) <= (store.reached(tenant) or 0):
        return
    if int(position) > await store.head(tenant):
        raise DomainError("READ_MODEL_BEHIND", "The log has not reached minPosition.")


def _moment(request: Request) -> tuple[datetime | None, int | None]:
    """Return what ``asOf`` or ``version`` says; both absent means now."""
    query = request.query_params
    if not query:
        return None, None
    for name in query:
        if name not in _QUERY or len(query.getlist(name)) > 1:
            raise invalid(f"/{name}", "is no parameter of this query, or stands twice")
    if "asOf" in query and "version" in query:
        raise invalid("/asOf", "cannot be combined with version")
    version = _number(query.get("version"), "/version")
    _number(query.get("minPosition"), "/minPosition")  # folding the stream is never behind
    return instant(query.get("asOf"), "/asOf"), version


def _number(text: str | None, path: str) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,8}" if path == "/version" else r"\d{1,18}", text, re.ASCII):
        raise invalid(path, "must be a whole number in range")
    return int(text)


def instant(text: str | None, path: str) -> datetime | None:
    """Return an RFC 3339 instant; its offset is needed. Raises ``VALIDATION_FAILED``."""
    if text is None:
        return None
    if not _INSTANT.fullmatch(text):
        raise invalid(path, "must be an RFC 3339 instant with an offset (a + in a URL is %2B)")
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError:
        raise invalid(path, "is no instant of the calendar") from None


class Page(BaseModel):
    """The parameters of every list."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, hide_input_in_errors=True)

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str | None, Field(max_length=2000)] = None
    min_position: Annotated[
        int | None,
        Field(ge=0, lt=2**63, description="Wait up to 2 s until the answer includes this position"),
    ] = None

    @field_validator("*")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("holds a NUL character")
        return value


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
    request: Request, caller: Reader, patient_id: PatientId, page: Annotated[Page, Query()]
) -> Response:
    """Return who did what to the record and when, with each event's place in the hash chain."""
    await _reached(request, caller.tenant, page.min_position)
    after = 0
    if page.cursor is not None:
        after = decode_cursor(page.cursor)
        if type(after) is not int or not 0 <= after < 2**31:
            raise invalid("/cursor", "is no cursor of this list")
    loaded = await services(request).store.load(
        LoadRequest(
            caller.tenant, patient_id, after=after, until=min(after + page.limit + 1, 2**31 - 1)
        )
    )
    if not loaded.events and after == 0:
        raise not_found("patient")
    items = [_shown(record) for record in loaded.events[: page.limit]]
    more = len(loaded.events) > page.limit
    return _json({"items": items, "next": encode_cursor(items[-1]["version"]) if more else None})


def _shown(record: RecordedEvent) -> dict[str, Any]:
    return {
        "version": record.version,
        "position": record.position,
        "type": record.topic,
        "at": record.recorded_at,
        "actor": record.meta["actor"],
        "client": record.meta.get("client"),
        "clientMutationId": record.meta.get("clientMutationId"),
        "data": orjson.Fragment(record.data),
        "hash": record.hash.hex(),
    }


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
        patient_id: PatientId,
        entry_id: Annotated[UUID, Path(alias=parameter)],
    ) -> Response:
        """Return one live entry of a patient, as the Location of its creation names it."""
        loaded = await services(request).store.load(LoadRequest(caller.tenant, patient_id))
        if loaded.events:
            patient = Patient(patient_id, loaded.events)
            for found in patient.resource()[member]:
                if found["id"] == str(entry_id):
                    etag = f'"{patient.version}"'
                    if _has(request, etag):
                        return Response(status_code=304, headers={"ETag": etag})
                    return _json(found, {"ETag": etag})
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
    """Search the read model; ``minPosition`` makes it include what the caller wrote."""
    page = await detached(_search(services(request).views, caller.tenant, query))
    return _json({"items": page.items, "next": page.next})


async def _search(
    views: AsyncConnectionPool[AsyncConnection[TupleRow]], tenant: str, query: PatientSearch
) -> SearchPage:
    position = query.min_position
    if position and not await wait_for(views, NAME, tenant, position, _POSITION_WAIT):
        raise DomainError("READ_MODEL_BEHIND", "The search has not reached minPosition yet.")
    asked = SearchQuery(**query.model_dump(exclude={"min_position"}))
    try:
        async with views.connection() as connection:
            return await search(connection, tenant, asked)
    except (UndefinedTable, InvalidSchemaName):
        raise DomainError("READ_MODEL_BEHIND", "The search has not been made yet.") from None


def _json(value: Any, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps(value, option=orjson.OPT_UTC_Z)
    return Response(body, 200, headers, "application/json")
