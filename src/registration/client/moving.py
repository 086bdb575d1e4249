"""Taking a refused change, and what builds on it, to the record that its patient was merged into.

What builds on it goes along where that lays nothing over what the survivor says: additions, opened
encounters and what becomes of these. What needs a version of the survivor, or an entry that only
the retired record has, is put to the person by itself, with what builds on that below it.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from registration.client.bookkeeping import Bookkeeping
from registration.client.cache import PATIENT, Cache
from registration.client.changes import Changes
from registration.client.device import Device
from registration.client.merging import CODE, merged_away
from registration.client.mutation import Mutation, State
from registration.client.outbox import Outbox
from registration.client.review import dependents
from registration.domain.contract import rule_for
from registration.domain.handlers import HANDLERS

SUPERSEDED = "superseded"
_BLOCKED = {"code": "DEPENDENCY_FAILED", "detail": "What this builds on was not applied."}


def names_an_entry(mutation: Mutation) -> bool:
    """Whether a change is about one name, identifier or next of kin, which is its record's own."""
    handler = HANDLERS[mutation.operation]
    return handler.entry and handler.part is None


class Moving:
    """The moves of one person's changes; each is to be called in a transaction."""

    def __init__(
        self,
        device: Device,
        outbox: Outbox,
        cache: Cache,
        changes: Changes,
        bookkeeping: Bookkeeping,
    ) -> None:
        self._device = device
        self._outbox = outbox
        self._cache = cache
        self._changes = changes
        self._bookkeeping = bookkeeping

    def move(
        self,
        old: Mutation,
        survivor: UUID,
        said: Mapping[str, Any],
        base: int | None,
        *,
        checked: bool,
    ) -> Mutation:
        """Queue a change for the survivor, what builds on it after it, and return the former."""
        hanging = dependents(self._outbox, old)
        along = _going_along(old, hanging)
        moved = {each.id for each in (old, *along)}
        self._look_at(old, survivor, [each for each in hanging if each.id not in moved], moved)
        for each in (old, *along):  # all first: nothing new builds on what goes
            self._outbox.discarded(each, SUPERSEDED, self._device.now())
        made = self._changes.to_survivor(old, survivor, said, old.entry, base, checked=checked)
        self._outbox.discarded(old, SUPERSEDED, self._device.now(), made.id)
        entries = {old.payload.get("id"): made.payload.get("id")}
        for each in along:
            then = self._follow(each, survivor, entries)
            entries[each.payload.get("id")] = then.payload.get("id")
        self._bookkeeping.settled([old, *hanging])
        return made

    def part(self, old: Mutation, survivor: UUID, hanging: Sequence[Mutation]) -> None:
        """Put to the person by itself what builds on a change that is given up."""
        self._look_at(old, survivor, hanging, {old.id})

    def _follow(self, old: Mutation, survivor: UUID, entries: Mapping[Any, Any]) -> Mutation:
        now = self._device.now()
        if old.kind != PATIENT and not HANDLERS[old.operation].creates:
            made = self._changes.again(old, old.payload, old.base_version or 1, checked=False)
        else:
            entry = entries.get(old.entry, old.entry)
            made = self._changes.to_survivor(old, survivor, old.payload, entry, None, checked=False)
        self._outbox.discarded(old, SUPERSEDED, now, made.id)
        return made

    def _look_at(
        self, old: Mutation, survivor: UUID, others: Sequence[Mutation], gone: set[UUID]
    ) -> None:
        """Put changes to the review as the refused one was; what builds on these stays blocked."""
        problem = self._problem(old, survivor)
        for each in others:
            if each.after in gone:
                self._outbox.refused(each, State.CONFLICT, problem, old.position)
            elif each.state is State.QUEUED:
                self._outbox.refused(each, State.BLOCKED, _BLOCKED)
        self._bookkeeping.settled(others)

    def _problem(self, old: Mutation, survivor: UUID) -> dict[str, Any]:
        """Return the refusal without what it says of the refused change alone."""
        if old.code == CODE and old.problem is not None:
            return {name: told for name, told in old.problem.items() if name != "fields"}
        error = merged_away(self._cache, old.aggregate_id, survivor)
        return {"code": error.code, "detail": error.detail, **error.extra}


def _going_along(old: Mutation, hanging: Sequence[Mutation]) -> list[Mutation]:
    """Return what builds on a change and can follow it to the survivor unseen."""
    going, along = {old.id}, []
    entries = {old.payload.get("id")}
    for each in hanging:
        if each.after in going and _lays_over_nothing(each, entries):
            going.add(each.id)
            along.append(each)
            entries.add(each.payload.get("id"))
    return along


def _lays_over_nothing(mutation: Mutation, entries: set[Any]) -> bool:
    if mutation.kind != PATIENT:
        return True
    if rule_for(mutation.operation).needs_version:
        return False
    return not names_an_entry(mutation) or mutation.entry in entries
