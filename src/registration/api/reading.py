"""Reading an aggregate: as it is, as it stood, and its history; what all queries share."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import orjson
from fastapi import Path
from psycopg import AsyncConnection
from psycopg.errors import InvalidSchemaName, UndefinedTable
from psycopg.rows import TupleRow
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from registration.api.auth import Caller
from registration.api.cursors import decode_cursor, encode_cursor
from registration.api.parameters import refuse_undeclared
from registration.api.requests import authenticated, detached, path_id, saw, services
from registration.command import require_scope
from registration.domain.aggregate import Aggregate
from registration.domain.errors import DomainError, invalid, not_found
from registration.domain.timeline import patients_of
from registration.erased import refuse_erased
from registration.eventstore.records import RecordedEvent
from registration.eventstore.store import LATEST, LoadRequest
from registration.projections.status import wait_for

Result = TypeVar("Result")


def _as_written(value: Any) -> Any:
    """Refuse what pydantic takes for a UUID and a command does not: no hyphens, braces, a URN."""
    if isinstance(value, str) and len(value) != 36:
        raise ValueError("is no UUID in its usual form")
    return value


AggregateId = Annotated[UUID, BeforeValidator(_as_written), Path(alias="id")]

POSITION_WAIT = 2.0
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def reader_of(kind: type[Aggregate[Any]]) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of ``GET`` on one aggregate: the stream folded, now or as it stood then.

    A plain Starlette endpoint, since reading a patient is the hottest query.
    """

    async def read(request: Request) -> Response:
        _, found = await as_it_stood(request, kind)
        etag = f'"{found.version}"'
        # what outlives an erasure reads otherwise after it, at the same version
        if has(request, etag) and not kind.OUTLIVES_ERASURE:
            return Response(status_code=304, headers={"ETag": etag})
        return Response(found.encoded(), 200, {"ETag": etag}, "application/json")

    return read


async def as_it_stood(request: Request, kind: type[Aggregate[Any]]) -> tuple[Caller, Any]:
    """Return who asks, and the aggregate of the path, now or as it stood.

    ``asOf`` or ``version``: as it was known then; ``validAt``: what held then, as far as is known.
    Raises ``FORBIDDEN`` and ``NOT_FOUND``.
    """
    request.scope["observation"].operation = f"{kind.KIND}.read"
    caller = await authenticated(request)
    if kind.READ_SCOPE is not None:
        require_scope(caller.scopes, kind.READ_SCOPE)
    its_id = path_id(request, "id", kind.KIND)
    refuse_undeclared(request, request.scope["observation"].operation)
    as_of, version, valid_at = _moment(request)
    await reached(request, caller.tenant, request.query_params.get("minPosition"))
    loaded = await services(request).store.load(
        LoadRequest(caller.tenant, its_id, until=version or LATEST)
    )
    past = as_of is not None or version is not None
    refuse_erased(kind, loaded.events, past=past)
    found = kind.of(its_id, known_at(as_of, loaded.events))
    if found is None or (version is not None and found.version != version):
        raise not_found(kind.KIND if version is None else f"version of the {kind.KIND}")
    if valid_at is not None:
        found = found.held_at(valid_at)
        if found is None:
            raise not_found(f"{kind.KIND} that had begun then")
    saw(request, found.patient_ids)
    return caller, found


