"""What has to hold of merges: each is whole or not there, and undone it left nothing behind."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from registration.domain.encounter import Encounter
from registration.domain.events import (
    EncounterOpened,
    Event,
    MergeExecuted,
    MergeReversed,
    PatientAbsorbed,
    PatientMergedAway,
    PatientReleased,
    PatientRestored,
)
from registration.domain.patient_resource import Patient
from registration.eventstore.records import RecordedEvent
from registration.simulation.actors import DeviceUser
from registration.simulation.known import Known
from registration.simulation.log import Log

_LINKING = (PatientMergedAway, PatientRestored, PatientAbsorbed, PatientReleased)
_EXECUTION = {"mpi.merge-approved", "mpi.merge-executed", "patient.merged-away", "patient.absorbed"}
_REVERSAL = {"mpi.merge-reversed", "patient.restored", "patient.released"}
_OF_MERGES = ("version", "lastUpdated", "active", "links", "identifiers")

Bodies = Mapping[str, Mapping[str, Any]]
"""Records as the service shows them, by id."""


class _Kept(NamedTuple):
    """An event at another place than the log has it: with nothing of merges before it."""

    version: int
    recorded: RecordedEvent

    @property
    def recorded_at(self) -> Any:
        """When it was stored."""
        return self.recorded.recorded_at

    @property
    def meta(self) -> Mapping[str, Any]:
        """Who did it."""
        return self.recorded.meta

    @property
    def event(self) -> Event:
        """What happened."""
        return self.recorded.event


def check_merges(
    log: Log, known: Known, devices: list[DeviceUser], patients: Bodies, encounters: Bodies
) -> Iterator[str]:
    """Yield what does not hold."""
    above = _in_effect(log)
    yield from _no_half_merge(log)
    yield from _rest(log, known)
    yield from _links(known, above, patients)
    yield from _replay(log, known, patients, encounters)
    yield from _own_histories(log, known, patients)
    for device in devices:
        yield from _followed(device, known, above)


def check_current(
    log: Log, known: Known, encounters: Bodies, current: Mapping[str, str]
) -> Iterator[str]:
    """Yield the encounters that do not name the record that their patient is found under now."""
    above = _in_effect(log)
    for its_id, body in encounters.items():
        patient = UUID(body["patientId"])
        if UUID(current[its_id]) != [patient, *_chain(above, patient)][-1]:
            yield f"{known.called(UUID(its_id))} does not find its patient"


def _in_effect(log: Log) -> dict[UUID, UUID]:
    """Return what replaced each record that is merged away, by the decisions alone."""
    above: dict[UUID, UUID] = {}
    for recorded in log.events:
        if isinstance(recorded.event, MergeExecuted):
            above[recorded.event.retired_id] = recorded.event.survivor_id
        elif isinstance(recorded.event, MergeReversed):
            del above[recorded.event.retired_id]
    return above


def _chain(above: Mapping[UUID, UUID], patient: UUID) -> list[UUID]:
    """Return what a record was merged into, up to the one that it is found under now."""
    chain: list[UUID] = []
    while patient in above:
        patient = above[patient]
        chain.append(patient)
    return chain


def _no_half_merge(log: Log) -> Iterator[str]:
    """A decision stands in the log with all that it does to both records, in one piece."""
    for events in log.by_decision.values():
        topics = {recorded.topic for recorded in events}
        if topics & (_EXECUTION | _REVERSAL) and topics not in (_EXECUTION, _REVERSAL):
            yield f"a merge is half in the log: {', '.join(sorted(topics))}"
        first = events[0].position
        if [e.position for e in events] != list(range(first, first + len(events))):
            yield "a merge is torn in the log, or in it twice"
    merged = sum(isinstance(recorded.event, PatientMergedAway) for recorded in log.events)
    executed = sum(isinstance(recorded.event, MergeExecuted) for recorded in log.events)
    if merged != executed:
        yield f"{executed} merges were carried out, and {merged} records merged away"


def _rest(log: Log, known: Known) -> Iterator[str]:
    """Nothing is done to a record while it is merged away, nor is an encounter opened for it."""
    away: set[UUID] = set()
    for recorded in log.events:
        event, its_id = recorded.event, recorded.stream_id
        if isinstance(event, EncounterOpened):
            its_id = event.patient_id
        if isinstance(event, PatientMergedAway):
            away.add(its_id)
        elif isinstance(event, PatientRestored):
            away.remove(its_id)
        elif its_id in away and not isinstance(event, PatientReleased):
            yield f"{known.called(its_id)} was used while it was merged away"


def _links(known: Known, above: Mapping[UUID, UUID], patients: Bodies) -> Iterator[str]:
    """A record says what replaced it if and only if that, and what replaced it, list the record."""
    below: dict[UUID, set[UUID]] = {}
    for retired in above:
        for each in _chain(above, retired):
            below.setdefault(each, set()).add(retired)
    for its_id, body in patients.items():
        patient = UUID(its_id)
        told = {(link["type"], UUID(link["patientId"])) for link in body["links"]}
        right = {("replaces", each) for each in below.get(patient, ())}
        if patient in above:
            right.add(("replaced-by", above[patient]))
        if told != right or body["active"] != (patient not in above):
            yield f"{known.called(patient)} does not say what it was merged with"


def _replay(log: Log, known: Known, patients: Bodies, encounters: Bodies) -> Iterator[str]:
    """What the service shows is what the log folds into."""
    for its_id, body in patients.items():
        if Patient(UUID(its_id), log.of(UUID(its_id))).plain() != body:
            yield f"{known.called(UUID(its_id))} is not what its history says"
    for its_id, body in encounters.items():
        if Encounter(UUID(its_id), log.of(UUID(its_id))).plain() != body:
            yield f"{known.called(UUID(its_id))} is not what its history says"


def _own_histories(log: Log, known: Known, patients: Bodies) -> Iterator[str]:
    """Merged, undone or neither: a record's own members are what was done to it alone."""
    for its_id, body in patients.items():
        own = [r for r in log.of(UUID(its_id)) if not isinstance(r.event, _LINKING)]
        kept = [_Kept(version, recorded) for version, recorded in enumerate(own, 1)]
        alone = Patient(UUID(its_id), kept).plain()
        if _own(alone) != _own(body):
            yield f"{known.called(UUID(its_id))} holds what was not done to it"


def _own(body: Mapping[str, Any]) -> dict[str, Any]:
    held = [each for each in body["identifiers"] if "mergedFrom" not in each]
    return {n: v for n, v in body.items() if n not in _OF_MERGES} | {"own identifiers": held}


def _followed(device: DeviceUser, known: Known, above: Mapping[UUID, UUID]) -> Iterator[str]:
    """At a device the links lead to the record that a patient is found under now."""
    for patient in known.patients:
        chain = [patient, *_chain(above, patient)]
        if device.client.patient(patient) is None:
            continue  # out of the device's scope
        view = device.client.current(patient)
        if view is None or view.id != chain[-1]:
            yield f"{device.name} does not find what became of {known.called(patient)}"
