"""``POST /v1/sync/push``: reading a batch of queued writes, and telling what became of each."""

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from uuid import UUID

import orjson
from pydantic import Field, StrictInt, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from registration.api.auth import Caller
from registration.api.command_table import COMMAND_ROUTES, JSON
from registration.api.compression import compressed
from registration.api.json_body import holds_nul, parse_each
from registration.api.problems import details
from registration.api.requests import (
    Services,
    authenticated,
    context_of,
    mutation_id,
    read_body,
    saw,
    services,
    subjects,
)
from registration.command import Command, require_scope
from registration.domain.commands import KEY, LONGEST_NAME
from registration.domain.context import Context
from registration.domain.contract import Offline, Operation, rules_for
from registration.domain.errors import DomainError, invalid
from registration.domain.handlers import HANDLERS, Handler
from registration.domain.resources import Model
from registration.domain.validation import validated, validation_failed
from registration.sync.push import Mutation, Result

MOST_MUTATIONS = 500
MOST_BYTES = 2 * 1024 * 1024
"""After gunzip."""
_LIMITS = {"mutations": MOST_MUTATIONS, "bytes": MOST_BYTES}
_READING = 60.0
"""Seconds that a body may take to arrive."""
_PATIENCE = 0.6
"""Share of a request's deadline after which no further mutation is begun."""

_SHOWABLE = re.compile(r"[!-~]{1,64}", re.ASCII)
_CREATES_WITH = ("id", "clientMutationId")
_OPERATIONS = {operation.value: operation for operation in Operation}
_ROUTES = {route.operation: route for route in COMMAND_ROUTES}


class Push(Model):
    """What a device queued while it was offline."""

    client_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    mutations: Annotated[
        list[Any],
        Field(
            max_length=MOST_MUTATIONS,
            json_schema_extra={"items": {"$ref": "#/components/schemas/QueuedMutation"}},
        ),
    ]


class QueuedMutation(Model):
    """One queued write; ``payload`` is the body of the matching endpoint."""

    client_mutation_id: Annotated[UUID, Field(description="a UUIDv7")]
    operation: str
    aggregate_id: UUID
    entry: Annotated[str | None, Field(max_length=LONGEST_NAME)] = None
    base_version: Annotated[StrictInt | None, Field(ge=0, lt=2**31)] = None
    after_mutation: UUID | None = None
    supersedes: UUID | None = None
    payload: Annotated[dict[str, Any], Field(default_factory=dict)]


async def push(request: Request) -> Response:
    """Carry out what a device queued; answers after every commit that the answer reports."""
    request.scope["observation"].operation = "sync.push"
    its = services(request)
    caller = await authenticated(request)
    require_scope(caller.scopes, "sync")
    with its.pusher.admitted(caller.tenant):
        return await _push(request, its, caller)


async def _push(request: Request, its: Services, caller: Caller) -> Response:
    seen = request.scope["observation"]
    loop = asyncio.get_running_loop()
    # a tablet in a valley is slow, and not wrong; what the service does has its time after that
    seen.limit.reschedule(loop.time() + _READING)
    batch = await _batch(request)
    seen.limit.reschedule(loop.time() + its.settings.request_deadline)
    if caller.client not in (None, batch.client_id):
        raise DomainError("FORBIDDEN", "This token speaks for another device than clientId.")
    context = context_of(caller, its)._replace(client=batch.client_id)
    results = await its.pusher.push(
        lambda: (_mutation(said, context) for said in batch.mutations),
        context,
        patience=_PATIENCE * its.settings.request_deadline,
        faults=seen.faults.append,
    )
    its.devices.pushed(context, results, context.now)
    for result in results:
        its.metrics.mutation(result.mutation.operation or "unknown", result.status)
    if patient_ids := _seen(results):
        saw(request, patient_ids)
    position = max(
        its.store.reached(caller.tenant) or 0, *(result.position for result in results), 0
    ) or await its.store.head(caller.tenant)
    return compressed(
        request,
        {
            "clientId": batch.client_id,
            "position": position,
            "results": [_shown(result) for result in results],
        },
        {"X-Log-Position": str(position)},
    )


