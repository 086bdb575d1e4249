"""Keeping own changes and pulled records together: what a pull holds is laid on top no more."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from registration.client.cache import PATIENT, Cache, Record
from registration.client.mutation import ERASED, Mutation
from registration.client.outbox import Outbox
from registration.client.parts import version_of
from registration.client.search import Index
from registration.client.views import Views

_ERASED = "What this was about has been erased, for good."


class Bookkeeping:
    """What has to be noted, in the same transaction, after each answer of the service."""

    def __init__(
        self, cache: Cache, outbox: Outbox, views: Views, index: Index, subject: str
    ) -> None:
        self._cache = cache
        self._outbox = outbox
        self._views = views
        self._index = index
        self._subject = subject

    def catch_up(self) -> None:
        """Note what somebody else's pulls of the same scope brought meanwhile."""
        dropped = self._drop_held(
            self._outbox.applied_not_pulled(self._subject), self._cache.place().position
        )
        held = {mutation.aggregate_id for mutation in dropped if mutation.kind == PATIENT}
        self.reindex(held | set(self._outbox.changed(self._subject, PATIENT)))

    def settled(self, mutations: Sequence[Mutation]) -> None:
        """Note what an answer to a push said of mutations."""
        numbers = {mutation.number for mutation in mutations}
        applied = self._outbox.applied_not_pulled(self._subject)
        self._drop_held([m for m in applied if m.number in numbers], None)
        self.reindex({m.aggregate_id for m in mutations if m.kind == PATIENT})

    def took_in(self, changed: Sequence[tuple[str, str]], position: int | None) -> None:
        """Note a page of a pull; ``position``: with it all up to there is here."""
        patients = {its_id for kind, its_id in changed if kind == PATIENT}
        for its_id in patients:
            record = self._cache.get(PATIENT, its_id)
            self._index.note_pulled(its_id, None if record is None else record.body)
        touched = {its_id for _, its_id in changed}
        applied = [
            mutation
            for mutation in self._outbox.applied_not_pulled(self._subject)
            if position is not None or str(mutation.aggregate_id) in touched
        ]
        dropped = self._drop_held(applied, position)
        own = {str(its_id) for its_id in self._outbox.changed(self._subject, PATIENT)}
        again = {UUID(its_id) for its_id in patients & own}
        self.reindex(again | {m.aggregate_id for m in dropped if m.kind == PATIENT})

    def erased(self, kind: str, its_id: UUID | str) -> None:
        """Forget a patient who was erased, or an encounter of one, whoever knows of it here.

        What somebody queued about it is refused, and says nothing any more.
        """
        ids = [str(its_id)]
        if kind == PATIENT:
            self._index.erase(ids[0])
        ids += self._cache.erase(kind, ids[0])
        self._outbox.erase(ids, {"code": ERASED, "detail": _ERASED})

    def refused_as_erased(self, mutation: Mutation) -> None:
        """Forget the patient whom a mutation is about that the service refused so."""
        its_id = mutation.aggregate_id
        if mutation.kind == PATIENT:
            self.erased(PATIENT, its_id)
            return
        patient_id = self._outbox.patient_of(its_id) or self._cache.patient_of(its_id)
        if patient_id is None:
            self.erased(mutation.kind, its_id)
        else:
            self.erased(PATIENT, patient_id)

    def reindex(self, patients: Iterable[UUID]) -> None:
        """Index patients by their own changes, where there still are some."""
        changed = set(self._outbox.changed(self._subject, PATIENT))
        for its_id in patients:
            view = self._views.view(PATIENT, its_id) if its_id in changed else None
            self._index.note_changed(str(its_id), None if view is None else view.body)

    def _drop_held(self, applied: Sequence[Mutation], position: int | None) -> list[Mutation]:
        """Take from the overlay what the pulled records hold already; returns it."""
        held = [
            mutation
            for mutation in applied
            if (position is not None and (mutation.position or 0) <= position)
            or _holds(self._cache.get(mutation.kind, mutation.aggregate_id), mutation)
        ]
        for mutation in held:
            self._outbox.pulled(mutation)
        return held


def _holds(record: Record | None, mutation: Mutation) -> bool:
    """Whether a pulled record is as new as what a mutation made of it."""
    if record is None:
        return False
    if mutation.position is not None and record.position >= mutation.position:
        return True
    if not mutation.version:  # 0: it took a part away, which its absence alone does not tell
        return False
    return version_of(mutation.operation, mutation.entry, record) >= mutation.version
