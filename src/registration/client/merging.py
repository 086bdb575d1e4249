"""What merges mean at the device: which record a patient is found under, and what it took in.

A merge is decided online alone. A pull brings the links that it left: ``replaced-by`` on the
retired record, ``replaces`` on the one that survives.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard
from uuid import UUID

from registration.client.cache import PATIENT, Cache, Record
from registration.client.mutation import Mutation
from registration.domain.contract import Operation
from registration.domain.errors import DomainError

CODE = "PATIENT_MERGED"
DETAIL = "This record was merged into another one."


def replaced_by(body: Mapping[str, Any]) -> UUID | None:
    """Return the record that the one which is shown was merged into, if it was."""
    return next(iter(_linked(body, "replaced-by")), None)


def replaced(body: Mapping[str, Any]) -> list[UUID]:
    """Return the records that were merged into the one which is shown."""
    return _linked(body, "replaces")


def survivor_of(cache: Cache, patient_id: UUID) -> UUID:
    """Return the id that a patient is found under now, as far as pulls have told.

    Between two pages of a pull the links may lead in a circle: then the last one before it closes.
    """
    seen = {patient_id}
    while (record := cache.get(PATIENT, patient_id)) is not None:
        above = replaced_by(record.body)
        if above is None or above in seen:
            break
        seen.add(above)
        patient_id = above
    return patient_id


def patient_of(
    operation: Operation, aggregate_id: UUID | None, payload: Mapping[str, Any]
) -> UUID | None:
    """Return the patient that a change is about: nothing of the kind is done to a merged one.

    An encounter that there is moves on whatever became of its patient's record.
    """
    if operation is Operation.OPEN_ENCOUNTER:
        return UUID(str(payload["patientId"]))
    return None if operation is Operation.TRANSITION_ENCOUNTER else aggregate_id


def survivor_for(cache: Cache, mutation: Mutation) -> UUID | None:
    """Return the record that the patient of a change was merged into; ``None``: into none.

    What the service said when it refused the change counts until a pull is as new as that.
    """
    patient_id = patient_of(mutation.operation, mutation.aggregate_id, mutation.payload)
    if patient_id is None:
        return None
    survivor = survivor_of(cache, patient_id)
    if survivor != patient_id:
        return survivor
    if mutation.code != CODE:
        return None
    told = UUID((mutation.problem or {})["survivorId"])
    position = cache.place().position

    def is_newer(record: Record | None) -> TypeGuard[Record]:
        newest = max(record.position, position) if record is not None else -1
        return newest >= (mutation.position or 0)

    beside = cache.get(PATIENT, told)
    if is_newer(cache.get(PATIENT, patient_id)):
        return None
    if is_newer(beside) and patient_id not in replaced(beside.body):
        return None  # the record itself has left what is kept here
    survivor = survivor_of(cache, told)
    return told if survivor == patient_id else survivor


def merged_away(cache: Cache, patient_id: UUID, survivor: UUID | None = None) -> DomainError:
    """Build the refusal of a change on a record that was merged away, as the service would."""
    survivor = survivor or survivor_of(cache, patient_id)
    extra: dict[str, Any] = {"patientId": str(patient_id), "survivorId": str(survivor)}
    record = cache.get(PATIENT, survivor)
    if record is not None:
        extra["survivorVersion"] = record.version
    return DomainError(CODE, DETAIL, extra)


def _linked(body: Mapping[str, Any], how: str) -> list[UUID]:
    return [UUID(link["patientId"]) for link in body.get("links", ()) if link["type"] == how]