async def _batch(request: Request) -> Push:
    """Return the batch. Raises for what cannot be told apart into mutations, and does nothing."""
    try:
        body = await read_body(request, MOST_BYTES, JSON, gzip=True)
    except DomainError as error:
        if error.code == "PAYLOAD_TOO_LARGE":
            raise _too_large(error.extra) from None
        raise
    said = parse_each(body)
    mutations = said.get("mutations") if isinstance(said, dict) else None
    if isinstance(mutations, list) and len(mutations) > MOST_MUTATIONS:
        raise _too_large({})
    batch: Push = _validated(Push, said)
    for i, mutation in enumerate(batch.mutations):
        its_id = mutation.get("clientMutationId") if isinstance(mutation, dict) else None
        if not isinstance(its_id, str) or not _SHOWABLE.fullmatch(its_id):
            raise invalid(
                f"/mutations/{i}/clientMutationId", "is needed, as 1 to 64 characters of ASCII"
            )
    return batch


def _too_large(extra: Mapping[str, Any]) -> DomainError:
    return DomainError(
        "PAYLOAD_TOO_LARGE",
        f"A push holds at most {MOST_MUTATIONS} mutations in {MOST_BYTES} bytes.",
        {**extra, "limits": _LIMITS},
    )


def _validated(model: Any, said: Any, at: str = "") -> Any:
    try:
        return model.model_validate(said, by_alias=True, by_name=False)
    except ValidationError as error:
        raise _placed(validation_failed(error.errors(include_input=False)), at) from None


def _placed(error: DomainError, at: str) -> DomainError:
    """Return a refusal whose JSON Pointers start at the mutation, not at its payload."""
    if not at or "errors" not in error.extra:
        return error
    errors = [{**e, "path": at + e["path"]} for e in error.extra["errors"]]
    return DomainError(error.code, error.detail, {**error.extra, "errors": errors})


def _mutation(said: Mapping[str, Any], context: Context) -> Mutation:
    """Return what one member of the array states; what it cannot mean goes with it."""
    # what waits for it does not depend on what else is wrong with it
    found = Mutation(
        said["clientMutationId"],
        operation=_OPERATIONS.get(str(said.get("operation"))),
        aggregate_id=_uuid_or_none(said.get("aggregateId")),
    )
    try:
        found = found._replace(id=mutation_id(_uuid(found.said_id), context.now))
        if found.operation is None:
            raise invalid("/operation", "is no operation of the policy table")
        queued: QueuedMutation = _validated(QueuedMutation, said)
        return found._replace(command=_command(queued, found.operation))
    except DomainError as error:
        return found._replace(error=error)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise DomainError("MUTATION_ID_INVALID", "clientMutationId must be a UUIDv7.") from None


def _uuid_or_none(value: Any) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _command(queued: QueuedMutation, operation: Operation) -> Command:
    """Return the command that a mutation states. Raises its refusal."""
    if all(rule.offline is Offline.PROHIBITED for rule in rules_for(operation)):
        raise DomainError("OFFLINE_PROHIBITED", "This is done online only.")
    handler = HANDLERS[operation]
    if queued.after_mutation is not None and queued.after_mutation >= queued.client_mutation_id:
        raise invalid("/afterMutation", "must be an earlier mutation")
    said = queued.payload
    payload = _payload(handler.payload, said)
    if handler.creates:
        _same_as_outside(queued, payload)
        said = {name: value for name, value in said.items() if name not in _CREATES_WITH}
        if queued.base_version is not None:
            raise invalid("/baseVersion", "has nothing to match on a create")
    return Command(
        operation=operation,
        payload=payload,
        said=said,
        aggregate_id=queued.aggregate_id,
        entry=_entry(handler, queued.entry),
        version=queued.base_version,
        key=str(queued.client_mutation_id),
        mutation_id=queued.client_mutation_id,
        after=queued.after_mutation,
        supersedes=queued.supersedes,
        offline=True,
    )


