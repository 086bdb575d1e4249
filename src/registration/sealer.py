"""Events on their way into the log: each sealed with the keys of those whom it is about."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from registration.command import Attempt, Beside
from registration.domain.aggregate import Aggregate, Decided
from registration.domain.errors import DomainError
from registration.domain.events import Event, PatientErased, PatientRegistered
from registration.domain.personal import people_of, public_members
from registration.eventstore.mapper import encode, encode_parted
from registration.eventstore.records import NewEvent, RecordedEvent, event_digest
from registration.eventstore.sealing import (
    KEYRING,
    NEVER_SEALED,
    WRAPPED_SIZE,
    Place,
    subjects_of,
)
from registration.eventstore.store import EventStore


class Sealer(NamedTuple):
    """What it takes to write the events of one command: whom each is about, and all their keys.

    ``people`` has, by stream, those of each event, in order. ``new_key`` is that of the patient
    whom the command registers; ``erases`` that somebody's key is deleted.
    """

    attempt: Attempt
    people: Mapping[UUID, Sequence[Sequence[UUID]]]
    keys: Mapping[UUID, bytes]
    new_key: bytes | None
    erases: bool

    def stored(self) -> None:
        """Take in that the events are stored: of whom they erase this process holds no key."""
        if self.erases:
            KEYRING.forget()

    def new_events(
        self, stream_id: UUID, events: Sequence[Event], version: int
    ) -> Sequence[NewEvent]:
        """Return events as the store takes them, the first with this version."""
        tenant, metadata = self.attempt.context.tenant, self.attempt.metadata
        return [
            new_event(
                Place(tenant, stream_id, number, event.TOPIC),
                event,
                metadata,
                people,
                self.keys,
            )
            for number, (event, people) in enumerate(
                zip(events, self.people[stream_id], strict=True), version
            )
        ]


def new_event(
    place: Place,
    event: Event,
    metadata: bytes,
    people: Sequence[UUID] = (),
    keys: Mapping[UUID, bytes] = MappingProxyType({}),
) -> NewEvent:
    """Return an event as the store takes it, sealed to those whom it is about who have a key."""
    held = {person: keys[person] for person in people if keys[person] != NEVER_SEALED}
    if held:
        public, personal = encode_parted(event, public_members(event))
        data = KEYRING.seal(place, public, personal, tuple(held), b"".join(held.values()))
    else:
        data = encode(event)
    digest = event_digest(*place, metadata, data)
    return NewEvent(place.stream_id, place.version, place.topic, data, metadata, digest)


async def sealer(
    store: EventStore, attempt: Attempt, seen: Aggregate[Any], decided: Decided, beside: Beside
) -> Sealer:
    """Return what writes the events that were decided.

    Raises ``ERASED`` where somebody whom they are about was erased since they were decided, and
    ``ERASURE_NOT_ALLOWED`` where they erase somebody whose first events were never sealed.
    """
    tenant, new_key = attempt.context.tenant, None
    keys = dict(beside.keys)
    told = [(attempt.aggregate_id, decided.own), *decided.others.items()]
    if any(isinstance(event, PatientRegistered) for event in decided.own):
        new_key = keys[attempt.aggregate_id] = KEYRING.new(tenant, attempt.aggregate_id)
    erased = {its_id for its_id, made in told if any(isinstance(e, PatientErased) for e in made)}
    people = {its_id: [people_of(event, its_id, seen) for event in made] for its_id, made in told}
    needed = erased.union(*(each for about in people.values() for each in about))
    if missing := needed - keys.keys():
        keys |= await store.keys(tenant, missing)
    if needed - keys.keys():
        raise DomainError("ERASED", "What this was about has been erased, for good.")
    if any(keys[its_id] == NEVER_SEALED for its_id in erased):
        raise DomainError(
            "ERASURE_NOT_ALLOWED",
            "This patient was registered before events were sealed: there is no key to delete.",
        )
    return Sealer(attempt, people, keys, new_key, bool(erased))


def keys_from(histories: Iterable[Sequence[RecordedEvent]]) -> dict[UUID, bytes]:
    """Return the keys of those whom records are about, which come with the first event of each."""
    found: dict[UUID, bytes] = {}
    for history in histories:
        if history and (keys := history[0].key):
            each = [keys[at : at + WRAPPED_SIZE] for at in range(0, len(keys), WRAPPED_SIZE)]
            found |= zip(subjects_of(history[0].data), each, strict=True)
    return found
