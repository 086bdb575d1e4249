"""Carrying out a batch of queued writes: in order where it matters, together where it does not.

Each mutation stands or falls alone. A mutation waits for those before it that it could tell from:
on the same record, named by ``afterMutation``, on the patient of an encounter, about the same
identifier. All others run at once, and so share appends.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple
from unicodedata import normalize
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from registration.command import Command, Refusal
from registration.domain.context import Context
from registration.domain.contract import Operation
from registration.domain.errors import DomainError
from registration.domain.handlers import HANDLERS
from registration.eventstore.store import StoreOverloadedError, StoreUnavailableError
from registration.gate import Gate

AT_ONCE = 4
"""Pushes of a tenant that a process carries out at a time; more would wait for the same log."""
MOST_AT_ONCE = 100
"""Pushes of a tenant that may be here, read, waiting or carried out; each holds its body."""
_READ_AT_ONCE = 20

_LATER = {"TOO_MANY_REQUESTS": 1, "UNAVAILABLE": 2, "IDEMPOTENCY_IN_FLIGHT": 1}
"""Refusals that say nothing of the mutation, with the seconds after which to send it again."""
_AFTER_A_FAULT = 60

_TO_REVIEW = frozenset(
    {
        "OPTIMISTIC_LOCK_CONFLICT",
        "IDENTIFIER_CONFLICT",
        "PATIENT_MERGED",
        "PATIENT_DECEASED",
        "ENCOUNTER_TRANSITION_NOT_ALLOWED",
        "CONSENT_REQUIRED",
    }
)
"""Refusals that come from what the record says by now, and that a person can settle."""


class Status(StrEnum):
    """What became of a mutation."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REJECTED = "rejected"
    BLOCKED = "blocked"
    RETRY = "retry"