def known_at(as_of: datetime | None, events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    """Return what had been recorded by an instant; all of it for ``None``."""
    return [recorded for recorded in events if as_of is None or recorded.recorded_at <= as_of]


async def loaded_aggregate(
    request: Request,
    caller: Caller,
    kind: type[Aggregate[Any]],
    its_id: UUID,
    as_of: datetime | None = None,
) -> Any:
    """Return the aggregate to show as it is, or as it was known. Raises ``NOT_FOUND``."""
    loaded = await services(request).store.load(LoadRequest(caller.tenant, its_id))
    refuse_erased(kind, loaded.events)
    found = kind.of(its_id, known_at(as_of, loaded.events))
    if found is None:
        raise not_found(kind.KIND)
    saw(request, found.patient_ids)
    return found


def has(request: Request, etag: str) -> bool:
    """Whether the caller has this version already (RFC 9110, If-None-Match).

    Only to be asked of what nothing but a new version changes: neither the time, nor what becomes
    of another record.
    """
    seen = request.headers.get("if-none-match", "")
    return etag in seen or seen.strip() == "*"


def versioned(
    request: Request, version: int, value: Any, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a resource with its version as ``ETag``, or 304 to a caller who has it."""
    etag = f'"{version}"'
    headers = {"ETag": etag, **(headers or {})}
    if has(request, etag):
        return Response(status_code=304, headers=headers)
    return json_answer(value, headers)


async def reached(request: Request, tenant: str, position: int | str | None) -> None:
    """Raise ``READ_MODEL_BEHIND`` where the log itself is not at ``minPosition``.

    What folds the stream is never behind; a position of another tenant, or from before a restored
    backup, must not go unnoticed all the same.
    """
    store = services(request).store
    if position is None or int(position) <= (store.reached(tenant) or 0):
        return
    if int(position) > await store.head(tenant):
        raise DomainError("READ_MODEL_BEHIND", "The log has not reached minPosition.")


def _moment(request: Request) -> tuple[datetime | None, int | None, datetime | None]:
    """Return what ``asOf``, ``version`` and ``validAt`` say; all absent means now."""
    query = request.query_params
    if not query:
        return None, None, None
    if "asOf" in query and "version" in query:
        raise invalid("/asOf", "cannot be combined with version")
    version = _number(query.get("version"), "/version")
    _number(query.get("minPosition"), "/minPosition")  # folding the stream is never behind
    as_of, valid_at = instant(query.get("asOf"), "/asOf"), instant(query.get("validAt"), "/validAt")
    return as_of, version, valid_at


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


async def from_view(
    request: Request,
    name: str,
    tenant: str,
    position: int | None,
    query: Callable[[AsyncConnection[TupleRow]], Awaitable[Result]],
) -> Result:
    """Return what a query of a read model finds once that has reached ``position``.

    Raises ``READ_MODEL_BEHIND`` where it does not in time, or was never made.
    """
    views = services(request).views

    async def found() -> Result:
        if position and not await wait_for(views, name, tenant, position, POSITION_WAIT):
            raise DomainError("READ_MODEL_BEHIND", "The read model has not reached minPosition.")
        try:
            async with views.connection() as connection:
                return await query(connection)
        except (UndefinedTable, InvalidSchemaName):
            raise DomainError("READ_MODEL_BEHIND", "It has not been made yet.") from None

    return await detached(found())


class _Parameters(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, hide_input_in_errors=True)

    @field_validator("*")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("holds a NUL character")
        return value


class Freshness(_Parameters):
    """The parameter of every query of a read model: what the answer has to include."""

    min_position: Annotated[
        int | None,
        Field(ge=0, lt=2**63, description="Wait up to 2 s until the answer includes this position"),
    ] = None


class Part(_Parameters):
    """The parameters of a list that is not made from the log: which part of it."""

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str | None, Field(max_length=2000)] = None


class Page(Part, Freshness):
    """The parameters of every other list."""


async def history_of(
    request: Request, caller: Caller, kind: type[Aggregate[Any]], its_id: UUID, page: Page
) -> Response:
    """Return who did what to the record and when, with each event's place in the hash chain."""
    await reached(request, caller.tenant, page.min_position)
    after = 0
    if page.cursor is not None:
        after = decode_cursor(page.cursor)
        if type(after) is not int or not 0 <= after < 2**31:
            raise invalid("/cursor", "is no cursor of this list")
    store = services(request).store
    # one round trip: what the stream is about is said by its first event
    loaded, first = await asyncio.gather(
        store.load(
            LoadRequest(
                caller.tenant, its_id, after=after, until=min(after + page.limit + 1, 2**31 - 1)
            )
        ),
        store.load(LoadRequest(caller.tenant, its_id, until=1)),
    )
    refuse_erased(kind, first.events)
    if kind.of(its_id, first.events) is None:
        raise not_found(kind.KIND)
    saw(request, patients_of(its_id, first.events[0].event))
    items = [_shown(record) for record in loaded.events[: page.limit]]
    more = len(loaded.events) > page.limit
    return json_answer(
        {"items": items, "next": encode_cursor(items[-1]["version"]) if more else None}
    )


def _shown(record: RecordedEvent) -> dict[str, Any]:
    return {
        "version": record.version,
        "position": record.position,
        "type": record.topic,
        "at": record.recorded_at,
        "actor": record.meta["actor"],
        "client": record.meta.get("client"),
        "clientMutationId": record.meta.get("clientMutationId"),
        "supersedes": record.meta.get("supersedes"),
        "data": orjson.Fragment(record.said),
        "hash": record.hash.hex(),
    }


def json_answer(value: Any, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps(value, option=orjson.OPT_UTC_Z)
    return Response(body, 200, headers, "application/json")
