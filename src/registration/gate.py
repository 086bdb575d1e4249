"""The only way a command reaches the store: rule, idempotency, load, decide, append.

Direct requests and ``push`` call the same :meth:`Gate.handle`. Who may do what, which version a
command has to state and what it collides with all come from the conflict table
(:mod:`registration.domain.contract`).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from registration.domain.context import Context
from registration.domain.contract import Operation, Rule, rule_for
from registration.domain.errors import DomainError, not_found
from registration.domain.events import Event
from registration.domain.handlers import HANDLERS, Handler, added_entry, claims
from registration.domain.patient_resource import ABOUT_THE_RECORD, Patient
from registration.domain.resources import Model
from registration.eventstore.mapper import encode
from registration.eventstore.records import (
    AppendRequest,
    Claim,
    IdentifierConflict,
    KeyReused,
    NewEvent,
    Outcome,
    RecordedEvent,
    Stored,
    VersionConflict,
    event_digest,
    key_hash,
)
from registration.eventstore.store import LATEST, EventStore, LoadRequest

MOST_RACES = 20
"""Times that a command is decided again because another process moved its stream meanwhile."""

_REFUSED = 0
"""Stands for the status of a stored refusal, whose number is the HTTP layer's."""

# Refusals that depend on what is stored, and so are worth remembering under a key. The others
# depend on the request alone, and come again by themselves.
_REMEMBERED = frozenset(
    {
        "NOT_FOUND",
        "ID_TAKEN",
        "IDENTIFIER_CONFLICT",
        "OPTIMISTIC_LOCK_CONFLICT",
        "PATIENT_MERGED",
        "PATIENT_DECEASED",
        "CONSENT_REQUIRED",
        "ERASED",
    }
)


class Command(NamedTuple):
    """One request to change something.

    ``said`` is the payload as the client's JSON had it (without ``id`` and ``clientMutationId``):
    with operation, target and version it is what makes two requests the same. ``key`` is the
    Idempotency-Key or the clientMutationId, ``version`` what ``If-Match`` or ``baseVersion`` said.
    """

    operation: Operation
    payload: Model
    said: Mapping[str, Any]
    aggregate_id: UUID | None = None
    entry_id: UUID | None = None
    version: int | None = None
    key: str | None = None
    mutation_id: UUID | None = None


class Reply(NamedTuple):
    """What became of a command: the patient, and where that stands in the log.

    ``created``: the operation makes something new. ``replayed``: an earlier request with this key
    did it, and nothing was done now. ``entry``: collection and id of what was added.
    """

    patient: Patient
    position: int
    created: bool
    replayed: bool
    entry: tuple[str, UUID] | None = None


@dataclass(eq=False)
class Refusal(Exception):
    """A refusal on its way out; ``replayed`` where it is the outcome of an earlier request."""

    error: DomainError
    replayed: bool = False


