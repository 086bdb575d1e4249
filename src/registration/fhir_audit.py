"""The audit trail as FHIR R4 AuditEvent: one resource for each change, each read and each gap.

Source: https://hl7.org/fhir/R4/auditevent.html. Codes are those of DICOM and FHIR that it names.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from registration.access_query import Accessed, Gap
from registration.domain.encounter import Encounter
from registration.domain.patient_resource import Patient
from registration.domain.timeline import kind_of
from registration.eventstore.records import RecordedEvent

_SYSTEM = "http://terminology.hl7.org/CodeSystem"
_RESTFUL = "http://hl7.org/fhir/restful-interaction"
_REST = {
    "system": f"{_SYSTEM}/audit-event-type",
    "code": "rest",
    "display": "RESTful Operation",
}
_SERVER = {
    "system": f"{_SYSTEM}/security-source-type",
    "code": "4",
    "display": "Application Server",
}
_DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_APPLICATION = {"coding": [{"system": _DICOM, "code": "110150"}]}
_ALERT = {"system": _DICOM, "code": "110113", "display": "Security Alert"}
_NOT_RECORDED = {"system": _DICOM, "code": "110133", "display": "Audit Recording Stopped"}
_PERSON = {"system": f"{_SYSTEM}/audit-entity-type", "code": "1", "display": "Person"}
_OBJECT = {"system": f"{_SYSTEM}/audit-entity-type", "code": "2", "display": "System Object"}
_PATIENT = {"system": f"{_SYSTEM}/object-role", "code": "1", "display": "Patient"}
_DOMAIN_RESOURCE = {
    "system": f"{_SYSTEM}/object-role",
    "code": "4",
    "display": "Domain Resource",
}
_INTERACTIONS = {
    "patient.search": ("search-type", "E"),
    "encounter.list": ("search-type", "E"),
    "encounter.board": ("search-type", "E"),
    "patient.history": ("history-instance", "R"),
    "patient.timeline": ("history-instance", "R"),
    "encounter.history": ("history-instance", "R"),
    "sync.pull": ("history-type", "R"),
}
"""By operation: the interaction of FHIR's API that it is, and the action (E: execute, R: read)."""

_GAPS = {
    "overflow": "The access log could not be written for too long",
    "crash": "A process ended before it had written the access log",
}


def change_event(recorded: RecordedEvent, patient_ids: Iterable[UUID]) -> dict[str, Any]:
    """Return a change as an AuditEvent: who changed which record, and its place in the log.

    What was changed to what is not in it: that is patient data, and in the log.
    """
    meta = recorded.meta
    made = recorded.version == 1
    return {
        "resourceType": "AuditEvent",
        "id": f"change-{recorded.position}",
        "type": _REST,
        "subtype": [{"system": _RESTFUL, "code": "create" if made else "update"}],
        "action": "C" if made else "U",
        "recorded": _instant(recorded.recorded_at),
        "outcome": "0",
        "agent": _agents(meta["actor"], meta.get("client")),
        "source": _source(meta.get("facility")),
        "entity": [
            *map(_patient, patient_ids),
            *_other_record(recorded),
            {
                "type": _OBJECT,
                "description": "Event of the log",
                "detail": _details(
                    {
                        "type": recorded.topic,
                        "operation": meta.get("operation"),
                        "version": str(recorded.version),
                        "position": str(recorded.position),
                        "hash": recorded.hash.hex(),
                        "clientMutationId": meta.get("clientMutationId"),
                        "supersedes": meta.get("supersedes"),
                    }
                ),
            },
        ],
    }


def read_event(read: Accessed) -> dict[str, Any]:
    """Return a read of patient data as an AuditEvent: who saw whose data, when and why."""
    interaction, action = _INTERACTIONS.get(read.operation, ("read", "R"))
    made: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": f"read-{read.id}",
        "type": _REST,
        "subtype": [{"system": _RESTFUL, "code": interaction}],
        "action": action,
        "recorded": _instant(read.at),
        "outcome": _outcome(read.status),
        "agent": _agents(read.actor, read.client),
        "source": _source(read.facility),
        "entity": [
            *([] if read.patient_id is None else [_patient(read.patient_id)]),
            {
                "type": _OBJECT,
                "description": "Request",
                "detail": _details(
                    {
                        "operation": read.operation,
                        "requestId": read.request_id,
                        "status": str(read.status),
                        "breakGlass": read.break_glass,
                    }
                ),
            },
        ],
    }
    # what was stated comes first; a broken glass is a purpose of its own
    purposes = [read.purpose, None if read.break_glass is None else "BTG"]
    codes = [code for code in dict.fromkeys(purposes) if code is not None]
    if codes:
        made["purposeOfEvent"] = [
            {"coding": [{"system": f"{_SYSTEM}/v3-ActReason", "code": code}]} for code in codes
        ]
    return made


def gap_event(gap: Gap) -> dict[str, Any]:
    """Return that reads are missing as an AuditEvent: the alert that recording had stopped."""
    how_many = "an unknown number of" if gap.lost is None else str(gap.lost)
    return {
        "resourceType": "AuditEvent",
        "id": f"gap-{gap.id}",
        "type": _ALERT,
        "subtype": [_NOT_RECORDED],
        "action": "E",
        "period": {"start": _instant(gap.since), "end": _instant(gap.until)},
        "recorded": _instant(gap.until),
        "outcome": "8",
        "outcomeDesc": f"{_GAPS[gap.reason]}: {how_many} reads of patient data are missing",
        "agent": [
            {"type": _APPLICATION, "who": {"display": "registration"}, "requestor": False},
        ],
        "source": _source(None),
        "entity": [
            {
                "type": _OBJECT,
                "description": "Access log",
                "detail": _details(
                    {"reason": gap.reason, "lost": None if gap.lost is None else str(gap.lost)}
                ),
            }
        ],
    }


def _outcome(status: int) -> str:
    """Return how an answer ended: 0 well, 4 refused (though it showed something), 8 failed."""
    return "0" if status < 400 else "4" if status < 500 else "8"


def _agents(actor: str, client: str | None) -> list[dict[str, Any]]:
    agents: list[dict[str, Any]] = [{"who": {"identifier": {"value": actor}}, "requestor": True}]
    if client is not None:
        agents.append(
            {"type": _APPLICATION, "who": {"identifier": {"value": client}}, "requestor": False}
        )
    return agents


def _source(facility: str | None) -> dict[str, Any]:
    source: dict[str, Any] = {"observer": {"display": "registration"}, "type": [_SERVER]}
    return source if facility is None else {"site": facility, **source}


def _patient(patient_id: UUID) -> dict[str, Any]:
    return {"what": {"reference": f"Patient/{patient_id}"}, "type": _PERSON, "role": _PATIENT}


def _other_record(recorded: RecordedEvent) -> Iterator[dict[str, Any]]:
    """Yield what was changed where that is no patient: an encounter, or what FHIR has not."""
    kind = None if recorded.known is None else kind_of(recorded.known)
    if kind is Encounter:
        what: dict[str, Any] = {"reference": f"Encounter/{recorded.stream_id}"}
        yield {"what": what, "type": _OBJECT, "role": _DOMAIN_RESOURCE}
    elif kind is not Patient:
        name = {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{recorded.stream_id}"}
        yield {
            "what": {"identifier": name, "display": kind.KIND if kind else recorded.topic},
            "type": _OBJECT,
        }


def _details(values: dict[str, str | None]) -> list[dict[str, str]]:
    return [
        {"type": name, "valueString": value} for name, value in values.items() if value is not None
    ]


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