class Mutation(NamedTuple):
    """A queued write: the command that it states, or (``error``) why it states none.

    ``said_id`` is its clientMutationId as it came, ``id`` the same as a UUIDv7. Record and
    operation are there as far as they could be read.
    """

    said_id: str
    id: UUID | None = None
    operation: Operation | None = None
    aggregate_id: UUID | None = None
    command: Command | None = None
    error: DomainError | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutation, and ``position``: how far its record stands in the log.

    ``version`` is what a next ``baseVersion`` would state. A duplicate has in ``original`` what
    became of it the first time. ``shows`` are the patients of whom it tells that the record said
    so already: of that nothing is in the log.
    """

    mutation: Mutation
    status: Status
    version: int | None = None
    error: DomainError | None = None
    position: int = 0
    original: Status | None = None
    retry_after: int | None = None
    shows: Sequence[UUID] = ()

    @property
    def is_applied(self) -> bool:
        """Whether it is in the log, from now or from before."""
        return Status.APPLIED in (self.status, self.original)

    @property
    def is_erased(self) -> bool:
        """Whether what it made was there, and has been erased: what builds on it is told so."""
        if self.error is None or self.error.code != "ERASED":
            return False
        return self.original is not None or self.mutation.operation is Operation.REGISTER_PATIENT


class Pusher:
    """Carries batches out, of each tenant a few at a time."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._here: dict[str, int] = {}

    @contextmanager
    def admitted(self, tenant: str) -> Iterator[None]:
        """Hold a place for one push, from before its body is read until it is answered.

        Raises ``TOO_MANY_REQUESTS`` where the tenant has too many here.
        """
        if self._here.get(tenant, 0) >= MOST_AT_ONCE:
            raise DomainError("TOO_MANY_REQUESTS", "Too many pushes are waiting.")
        self._here[tenant] = self._here.get(tenant, 0) + 1
        try:
            yield
        finally:
            self._here[tenant] -= 1
            if not self._here[tenant]:
                del self._here[tenant]
                self._turns.pop(tenant, None)

    async def push(
        self,
        mutations: Callable[[], Iterable[Mutation]],
        context: Context,
        *,
        patience: float,
        faults: Callable[[Exception], None],
    ) -> list[Result]:
        """Carry mutations out; returns their results in order, after every commit they report.

        ``mutations`` reads them, once it is this push's turn. What has not begun after
        ``patience`` seconds is to be sent again. ``faults`` is told of errors of ours, each of
        which costs one mutation and what builds on it.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + patience
        turns = self._turns.setdefault(context.tenant, asyncio.Semaphore(AT_ONCE))
        try:
            async with asyncio.timeout_at(end):
                await turns.acquire()
        except TimeoutError:
            raise DomainError("TOO_MANY_REQUESTS", "Too many pushes are waiting.") from None
        try:
            read = []
            for number, mutation in enumerate(mutations(), 1):
                read.append(mutation)
                if number % _READ_AT_ONCE == 0:
                    await asyncio.sleep(0)  # others go on meanwhile
            return await _Batch(self._gate, context, end, faults).run(read)
        finally:
            turns.release()


class _Batch:
    """One push on its way."""

    def __init__(
        self, gate: Gate, context: Context, end: float, faults: Callable[[Exception], None]
    ) -> None:
        self._gate = gate
        self._context = context
        self._end = end
        self._faults = faults
        self._stopped: int | None = None
        self._resent = False
        self._created: set[UUID] = set()
        self._not_created: set[UUID] = set()

    async def run(self, mutations: Sequence[Mutation]) -> list[Result]:
        ordered = sorted(mutations, key=_order)
        one_by_one = any(m.operation is Operation.RETIRE_IDENTIFIER for m in mutations)
        latest: dict[Hashable, asyncio.Task[Result]] = {}
        tasks = []
        async with asyncio.TaskGroup() as group:
            for mutation in ordered:
                keys = set(_keys(mutation, one_by_one=one_by_one))
                before = {latest[key] for key in keys if key in latest}
                task = group.create_task(self._in_turn(mutation, before))
                latest.update(dict.fromkeys(keys, task))
                tasks.append(task)
        return [task.result() for task in tasks]

    async def _in_turn(self, mutation: Mutation, before: Iterable[asyncio.Task[Result]]) -> Result:
        for task in before:
            earlier = await task
            if earlier.status is Status.RETRY and _hangs_on(mutation, earlier.mutation):
                return Result(mutation, Status.RETRY, retry_after=earlier.retry_after)
        result = await self._result(mutation)
        its_id = mutation.aggregate_id
        if its_id is not None and _creates(mutation) and result.status is not Status.RETRY:
            if result.is_applied:
                self._created.add(its_id)
            elif its_id not in self._created and not result.is_erased:
                self._not_created.add(its_id)
        return result

    async def _result(self, mutation: Mutation) -> Result:
        command = mutation.command
        if command is None:
            error = mutation.error or DomainError("INTERNAL_ERROR", "It states nothing.")
            return _refused(mutation, error)
        if self._stopped is None and asyncio.get_running_loop().time() > self._end:
            self._stopped = _LATER["UNAVAILABLE"]
        if self._stopped is not None:
            return Result(mutation, Status.RETRY, retry_after=self._stopped)
        if not HANDLERS[command.operation].creates and command.aggregate_id in self._not_created:
            return _refused(mutation, _not_created())
        if not self._not_created.isdisjoint(_related(command)):
            return _refused(mutation, _not_created())
        result = await self._carried_out(mutation, command)
        if result.status is Status.RETRY and result.retry_after != _AFTER_A_FAULT:
            self._stopped = result.retry_after
        return result

    async def _carried_out(self, mutation: Mutation, command: Command) -> Result:
        part = HANDLERS[command.operation].part
        try:
            if self._resent and part is None:
                before = await self._gate.version_before(command, self._context)
                if before is not None:
                    return _again(mutation, before)
            reply = await self._gate.handle(command, self._context)
        except Refusal as refusal:
            return _refused(mutation, refusal.error, replayed=refusal.replayed)
        except StoreOverloadedError:
            return Result(mutation, Status.RETRY, retry_after=_LATER["TOO_MANY_REQUESTS"])
        except (StoreUnavailableError, psycopg.OperationalError, PoolTimeout):
            return Result(mutation, Status.RETRY, retry_after=_LATER["UNAVAILABLE"])
        except Exception as error:  # noqa: BLE001  (told to the log; the others go on)
            self._faults(error)
            return Result(mutation, Status.RETRY, retry_after=_AFTER_A_FAULT)
        version = reply.aggregate.version
        if part is not None:  # gone is what the next one would state as 0
            version = 0 if reply.part is None else reply.part.version
        if reply.replayed:
            self._resent = True  # then so is the rest, most likely
            return _again(mutation, version, reply.position)
        shows = () if reply.told else reply.aggregate.patient_ids
        return Result(mutation, Status.APPLIED, version, position=reply.position, shows=shows)


def _again(mutation: Mutation, version: int, position: int = 0) -> Result:
    return Result(mutation, Status.DUPLICATE, version, position=position, original=Status.APPLIED)


def _creates(mutation: Mutation) -> bool:
    return mutation.operation in HANDLERS and HANDLERS[mutation.operation].creates


def _hangs_on(mutation: Mutation, earlier: Mutation) -> bool:
    """Whether a mutation can go nowhere before an earlier one was carried out."""
    command = mutation.command
    if command is None or mutation.id == earlier.id:
        return True
    if _creates(earlier) and earlier.aggregate_id in (command.aggregate_id, *_related(command)):
        return True
    return command.after == earlier.id


def _order(mutation: Mutation) -> tuple[bool, int]:
    """Sort by timestamp, then by the whole id; what has no id that counts comes first."""
    return (False, 0) if mutation.id is None else (True, mutation.id.int)


def _keys(mutation: Mutation, *, one_by_one: bool) -> Iterator[Hashable]:
    """Name what a mutation must not overtake others in.

    An identifier that is retired is named by its id alone: then all identifiers count as one.
    """
    if mutation.aggregate_id is not None:
        yield mutation.aggregate_id
    if mutation.id is not None:
        yield ("mutation", mutation.id)
    command = mutation.command
    if command is None:
        return
    if command.after is not None:
        yield ("mutation", command.after)
    yield from _related(command)
    identifiers: Iterable[Any] = getattr(command.payload, "identifiers", ())
    if command.operation in (Operation.ADD_IDENTIFIER, Operation.RETIRE_IDENTIFIER):
        identifiers = (command.payload,)
    for identifier in identifiers:
        yield ("identifiers",) if one_by_one else _spelling(identifier.system, identifier.value)


def _spelling(system: str, value: str) -> tuple[str, str]:
    """Return what two identifiers share that could be the same number, however it is written."""
    folded = normalize("NFKC", value).casefold()
    return system, "".join(letter for letter in folded if letter.isalnum()).lstrip("0")


def _related(command: Command) -> Iterator[UUID]:
    """Name the other record that the decision looks at, where that can change by a push."""
    handler = HANDLERS[command.operation]
    if handler.related is not None and handler.guarded:
        yield handler.related(command.payload, command.entry)[1]


def _not_created() -> DomainError:
    return DomainError("DEPENDENCY_FAILED", "The record was not created.")


def _refused(mutation: Mutation, error: DomainError, *, replayed: bool = False) -> Result:
    if error.code in _LATER:
        return Result(mutation, Status.RETRY, retry_after=_LATER[error.code])
    status = Status.REJECTED
    if error.code in _TO_REVIEW:
        status = Status.CONFLICT
    elif error.code == "DEPENDENCY_FAILED":
        status = Status.BLOCKED
    if replayed:
        return Result(mutation, Status.DUPLICATE, error=error, original=status)
    return Result(mutation, status, error=error)
