"""What every endpoint reads from a request: the caller, the headers, the body."""

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import http_sf
import uuid_utils.compat as uuids
from fastapi import Depends
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from registration.access import AccessLog, Read
from registration.api.auth import Authenticator, Caller
from registration.api.metrics import Metrics
from registration.api.parameters import refuse_undeclared
from registration.api.purpose import why_of
from registration.command import require_scope
from registration.domain.commands import KEY, LONGEST_NAME
from registration.domain.context import Context
from registration.domain.errors import DomainError, invalid, not_found
from registration.domain.resources import Model
from registration.domain.validation import validation_failed
from registration.eventstore.store import EventStore
from registration.gate import Gate
from registration.portraits import Portraits
from registration.settings import Settings
from registration.sync.devices import Devices
from registration.sync.positions import Positions
from registration.sync.push import Pusher

Payload = TypeVar("Payload", bound=Model)
Result = TypeVar("Result")

LONGEST_KEY = 255
_FUTURE_MS = 24 * 60 * 60 * 1000

_ETAG = re.compile(r'"([1-9]\d{0,8}|0)"', re.ASCII)
_QUOTED = re.compile(r'"([ !#-\[\]-~]+)"', re.ASCII)
_BARE = re.compile(r"[!#-\[\]-~]+", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Services:
    """All that endpoints work with; made once by the composition root."""

    settings: Settings
    store: EventStore
    gate: Gate
    authenticator: Authenticator
    views: AsyncConnectionPool[AsyncConnection[TupleRow]]
    clock: Callable[[], datetime]
    portraits: Portraits
    pusher: Pusher
    devices: Devices
    positions: Positions
    metrics: Metrics
    policy: tuple[bytes, str]
    access: AccessLog


def utc_now() -> datetime:
    """Return the instant, aware, in UTC."""
    return datetime.now(UTC)


def services(request: Request) -> Services:
    """Return the application's services."""
    found: Services = request.app.state.services
    return found


async def detached(work: Coroutine[Any, Any, Result]) -> Result:
    """Return what ``work`` returns; the request's deadline ends the waiting, not the work.

    Cancelling a psycopg query talks to the server, which may be what hangs: so past the deadline
    it is left to end by itself.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        _left.add(task)
        task.add_done_callback(_forget)
        task.cancel()
        raise


_left: set[asyncio.Task[Any]] = set()


def _forget(task: asyncio.Task[Any]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not report it as never retrieved


async def authenticated(request: Request) -> Caller:
    """Return who asks. Raises ``UNAUTHENTICATED``, and ``MALFORMED_REQUEST`` for a false why."""
    caller = await services(request).authenticator.caller(request.headers.get("authorization"))
    seen = request.scope["observation"]
    seen.tenant, seen.caller = caller.tenant, caller
    seen.why = why_of(request.headers)
    return caller


def saw(request: Request, patient_ids: Iterable[UUID | str]) -> None:
    """Have it recorded that the answer shows data of these patients, if it is a success.

    Whoever shows nobody's says so too: what was asked for and not found is a read.
    """
    request.scope["observation"].shown = tuple(dict.fromkeys(map(str, patient_ids))) or (None,)


def subjects(error: DomainError, its_id: UUID | str | None) -> list[UUID | str]:
    """Return the patients that a refusal tells something of, by what its record names.

    Who holds an identifier is told, too. A patient, and what is a part of one, names none: then it
    is the one that was asked for. Of a record that was merged away it is the survivor, and where
    ``fields`` compare, both.
    """
    extra = error.extra
    if "patients" in extra:  # what came to both records of a merge
        return [each["patientId"] for each in extra["patients"]]
    if error.code == "IDENTIFIER_CONFLICT":
        return [extra["patientId"]] if "patientId" in extra else []
    current = extra.get("current")
    if not current:
        return []
    if error.code == "PATIENT_MERGED":
        compared = [extra["patientId"]] if extra["fields"] else []
        return [extra["survivorId"], *compared]
    named = [current[m] for m in ("patientId", "survivorId", "retiredId") if m in current]
    return named or ([] if its_id is None else [its_id])


def note_read(scope: Scope, status: int) -> None:
    """Put into the access log whom an answer shows, by what its observation says."""
    seen, its = scope["observation"], scope["app"].state.services
    caller, why = seen.caller, seen.why
    if seen.operation == "unknown":
        seen.operation = scope["route"].operation_id
    its.access.note(
        Read(
            caller.tenant,
            its.clock(),
            caller.subject,
            caller.client,
            caller.facility,
            seen.operation,
            seen.shown,
            why.purpose,
            why.break_glass,
            seen.request_id,
            status,
        )
    )
    if why.break_glass is not None:
        its.metrics.broke_glass()


def context_of(caller: Caller, services: Services) -> Context:
    """Return what decisions may know of this request."""
    return Context(
        now=services.clock(),
        new_id=uuids.uuid7,
        tenant=caller.tenant,
        actor=caller.subject,
        scopes=caller.scopes,
        facility=caller.facility,
        client=caller.client,
        identifier_systems=services.settings.identifier_systems,
        consent_flags=services.settings.consent_flags,
        portrait_retention=services.settings.portrait_keeps(caller.tenant),
        plural_systems=frozenset(services.settings.mpi_plural_systems),
        four_eyes=services.settings.mpi_four_eyes,
    )


def has_no_body(request: Request) -> bool:
    """Whether a request comes without a body (RFC 9112, 6.3)."""
    headers = request.headers
    return "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"


async def read_body(
    request: Request, limit: int, media_types: frozenset[str], *, gzip: bool = False
) -> bytes:
    """Return the body, never holding more than ``limit`` bytes of it, after gunzip too.

    ``gzip``: it may come with ``Content-Encoding: gzip``. Raises ``UNSUPPORTED_MEDIA_TYPE``,
    ``PAYLOAD_TOO_LARGE``, and ``MALFORMED_REQUEST`` for what is no gzip.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in media_types:
        raise DomainError(
            "UNSUPPORTED_MEDIA_TYPE", f"This takes {' or '.join(sorted(media_types))}."
        )
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in (("identity", "gzip") if gzip else ("identity",)):
        taken = "no Content-Encoding but gzip" if gzip else "no Content-Encoding"
        raise DomainError("UNSUPPORTED_MEDIA_TYPE", f"This takes {taken}.")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    chunks, size = [], 0
    seen = request.scope["observation"]
    seen.reading = True
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
    except ClientDisconnect:
        raise DomainError("MALFORMED_REQUEST", "The body broke off.") from None
    seen.reading = False
    body = b"".join(chunks)
    return gunzipped(body, limit) if coding == "gzip" else body


def gunzipped(body: bytes, limit: int) -> bytes:
    """Return what one gzip member (RFC 1952) holds, never making more than ``limit`` bytes of it.

    Raises ``PAYLOAD_TOO_LARGE``, and ``MALFORMED_REQUEST`` for what is no gzip, or broken off.
    """
    member = zlib.decompressobj(wbits=31)
    try:
        made = member.decompress(body, limit + 1)
    except zlib.error:
        made = b""
    if len(made) > limit:
        raise _too_large(limit)
    if not member.eof or member.unused_data:
        raise DomainError("MALFORMED_REQUEST", "The body is no whole gzip.")
    return made


def _too_large(limit: int) -> DomainError:
    return DomainError("PAYLOAD_TOO_LARGE", f"At most {limit} bytes.", {"limit": limit})


def query_of(request: Request) -> dict[str, str]:
    """Return the query parameters. Raises ``VALIDATION_FAILED`` where one stands twice."""
    pairs = request.query_params.multi_items()
    found = dict(pairs)
    if len(found) != len(pairs):
        raise invalid("", "a query parameter stands twice")
    if any("\0" in name or "\0" in value for name, value in pairs):
        raise invalid("", "holds a NUL character")
    return found


def validated_query(model: type[Payload], said: Mapping[str, str]) -> Payload:
    """Return query parameters as a model of the wire. Raises ``VALIDATION_FAILED``."""
    try:
        return model.model_validate(dict(said), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise validation_failed(error.errors(include_input=False, include_url=False)) from None


def if_match(request: Request) -> int | None:
    """Return the version that ``If-Match`` states; ``None`` without one.

    Raises ``MALFORMED_REQUEST`` for anything but one strong entity tag of a version.
    """
    stated = _header(request, "if-match")
    if stated is None:
        return None
    match = _ETAG.fullmatch(stated)
    if match is None:
        raise DomainError(
            "MALFORMED_REQUEST", 'If-Match takes one version as an entity tag, such as "7".'
        )
    return int(match[1])


def idempotency_key(request: Request) -> str | None:
    """Return the key that ``Idempotency-Key`` holds, as RFC 9651 string or bare.

    A UUID counts as one whatever its case. Raises ``MALFORMED_REQUEST``.
    """
    stated = _header(request, "idempotency-key")
    if stated is None:
        return None
    quoted = _QUOTED.fullmatch(stated)
    key = quoted[1] if quoted else stated
    if not quoted and stated.startswith('"'):
        key = _structured_string(stated)
    if (
        not key
        or len(key) > LONGEST_KEY
        or not (quoted or stated[0] == '"' or _BARE.fullmatch(key))
    ):
        raise DomainError(
            "MALFORMED_REQUEST", f"Idempotency-Key is a string of 1 to {LONGEST_KEY} characters."
        )
    return key.lower() if _UUID.fullmatch(key) else key


def _header(request: Request, name: str) -> str | None:
    """Return a header's value; of several lines the list that they stand for (RFC 9110, 5.3)."""
    lines = request.headers.getlist(name)
    return ", ".join(lines).strip() if lines else None


def _structured_string(stated: str) -> str | None:
    try:
        item: Any = http_sf.parse(stated.encode(), tltype="item")
    except ValueError:
        return None
    value, parameters = item
    return value if isinstance(value, str) and not parameters else None


def mutation_id(chosen: UUID | None, now: datetime) -> UUID | None:
    """Return a clientMutationId that may be one.

    Raises ``MUTATION_ID_INVALID`` unless it is a UUIDv7 at most 24 hours in the future.
    """
    if chosen is None:
        return None
    milliseconds = chosen.int >> 80
    if chosen.version != 7 or milliseconds > now.timestamp() * 1000 + _FUTURE_MS:
        raise DomainError(
            "MUTATION_ID_INVALID",
            "clientMutationId must be a UUIDv7 of no later than 24 hours from now.",
        )
    return chosen


def path_id(request: Request, name: str, what: str) -> UUID:
    """Return a UUID from the path. Raises ``NOT_FOUND``: what is no UUID names nothing."""
    text = request.path_params[name]
    if not _UUID.fullmatch(text):
        raise DomainError("NOT_FOUND", f"There is no such {what}.")
    return UUID(text)


def path_key(request: Request, name: str, what: str) -> str:
    """Return a flag's or a schema's name from the path. Raises ``NOT_FOUND``."""
    text: str = request.path_params[name]
    if len(text) > LONGEST_NAME or not KEY.fullmatch(text):
        raise not_found(what)
    return text


def _with_scope(scope: str | None) -> Callable[[Request], Awaitable[Caller]]:
    async def caller(request: Request) -> Caller:
        found = await authenticated(request)
        if scope is not None:
            require_scope(found.scopes, scope)
        # here, since every query has a caller, and who may not ask is told nothing of how to
        refuse_undeclared(request, request.scope["route"].operation_id)
        return found

    caller.__dict__["scope"] = scope  # what the OpenAPI document says of the routes
    return caller


Reader = Annotated[Caller, Depends(_with_scope("patient:read"))]
"""A caller who may read patients; a dependency of FastAPI routes."""
EncounterReader = Annotated[Caller, Depends(_with_scope("encounter:read"))]
"""A caller who may read encounters."""
IndexReader = Annotated[Caller, Depends(_with_scope("mpi:read"))]
"""A caller who may look into the master patient index."""
ErasureReader = Annotated[Caller, Depends(_with_scope("erasure:read"))]
"""A caller who may see who is to be erased."""
Analyst = Annotated[Caller, Depends(_with_scope("report:read"))]
"""A caller who may read reports."""
Syncer = Annotated[Caller, Depends(_with_scope("sync"))]
"""A device that synchronises."""
AuditReader = Annotated[Caller, Depends(_with_scope("audit:read"))]
"""A caller who may look into the log as an auditor does."""
AnyCaller = Annotated[Caller, Depends(_with_scope(None))]
"""A caller with a valid token, whatever its scopes."""
