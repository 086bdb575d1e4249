"""What tests of read models start from: people who are registered, merged and parted again.

What merging and parting stores is decided by the domain, so that a log is one that there may be.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from tests.domain.given import context

from registration.domain import commands
from registration.domain.contract import Touch
from registration.domain.encounter import Encounter, decide_open, decide_transition
from registration.domain.events import (
    DemographicsCorrected,
    EncounterOpened,
    Event,
    IdentifierAdded,
    MergeProposed,
    NameAdded,
    NameRetired,
    PatientRegistered,
)
from registration.domain.merge import Merge, Party, decide_unmerge, merged
from registration.domain.names import confirm_name
from registration.domain.patient_resource import Patient
from registration.domain.resources import Identifier, Name, NameInput
from registration.eventstore.mapper import encode
from registration.eventstore.records import RecordedEvent

TENANT = "clinic"
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
FACILITIES = ("north", "south", "east", None)


def uuid(number: int) -> UUID:
    """Return an id: of patients below 1000, of encounters from 1000, of merges from 5000."""
    return UUID(int=(0x7000 << 64) | (1 << 63) | number)


def name(number: int, said: str) -> Name:
    """Build a name from "Family, Given Given"."""
    family, _, given = said.partition(", ")
    return confirm_name(NameInput(family=family, given=tuple(given.split())), uuid(number), "")


def identifier(number: int, value: str) -> Identifier:
    return Identifier(id=uuid(number), system="urn:mrn", value=value)


@dataclass
class People:
    """A log of one tenant, an event a minute."""

    events: list[RecordedEvent] = field(default_factory=list)
    streams: dict[UUID, list[RecordedEvent]] = field(default_factory=dict)
    merges: list[UUID] = field(default_factory=list)
    """The decisions that hold."""
    _entries: int = 100_000

    def add(self, stream: UUID, *happened: Event, at: datetime | None = None) -> None:
        """Record what happened to a stream, now unless it is said when."""
        history = self.streams.setdefault(stream, [])
        for event in happened:
            history.append(
                RecordedEvent(
                    tenant=TENANT,
                    position=len(self.events) + 1,
                    stream_id=stream,
                    version=len(history) + 1,
                    topic=event.TOPIC,
                    data=encode(event),
                    metadata=orjson.dumps({"actor": "desk-1"}),
                    recorded_at=at or self.now,
                    hash=b"",
                )
            )
            self.events.append(history[-1])

    def register(self, number: int, *names: str, values: Sequence[str] = (), **more: Any) -> None:
        """Record a patient with these names, identifiers and members."""
        self.add(
            uuid(number),
            PatientRegistered(
                names=tuple(name(self._entry(), said) for said in names),
                identifiers=tuple(identifier(self._entry(), value) for value in values),
                **{"gender": "female"} | more,
            ),
        )

    def rename(self, number: int, said: str) -> None:
        """Record one more name."""
        self.add(uuid(number), NameAdded(name=name(self._entry(), said)))

    def retire_name(self, number: int, name_id: str) -> None:
        """Record that a name is not used any more."""
        retired = NameRetired(name_id=UUID(name_id), reason="married")
        self.add(uuid(number), retired)

    def identify(self, number: int, value: str) -> None:
        """Record one more identifier."""
        held = identifier(self._entry(), value)
        self.add(uuid(number), IdentifierAdded(identifier=held))

    def move_house(self, number: int, facility: str | None) -> None:
        """Record another facility."""
        self.add(uuid(number), DemographicsCorrected(changes={"facility": facility}))

    def visit(self, number: int, patient: int, facility: str | None = None) -> None:
        """Record an encounter of a patient."""
        opening = commands.OpenEncounter(
            patient_id=uuid(patient), encounter_class="AMB", status="arrived"
        )
        now = context()._replace(now=self.now, facility=facility)
        self.add(uuid(number), *decide_open(None, opening, now, self.patient(uuid(patient)).state))

    def go_on(self, number: int, to: Any) -> None:
        """Record the next status of an encounter."""
        encounter = Encounter(uuid(number), self.streams[uuid(number)])
        assert encounter.state is not None
        move = commands.TransitionEncounter(to=to, reason="because")
        now = context()._replace(now=self.now)
        self.add(uuid(number), *decide_transition(encounter.state, move, now))

    def merge(self, retired: int, survivor: int) -> UUID:
        """Record that one patient was merged into another; returns the decision's id."""
        merge_id = uuid(5000 + len(self.events))
        gone, stays = self.patient(uuid(retired)), self.patient(uuid(survivor))
        proposed = MergeProposed(
            survivor_id=stays.id,
            retired_id=gone.id,
            survivor_version=stays.version,
            retired_version=gone.version,
            reason="one person",
        )
        self.add(merge_id, proposed)
        self._record(merge_id, merged(merge_id, stays, gone))
        self.merges.append(merge_id)
        return merge_id

    def part(self, merge_id: UUID) -> None:
        """Record that a merge was undone."""
        decision = Merge(merge_id, self.streams[merge_id]).state
        assert decision is not None
        said = commands.Reason(reason="two persons")
        parties = dict(self._with_all_above(decision.survivor_id, decision.retired_id))
        self._record(merge_id, decide_unmerge(decision, said, context(), parties, merge_id))
        self.merges.remove(merge_id)

    def patient(self, its_id: UUID) -> Patient:
        """Return a patient as its stream folds."""
        return Patient(its_id, self.streams[its_id])

    def found_under(self, its_id: UUID) -> UUID:
        """Return the record that a patient is found under now."""
        *_, (last, _) = self._with_all_above(its_id)
        return last

    def without_merges(self) -> "People":
        """Return the log of the same people without any merge; none must hold any more."""
        assert not self.merges
        alone = People()
        for recorded in self.events:
            if Touch.MERGE not in recorded.event.TOUCHES:
                alone.add(recorded.stream_id, recorded.event, at=recorded.recorded_at)
        return alone

    @property
    def now(self) -> datetime:
        """When the next event is recorded."""
        return MONDAY + timedelta(minutes=len(self.events))

    def _with_all_above(self, *ids: UUID) -> Iterator[tuple[UUID, Party]]:
        for each in ids:
            at: UUID | None = each
            while at is not None:
                party = Party(self.patient(at), self.streams[at])
                yield at, party
                at = party.state.merged_into

    def _record(self, merge_id: UUID, decided: Any) -> None:
        others: Mapping[UUID, Sequence[Event]] = decided.others
        for its_id, happened in others.items():
            self.add(its_id, *happened)
        self.add(merge_id, *decided.own)

    def _entry(self) -> int:
        self._entries += 1
        return self._entries


