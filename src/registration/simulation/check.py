"""What has to hold when the storm is over, told from the log and not from the devices."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson

from registration.client import Mutation, State
from registration.domain.contract import Operation
from registration.eventstore.records import key_hash
from registration.simulation.actors import (
    DeviceUser,
    DirectUser,
    Known,
    Reviewed,
    consent_of,
    identity,
)
from registration.simulation.world import World

_LOG = """
SELECT position, stream_id, version, topic, metadata FROM registration.event
 WHERE tenant = %s ORDER BY position
"""
_OUTCOMES = "SELECT key, body IS NULL FROM registration.outcome WHERE tenant = %s"
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
)


class _Log:
    """The tenant's log, by mutation and by stream."""

    def __init__(self, world: World, tenant: str) -> None:
        self.events = [
            (position, stream, version, topic, orjson.loads(meta))
            for position, stream, version, topic, meta in world.database.execute(_LOG, (tenant,))
        ]
        self.applied = {
            key for key, is_applied in world.database.execute(_OUTCOMES, (tenant,)) if is_applied
        }
        self.by_mutation: dict[str, list[Any]] = {}
        for event in self.events:
            mutation = event[4].get("clientMutationId") or event[4].get("idempotencyKey")
            if mutation is not None:
                self.by_mutation.setdefault(mutation, []).append(event)


def check(
    world: World, tenant: str, known: Known, devices: list[DeviceUser], direct: DirectUser
) -> list[str]:
    """Return what does not hold; empty where all does."""
    log = _Log(world, tenant)
    return [
        *_positions(log),
        *(wrong for device in devices for wrong in _nothing_lost(device, log)),
        *_nothing_twice(devices, log),
        *(wrong for device in devices for wrong in _no_lost_update(device, log, direct)),
        *(wrong for device in devices for wrong in _same_truth(device, log, known, direct)),
    ]


def _positions(log: _Log) -> Iterator[str]:
    if [event[0] for event in log.events] != list(range(1, len(log.events) + 1)):
        yield "the log has a gap"


def _nothing_lost(device: DeviceUser, log: _Log) -> Iterator[str]:
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


def _nothing_twice(devices: list[DeviceUser], log: _Log) -> Iterator[str]:
    made = {str(m.id) for device in devices for m in device.client.history()}
    for mutation, events in log.by_mutation.items():
        if mutation not in made:
            yield "the log holds a mutation that no device made"
        streams = {event[1] for event in events}
        versions = [event[2] for event in events]
        if len(streams) > 1 or versions != list(range(versions[0], versions[0] + len(versions))):
            yield "a mutation is in the log twice"


def _no_lost_update(device: DeviceUser, log: _Log, direct: DirectUser) -> Iterator[str]:
    """Whatever a change was laid over, its author had seen, or saw in a review."""
    for mutation in device.client.history():
        events = log.by_mutation.get(str(mutation.id))
        seen = device.seen.get(mutation.number)
        if not events or seen is None:
            continue
        _, stream, version, _, _ = events[0]
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
    device: DeviceUser, mutation: Mutation, log: _Log, stream: UUID, version: int, base: int | None
) -> Iterator[str]:
    if mutation.operation is not Operation.UPDATE_DEMOGRAPHICS or base is None:
        return
    for _, its_stream, its_version, topic, meta in log.events:
        foreign = (meta["actor"], meta.get("client")) != (device.subject, device.name)
        if (
            its_stream == stream
            and base < its_version < version
            and foreign
            and topic in _IDENTITY_TOPICS
        ):
            yield f"{device.name}: {mutation.number} went over what its review did not show"


def _same_truth(device: DeviceUser, log: _Log, known: Known, direct: DirectUser) -> Iterator[str]:
    """The device holds just what is in its scope, as the service has it."""
    patients = _bodies("patients", known.patients, direct)
    encounters = _bodies("encounters", known.encounters, direct)
    places = {its_id: {body.get("facility")} for its_id, body in patients.items()}
    where = {its_id: _where(its_id, body, log, direct) for its_id, body in encounters.items()}
    for its_id, body in encounters.items():
        places[body["patientId"]].add(where[its_id])
    for its_id, body in patients.items():
        view = device.client.patient(UUID(its_id))
        yield from _compared(device, known, its_id, view, body, places[its_id])
    for its_id, body in encounters.items():
        del body["currentPatientId"]  # a device follows the links of the patients itself
        view = device.client.encounter(UUID(its_id))
        yield from _compared(device, known, its_id, view, body, {where[its_id]})


def _where(its_id: str, body: dict[str, Any], log: _Log, direct: DirectUser) -> str | None:
    """Return the facility of an encounter, or else the one of its patient when it was opened."""
    patient = UUID(body["patientId"])
    if "facility" in body:
        return str(body["facility"])
    opened = next(event[0] for event in log.events if event[1] == UUID(its_id))
    version = sum(event[1] == patient and event[0] < opened for event in log.events)
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
    body: dict[str, Any],
    places: set[Any],
) -> Iterator[str]:
    expected = device.facility is None or None in places or device.facility in places
    name = known.called(UUID(its_id))
    if expected != (view is not None):
        yield f"{device.name} {'lacks' if expected else 'still has'} {name}"
    elif view is not None and dict(view.body) != body:
        yield f"{device.name} has another {name} than the service"