def _payload(model: type[Model], said: Mapping[str, Any]) -> Model:
    """Validate a payload as the endpoint does: strictly, as JSON."""
    try:
        data = orjson.dumps(said)
        if b"null" in data:  # what it makes of an infinity
            json.dumps(said, allow_nan=False)
    except (ValueError, TypeError):
        raise invalid(
            "/payload", "holds NaN, an infinity, a lone surrogate or a number beyond 64 bits"
        ) from None
    if b"\\u0000" in data and holds_nul(said):
        raise invalid("/payload", "holds a NUL character")
    try:
        return validated(model, data)
    except DomainError as error:
        raise _placed(error, "/payload") from None


def _same_as_outside(queued: QueuedMutation, payload: Any) -> None:
    """Refuse a payload that names another record or another mutation than its envelope."""
    if payload.id not in (None, queued.aggregate_id):
        raise invalid("/payload/id", "differs from aggregateId")
    if payload.client_mutation_id not in (None, queued.client_mutation_id):
        raise invalid("/payload/clientMutationId", "differs from that of the mutation")


def _entry(handler: Handler, said: str | None) -> UUID | str | None:
    if not handler.entry:
        if said is not None:
            raise invalid("/entry", "is not taken by this operation")
        return None
    if said is None:
        raise invalid("/entry", "is needed")
    if handler.part is not None:
        if not KEY.fullmatch(said):
            raise invalid("/entry", "is no name of a flag or schema")
        return said
    found = _uuid_or_none(said)
    if found is None:
        raise invalid("/entry", "is not a UUID")
    return found


def _seen(results: Iterable[Result]) -> list[UUID | str]:
    """Return the patients of whom results tell something that leaves nothing in the log.

    A duplicate tells a device what its own mutation made, by the version alone: that is not among
    these.
    """
    found: list[UUID | str] = []
    for result in results:
        found += result.shows
        if result.error is not None:
            found += subjects(result.error, result.mutation.aggregate_id)
    return found


def _shown(result: Result) -> dict[str, Any]:
    mutation, error = result.mutation, result.error
    shown: dict[str, Any] = {
        "clientMutationId": mutation.said_id,
        "status": result.status,
        "aggregateId": mutation.aggregate_id,
    }
    if result.version is not None:
        shown["version"] = result.version
    if error is not None:
        if result.original is None:
            shown["code"] = error.code
        # a decision points into the payload; what was wrong before it points from the mutation
        extra = dict((_placed(error, "/payload") if mutation.command else error).extra)
        version = extra.pop("confirmVersion", None)
        if version is not None:
            shown["confirm"] = _confirm(mutation, version)
        shown["problem"] = details(
            error.code, error.detail, instance=f"urn:uuid:{mutation.said_id}", extra=extra
        )
    if result.original is not None:
        shown["replayed"] = True
        shown["original"] = {"status": result.original}
        if result.version is not None:
            shown["original"]["version"] = result.version
        if error is not None:
            shown["original"]["code"] = error.code
    if result.retry_after is not None:
        shown["retryAfter"] = result.retry_after
    return shown


def _confirm(mutation: Mutation, version: int) -> dict[str, Any]:
    """Return the direct request that does what the mutation asks for."""
    command = mutation.command
    if command is None:
        raise ValueError("a mutation that states no command has nothing to confirm")
    route = _ROUTES[command.operation]
    return {
        "method": route.method,
        "href": route.path.replace("{id}", str(command.aggregate_id)),
        "headers": {"If-Match": f'"{version}"', "Idempotency-Key": f'"{command.key}"'},
        "body": command.said,
    }
