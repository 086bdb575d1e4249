"""Every command as a route. All have one shape: path, operation, payload, answer.

The bodies are validated once, straight from the bytes, in plain Starlette routes: FastAPI's
per-request machinery would cost as much again as everything else (``docs/decisions/0003``).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registration.api.json_body import parse
from registration.api.requests import (
    authenticated,
    context_of,
    idempotency_key,
    if_match,
    mutation_id,
    path_id,
    read_body,
    services,
    validated,
)
from registration.domain.contract import Operation
from registration.domain.errors import DomainError
from registration.domain.handlers import HANDLERS
from registration.gate import Command, Reply

JSON = frozenset({"application/json"})
MERGE_PATCH = frozenset({"application/merge-patch+json", "application/json"})
_KEY_MEMBERS = ("id", "clientMutationId")


@dataclass(frozen=True, slots=True)
class CommandRoute:
    """Where an operation is found. ``entry`` names the path parameter of the entry it is about."""

    method: str
    path: str
    operation: Operation
    summary: str
    entry: str | None = None
    media_types: frozenset[str] = JSON


_PATIENT = "/v1/patients/{id}"

COMMAND_ROUTES: tuple[CommandRoute, ...] = (
    CommandRoute("POST", "/v1/patients", Operation.REGISTER_PATIENT, "Register a patient"),
    CommandRoute(
        "PATCH",
        f"{_PATIENT}/demographics",
        Operation.UPDATE_DEMOGRAPHICS,
        "Correct demographics",
        media_types=MERGE_PATCH,
    ),
    CommandRoute("POST", f"{_PATIENT}/names", Operation.ADD_NAME, "Add a name"),
    CommandRoute(
        "PUT", f"{_PATIENT}/names/{{nameId}}", Operation.REPLACE_NAME, "Replace a name", "nameId"
    ),
    CommandRoute(
        "POST",
        f"{_PATIENT}/names/{{nameId}}/retirement",
        Operation.RETIRE_NAME,
        "Retire a name",
        "nameId",
    ),
    CommandRoute("POST", f"{_PATIENT}/identifiers", Operation.ADD_IDENTIFIER, "Add an identifier"),
    CommandRoute(
        "POST",
        f"{_PATIENT}/identifiers/{{identifierId}}/retirement",
        Operation.RETIRE_IDENTIFIER,
        "Retire an identifier",
        "identifierId",
    ),
    CommandRoute("POST", f"{_PATIENT}/next-of-kin", Operation.ADD_NEXT_OF_KIN, "Add a next of kin"),
    CommandRoute(
        "POST",
        f"{_PATIENT}/next-of-kin/{{nokId}}/removal",
        Operation.REMOVE_NEXT_OF_KIN,
        "Remove a next of kin",
        "nokId",
    ),
)


def starlette_routes() -> list[Route]:
    """Return a route for each command."""
    return [
        Route(route.path, _endpoint(route), methods=[route.method], name=route.operation.value)
        for route in COMMAND_ROUTES
    ]


def _endpoint(route: CommandRoute) -> Callable[[Request], Awaitable[Response]]:
    handler = HANDLERS[route.operation]

    async def endpoint(request: Request) -> Response:
        request.scope["observation"].operation = route.operation.value
        its = services(request)
        caller = await authenticated(request)
        body = await read_body(request, its.settings.body_limit, route.media_types)
        said = parse(body)
        payload = validated(handler.payload, body)
        context = context_of(caller, its)
        aggregate_id = _aggregate_id(request, payload, handler.creates)
        mutation = mutation_id(getattr(payload, "client_mutation_id", None), context.now)
        command = Command(
            operation=route.operation,
            payload=payload,
            said=_said(said, handler.creates),
            aggregate_id=aggregate_id,
            entry_id=path_id(request, route.entry, "entry") if route.entry else None,
            version=if_match(request),
            key=_key(idempotency_key(request), mutation),
            mutation_id=mutation,
        )
        return answer(await its.gate.handle(command, context), caller.scopes)

    return endpoint


def answer(reply: Reply, scopes: frozenset[str]) -> Response:
    """Return the response to a command: the patient, its version, and where the log stands.

    A caller who may write but not read gets the id and the version alone.
    """
    headers = {"ETag": f'"{reply.patient.version}"', "X-Log-Position": str(reply.position)}
    if reply.created:
        location = f"/v1/patients/{reply.patient.id}"
        if reply.entry is not None:
            location += f"/{reply.entry[0]}/{reply.entry[1]}"
        headers["Location"] = location
    if reply.replayed:
        headers["Idempotency-Replayed"] = "true"
    return Response(
        reply.patient.json() if "patient:read" in scopes else _receipt(reply),
        201 if reply.created else 200,
        headers,
        "application/json",
    )


def _receipt(reply: Reply) -> bytes:
    return orjson.dumps({"id": reply.patient.id, "version": reply.patient.version})


def _aggregate_id(request: Request, payload: Any, creates: bool) -> UUID | None:
    if creates:
        chosen: UUID | None = payload.id
        return chosen
    return path_id(request, "id", "patient")


def _said(said: dict[str, Any], creates: bool) -> dict[str, Any]:
    """Leave out of a create what names the request and not its content."""
    if not creates:
        return said
    return {name: value for name, value in said.items() if name not in _KEY_MEMBERS}


def _key(header: str | None, mutation: UUID | None) -> str | None:
    """Return the one key of the request. Raises ``MALFORMED_REQUEST`` where it states two."""
    if mutation is None:
        return header
    if header is not None and header != str(mutation):
        raise DomainError(
            "MALFORMED_REQUEST", "Idempotency-Key and clientMutationId name different keys."
        )
    return str(mutation)
