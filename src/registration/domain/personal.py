"""What of each event says something of a person, and what it says once that person was erased.

All of an event about people is personal but what :data:`PUBLIC` names: a member that is forgotten
here is sealed, not shown. Once the key to them is gone, the personal members that an event cannot
be without read as :data:`BLANK` says; the others are absent.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any
from uuid import UUID

import orjson

from registration.domain import events
from registration.domain.aggregate import Aggregate
from registration.domain.events import Event
from registration.domain.timeline import patients_of

_NAME = {"id": str(UUID(int=0)), "script": "Zyyy"}
_AN_ENTRY = {"id": str(UUID(int=0))}
_EVIDENCE = {"evidence": {"kind": "erased"}}
_VALIDITY = ("flag", "validFrom", "validUntil")
_STEP = ("at",)
_REASON = {"reason": ""}

PUBLIC: Mapping[type[Event], Sequence[str]] = MappingProxyType(
    {
        events.PatientRegistered: ("facility",),
        events.DemographicsCorrected: (),
        events.NameAdded: (),
        events.NameReplaced: (),
        events.NameRetired: ("nameId",),
        events.IdentifierAdded: (),
        events.IdentifierRetired: ("identifierId",),
        events.NextOfKinAdded: (),
        events.NextOfKinRemoved: ("nextOfKinId",),
        events.ConsentGranted: _VALIDITY,
        events.ConsentRefused: _VALIDITY,
        events.ConsentWithdrawn: _VALIDITY,
        events.PortraitSet: (
            *("portraitId", "mediaType", "width", "height", "size", "retainUntil"),
        ),
        events.PortraitRemoved: ("portraitId", "cause"),
        events.ExtensionSet: (),  # a schema may be one of an illness
        events.ExtensionRemoved: (),
        events.DeathRecorded: (),
        events.DeathReversed: (),
        events.PatientMergedAway: ("mergeId", "survivorId"),
        events.PatientAbsorbed: ("mergeId", "patientId"),
        events.PatientRestored: ("mergeId",),
        events.PatientReleased: ("mergeId", "patientIds"),
        events.MergeProposed: (
            *("survivorId", "retiredId", "survivorVersion", "retiredVersion", "overridden"),
        ),
        events.MergeApproved: ("survivorVersion", "retiredVersion"),
        events.MergeExecuted: ("survivorId", "retiredId"),
        events.MergeRejected: (),
        events.MergeReversed: ("survivorId", "retiredId", "releasedBy"),
        events.CandidateDismissed: ("patientIds",),
        events.EncounterOpened: (
            *("patientId", "class", "status", "at", "plannedStart", "facility", "postMortem"),
        ),
        events.EncounterArrived: _STEP,
        events.EncounterTriaged: _STEP,
        events.EncounterStarted: _STEP,
        events.EncounterLeaveStarted: _STEP,
        events.EncounterLeaveEnded: _STEP,
        events.EncounterFinished: _STEP,
        events.EncounterReopened: _STEP,
        events.EncounterCancelled: _STEP,
        events.EncounterEnteredInError: _STEP,
        events.ErasureRequested: ("patientId", "patientIds", "basis"),
        events.ErasureRefused: (),
    }
)
"""By event, the wire names of what may be read by whoever reads the log, for good."""

BLANK: Mapping[type[Event], Mapping[str, Any]] = MappingProxyType(
    {
        events.PatientRegistered: {"names": [], "gender": "unknown"},
        events.DemographicsCorrected: {"changes": {}},
        events.NameAdded: {"name": _NAME},
        events.NameReplaced: {"name": _NAME},
        events.NameRetired: _REASON,
        events.IdentifierAdded: {"identifier": {**_AN_ENTRY, "system": "erased", "value": "-"}},
        events.IdentifierRetired: _REASON,
        events.NextOfKinAdded: {"nextOfKin": {**_AN_ENTRY, "name": "-", "relationship": "-"}},
        events.NextOfKinRemoved: _REASON,
        events.ConsentGranted: _EVIDENCE,
        events.ConsentRefused: _EVIDENCE,
        events.ConsentWithdrawn: _EVIDENCE,
        events.PortraitSet: {"contentHash": ""},
        events.ExtensionSet: {"schema": "erased", "schemaVersion": 1},
        events.ExtensionRemoved: {"schema": "erased"},
        events.DeathRecorded: {"deceasedAt": "1900-01-01T00:00:00Z"},
        events.DeathReversed: _REASON,
        events.MergeProposed: _REASON,
        events.MergeRejected: _REASON,
        events.MergeReversed: _REASON,
        events.CandidateDismissed: {**_REASON, "evidence": ""},
        events.ErasureRequested: _REASON,
        events.ErasureRefused: _REASON,
    }
)
"""By event, what its required personal members read as once somebody whom it is about is erased."""

NOT_ABOUT_PEOPLE: frozenset[type[Event]] = frozenset(
    {
        events.ExtensionSchemaPublished,
        events.PatientErased,
        events.ErasureApproved,
        events.ErasureShredded,
    }
)
"""Events that hold nothing of a person: never sealed."""

_PUBLIC = {event: frozenset([*names, "class_version"]) for event, names in PUBLIC.items()}
_BY_TOPIC = {event.TOPIC: event for event in PUBLIC}


def public_members(event: Event) -> frozenset[str]:
    """Return the wire names of an event's members that are not sealed."""
    return _PUBLIC[type(event)]


def people_of(event: Event, stream_id: UUID, seen: Aggregate[Any]) -> tuple[UUID, ...]:
    """Return whom an event is about, to whose keys it is sealed.

    ``seen`` is its stream before it.
    """
    if type(event) in NOT_ABOUT_PEOPLE:
        return ()
    if isinstance(event, events.PatientAbsorbed):
        return (event.patient_id,)
    if isinstance(event, events.PatientEvent):
        return (stream_id,)
    return seen.patient_ids or patients_of(stream_id, event)


def said_when_erased(topic: str, public: bytes) -> bytes:
    """Return the JSON of an event whose people were erased: its public members, and blanks."""
    blank = BLANK.get(_BY_TOPIC[topic], {}) if topic in _BY_TOPIC else {}
    return orjson.dumps({**blank, **orjson.loads(public)})
