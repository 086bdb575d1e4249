"""Patients of two clinics who register, change, are merged, separated and told apart, as a log."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson
from tests.domain.given import context
from tests.eventstore.given import TENANT

from registration.domain import commands, events, merge
from registration.domain.candidate import candidate_id, ordered
from registration.domain.errors import DomainError
from registration.domain.patient_resource import Patient
from registration.domain.patient_state import PatientState
from registration.domain.resources import ContactPoint, Identifier, Name
from registration.eventstore.mapper import encode
from registration.eventstore.records import RecordedEvent
from registration.mpi.model import Model
from registration.projections.matching import evidence_of, match_record

OTHER = "clinic-b"
TENANTS = (TENANT, OTHER)
MONDAY = datetime(2026, 3, 2, 8, tzinfo=UTC)

FAMILIES = ("Okoro", "Okorro", "Lindqvist")
GIVEN = ("Ada", "Adah", "Björn")
BORN = ("1984-03-02", "1984-02-03", "1951-11-30", None)
PHONES = ("+44 20 7946 0123", "+46 8 555 01", None)

What = Literal["register", "rename", "correct", "number", "kin", "merge", "unmerge", "dismiss"]


class Step(NamedTuple):
    """Something that happens at a clinic to one patient, or to one and another."""

    what: What
    clinic: int
    one: int
    other: int
    choice: int


def patient_id(number: int) -> UUID:
    return UUID(int=number + 1)


def name(choice: int) -> Name:
    return Name(
        id=UUID(int=7),
        family=FAMILIES[choice % 3],
        given=(GIVEN[choice // 3 % 3],),
        script="Latn",
    )


def phone(choice: int) -> tuple[ContactPoint, ...]:
    value = PHONES[choice % 3]
    return () if value is None else (ContactPoint(system="phone", value=value),)


def registration(choice: int) -> events.PatientRegistered:
    return events.PatientRegistered(
        names=(name(choice),),
        gender="female",
        birth_date=BORN[choice // 9 % 4],
        telecom=phone(choice // 2),
        facility=("north", "south", None)[choice % 3],
    )


@dataclass
class Clinics:
    """What was recorded, a minute after the other; what the domain refuses did not happen."""

    log: list[RecordedEvent] = field(default_factory=list)
    streams: dict[tuple[str, UUID], list[RecordedEvent]] = field(default_factory=dict)
    merges: dict[str, list[UUID]] = field(default_factory=dict)

    @classmethod
    def of(cls, steps: Iterable[Step]) -> "Clinics":
        clinics = cls()
        for step in steps:
            clinics.take(step)
        return clinics

    def take(self, step: Step) -> None:
        """Record what a step comes to."""
        tenant = TENANTS[step.clinic]
        one, other = patient_id(step.one), patient_id(step.other)
        if step.what == "register":
            if (tenant, one) not in self.streams:
                self.record(tenant, one, registration(step.choice))
        elif step.what == "merge":
            self.merge(tenant, one, other)
        elif step.what == "unmerge":
            self.unmerge(tenant, step.choice)
        elif step.what == "dismiss":
            self.dismiss(tenant, one, other)
        elif self.is_used(tenant, one):
            self.record(tenant, one, _change(step))

    def is_used(self, tenant: str, its_id: UUID) -> bool:
        patient = self.patient(tenant, its_id)
        return patient.state is not None and patient.state.merged_into is None

    def patient(self, tenant: str, its_id: UUID) -> Patient:
        return Patient(its_id, self.streams.get((tenant, its_id), ()))

    def state(self, tenant: str, its_id: UUID) -> PatientState:
        state = self.patient(tenant, its_id).state
        assert state is not None
        return state

    def parties(self, tenant: str, *ids: UUID) -> merge.Parties:
        found = {}
        asked = list(ids)
        while asked:
            its_id = asked.pop()
            history = self.streams[tenant, its_id]
            found[its_id] = party = merge.Party(Patient(its_id, history), history)
            if party.state.merged_into is not None:
                asked.append(party.state.merged_into)
        return found

    def merge(self, tenant: str, survivor: UUID, retired: UUID) -> UUID | None:
        """Merge two patients, if both are in use; returns the decision's id."""
        if survivor == retired or not (
            self.is_used(tenant, survivor) and self.is_used(tenant, retired)
        ):
            return None
        merge_id = UUID(int=1000 + len(self.log))
        both = self.patient(tenant, survivor), self.patient(tenant, retired)
        proposed = events.MergeProposed(
            survivor_id=survivor,
            retired_id=retired,
            survivor_version=both[0].version,
            retired_version=both[1].version,
            reason="the same person",
        )
        self.record(tenant, merge_id, proposed)
        self._record_all(tenant, merge_id, merge.merged(merge_id, *both))
        self.merges.setdefault(tenant, []).append(merge_id)
        return merge_id

    def unmerge(self, tenant: str, choice: int) -> None:
        """Undo one of the merges, if it was not undone."""
        merges = self.merges.get(tenant, ())
        if not merges:
            return
        merge_id = merges[choice % len(merges)]
        state = merge.Merge(merge_id, self.streams[tenant, merge_id]).state
        assert state is not None
        parties = self.parties(tenant, state.survivor_id, state.retired_id)
        reason = commands.Reason(reason="two persons after all")
        try:
            decided = merge.decide_unmerge(state, reason, context(), parties, merge_id)
        except DomainError:
            return
        self._record_all(tenant, merge_id, decided)

    def dismiss(self, tenant: str, one: UUID, other: UUID) -> None:
        """Find two patients to be two persons, on what speaks for one now."""
        seen = self.patient(tenant, one).state, self.patient(tenant, other).state
        if one == other or seen[0] is None or seen[1] is None:
            return
        made = Model.default().score(match_record(seen[0]), match_record(seen[1]))
        dismissed = events.CandidateDismissed(
            patient_ids=ordered(one, other), evidence=evidence_of(made), reason="sisters"
        )
        self.record(tenant, candidate_id(one, other), dismissed)

    def _record_all(self, tenant: str, merge_id: UUID, decided: Any) -> None:
        for its_id, made in (*decided.others.items(), (merge_id, decided.own)):
            for event in made:
                self.record(tenant, its_id, event)

    def record(self, tenant: str, its_id: UUID, event: events.Event) -> None:
        history = self.streams.setdefault((tenant, its_id), [])
        recorded = RecordedEvent(
            tenant=tenant,
            position=len(self.log) + 1,
            stream_id=its_id,
            version=len(history) + 1,
            topic=event.TOPIC,
            data=encode(event),
            metadata=orjson.dumps({"actor": f"desk-{len(self.log) % 3}"}),
            recorded_at=MONDAY + timedelta(minutes=len(self.log)),
            hash=b"",
        )
        self.log.append(recorded)
        history.append(recorded)

    def cut(self, cuts: Sequence[int]) -> Iterator[list[RecordedEvent]]:
        """Yield the log in batches."""
        bounds = [0, *sorted(min(cut, len(self.log)) for cut in cuts), len(self.log)]
        for start, end in pairwise(bounds):
            yield self.log[start:end]


def _change(step: Step) -> events.Event:
    match step.what:
        case "rename":
            return events.NameReplaced(name=name(step.choice))
        case "number":
            number = Identifier(
                id=UUID(int=100 + step.choice), system="urn:card", value=str(step.choice % 3)
            )
            return events.IdentifierAdded(identifier=number)
        case "kin":
            return events.NextOfKinRemoved(next_of_kin_id=UUID(int=9), reason="moved")
    return events.DemographicsCorrected(
        changes={
            "birthDate": BORN[step.choice // 9 % 4],
            "telecom": [each.plain() for each in phone(step.choice)],
            "facility": ("north", "south", None)[step.choice % 3],
        }
    )
