"""The only way a command reaches the store: rule, idempotency, load, decide, append.

Direct requests and ``push`` call the same :meth:`Gate.handle`. Who may do what, which version a
command has to state and what it collides with all come from the conflict table
(:mod:`registration.domain.contract`).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from registration.command import (
    Attempt,
    Beside,
    Command,
    Refusal,
    Reply,
    attempt_of,
    require_scope,
)
from registration.domain.aggregate import Aggregate, Decided, Stamp
from registration.domain.context import Context
from registration.domain.contract import Offline, rule_for
from registration.domain.errors import DomainError, not_found
from registration.domain.events import Event
from registration.domain.handlers import added_entry, claims
from registration.domain.merge import Parties, merged_away, survivor_of
from registration.domain.patient_resource import Patient
from registration.erased import refuse_erased
from registration.eventstore.records import (
    AppendRequest,
    Claim,
    KeyReused,
    Loaded,
    Outcome,
    RecordedEvent,
    Stored,
    VersionConflict,
    key_hash,
)
from registration.eventstore.store import (
    FORGOTTEN_IN_TIME,
    LATEST,
    EventStore,
    LoadRequest,
)
from registration.lineage import lineage
from registration.refusals import (
    REMEMBERED,
    id_taken,
    key_reused,
    people_in,
    require_same_request,
    sealed_refusal,
    stored_refusal,
    visible,
)
from registration.sealer import keys_from, sealer
from registration.versions import check_version, intent_beside, mutation_of

MOST_RACES = 20
"""Times that a command is decided again because another process moved its stream meanwhile."""

History = Sequence[RecordedEvent]
_TICK = timedelta(microseconds=1)
_REFUSED_FOR_GOOD = 1
"""Stands for the status of a queued write's refusal: a person has settled it since."""


