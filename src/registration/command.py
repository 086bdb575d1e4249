"""What goes through the gate: a command, what it is on its way, and what becomes of it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from registration.domain.aggregate import Aggregate, Decided, Part
from registration.domain.context import Context
from registration.domain.contract import Operation, Rule, rule_for
from registration.domain.errors import DomainError
from registration.domain.events import Event
from registration.domain.handlers import HANDLERS, Handler
from registration.domain.merge import Parties
from registration.domain.resources import Model
from registration.eventstore.records import key_hash


class Command(NamedTuple):
    """One request to change something.

    ``said`` is the payload as the client's JSON had it (without ``id`` and ``clientMutationId``):
    with operation, target and version it is what makes two requests the same. ``entry`` is the id
    or key of the entry that it is about. ``key`` is the Idempotency-Key or the clientMutationId,
    ``version`` what ``If-Match`` or ``baseVersion`` said, ``after`` the caller's own mutation that
    this one builds on, ``supersedes`` the one that it replaces. ``offline``: it comes through
    ``push``. ``beforehand`` is told the events that were decided, and done, before they are stored:
    it keeps what they refer to. ``housekeeping``: a duty of the service itself, which it has to
    records that were merged away as well.
    """

    operation: Operation
    payload: Model
    said: Mapping[str, Any]
    aggregate_id: UUID | None = None
    entry: UUID | str | None = None
    version: int | None = None
    key: str | None = None
    mutation_id: UUID | None = None
    after: UUID | None = None
    supersedes: UUID | None = None
    offline: bool = False
    beforehand: Callable[[Sequence[Event]], Awaitable[None]] | None = None
    housekeeping: bool = False


class Reply(NamedTuple):
    """What became of a command: the aggregate, and where that stands in the log.

    ``created``: the operation makes something new. ``replayed``: an earlier request with this key
    did it, and nothing was done now. ``told``: events in the log say that this request was here;
    without any, whoever is shown is shown as by a read. ``added``: collection and id of the entry
    that was added. ``part``: what the command is about, where that has a version of its own and is
    there.
    """

    aggregate: Aggregate[Any]
    position: int
    created: bool
    replayed: bool
    told: bool
    added: tuple[str, UUID] | None = None
    part: Part | None = None


@dataclass(eq=False)
class Refusal(Exception):
    """A refusal on its way out; ``replayed`` where it is the outcome of an earlier request."""

    error: DomainError
    replayed: bool = False


class Beside(NamedTuple):
    """What a decision looks at beside its own record: another one, the patients of a merge.

    ``keys`` are the wrapped keys of the people whom any of them is about.
    """

    related: Aggregate[Any] | None = None
    parties: Parties = MappingProxyType({})
    keys: Mapping[UUID, bytes] = MappingProxyType({})


class Attempt(NamedTuple):
    """A command on its way through the gate."""

    command: Command
    context: Context
    handler: Handler
    rule: Rule
    aggregate_id: UUID
    key: UUID | None
    fingerprint: UUID | None
    metadata: bytes

    def decide(self, seen: Aggregate[Any], beside: Beside) -> Decided:
        """Return what the command makes of the aggregate as it was seen; raises its refusal."""
        said = (seen.state, self.command.payload, self.context)
        if self.handler.parties is not None:
            decided: Decided = self.handler.decide(*said, beside.parties, self.aggregate_id)
            return decided
        other = None if beside.related is None else beside.related.state
        return Decided(self.handler.events(*said, self.command.entry, other))

    def part(self, seen: Aggregate[Any]) -> Part | None:
        """Return what the command is about, where that has a version of its own and is there."""
        return self.handler.part(seen, str(self.command.entry)) if self.handler.part else None


def require_scope(scopes: frozenset[str], scope: str) -> None:
    """Raise ``FORBIDDEN``, naming the scope, unless it is among the caller's."""
    if scope not in scopes:
        raise Refusal(DomainError("FORBIDDEN", f"This needs the scope {scope}.", {"scope": scope}))


def attempt_of(command: Command, context: Context) -> Attempt:
    """Return a command on its way: with its rule, its key, and what its events say of it."""
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
    if command.version is not None:
        metadata["baseVersion"] = command.version
    if command.after is not None:
        metadata["afterMutation"] = str(command.after)
    if command.supersedes is not None:
        metadata["supersedes"] = str(command.supersedes)
    return Attempt(
        command,
        context,
        handler,
        rule_for(command.operation),
        command.aggregate_id or context.new_id(),
        key,
        None if key is None else fingerprint_of(command),
        orjson.dumps(metadata),
    )


def fingerprint_of(command: Command) -> UUID:
    """Return what two requests under one key have in common if they are the same request."""
    parts: list[Any] = [
        command.operation,
        command.aggregate_id,
        command.entry,
        command.version,
        command.said,
    ]
    parts += [each for each in (command.after, command.supersedes) if each is not None]
    return key_hash(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS))
