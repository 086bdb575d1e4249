"""What has to hold when the storm is over, told from the log and not from the devices."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from registration.client import Mutation, State
from registration.domain.contract import Operation, Touch
from registration.domain.patient_resource import Patient
from registration.eventstore.records import RecordedEvent, key_hash
from registration.simulation.actors import DeviceUser
from registration.simulation.known import Known, Reviewed, consent_of, identity
from registration.simulation.log import Log
from registration.simulation.merges import Bodies, check_current, check_merges
from registration.simulation.online import DirectUser
from registration.simulation.world import World

_IDENTITY_TOPICS = (
    "patient.registered",
    "patient.demographics-corrected",
    "patient.name-added",
    "patient.name-replaced",
    "patient.name-retired",
    "patient.identifier-added",
    "patient.identifier-retired",
    "patient.death-recorded",
    "patient.death-reversed",
    "patient.merged-away",
    "patient.restored",
    "patient.absorbed",
    "patient.released",
)


def check(
    world: World, tenant: str, known: Known, devices: list[DeviceUser], direct: DirectUser
) -> list[str]:
    """Return what does not hold; empty where all does."""
    log = Log(world, tenant)
    patients = _bodies("patients", known.patients, direct)
    encounters = _bodies("encounters", known.encounters, direct)
    # a device, and the log, have an encounter as it was recorded
    current = {its_id: body.pop("currentPatientId") for its_id, body in encounters.items()}
    places = _places(log, patients, encounters, direct)
    return [
        *_positions(log),
        *(wrong for device in devices for wrong in _nothing_lost(device, log)),
        *_nothing_twice(devices, log),
        *(wrong for device in devices for wrong in _no_lost_update(device, log, direct)),
        *(
            wrong
            for device in devices
            for wrong in _same_truth(device, known, patients | encounters, places)
        ),
        *check_merges(log, known, devices, patients, encounters),
        *check_current(log, known, encounters, current),
    ]


def _positions(log: Log) -> Iterator[str]:
    if [event.position for event in log.events] != list(range(1, len(log.events) + 1)):
        yield "the log has a gap"


def _nothing_lost(device: DeviceUser, log: Log) -> Iterator[str]:
    """Every change ended well or was given up with a reason, and what was acknowledged is in."""
    for mutation in device.client.history():
        if mutation.state is State.APPLIED:
            if key_hash(mutation.subject, str(mutation.id)) not in log.applied:
                yield f"{device.name} was told that {mutation.number} is in, and it is not"
        elif mutation.state is State.DISCARDED:
            if not mutation.reason:
                yield f"{device.name} dropped {mutation.number} without a reason"
            if str(mutation.id) in log.by_mutation:
                yield f"{device.name} gave {mutation.number} up, and it is in"
        else:
            yield f"{device.name} still has {mutation.number} as {mutation.state}"


def _nothing_twice(devices: list[DeviceUser], log: Log) -> Iterator[str]:
    made = {str(m.id) for device in devices for m in device.client.history()}
    for mutation, events in log.by_mutation.items():
        if mutation not in made:
            yield "the log holds a mutation that no device made"
        streams = {event.stream_id for event in events}
        versions = [event.version for event in events]
        if len(streams) > 1 or versions != list(range(versions[0], versions[0] + len(versions))):
            yield "a mutation is in the log twice"


def _no_lost_update(device: DeviceUser, log: Log, direct: DirectUser) -> Iterator[str]:
    """Whatever a change was laid over, its author had seen, or saw in a review."""
    for mutation in device.client.history():
        events = log.by_mutation.get(str(mutation.id))
        seen = device.seen.get(mutation.number)
        if not events or seen is None:
            continue
        stream, version = events[0].stream_id, events[0].version
        if isinstance(seen, Reviewed):
            yield from _reviewed(device, mutation, log, stream, version, seen.version)
        elif _stood(mutation, stream, version - 1, direct) != seen:
            yield f"{device.name}: {mutation.number} went over what its author had not seen"


def _stood(mutation: Mutation, stream: UUID, version: int, direct: DirectUser) -> Any:
    """Return what the record said, just before, of that which the change changes."""
    if mutation.operation is Operation.TRANSITION_ENCOUNTER:
        return direct.get(f"/v1/encounters/{stream}?version={version}").json()["status"]
    body = direct.get(f"/v1/patients/{stream}?version={version}").json()
    if mutation.operation is Operation.SET_CONSENT:
        return consent_of(body, str(mutation.entry))
    return identity(body)


def _reviewed(
    device: DeviceUser, mutation: Mutation, log: Log, stream: UUID, version: int, base: int | None
) -> Iterator[str]:
    if mutation.operation is not Operation.UPDATE_DEMOGRAPHICS or base is None:
        return
    history = list(log.of(stream))
    # a merge that was undone is as one that never was
    undone = _belongs(stream, history, base) == _belongs(stream, history, version - 1)
    for event in history:
        meta = event.meta
        foreign = (meta["actor"], meta.get("client")) != (device.subject, device.name)
        if undone and {Touch.MERGE} == event.event.TOUCHES:
            continue
        if base < event.version < version and foreign and event.topic in _IDENTITY_TOPICS:
            yield f"{device.name}: {mutation.number} went over what its review did not show"


def _belongs(stream: UUID, history: Sequence[RecordedEvent], version: int) -> Any:
    """Return what a record was merged into, and what into it, at a version."""
    state = Patient(stream, history[:version]).state
    return state and (state.merged_into, state.absorbed)


def _same_truth(
    device: DeviceUser, known: Known, bodies: Bodies, places: Mapping[str, set[Any]]
) -> Iterator[str]:
    """The device holds just what is in its scope, as the service has it."""
    for its_id, body in bodies.items():
        is_patient = UUID(its_id) in known.patients
        find = device.client.patient if is_patient else device.client.encounter
        yield from _compared(device, known, its_id, find(UUID(its_id)), body, places[its_id])


def _places(
    log: Log, patients: Bodies, encounters: Bodies, direct: DirectUser
) -> dict[str, set[Any]]:
    """Return the facilities in whose scope each record is; ``None``: in everybody's."""
    places = {its_id: {body.get("facility")} for its_id, body in patients.items()}
    for its_id, body in encounters.items():
        where = _where(its_id, body, log, direct)
        places[its_id] = {where}
        places[body["patientId"]].add(where)
    by_themselves = {its_id: frozenset(seen) for its_id, seen in places.items()}
    for its_id, body in patients.items():
        for link in body["links"]:
            if link["type"] == "replaces":
                places[its_id] |= by_themselves[link["patientId"]]
    return places


