"""What a patient's events fold into: all that decisions need and the wire shows."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from registration.domain import events
from registration.domain.aggregate import Stamp
from registration.domain.resources import (
    Address,
    Consent,
    ContactPoint,
    Death,
    ExtensionInstance,
    Identifier,
    Name,
    NextOfKin,
    Portrait,
)


class Absorbed(NamedTuple):
    """What is known of a record that was merged into another one, on that one."""

    patient_id: UUID
    names: tuple[Name, ...]
    identifiers: tuple[Identifier, ...]


class PatientState(NamedTuple):
    """All that is known of a patient at one version."""

    names: tuple[Name, ...]
    gender: str
    birth_date: str | None = None
    birth_date_estimated: bool = False
    identifiers: tuple[Identifier, ...] = ()
    telecom: tuple[ContactPoint, ...] = ()
    addresses: tuple[Address, ...] = ()
    next_of_kin: tuple[NextOfKin, ...] = ()
    marital_status: str | None = None
    preferred_language: str | None = None
    facility: str | None = None
    gone: frozenset[UUID] = frozenset()
    """Ids of entries that were taken away: they name nothing else, ever."""
    consents: Mapping[str, tuple[Consent, ...]] = MappingProxyType({})
    """By flag, every decision about it, in the order they were recorded."""
    portrait: Portrait | None = None
    portrait_gone: str | None = None
    """Why the last portrait is no more; ``None`` where there is one, or never was."""
    extensions: Mapping[str, ExtensionInstance] = MappingProxyType({})
    """By schema, the instances that are there."""
    extension_versions: Mapping[str, int] = MappingProxyType({})
    """By schema, how often its instance was changed, removals included."""
    deceased: Death | None = None
    merged_into: UUID | None = None
    """The record that this one was merged into."""
    merge_id: UUID | None = None
    """The decision that did it."""
    absorbed: Mapping[UUID, Absorbed] = MappingProxyType({})
    """By id, the records that were merged into this one, and what had been merged into those."""


DEMOGRAPHICS: dict[str, str] = {
    "gender": "gender",
    "birthDate": "birth_date",
    "birthDateEstimated": "birth_date_estimated",
    "telecom": "telecom",
    "addresses": "addresses",
    "maritalStatus": "marital_status",
    "preferredLanguage": "preferred_language",
    "facility": "facility",
}
"""Wire name to state member, of all that ``patient.update_demographics`` may change."""


def evolve(state: PatientState | None, event: events.Event, stamp: Stamp) -> PatientState:
    """Return the state after one more event."""
    if isinstance(event, events.PatientRegistered):
        return PatientState(
            names=event.names,
            gender=event.gender,
            birth_date=event.birth_date,
            birth_date_estimated=event.birth_date_estimated,
            identifiers=event.identifiers,
            telecom=event.telecom,
            addresses=event.addresses,
            next_of_kin=event.next_of_kin,
            marital_status=event.marital_status,
            preferred_language=event.preferred_language,
            facility=event.facility,
        )
    if state is None:
        raise ValueError(f"a patient's history starts with its registration, not {event.TOPIC}")
    return _EVOLVE[type(event)](state, event, stamp)


def fold(history: Iterable[events.Event]) -> PatientState | None:
    """Return the state that a history leads to, as if recorded at once; ``None`` for no history."""
    state: PatientState | None = None
    for version, event in enumerate(history, 1):
        state = evolve(state, event, Stamp(version, datetime.min.replace(tzinfo=UTC), "nobody"))
    return state


def _demographics(
    state: PatientState, event: events.DemographicsCorrected, _stamp: Stamp
) -> PatientState:
    changes = {DEMOGRAPHICS[name]: value for name, value in event.changes.items()}
    if "telecom" in changes:
        changes["telecom"] = tuple(map(ContactPoint.model_validate, changes["telecom"] or ()))
    if "addresses" in changes:
        changes["addresses"] = tuple(map(Address.model_validate, changes["addresses"] or ()))
    if "birth_date_estimated" in changes:
        changes["birth_date_estimated"] = bool(changes["birth_date_estimated"])
    return state._replace(**changes)


def _consent(state: PatientState, event: events.ConsentEvent, stamp: Stamp) -> PatientState:
    earlier = state.consents.get(event.flag, ())
    said = Consent.trusted(
        flag=event.flag,
        version=earlier[-1].version + 1 if earlier else 1,
        decision=event.DECISION,
        policy=event.policy,
        evidence=event.evidence,
        valid_from=event.valid_from,
        valid_until=event.valid_until,
        recorded_at=stamp.at,
        recorded_by=stamp.by,
    )
    return state._replace(consents={**state.consents, event.flag: (*earlier, said)})


def _portrait(state: PatientState, event: events.PortraitSet, stamp: Stamp) -> PatientState:
    portrait = Portrait.trusted(
        id=event.portrait_id,
        content_hash=event.content_hash,
        media_type=event.media_type,
        width=event.width,
        height=event.height,
        size=event.size,
        retain_until=event.retain_until,
        recorded_at=stamp.at,
        recorded_by=stamp.by,
    )
    return state._replace(portrait=portrait, portrait_gone=None)


def _extension(state: PatientState, event: events.ExtensionSet, stamp: Stamp) -> PatientState:
    name = event.schema_name
    version = state.extension_versions.get(name, 0) + 1
    instance = ExtensionInstance.trusted(
        schema_name=name,
        schema_version=event.schema_version,
        version=version,
        data=event.data,
        recorded_at=stamp.at,
        recorded_by=stamp.by,
    )
    return state._replace(
        extensions={**state.extensions, name: instance},
        extension_versions={**state.extension_versions, name: version},
    )


def _no_extension(
    state: PatientState, event: events.ExtensionRemoved, _stamp: Stamp
) -> PatientState:
    name = event.schema_name
    return state._replace(
        extensions={other: kept for other, kept in state.extensions.items() if other != name},
        extension_versions={
            **state.extension_versions,
            name: state.extension_versions.get(name, 0) + 1,
        },
    )


def _death(state: PatientState, event: events.DeathRecorded, stamp: Stamp) -> PatientState:
    death = Death.trusted(
        deceased_at=event.deceased_at,
        cause=event.cause,
        certificate=event.certificate,
        recorded_at=stamp.at,
        recorded_by=stamp.by,
    )
    return state._replace(deceased=death)


def _absorbed(state: PatientState, event: events.PatientAbsorbed, _stamp: Stamp) -> PatientState:
    retired = Absorbed(event.patient_id, event.names, event.identifiers)
    return state._replace(absorbed={**state.absorbed, event.patient_id: retired})


def _released(state: PatientState, event: events.PatientReleased, _stamp: Stamp) -> PatientState:
    kept = {its: each for its, each in state.absorbed.items() if its not in event.patient_ids}
    return state._replace(absorbed=kept)


def _without(entries: tuple[Any, ...], entry_id: UUID) -> tuple[Any, ...]:
    return tuple(entry for entry in entries if entry.id != entry_id)


_EVOLVE: dict[type[events.Event], Callable[[PatientState, Any, Stamp], PatientState]] = {
    events.DemographicsCorrected: _demographics,
    events.NameAdded: lambda s, e, _: s._replace(names=(*s.names, e.name)),
    events.NameReplaced: lambda s, e, _: s._replace(
        names=tuple(e.name if name.id == e.name.id else name for name in s.names)
    ),
    events.NameRetired: lambda s, e, _: s._replace(
        names=_without(s.names, e.name_id), gone=s.gone | {e.name_id}
    ),
    events.IdentifierAdded: lambda s, e, _: s._replace(identifiers=(*s.identifiers, e.identifier)),
    events.IdentifierRetired: lambda s, e, _: s._replace(
        identifiers=_without(s.identifiers, e.identifier_id), gone=s.gone | {e.identifier_id}
    ),
    events.NextOfKinAdded: lambda s, e, _: s._replace(next_of_kin=(*s.next_of_kin, e.next_of_kin)),
    events.NextOfKinRemoved: lambda s, e, _: s._replace(
        next_of_kin=_without(s.next_of_kin, e.next_of_kin_id), gone=s.gone | {e.next_of_kin_id}
    ),
    events.ConsentGranted: _consent,
    events.ConsentRefused: _consent,
    events.ConsentWithdrawn: _consent,
    events.PortraitSet: _portrait,
    events.PortraitRemoved: lambda s, e, _: s._replace(portrait=None, portrait_gone=e.cause),
    events.ExtensionSet: _extension,
    events.ExtensionRemoved: _no_extension,
    events.DeathRecorded: _death,
    events.DeathReversed: lambda s, _e, _: s._replace(deceased=None),
    events.PatientMergedAway: lambda s, e, _: s._replace(
        merged_into=e.survivor_id, merge_id=e.merge_id
    ),
    events.PatientRestored: lambda s, _e, _: s._replace(merged_into=None, merge_id=None),
    events.PatientAbsorbed: _absorbed,
    events.PatientReleased: _released,
    events.PatientErased: lambda _s, _e, _: PatientState(names=(), gender="unknown"),
}
