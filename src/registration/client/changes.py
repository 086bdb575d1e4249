"""Making a change at the device: decided on what its person sees, and queued with its base."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from registration.client.bookkeeping import Bookkeeping
from registration.client.cache import PATIENT, Cache
from registration.client.device import Device
from registration.client.mutation import Mutation
from registration.client.outbox import Outbox
from registration.client.parts import version_of
from registration.client.payload import completed, dated, entry_of, instant, plain
from registration.client.session import Session
from registration.client.store import Store
from registration.client.views import Built, Views, kind_of
from registration.domain.contract import Offline, Operation, rule_for, rules_for
from registration.domain.errors import DomainError, invalid
from registration.domain.handlers import HANDLERS

_WITH_FACILITY = (Operation.REGISTER_PATIENT, Operation.OPEN_ENCOUNTER)


class Changes:
    """The changes of one person."""

    def __init__(
        self,
        store: Store,
        device: Device,
        session: Session,
        cache: Cache,
        outbox: Outbox,
        views: Views,
        bookkeeping: Bookkeeping,
    ) -> None:
        self._store = store
        self._device = device
        self._session = session
        self._cache = cache
        self._outbox = outbox
        self._views = views
        self._bookkeeping = bookkeeping

    def submit(
        self,
        operation: Operation,
        aggregate_id: UUID | None,
        said: Mapping[str, Any],
        entry: UUID | str | None,
    ) -> Mutation:
        """Decide a change as the service would, and queue it. Raises the domain's refusal."""
        self._require_allowed(operation)
        payload = plain(said)
        aggregate_id = self._aggregate_id(operation, aggregate_id, payload)
        about = entry_of(operation, entry)
        with self._store.transaction():
            return self._queue(
                operation, aggregate_id, payload, None if about is None else str(about), {}
            )

    def again(
        self, old: Mutation, said: Mapping[str, Any], base: int | None, *, checked: bool
    ) -> Mutation:
        """Queue a refused change anew, to be called in a transaction.

        ``base`` is the version that a person looked at, that of what was pulled if absent.
        Unless it is ``checked`` the service alone decides whether it still fits.
        """
        fixed = self._fixed(old, base, checked=checked)
        payload = plain(said)
        if old.own_at and "at" in payload:
            payload["at"] = instant(self._not_before(old, datetime.fromisoformat(payload["at"])))
        return self._queue(old.operation, old.aggregate_id, payload, old.entry, fixed)

    def to_survivor(
        self,
        old: Mutation,
        survivor: UUID,
        said: Mapping[str, Any],
        entry: str | None,
        base: int | None,
        *,
        checked: bool,
    ) -> Mutation:
        """Queue a change of a record that was merged away for its survivor, as :meth:`again`.

        An entry that it adds keeps its id, unless that names another one there.
        """
        fixed = self._fixed(old, base, checked=checked)
        payload = plain(said)
        if old.operation is Operation.OPEN_ENCOUNTER:
            payload["patientId"] = str(survivor)
            return self._queue(old.operation, old.aggregate_id, payload, entry, fixed)
        if HANDLERS[old.operation].adds is not None and self._is_taken(old, survivor, payload):
            payload["id"] = str(self._device.fresh_id())
        if entry != old.entry and "id" in payload:
            payload["id"] = entry
        return self._queue(old.operation, survivor, payload, entry, fixed)

    def _fixed(self, old: Mutation, base: int | None, *, checked: bool) -> dict[str, Any]:
        """Return the columns that a change takes over from the one in whose place it stands."""
        fixed: dict[str, Any] = {"supersedes": str(old.id)}
        if base is not None and rule_for(old.operation).needs_version:
            fixed["base_version"] = base
        if not checked:
            fixed["made_at"] = old.made_at
        return fixed

    def _is_taken(self, old: Mutation, survivor: UUID, payload: Mapping[str, Any]) -> bool:
        """Whether the id of an entry names another one of the survivor, as it is shown here."""
        aggregate = self._views.built(PATIENT, survivor).aggregate
        context = self._views.context(old.made_at, old.facility, old.entry)
        try:
            self._views.decide(old.operation, aggregate, payload, old.entry, context)
        except DomainError as error:
            return error.code == "ID_TAKEN"
        return False

    def _not_before(self, old: Mutation, at: datetime) -> datetime:
        """Return when a change was made, or else when its record last changed as it is shown."""
        aggregate = self._views.built(old.kind, old.aggregate_id).aggregate
        history = getattr(aggregate and aggregate.state, "history", ())
        return max(at, history[-1].at) if history else at

    def _queue(
        self,
        operation: Operation,
        aggregate_id: UUID,
        payload: dict[str, Any],
        entry: str | None,
        fixed: Mapping[str, Any],
    ) -> Mutation:
        built = self._views.built(kind_of(operation), aggregate_id)
        at = self._instant(built)
        payload, own_at = self._filled(operation, payload, at)
        changes = True
        if "made_at" not in fixed:
            context = self._views.context(at, self._session.facility, entry)
            events = self._views.decide(operation, built.aggregate, payload, entry, context)
            changes = bool(events)
        last = self._outbox.last_queued(self._session.subject)
        after = self._after(operation, aggregate_id, payload)
        columns: dict[str, Any] = {
            "id": str(self._device.next_mutation_id(last)),
            "subject": self._session.subject,
            "operation": operation.value,
            "kind": kind_of(operation),
            "aggregate_id": str(aggregate_id),
            "patient_id": payload.get("patientId"),
            "entry": entry,
            "payload": orjson.dumps(payload).decode(),
            "base_version": self._base(operation, built, entry),
            "after_id": None if after is None else str(after.id),
            "facility": self._session.facility,
            "own_at": int(own_at),
            "uncertain": int(self._device.skew is None),
            "changes": int(changes),
            **fixed,
            "made_at": fixed.get("made_at", at).isoformat(),
        }
        made = self._outbox.add(columns)
        self._bookkeeping.settled([made])
        return made

    def _require_allowed(self, operation: Operation) -> None:
        if all(rule.offline is Offline.PROHIBITED for rule in rules_for(operation)):
            raise DomainError("OFFLINE_PROHIBITED", "This is done online only.")
        scope = rule_for(operation).scope
        if scope not in self._session.scopes:
            raise DomainError("FORBIDDEN", f"This needs the scope {scope}.", {"scope": scope})

    def _aggregate_id(
        self, operation: Operation, chosen: UUID | None, payload: dict[str, Any]
    ) -> UUID:
        if not HANDLERS[operation].creates:
            if chosen is None:
                raise invalid("", "is about a record that has to be named")
            return chosen
        if "clientMutationId" in payload:
            raise invalid("/clientMutationId", "is given by the device")
        named = payload.pop("id", None)
        try:
            return chosen or (UUID(named) if named is not None else self._device.fresh_id())
        except (ValueError, TypeError, AttributeError):
            raise invalid("/id", "is not a UUID") from None

    def _instant(self, built: Built) -> datetime:
        """Return now, but not before what an encounter went through last."""
        now = self._device.now()
        state = None if built.aggregate is None else built.aggregate.state
        history = getattr(state, "history", ())
        return max(now, history[-1].at) if history else now

    def _filled(
        self, operation: Operation, payload: dict[str, Any], at: datetime
    ) -> tuple[dict[str, Any], bool]:
        """Return the payload with all that the service would otherwise add by itself."""
        payload = completed(operation, payload, self._device.fresh_id)
        if operation in _WITH_FACILITY and payload.get("facility") is None:
            payload.pop("facility", None)
            if self._session.facility is not None:
                payload["facility"] = self._session.facility
        moved = dated(operation, payload, at)
        return (payload, False) if moved is None else (moved, True)

    def _base(self, operation: Operation, built: Built, entry: str | None) -> int | None:
        """Return the version that was pulled of what the change needs a version of."""
        if built.record is None or not rule_for(operation).needs_version:
            return None
        return version_of(operation, entry, built.record)

    def _after(
        self, operation: Operation, aggregate_id: UUID, payload: Mapping[str, Any]
    ) -> Mutation | None:
        """Return the own mutation that this one builds on: the last one that no pull brought.

        One that changes nothing leaves no event that could be built on. An encounter builds on the
        registration of a patient that no pull brought either.
        """
        subject = self._session.subject
        earlier = [m for m in self._outbox.not_pulled(subject, aggregate_id) if m.changes]
        if earlier:
            return earlier[-1]
        if operation is not Operation.OPEN_ENCOUNTER:
            return None
        patient_id = UUID(str(payload["patientId"]))
        if self._cache.get(PATIENT, patient_id) is not None:
            return None
        created = self._outbox.not_pulled(subject, patient_id)
        return created[0] if created else None


def encounters_of(cache: Cache, outbox: Outbox, subject: str, patient_id: UUID) -> list[UUID]:
    """Return the encounters of a patient, those included that were only opened here."""
    known = [UUID(its_id) for its_id in cache.encounters_of(patient_id)]
    return list(dict.fromkeys([*known, *outbox.opened_for(subject, patient_id)]))