def _where(its_id: str, body: Mapping[str, Any], log: Log, direct: DirectUser) -> str | None:
    """Return the facility of an encounter, or else the one of its patient when it was opened."""
    patient = UUID(body["patientId"])
    if "facility" in body:
        return str(body["facility"])
    opened = log.of(UUID(its_id))[0].position
    version = sum(event.position < opened for event in log.of(patient))
    then = direct.get(f"/v1/patients/{patient}?version={version}").json().get("facility")
    return None if then is None else str(then)


def _bodies(kind: str, ids: list[UUID], direct: DirectUser) -> dict[str, Any]:
    answers = {str(its_id): direct.get(f"/v1/{kind}/{its_id}") for its_id in ids}
    return {its_id: answer.json() for its_id, answer in answers.items() if answer.is_success}


def _compared(
    device: DeviceUser,
    known: Known,
    its_id: str,
    view: Any,
    body: Mapping[str, Any],
    places: set[Any],
) -> Iterator[str]:
    expected = device.facility is None or None in places or device.facility in places
    name = known.called(UUID(its_id))
    if expected != (view is not None):
        yield f"{device.name} {'lacks' if expected else 'still has'} {name}"
    elif view is not None and dict(view.body) != body:
        yield f"{device.name} has another {name} than the service"
