"""A log of which people were erased: sealed as the service stores it, read with or without keys."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Self
from uuid import UUID

from tests.projections.given import FACILITIES, TENANT, People, uuid

from registration.domain.aggregate import Aggregate, Stamp
from registration.domain.encounter import Encounter
from registration.domain.events import (
    ConsentGranted,
    ConsentWithdrawn,
    DeathRecorded,
    DeathReversed,
    DemographicsCorrected,
    EncounterEvent,
    IdentifierRetired,
    PatientErased,
)
from registration.domain.merge import Merge
from registration.domain.personal import people_of, public_members
from registration.domain.resources import Evidence
from registration.domain.timeline import kind_of
from registration.eventstore.records import RecordedEvent
from registration.eventstore.sealing import KEYRING, WRAPPED_SIZE, Place, parted, subjects_of

CANARY = ("Canarias", "99887766", "a canary sings")
"""What is said of people who are erased, and of nobody else."""
ERASURE = UUID(int=9999)


@dataclass
class Erasing(People):
    """People of whom some are erased."""

    erased: set[UUID] = field(default_factory=set)

    def erase(self, number: int) -> None:
        """Record that a person was erased: the patient, and all that is merged into it."""
        patient = self.patient(uuid(number))
        assert patient.state is not None
        assert patient.state.merged_into is None
        for each in (patient.id, *patient.state.absorbed):
            self.add(each, PatientErased(erasure_id=ERASURE))
            self.erased.add(each)
        self.merges = [each for each in self.merges if not self.erased & self.parties(each)]

    def parties(self, merge_id: UUID) -> set[UUID]:
        """Return whom a decision is about."""
        return set(Merge(merge_id, self.streams[merge_id]).patient_ids)

    def free(self) -> list[int]:
        """Return the patients to whom something can happen."""
        known = [its_id.int & 0xFFFF for its_id in self.streams if 0 < its_id.int & 0xFFFF < 1000]
        return [
            number
            for number in known
            if uuid(number) not in self.erased and self.found_under(uuid(number)) == uuid(number)
        ]

    def sealed(self) -> list[RecordedEvent]:
        """Return the log as it is stored, each event with the keys that there were."""
        keys: dict[UUID, bytes] = {}
        seen: dict[UUID, Aggregate[Any]] = {}
        stored = []
        for each in self.events:
            its_id, event = each.stream_id, each.event
            aggregate = seen.setdefault(its_id, kind_of(event)(its_id))
            people = people_of(event, its_id, aggregate)
            aggregate.apply(event, Stamp.of(each))
            if people:
                for person in people:
                    if person not in keys:
                        keys[person] = KEYRING.new(TENANT, person)
                key = b"".join(keys[person] for person in people)
                place = Place(TENANT, its_id, each.version, each.topic)
                data = KEYRING.seal(place, *parted(each.data, public_members(event)), people, key)
                each = replace(each, data=data, key=key)  # noqa: PLW2901
            stored.append(each)
        return stored

    def erased_by(self, position: int) -> frozenset[UUID]:
        """Return who had been erased when the log was this long."""
        return frozenset(
            each.stream_id
            for each in self.events[:position]
            if isinstance(each.event, PatientErased)
        )

    @classmethod
    def storm(cls, seed: int, steps: int, count: int = 8) -> Self:
        """Return people to whom everything happens, and who are erased then."""
        chance = random.Random(seed)
        log = cls()
        for number in range(1, count + 1):
            names = [f"Meyer, {CANARY[0]}", "Weber, Ida"]
            values = [CANARY[1] + str(number)]
            log.register(number, *names, values=values, facility=chance.choice(FACILITIES))
        for step in range(steps):
            free = log.free()
            chance.shuffle(free)
            what = chance.choice([_merge, _part, _part, _visit, _go_on, _say, _say, _erase])
            if what is not _erase or step > steps // 2:
                what(log, chance, free)
        log.erase(log.free()[0])
        return log


def _merge(log: Erasing, _chance: random.Random, free: list[int]) -> None:
    if len(free) > 1:
        log.merge(*free[:2])


def _part(log: Erasing, chance: random.Random, _free: list[int]) -> None:
    if log.merges:
        log.part(chance.choice(log.merges))


def _visit(log: Erasing, chance: random.Random, free: list[int]) -> None:
    state = log.patient(uuid(free[0])).state
    assert state is not None
    if state.deceased is None:
        log.visit(1000 + len(log.events), free[0], chance.choice(FACILITIES))


def _go_on(log: Erasing, chance: random.Random, _free: list[int]) -> None:
    opened = [
        its_id.int & 0xFFFF
        for its_id, history in log.streams.items()
        if isinstance(history[0].event, EncounterEvent) and len(history) == 1
        if not log.erased & set(Encounter(its_id, history).patient_ids)
    ]
    if opened:
        log.go_on(chance.choice(opened), "in-progress")


def _say(log: Erasing, chance: random.Random, free: list[int]) -> None:
    """Change something of a patient; a facility above all, which others are seen from as well."""
    state = log.patient(uuid(free[0])).state
    assert state is not None
    said = {"evidence": Evidence(kind="verbal", reference=CANARY[2])}
    at = log.now - timedelta(days=1)
    what = chance.choice(["move", "move", "move", "born", "rename", "number", "yes", "no", "death"])
    if what == "move":
        log.move_house(free[0], chance.choice(FACILITIES))
    elif what == "born":
        changes = {"birthDate": "1980-01-01", "gender": "other"}
        log.add(uuid(free[0]), DemographicsCorrected(changes=changes))
    elif what == "rename":
        log.rename(free[0], f"{CANARY[0]}, Eva")
    elif what == "number" and state.identifiers:
        gone = IdentifierRetired(identifier_id=state.identifiers[0].id, reason=CANARY[2])
        log.add(uuid(free[0]), gone)
    elif what == "number":
        log.identify(free[0], f"{CANARY[1]}0{len(log.events)}")
    elif what == "yes":
        log.add(uuid(free[0]), ConsentGranted(flag="research", **said))
    elif what == "no":
        log.add(uuid(free[0]), ConsentWithdrawn(flag="research", **said))
    elif state.deceased is None:
        log.add(uuid(free[0]), DeathRecorded(deceased_at=at, cause=CANARY[2]))
    else:
        log.add(uuid(free[0]), DeathReversed(reason=CANARY[2]))


def _erase(log: Erasing, _chance: random.Random, free: list[int]) -> None:
    if len(free) > 3:
        log.erase(free[0])


def without_keys(events: Sequence[RecordedEvent], gone: frozenset[UUID]) -> list[RecordedEvent]:
    """Return events as they are read once these people's keys are gone."""
    return [
        replace(each, key=None) if gone & set(subjects_of(each.data)) else replace(each)
        for each in events
    ]


def keys_of(events: Sequence[RecordedEvent]) -> Mapping[UUID, bytes]:
    """Return the keys of all people of a sealed log."""
    found: dict[UUID, bytes] = {}
    for each in events:
        for at, person in enumerate(subjects_of(each.data)):
            assert each.key is not None
            found[person] = each.key[at * WRAPPED_SIZE :][:WRAPPED_SIZE]
    return found


def readings(
    log: Erasing, events: Sequence[RecordedEvent], size: int, ahead: int
) -> Iterator[tuple[frozenset[UUID], list[RecordedEvent]]]:
    """Yield batches as they are read, each with whose keys are gone by then.

    The log is ``ahead`` events further than the batch that is read: with none, as by a projector
    that keeps up, with all, as in a rebuild.
    """
    for start in range(0, len(events), size):
        gone = log.erased_by(start + size + ahead)
        yield gone, without_keys(events[start : start + size], gone)