def storm(seed: int, steps: int, count: int = 8) -> People:
    """Return people to whom everything happens that may, merges and their undoing above all."""
    chance = random.Random(seed)
    log = People()
    for number in range(count):
        log.register(
            number,
            *chance.sample(["Meyer, Anna", "Meier, Anne", "Weber, Ida"], chance.choice([1, 2])),
            values=[str(number)],
            facility=chance.choice(FACILITIES),
        )
    for _ in range(steps):
        free = [n for n in range(count) if log.found_under(uuid(n)) == uuid(n)]
        chance.shuffle(free)
        chance.choice([_merge, _merge, _part, _visit, _go_on, _rename, _move])(log, chance, free)
    return log


def _merge(log: People, _chance: random.Random, free: list[int]) -> None:
    if len(free) > 1:
        log.merge(*free[:2])


def _part(log: People, chance: random.Random, _free: list[int]) -> None:
    if log.merges:
        log.part(chance.choice(log.merges))


def _visit(log: People, chance: random.Random, free: list[int]) -> None:
    log.visit(1000 + len(log.events), free[0], chance.choice(FACILITIES))


def _go_on(log: People, chance: random.Random, _free: list[int]) -> None:
    planned = [
        recorded.stream_id.int & 0xFFFF
        for recorded in log.events
        if isinstance(recorded.event, EncounterOpened)
        if len(log.streams[recorded.stream_id]) == 1
    ]
    if planned:
        log.go_on(chance.choice(planned), "in-progress")


def _rename(log: People, chance: random.Random, free: list[int]) -> None:
    log.rename(free[0], f"Weber, {chance.choice(['Eva', 'Ewa', 'Anna'])}")
    log.identify(free[0], f"9{len(log.events)}")


def _move(log: People, chance: random.Random, free: list[int]) -> None:
    log.move_house(free[0], chance.choice(FACILITIES))


def calmed(seed: int, steps: int) -> People:
    """Return the people of a storm after which every merge was undone, in any order."""
    log, chance = storm(seed, steps), random.Random(seed)
    while log.merges:
        log.part(chance.choice(log.merges))
    return log


def batches(events: Sequence[RecordedEvent], size: int) -> Iterable[Sequence[RecordedEvent]]:
    """Return the log in batches."""
    return [events[start : start + size] for start in range(0, len(events), size)]