class _Turn:
    """The queue of commands on one stream in this process."""

    __slots__ = ("commands", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.commands = 0


class _Attempt(NamedTuple):
    """A command on its way through the gate."""

    command: Command
    context: Context
    handler: Handler
    rule: Rule
    aggregate_id: UUID
    key: UUID | None
    fingerprint: UUID | None
    metadata: bytes


class Gate:
    """Carries commands out against one store."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._turns: dict[tuple[str, UUID], _Turn] = {}

    async def handle(self, command: Command, context: Context) -> Reply:
        """Carry a command out, or give again what became of it.

        Returns after the commit. Raises :class:`Refusal` with a code of the contract, and what the
        store raises when the database is away or too much waits.
        """
        rule = rule_for(command.operation)
        require_scope(context.scopes, rule.scope)
        if rule.needs_version and command.version is None:
            raise Refusal(DomainError("VERSION_REQUIRED", "State the version that you have seen."))
        attempt = _attempt(command, context, rule)
        async with self._turn((context.tenant, attempt.aggregate_id)):
            return await self._carry_out(attempt)

    @asynccontextmanager
    async def _turn(self, stream: tuple[str, UUID]) -> AsyncIterator[None]:
        """Let the commands on one stream go one after the other, in the order they came.

        Without it each append would make all others on that stream decide again. Correctness does
        not rest on it: other processes have turns of their own, and the append checks the version.
        """
        turn = self._turns.setdefault(stream, _Turn())
        turn.commands += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.commands -= 1
            if not turn.commands:
                del self._turns[stream]

    async def _carry_out(self, attempt: _Attempt) -> Reply:
        for _ in range(MOST_RACES):
            try:
                reply = await (
                    self._create(attempt) if attempt.handler.creates else self._change(attempt)
                )
            except DomainError as error:
                return await self._refuse(attempt, error)
            if reply is not None:
                return reply
        raise Refusal(DomainError("UNAVAILABLE", "This record is changing too fast; try again."))

    async def _create(self, attempt: _Attempt) -> Reply | None:
        events = attempt.handler.decide(None, attempt.command.payload, attempt.context)
        patient = Patient(attempt.aggregate_id)
        reply = await self._append(attempt, patient, events)
        if reply is None:
            raise DomainError("ID_TAKEN", "The chosen id already names something else.")
        return reply

    async def _change(self, attempt: _Attempt) -> Reply | None:
        loaded = await self._store.load(
            LoadRequest(attempt.context.tenant, attempt.aggregate_id, attempt.key)
        )
        if loaded.outcome is not None:
            return await self._first(attempt, loaded.outcome)
        if not loaded.events:
            raise not_found("patient")
        patient = Patient(attempt.aggregate_id, loaded.events)
        _check_version(attempt, loaded.events, patient)
        events = _decide(attempt, patient)
        return await self._append(attempt, patient, events)

    async def _append(
        self, attempt: _Attempt, patient: Patient, events: Sequence[Event]
    ) -> Reply | None:
        """Append what was decided; ``None`` when the stream moved on meanwhile."""
        context = attempt.context
        new_events: list[NewEvent] = []
        new_claims: list[Claim] = []
        for version, event in enumerate(events, patient.version + 1):
            data = encode(event)
            new_events.append(
                NewEvent(
                    attempt.aggregate_id,
                    version,
                    event.TOPIC,
                    data,
                    attempt.metadata,
                    event_digest(
                        context.tenant,
                        attempt.aggregate_id,
                        version,
                        event.TOPIC,
                        attempt.metadata,
                        data,
                    ),
                )
            )
            new_claims.extend(
                Claim(system, value, attempt.aggregate_id, take)
                for system, value, take in claims(patient.state, event)
            )
        verdict = await self._store.append(
            context.tenant,
            AppendRequest(
                stream_id=attempt.aggregate_id,
                version=patient.version + len(events),
                status=201 if attempt.handler.makes else 200,
                events=new_events,
                claims=new_claims,
                key=attempt.key,
                fingerprint=attempt.fingerprint,
            ),
        )
        if isinstance(verdict, Stored):
            for version, event in enumerate(events, patient.version + 1):
                patient.apply(event, version, verdict.recorded_at)
            return _reply(attempt, patient, verdict.position, events, replayed=False)
        if isinstance(verdict, VersionConflict):
            return None
        if isinstance(verdict, Outcome):
            return await self._replay(attempt, verdict)
        if isinstance(verdict, KeyReused):
            raise Refusal(_key_reused(attempt))
        raise _identifier_conflict(verdict)

    async def _refuse(self, attempt: _Attempt, error: DomainError) -> Reply:
        """Raise the refusal, remembered under its key so that the same request gets it again.

        Returns only where the first request with this key was applied meanwhile: with its outcome.
        """
        if attempt.handler.creates and attempt.key is not None:
            # a create is decided before its key is looked up: what was valid then may not be now
            known = await self._store.load(LoadRequest(attempt.context.tenant, None, attempt.key))
            if known.outcome is not None:
                return await self._first(attempt, known.outcome)
        if attempt.command.key is None or error.code not in _REMEMBERED:
            raise Refusal(_visible(error, attempt.context))
        verdict = await self._store.append(
            attempt.context.tenant,
            AppendRequest(
                stream_id=attempt.aggregate_id,
                version=0,
                status=_REFUSED,
                key=attempt.key,
                fingerprint=attempt.fingerprint,
                body=orjson.dumps(
                    {"code": error.code, "detail": error.detail, "extra": error.extra}
                ),
            ),
        )
        if isinstance(verdict, Outcome):
            return await self._replay(attempt, verdict)
        if isinstance(verdict, KeyReused):
            raise Refusal(_key_reused(attempt))
        raise Refusal(_visible(error, attempt.context))

    async def _first(self, attempt: _Attempt, outcome: Outcome) -> Reply:
        """Give the outcome that was found under the request's key, if it is this request's."""
        if outcome.fingerprint != attempt.fingerprint:
            raise Refusal(_key_reused(attempt))
        return await self._replay(attempt, outcome)

    async def _replay(self, attempt: _Attempt, outcome: Outcome) -> Reply:
        """Answer as the first request was answered; after the time to live, with what is now."""
        if outcome.body is not None:
            raise _stored_refusal(outcome, attempt.context)
        until = LATEST if outcome.late else outcome.version
        loaded = await self._store.load(
            LoadRequest(attempt.context.tenant, outcome.stream_id, until=until)
        )
        patient = Patient(outcome.stream_id, loaded.events)
        made = [record.event for record in loaded.events if record.version == outcome.version]
        position = loaded.events[-1].position if outcome.late else outcome.position
        return _reply(attempt, patient, position, made, replayed=True)


def require_scope(scopes: frozenset[str], scope: str) -> None:
    """Raise ``FORBIDDEN``, naming the scope, unless it is among the caller's."""
    if scope not in scopes:
        raise Refusal(DomainError("FORBIDDEN", f"This needs the scope {scope}.", {"scope": scope}))


def _attempt(command: Command, context: Context, rule: Rule) -> _Attempt:
    handler = HANDLERS[command.operation]
    key = None
    if command.key is not None:
        key = key_hash(context.actor, command.key)
    elif handler.creates and command.aggregate_id is not None:
        # a create with an id of the client's choosing is idempotent by that id
        key = key_hash(context.actor, "create", str(command.aggregate_id))
    metadata: dict[str, Any] = {"actor": context.actor, "operation": command.operation.value}
    if context.facility is not None:
        metadata["facility"] = context.facility
    if context.client is not None:
        metadata["client"] = context.client
    if command.mutation_id is not None:
        metadata["clientMutationId"] = str(command.mutation_id)
    elif command.key is not None:
        metadata["idempotencyKey"] = command.key
    return _Attempt(
        command,
        context,
        handler,
        rule,
        command.aggregate_id or context.new_id(),
        key,
        None if key is None else _fingerprint(command),
        orjson.dumps(metadata),
    )


def _fingerprint(command: Command) -> UUID:
    return key_hash(
        orjson.dumps(
            [
                command.operation,
                command.aggregate_id,
                command.entry_id,
                command.version,
                command.said,
            ],
            option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS,
        )
    )


def _decide(attempt: _Attempt, patient: Patient) -> Sequence[Event]:
    arguments = (patient.state, attempt.command.payload, attempt.context)
    if attempt.handler.entry:
        return attempt.handler.decide(*arguments, attempt.command.entry_id)
    return attempt.handler.decide(*arguments)


def _check_version(attempt: _Attempt, history: Sequence[RecordedEvent], now: Patient) -> None:
    """Raise ``OPTIMISTIC_LOCK_CONFLICT`` where the stated version is stale for this command.

    Stale means: an event after it touches what the command touches.
    """
    stated = attempt.command.version
    if stated is None or stated == now.version:
        return
    known = 1 <= stated <= now.version
    colliding = [
        record for record in history[stated:] if known and _collides(attempt, record.event)
    ]
    if known and not colliding:
        return
    current = now.resource()
    extra: dict[str, Any] = {
        "expectedVersion": stated,
        "currentVersion": now.version,
        "changes": [
            {
                "version": record.version,
                "event": record.topic,
                "at": record.recorded_at,
                "actor": record.meta["actor"],
                "fields": record.event.fields,
            }
            for record in colliding
        ],
        "fields": _differences(attempt, history[:stated], colliding, current) if known else [],
        "current": current,
    }
    raise DomainError(
        "OPTIMISTIC_LOCK_CONFLICT",
        "The record changed since the version that you state; review both and send again.",
        orjson.loads(orjson.dumps(extra, option=orjson.OPT_UTC_Z)),
    )


def _collides(attempt: _Attempt, event: Event) -> bool:
    shared = event.TOUCHES & attempt.rule.collides
    if not shared:
        return False
    key, entry = event.touched_key, attempt.command.entry_id
    return key is None or entry is None or key == str(entry)


def _differences(
    attempt: _Attempt,
    seen: Sequence[RecordedEvent],
    colliding: Sequence[RecordedEvent],
    theirs: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """List each member in which the record now and the caller's intent differ.

    A member that changed without colliding, and that the caller did not mean, is no difference.
    """
    before = Patient(attempt.aggregate_id, seen)
    base = before.resource()
    try:
        for event in _decide(attempt, before):
            before.apply(event, before.version, seen[-1].recorded_at)
    except DomainError:
        pass  # what was wanted makes no sense at that version either: yours is what you saw
    yours = before.resource()
    at_stake = {path[1:] for record in colliding for path in record.event.fields}
    at_stake |= {name for name in base.keys() | yours.keys() if base.get(name) != yours.get(name)}
    return [
        {
            "path": f"/{name}",
            "base": base.get(name),
            "theirs": theirs.get(name),
            "yours": yours.get(name),
        }
        for name in sorted(at_stake - ABOUT_THE_RECORD)
        if theirs.get(name) != yours.get(name)
    ]


def _reply(
    attempt: _Attempt, patient: Patient, position: int, made: Sequence[Event], *, replayed: bool
) -> Reply:
    handler = attempt.handler
    entry = None
    if handler.adds is not None:
        chosen = getattr(attempt.command.payload, "id", None)
        entry = (handler.adds, chosen or added_entry(made[-1]))
    return Reply(patient, position, created=handler.makes, replayed=replayed, entry=entry)


def _key_reused(attempt: _Attempt) -> DomainError:
    if attempt.command.key is None:  # the key was the id that the client chose
        return DomainError("ID_TAKEN", "The chosen id already names something else.")
    return DomainError(
        "IDEMPOTENCY_KEY_REUSED", "This key belongs to another request; use a new one."
    )


def _identifier_conflict(verdict: IdentifierConflict) -> DomainError:
    return DomainError(
        "IDENTIFIER_CONFLICT",
        "Another record holds this identifier.",
        {"patientId": str(verdict.holder)},
    )


def _stored_refusal(outcome: Outcome, context: Context) -> Refusal:
    stored = orjson.loads(outcome.body or b"{}")
    error = DomainError(stored["code"], stored["detail"], stored["extra"])
    return Refusal(_visible(error, context), replayed=True)


_PATIENT_DATA = frozenset({"current", "fields", "patientId"})


def _visible(error: DomainError, context: Context) -> DomainError:
    """Leave out of a refusal what the caller may not read."""
    if "patient:read" in context.scopes or _PATIENT_DATA.isdisjoint(error.extra):
        return error
    extra = {name: value for name, value in error.extra.items() if name not in _PATIENT_DATA}
    if "changes" in extra:
        extra["changes"] = [
            {name: change[name] for name in ("version", "event", "at")}
            for change in extra["changes"]
        ]
    return DomainError(error.code, error.detail, extra)
