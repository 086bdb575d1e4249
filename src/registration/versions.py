"""When a stated version is stale, and what the refusal tells a human to look at again.

Stale means: an event after that version touches what the command touches (the conflict table's
``collides``), not merely that some event came after. What the caller's own device did before is no
surprise to it: a mutation that says ``afterMutation`` was made with those changes on the screen.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from registration.command import Attempt, Beside
from registration.domain.aggregate import Aggregate, Part, Stamp, changes_of
from registration.domain.contract import Operation, Policy, Touch
from registration.domain.differences import ABOUT_AN_ENTRY, differing
from registration.domain.errors import DomainError
from registration.domain.events import Event
from registration.domain.handlers import HANDLERS
from registration.domain.patient_resource import Patient
from registration.eventstore.records import RecordedEvent


def check_version(
    attempt: Attempt,
    history: Sequence[RecordedEvent],
    now: Aggregate[Any],
    beside: Beside,
) -> None:
    """Raise ``OPTIMISTIC_LOCK_CONFLICT`` where the stated version is stale for this command.

    What has a version of its own (a consent flag, an extension instance) counts its own changes,
    and 0 says: not there. Raises ``VERSION_REQUIRED`` where ``afterMutation`` does not tell what
    the caller had seen of others.
    """
    stated = attempt.command.version
    current = _subject(attempt, now)
    if stated is None and not attempt.rule.needs_version:
        return
    if attempt.rule.policy is Policy.APPEND_ONLY:
        return  # whatever came before, one more is added to it
    if stated == (current.version if current is not None else 0):
        return
    steps = _steps(attempt, history)
    chain = _chain(attempt, history)
    is_own = [mutation_of(record.meta) in chain for _, record in steps]
    if stated is None or (stated == 0 and attempt.handler.part is None and chain):
        stated = _base_of(attempt, chain, history, steps)
    known = (stated > 0 or attempt.handler.part is not None) and stated <= len(steps)
    first = stated
    if stated == 0 and True in is_own:
        first = is_own.index(True)  # it was not there when the chain began
    later = steps[first:] if known else []
    colliding = [
        step
        for step, own in zip(later, is_own[first:], strict=known)
        if not own and _collides(attempt, step[1].event)
    ]
    if colliding and _merges_are_undone(history[: later[0][1].version - 1], now):
        colliding = [step for step in colliding if step[1].event.TOUCHES != _BY_MERGES]
    if known and not colliding:
        return
    extra: dict[str, Any] = {
        "expectedVersion": stated,
        "currentVersion": len(steps),
        "changes": changes_of(colliding),
        "fields": [],
        "current": _plain(attempt, now),
    }
    if known:
        seen = history[: later[0][1].version - 1]
        at_stake = {path[1:] for _, record in colliding for path in record.event.fields}
        own = [step[1] for step, mine in zip(later, is_own[first:], strict=True) if mine]
        extra["fields"] = _differences(attempt, seen, own, at_stake, extra["current"], beside)
    raise DomainError(
        "OPTIMISTIC_LOCK_CONFLICT",
        "The record changed since the version that you state; review both and send again.",
        extra,
    )


_BY_MERGES = frozenset({Touch.MERGE})


def _merges_are_undone(seen: Sequence[RecordedEvent], now: Aggregate[Any]) -> bool:
    """Whether a record belongs where it did when the caller saw it: undone is as never done."""
    if not isinstance(now, Patient) or now.state is None:
        return False
    before = Patient(now.id, seen).state
    return before is not None and (before.merged_into, before.absorbed) == (
        now.state.merged_into,
        now.state.absorbed,
    )


def mutation_of(meta: Mapping[str, Any]) -> str | None:
    """Return the mutation that made an event, whichever way it came; ``None`` for none."""
    return meta.get("clientMutationId") or meta.get("idempotencyKey")


def _chain(attempt: Attempt, history: Sequence[RecordedEvent]) -> dict[str | None, RecordedEvent]:
    """Return the own mutations that this one builds on, back to the first: what made each.

    Followed by what each one named, not by their ids: a device that was restored from a backup has
    forgotten some of its own, and has not seen them. One that changed nothing ends the chain.
    """
    made = {mutation_of(record.meta): record for record in reversed(history)}
    chain: dict[str | None, RecordedEvent] = {}
    after = None if attempt.command.after is None else str(attempt.command.after)
    while after is not None and after not in chain:
        link = made.get(after)
        if link is None or link.meta["actor"] != attempt.context.actor:
            break
        chain[after] = link
        after = link.meta.get("afterMutation")
    return chain


def _base_of(
    attempt: Attempt,
    chain: Mapping[str | None, RecordedEvent],
    history: Sequence[RecordedEvent],
    steps: Sequence[tuple[int, RecordedEvent]],
) -> int:
    """Return the version that a chain of own mutations started from.

    It is the ``baseVersion`` that one of them stated, or that of the record's creation where this
    device made it. The version that the last one left would hide what others did before it.
    """
    for link in chain.values():
        base = link.meta.get("baseVersion")
        part = HANDLERS[Operation(link.meta["operation"])].part
        if base is not None and part is None:
            return sum(record.version <= base for _, record in steps)
        if base is not None and part is attempt.handler.part and _is_its_own(attempt, link.event):
            return int(base)
    first = history[0].meta
    if first["actor"] == attempt.context.actor and (
        mutation_of(first) in chain or first.get("client") == attempt.context.client is not None
    ):
        return sum(record.version <= 1 for _, record in steps)
    raise DomainError(
        "VERSION_REQUIRED", "afterMutation does not tell what you had seen: state baseVersion too."
    )


def _subject(attempt: Attempt, seen: Aggregate[Any]) -> Aggregate[Any] | Part | None:
    """Return what the stated version is the version of."""
    return seen if attempt.handler.part is None else attempt.part(seen)


def _steps(attempt: Attempt, history: Sequence[RecordedEvent]) -> list[tuple[int, RecordedEvent]]:
    """Return the events that the stated version counts, each with that version."""
    if attempt.handler.part is None:
        return list(enumerate(history, 1))
    its_own = (record for record in history if _is_its_own(attempt, record.event))
    return list(enumerate(its_own, 1))


def _is_its_own(attempt: Attempt, event: Event) -> bool:
    return event.touched_key == attempt.command.entry and not event.TOUCHES.isdisjoint(
        attempt.rule.collides
    )


def _collides(attempt: Attempt, event: Event) -> bool:
    shared = event.TOUCHES & attempt.rule.collides
    if not shared:
        return False
    key, entry = event.touched_key, attempt.command.entry
    return key is None or entry is None or key == str(entry)


def _differences(
    attempt: Attempt,
    seen: Sequence[RecordedEvent],
    own: Sequence[RecordedEvent],
    at_stake: set[str],
    theirs: Mapping[str, Any],
    beside: Beside,
) -> list[dict[str, Any]]:
    """List each member in which the record now and the caller's intent differ.

    The intent goes on top of what the caller had seen and changed before. A member that changed
    without colliding, and that the caller did not mean, is no difference.
    """
    before = attempt.handler.aggregate(attempt.aggregate_id, seen)
    base = _plain(attempt, before)
    for record in own:
        before.apply(record.event, Stamp.of(record))
    try:
        for event in attempt.decide(before, beside).own:
            before.apply(event, Stamp(before.version + 1, attempt.context.now, ""))
    except DomainError:
        pass  # what was wanted makes no sense at that version either: yours is what you saw
    yours = _plain(attempt, before)
    if attempt.handler.part is not None:
        at_stake = base.keys() | theirs.keys()
    at_stake |= differing(base, yours)
    return _compared(at_stake - before.ABOUT - ABOUT_AN_ENTRY, base, theirs, yours)


def _compared(
    names: set[str],
    base: Mapping[str, Any],
    theirs: Mapping[str, Any],
    yours: Mapping[str, Any],
) -> list[dict[str, Any]]:
    return [
        {
            "path": f"/{name}",
            "base": base.get(name),
            "theirs": theirs.get(name),
            "yours": yours.get(name),
        }
        for name in sorted(names & differing(theirs, yours))
    ]


def intent_beside(
    attempt: Attempt, retired: Aggregate[Any], survivor: Aggregate[Any], beside: Beside
) -> list[dict[str, Any]]:
    """List each member that a command on a merged-away record meant to change, and differs.

    ``base`` is what the retired record says, ``theirs`` what the survivor says, ``yours`` what the
    command would have made of the retired one.
    """
    intended = copy(retired)
    base = retired.plain()
    try:
        for event in attempt.decide(intended, beside).own:
            intended.apply(event, Stamp(intended.version + 1, attempt.context.now, ""))
    except DomainError:
        return []  # what was wanted makes no sense on the retired record either
    yours = intended.plain()
    return _compared(differing(base, yours) - retired.ABOUT, base, survivor.plain(), yours)


def _plain(attempt: Attempt, seen: Aggregate[Any]) -> dict[str, Any]:
    subject = None if seen.state is None else _subject(attempt, seen)
    return {} if subject is None else subject.plain()