class _Turn:
    """The queue of commands on one stream in this process."""

    __slots__ = ("commands", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.commands = 0


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
        attempt = attempt_of(command, context)
        require_scope(context.scopes, attempt.rule.scope)
        if attempt.rule.needs_version and command.version is None and command.after is None:
            raise Refusal(DomainError("VERSION_REQUIRED", "State the version that you have seen."))
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

    async def _carry_out(self, attempt: Attempt) -> Reply:
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

    async def _create(self, attempt: Attempt) -> Reply | None:
        blank = attempt.handler.aggregate(attempt.aggregate_id)
        related = await self._related(attempt)
        await self._require_dependency(attempt, ())
        beside = await self._beside(attempt, related, None, ())
        await self._refuse_merged(attempt, beside.related, beside)
        decided = attempt.decide(blank, beside)
        reply = await self._append(attempt, blank, decided, beside)
        # something beside it may have moved on instead: then the command is decided again
        if reply is None and await self._exists(attempt):
            raise id_taken()
        return reply

    async def _exists(self, attempt: Attempt) -> bool:
        loaded = await self._store.load(
            LoadRequest(attempt.context.tenant, attempt.aggregate_id, until=1)
        )
        refuse_erased(attempt.handler.aggregate, loaded.events)
        return bool(loaded.events)

    async def _change(self, attempt: Attempt) -> Reply | None:
        loaded, other = await asyncio.gather(
            self._store.load(
                LoadRequest(attempt.context.tenant, attempt.aggregate_id, attempt.key)
            ),
            self._related(attempt),
        )
        kind = attempt.handler.aggregate
        _insist_on_somebody(kind, loaded)
        if loaded.outcome is not None:
            return await self._first(attempt, loaded.outcome)
        seen = kind.of(attempt.aggregate_id, loaded.events)
        if seen is None:
            if not attempt.handler.extends:
                raise not_found(kind.KIND)
            if loaded.events:
                raise id_taken()
            seen = kind(attempt.aggregate_id)
        await self._require_dependency(attempt, loaded.events)
        beside = await self._beside(attempt, other, seen.state, loaded.events)
        await self._refuse_merged(attempt, seen, beside)
        check_version(attempt, loaded.events, seen, beside)
        decided = attempt.decide(seen, beside)
        _require_confirmation(attempt, seen)
        return await self._append(attempt, seen, decided, beside)

    async def _require_dependency(self, attempt: Attempt, history: Sequence[RecordedEvent]) -> None:
        """Raise ``DEPENDENCY_FAILED`` unless the mutation that this one builds on was applied."""
        after = attempt.command.after
        actor = attempt.context.actor
        if after is None or any(
            mutation_of(record.meta) == str(after) and record.meta["actor"] == actor
            for record in reversed(history)
        ):
            return
        # it was about another record, or changed nothing: then its outcome alone knows of it
        known = await self._store.load(
            LoadRequest(attempt.context.tenant, None, key_hash(actor, str(after)))
        )
        if known.outcome is None or known.outcome.body is not None:
            raise DomainError("DEPENDENCY_FAILED", "What this builds on was not applied.")

    async def _related(self, attempt: Attempt) -> tuple[Aggregate[Any] | None, History]:
        """Return the other aggregate that the decision looks at; ``None`` where there is none."""
        if attempt.handler.related is None:
            return None, ()
        kind, its_id = attempt.handler.related(attempt.command.payload, attempt.command.entry)
        loaded = await self._store.load(LoadRequest(attempt.context.tenant, its_id))
        refuse_erased(kind, loaded.events)
        return kind.of(its_id, loaded.events), loaded.events

    async def _beside(
        self,
        attempt: Attempt,
        related: tuple[Aggregate[Any] | None, History],
        state: Any,
        history: History,
    ) -> Beside:
        """Return what the decision looks at beside its record, and the keys of all these people."""
        parties: Parties = {}
        if attempt.handler.parties is not None:
            asked = attempt.handler.parties(state, attempt.command.payload)
            parties = await lineage(
                self._store, attempt.context.tenant, asked, whole=attempt.handler.whole
            )
        theirs = [cast(History, party.history) for party in parties.values()]
        for each in theirs:
            refuse_erased(Patient, each)
        return Beside(related[0], parties, keys_from((history, related[1], *theirs)))

    async def _refuse_merged(
        self, attempt: Attempt, seen: Aggregate[Any] | None, beside: Beside
    ) -> None:
        """Raise ``PATIENT_MERGED`` where a command is about a record that was merged away.

        It names the survivor, and in which members that differs from what was meant.
        """
        if not isinstance(seen, Patient) or seen.state is None:
            return
        if seen.state.merged_into is None or attempt.command.housekeeping:
            return
        known = await lineage(self._store, attempt.context.tenant, [seen.id])
        error = merged_away(known, seen.id)
        survivor = known[survivor_of(known, seen.id)].patient
        meant = [] if attempt.handler.creates else intent_beside(attempt, seen, survivor, beside)
        extra = {**error.extra, "fields": meant, "current": survivor.plain()}
        raise DomainError(error.code, error.detail, extra)

    async def _append(
        self, attempt: Attempt, seen: Aggregate[Any], decided: Decided, beside: Beside
    ) -> Reply | None:
        """Append what was decided; ``None`` when a stream moved on meanwhile."""
        events, related = decided.own, beside.related
        if events and attempt.command.beforehand is not None:
            await attempt.command.beforehand(events)
        version = seen.version + len(events)
        guarded = related is not None and attempt.handler.guarded
        writing = await sealer(self._store, attempt, seen, decided, beside)
        stored = [
            *(
                made
                for its_id, theirs in decided.others.items()
                for made in writing.new_events(
                    its_id, theirs, beside.parties[its_id].patient.version + 1
                )
            ),
            *writing.new_events(attempt.aggregate_id, events, seen.version + 1),
        ]
        verdict = await self._store.append(
            attempt.context.tenant,
            AppendRequest(
                stream_id=attempt.aggregate_id,
                version=version,
                status=201 if attempt.handler.makes else 200,
                events=stored,
                claims=_claims(attempt, seen, decided, beside),
                key=attempt.key,
                fingerprint=attempt.fingerprint,
                guard=(related.id, related.version) if related and guarded else None,
                new_key=writing.new_key,
            ),
        )
        if isinstance(verdict, Stored):
            writing.stored()
            for before, event in zip(range(len(events))[::-1], events, strict=True):
                # the store sets the events of a request a microsecond apart
                at = verdict.recorded_at - before * _TICK
                seen.apply(event, Stamp(seen.version + 1, at, attempt.context.actor))
            return _reply(attempt, seen, verdict.position, events, replayed=False)
        if isinstance(verdict, VersionConflict):
            return None
        if isinstance(verdict, Outcome):
            return await self._replay(attempt, verdict)
        if isinstance(verdict, KeyReused):
            raise Refusal(key_reused(attempt))
        raise await self._identifier_conflict(attempt, verdict.holder)

    async def _identifier_conflict(self, attempt: Attempt, holder: UUID) -> DomainError:
        """Build the refusal of an identifier that somebody holds: the record used for them now."""
        known = await lineage(self._store, attempt.context.tenant, [holder])
        return DomainError(
            "IDENTIFIER_CONFLICT",
            "Another record holds this identifier.",
            {"patientId": str(survivor_of(known, holder) if known else holder)},
        )

    async def _refuse(self, attempt: Attempt, error: DomainError) -> Reply:
        """Raise the refusal, remembered under its key so that the same request gets it again.

        Returns only where the first request with this key was applied meanwhile: with its outcome.
        """
        if attempt.handler.creates and attempt.key is not None:
            # a create is decided before its key is looked up: what was valid then may not be now
            known = await self._store.load(LoadRequest(attempt.context.tenant, None, attempt.key))
            if known.outcome is not None:
                return await self._first(attempt, known.outcome)
        if attempt.command.key is None or error.code not in REMEMBERED:
            raise Refusal(visible(error, attempt))
        people = people_in(error, attempt)
        keys = await self._store.keys(attempt.context.tenant, people) if people else {}
        verdict = await self._store.append(
            attempt.context.tenant,
            AppendRequest(
                stream_id=attempt.aggregate_id,
                version=0,
                status=_REFUSED_FOR_GOOD if attempt.command.offline else FORGOTTEN_IN_TIME,
                key=attempt.key,
                fingerprint=attempt.fingerprint,
                body=sealed_refusal(
                    error, attempt, {person: keys.get(person) for person in people}
                ),
            ),
        )
        if isinstance(verdict, Outcome):
            return await self._replay(attempt, verdict)
        if isinstance(verdict, KeyReused):
            raise Refusal(key_reused(attempt))
        raise Refusal(visible(error, attempt))

    async def _first(self, attempt: Attempt, outcome: Outcome) -> Reply:
        """Give the outcome that was found under the request's key, if it is this request's."""
        require_same_request(attempt, outcome)
        return await self._replay(attempt, outcome)

    async def version_before(self, command: Command, context: Context) -> int | None:
        """Return the version that a command left when it came before; ``None`` if it did not.

        For what states no version of a part. Unlike :meth:`handle` it loads no stream, so a long
        queue that is sent again costs little. Raises :class:`Refusal` as :meth:`handle` would.
        """
        attempt = attempt_of(command, context)
        require_scope(context.scopes, attempt.rule.scope)
        known = await self._store.load(LoadRequest(context.tenant, None, attempt.key))
        outcome = known.outcome
        if outcome is None:
            return None
        require_same_request(attempt, outcome)
        if outcome.body is not None:
            raise stored_refusal(outcome, attempt)
        return outcome.version

    async def _replay(self, attempt: Attempt, outcome: Outcome) -> Reply:
        """Answer as the first request was answered; after the time to live, with what is now."""
        if outcome.body is not None:
            raise stored_refusal(outcome, attempt)
        # a device is told what its mutation made, however late; others get what is there now
        latest = outcome.late and not attempt.command.offline
        until = LATEST if latest else outcome.version
        loaded = await self._store.load(
            LoadRequest(attempt.context.tenant, outcome.stream_id, until=until)
        )
        _insist_on_somebody(attempt.handler.aggregate, loaded, replayed=True)
        then = attempt.handler.aggregate(outcome.stream_id, loaded.events)
        made = [record.event for record in loaded.events if record.version == outcome.version]
        position = loaded.events[-1].position if latest else outcome.position
        return _reply(attempt, then, position, made, replayed=True)


def _insist_on_somebody(
    kind: type[Aggregate[Any]], loaded: Loaded, *, replayed: bool = False
) -> None:
    """Raise the refusal of what is about somebody who was erased, whatever became of it before."""
    try:
        refuse_erased(kind, loaded.events)
    except DomainError as error:
        raise Refusal(error, replayed or loaded.outcome is not None) from None


def _require_confirmation(attempt: Attempt, seen: Aggregate[Any]) -> None:
    """Raise ``ONLINE_CONFIRMATION_REQUIRED`` for what a person has to say again online."""
    case = attempt.handler.case
    if not attempt.command.offline or case is None:
        return
    rule = rule_for(attempt.command.operation, case(seen.state, attempt.command.payload))
    if rule.offline is Offline.ONLINE_CONFIRMATION:
        raise DomainError(
            "ONLINE_CONFIRMATION_REQUIRED",
            "A person has to confirm this with a direct request.",
            {"confirmVersion": seen.version},
        )


def _claims(
    attempt: Attempt, seen: Aggregate[Any], decided: Decided, beside: Beside
) -> list[Claim]:
    told = [(attempt.aggregate_id, seen.state, decided.own)]
    told += [
        (its_id, beside.parties[its_id].state, events) for its_id, events in decided.others.items()
    ]
    return [
        Claim(system, value, its_id, take)
        for its_id, state, events in told
        for event in events
        for system, value, take in claims(state, event)
    ]


def _reply(
    attempt: Attempt,
    aggregate: Aggregate[Any],
    position: int,
    made: Sequence[Event],
    *,
    replayed: bool,
) -> Reply:
    handler = attempt.handler
    added = None
    if handler.adds is not None:
        chosen = getattr(attempt.command.payload, "id", None)
        added = (handler.adds, chosen or added_entry(made[-1]))
    told = bool(made) and not replayed
    part = attempt.part(aggregate)
    return Reply(aggregate, position, handler.makes, replayed, told, added, part)
