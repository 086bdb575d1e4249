"""``GET /v1/sync/pull`` and ``/v1/sync/stream``: what changed, and that something did."""

import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from registration.api.auth import Caller
from registration.api.compression import compressed
from registration.api.cursors import decode_cursor, encode_cursor
from registration.api.reading import from_view
from registration.api.requests import saw, services
from registration.domain.contract import table
from registration.domain.errors import DomainError, invalid
from registration.projections.changes import KINDS, NAME, Change, Changes, ChangesQuery, changes
from registration.settings import Settings
from registration.sync.positions import Positions

HEARTBEAT = 15.0
"""Seconds between two signs of life of a stream."""
POLICY_ID = uuid5(NAMESPACE_URL, "urn:registration:policy")
WHOLE_TENANT = "*"
_EVENT_ID = re.compile(r"\d{1,18}", re.ASCII)


class PullQuery(BaseModel):
    """What to pull."""

    model_config = ConfigDict(alias_generator=to_camel, hide_input_in_errors=True)

    cursor: Annotated[
        str | None, Field(max_length=2000, description="From the answer before; none: everything")
    ] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 500
    facility: Annotated[
        str | None,
        StringConstraints(pattern=r"^(\*|[A-Za-z0-9._-]{1,64})$"),
        Field(description="Whose scope; the token's if absent, * for the whole tenant"),
    ] = None
    min_position: Annotated[
        int | None,
        Field(ge=0, lt=2**63, description="Wait up to 2 s until the answer includes this position"),
    ] = None


Position = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class _Cursor(NamedTuple):
    """Where a feed goes on, and what it was: of which scope, log, tables and policy.

    ``mark`` is the start of the hash of the event at ``position``: another log has another one.
    """

    facility: str | None
    kinds: list[str]
    position: Position
    after_id: UUID
    snapshot: Position
    made_at: Annotated[int, Field(strict=True)]
    mark: str
    policy: str


_CURSORS = TypeAdapter(_Cursor)


async def page(request: Request, caller: Caller, query: PullQuery) -> Response:
    """Return a page of what changed in the caller's scope."""
    said = query.facility or caller.facility
    facility = None if said == WHOLE_TENANT else said
    kinds = [
        kind
        for made, kind in KINDS.items()
        if made.READ_SCOPE is None or made.READ_SCOPE in caller.scopes
    ]
    cursor = None if query.cursor is None else _decoded(query.cursor)
    if cursor is not None and (cursor.facility, cursor.kinds) != (facility, kinds):
        raise _resync("Your scope is another one than this cursor's.")
    asked = ChangesQuery(caller.tenant, facility, kinds, limit=query.limit)
    if cursor is None:
        # nobody has anything yet: what left the scope so far left unseen
        asked = asked._replace(snapshot=2**62)
    else:
        asked = asked._replace(
            position=cursor.position, after_id=cursor.after_id, snapshot=cursor.snapshot
        )
    found = await from_view(
        request, NAME, caller.tenant, query.min_position, lambda views: changes(views, asked)
    )
    if cursor is not None:
        _insist_on_the_same_log(cursor, found)
    saw(request, _patients(found.items))
    return _answer(request, asked, found, cursor)


def _answer(
    request: Request, asked: ChangesQuery, found: Changes, cursor: _Cursor | None
) -> Response:
    policy, digest = services(request).policy
    items: list[dict[str, Any]] = []
    if cursor is None or cursor.policy != digest:
        items.append(
            {
                "kind": "policy",
                "id": POLICY_ID,
                "version": 1,
                "position": asked.position,
                "body": orjson.Fragment(policy),
            }
        )
    for change in found.items:
        item: dict[str, Any] = {
            "kind": change.kind,
            "id": change.id,
            "version": change.version,
            "position": change.position,
        }
        if change.body is None:
            item["deleted"] = True
            if change.erased:
                item["erased"] = True
        else:
            item["body"] = orjson.Fragment(change.body)
        items.append(item)
    following = _Cursor(
        asked.facility,
        list(asked.kinds),
        found.next_position,
        found.next_id,
        found.position if cursor is None else cursor.snapshot,
        _microseconds(found.made_at),
        _short(found.mark_next),
        digest,
    )
    return compressed(
        request,
        {
            "items": items,
            "cursor": encode_cursor(tuple(following)),
            "more": found.more,
            "position": found.position,
        },
        {"X-Log-Position": str(found.position)},
    )


def _patients(items: Sequence[Change]) -> Iterator[UUID | str]:
    """Yield whose data a page shows; what left the scope shows none."""
    for item in items:
        if item.kind == "patient" and item.body is not None:
            yield item.id
        elif item.kind == "encounter" and item.body is not None:
            yield orjson.loads(item.body)["patientId"]


def _insist_on_the_same_log(cursor: _Cursor, found: Changes) -> None:
    if cursor.made_at != _microseconds(found.made_at):
        raise _resync("The feed was made anew since.")
    if cursor.position > found.position or cursor.mark != _short(found.mark_asked):
        raise _resync("The log is not the one that this cursor came from.")


def _resync(why: str) -> DomainError:
    return DomainError("RESYNC_REQUIRED", f"{why} Pull without a cursor.")


def _decoded(text: str) -> _Cursor:
    try:
        return _CURSORS.validate_python(decode_cursor(text))
    except ValidationError:
        raise invalid("/cursor", "is no cursor of this list") from None


def _short(mark: bytes) -> str:
    return mark.hex()[:16]


def _microseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1_000_000)


def policy_of(settings: Settings) -> tuple[bytes, str]:
    """Return what devices have to know beside records, and a digest that tells when it changed."""
    body = orjson.dumps(
        {
            "rules": list(table()),
            "consentFlags": settings.consent_flags,
            "identifierSystems": settings.identifier_systems,
        }
    )
    return body, sha256(body).hexdigest()[:16]


def follow(request: Request, caller: Caller) -> Response:
    """Tell how far ``pull`` gets, as server-sent events, until the token expires."""
    said = request.headers.get("last-event-id", "0")
    since = int(said) if _EVENT_ID.fullmatch(said) else 0
    positions = services(request).positions
    positions.admit(caller.tenant)
    seen = request.scope["observation"]
    seen.operation = "sync.stream"
    seen.limit.reschedule(None)  # it is meant to last
    return StreamingResponse(
        _events(positions, caller, since), media_type="text/event-stream", headers=_UNBUFFERED
    )


_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def _events(positions: Positions, caller: Caller, since: int) -> AsyncIterator[str]:
    async with positions.listening(caller.tenant):
        yield "retry: 2000\n\n"
        while not positions.closed and (left := caller.expires - time.time()) > 0:
            reached = await positions.after(caller.tenant, since, min(HEARTBEAT, left))
            if reached is None:
                yield ": heartbeat\n\n"
                continue
            since = reached
            yield f'id: {since}\nevent: position\ndata: {{"position":{since}}}\n\n'
