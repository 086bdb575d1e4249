"""The endpoint of a command. All have one shape: path, operation, payload, answer.

The bodies are validated once, straight from the bytes, in plain Starlette routes: FastAPI's
per-request machinery would cost as much again as everything else (``docs/decisions/0003``).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from registration.api.auth import Caller
from registration.api.command_table import CommandRoute
from registration.api.json_body import parse
from registration.api.requests import (
    authenticated,
    context_of,
    has_no_body,
    idempotency_key,
    if_match,
    mutation_id,
    path_id,
    path_key,
    query_of,
    read_body,
    saw,
    services,
    validated_query,
)
from registration.command import Command, Reply
from registration.domain.contract import Operation
from registration.domain.errors import DomainError, invalid
from registration.domain.extension_schema import schema_id
from registration.domain.handlers import HANDLERS
from registration.domain.resources import Model
from registration.domain.validation import validated

_KEY_MEMBERS = ("id", "clientMutationId")


def endpoint_of(route: CommandRoute) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a command."""

    async def endpoint(request: Request) -> Response:
        caller, reply = await carried_out(request, route)
        return answer(request, reply, caller)

    return endpoint


async def carried_out(request: Request, route: CommandRoute) -> tuple[Caller, Reply]:
    """Carry out the command that a request states; returns who asked and what became of it."""
    request.scope["observation"].operation = route.operation.value
    its = services(request)
    caller = await authenticated(request)
    payload_model = HANDLERS[route.operation].payload
    said: dict[str, Any]
    if route.has_body:
        body = b"{}"
        if not (route.body_optional and has_no_body(request)):
            body = await read_body(request, its.settings.body_limit, route.media_types)
        said = parse(body)
        payload = validated(payload_model, body)
        no_query(request)
    else:
        said = query_of(request)
        payload = validated_query(payload_model, said)
    context = context_of(caller, its)
    mutation = mutation_id(getattr(payload, "client_mutation_id", None), context.now)
    command = command_of(request, route, payload, said, mutation)
    return caller, await its.gate.handle(command, context)


def command_of(
    request: Request,
    route: CommandRoute,
    payload: Model,
    said: Mapping[str, Any],
    mutation: UUID | None = None,
) -> Command:
    """Return the command that path, headers and payload state."""
    handler = HANDLERS[route.operation]
    version = if_match(request)
    entry: UUID | str | None = None
    if handler.creates:
        if version is not None:
            raise DomainError("MALFORMED_REQUEST", "If-Match has nothing to match on a create.")
        aggregate_id = getattr(payload, "id", None)
        said = {name: value for name, value in said.items() if name not in _KEY_MEMBERS}
    elif route.operation is Operation.PUBLISH_SCHEMA:
        entry = _schema_name(request)
        aggregate_id = schema_id(entry)
    else:
        aggregate_id = path_id(request, "id", handler.aggregate.KIND)
        if route.entry is not None:
            keyed = handler.part is not None
            entry = (path_key if keyed else path_id)(request, route.entry, "entry")
    return Command(
        operation=route.operation,
        payload=payload,
        said=said,
        aggregate_id=aggregate_id,
        entry=entry,
        version=version,
        key=_key(idempotency_key(request), mutation),
        mutation_id=mutation,
    )


def answer(
    request: Request,
    reply: Reply,
    caller: Caller,
    more: Mapping[str, Any] | None = None,
    beside: Iterable[UUID | str] = (),
) -> Response:
    """Return the response to a command: what it was about, its version, where the log stands.

    A caller who may write but not read gets the id and the version alone. ``more`` are members
    beside those of the resource, ``beside`` whom they show beside its patients. A command that
    left nothing in the log is recorded like a read, whatever the caller gets: that nothing had to
    change says what the record holds.
    """
    if not reply.told and (patient_ids := [*reply.aggregate.patient_ids, *beside]):
        saw(request, patient_ids)
    shown = reply.part or reply.aggregate
    headers = {"ETag": f'"{shown.version}"', "X-Log-Position": str(reply.position)}
    if reply.created:
        headers["Location"] = reply.aggregate.path
        if reply.added is not None:
            headers["Location"] += f"/{reply.added[0]}/{reply.added[1]}"
    if reply.replayed:
        headers["Idempotency-Replayed"] = "true"
    needed = reply.aggregate.READ_SCOPE
    if needed is not None and needed not in caller.scopes:
        body = orjson.dumps({"id": reply.aggregate.id, "version": shown.version})
    elif more is not None:
        body = orjson.dumps({**shown.plain(), **more}, option=orjson.OPT_UTC_Z)
    else:
        body = shown.encoded()
    return Response(body, 201 if reply.created else 200, headers, "application/json")


def no_query(request: Request) -> None:
    """Refuse query parameters, of which a command with a body has none."""
    if request.scope["query_string"]:
        raise invalid("", "takes no query parameters")


def _schema_name(request: Request) -> str:
    try:
        return path_key(request, "schema", "schema")
    except DomainError:
        raise invalid(
            "", "a schema is named in lower case letters, digits and single hyphens, at most 64"
        ) from None


def _key(header: str | None, mutation: UUID | None) -> str | None:
    """Return the one key of the request. Raises ``MALFORMED_REQUEST`` where it states two."""
    if mutation is None:
        return header
    if header is not None and header != str(mutation):
        raise DomainError(
            "MALFORMED_REQUEST", "Idempotency-Key and clientMutationId name different keys."
        )
    return str(mutation)
