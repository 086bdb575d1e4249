"""Every event ever stored: the permanent record.

Each class carries a ``TOPIC`` that never changes (it is what the log says, wherever the class
lives), a ``class_version`` with an ``upcast_vN_vN+1`` static method for each older shape, and the
part of the stream that it touches. ``tests/approved`` pins the stored JSON of every version, so
that a change to history fails a test.
"""

from typing import Any, ClassVar
from uuid import UUID

from registration.domain.contract import Touch
from registration.domain.resources import (
    Address,
    ContactPoint,
    Facility,
    Gender,
    Identifier,
    Model,
    Name,
    NextOfKin,
)

_MEMBERS = {
    Touch.NAMES: "/names",
    Touch.IDENTIFIERS: "/identifiers",
    Touch.NEXT_OF_KIN: "/nextOfKin",
}


class Event(Model):
    """Something that happened to one stream."""

    TOPIC: ClassVar[str]
    TOUCHES: ClassVar[frozenset[Touch]]
    class_version: ClassVar[int] = 1

    @property
    def touched_key(self) -> str | None:
        """The entry, flag or instance that the event touches, where the part is held per key."""
        return None

    @property
    def fields(self) -> list[str]:
        """JSON Pointers of the resource's members that the event changes."""
        return [_MEMBERS[part] for part in sorted(self.TOUCHES & _MEMBERS.keys())]


class PatientEvent(Event):
    """Something that happened to a patient."""


class PatientRegistered(PatientEvent):
    """A patient was registered with all that was known then."""

    TOPIC: ClassVar[str] = "patient.registered"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset(
        {Touch.DEMOGRAPHICS, Touch.NAMES, Touch.IDENTIFIERS}
    )

    names: tuple[Name, ...]
    gender: Gender
    birth_date: str | None = None
    birth_date_estimated: bool = False
    identifiers: tuple[Identifier, ...] = ()
    telecom: tuple[ContactPoint, ...] = ()
    addresses: tuple[Address, ...] = ()
    next_of_kin: tuple[NextOfKin, ...] = ()
    facility: Facility | None = None
    marital_status: str | None = None
    preferred_language: str | None = None


class DemographicsCorrected(PatientEvent):
    """Demographic members were given new values; ``None`` takes a member away."""

    TOPIC: ClassVar[str] = "patient.demographics-corrected"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.DEMOGRAPHICS})

    changes: dict[str, Any]
    """By wire name (``birthDate``), the whole new value of each member that changed."""

    @property
    def fields(self) -> list[str]:
        """JSON Pointers of the members that were corrected."""
        return [f"/{name}" for name in self.changes]


class NameAdded(PatientEvent):
    """A further name became known."""

    TOPIC: ClassVar[str] = "patient.name-added"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.NAMES})

    name: Name


class NameReplaced(PatientEvent):
    """A name was replaced by another of the same id."""

    TOPIC: ClassVar[str] = "patient.name-replaced"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.NAMES})

    name: Name


class NameRetired(PatientEvent):
    """A name is no longer used for this patient."""

    TOPIC: ClassVar[str] = "patient.name-retired"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.NAMES})

    name_id: UUID
    reason: str


class IdentifierAdded(PatientEvent):
    """A further identifier became known; (tenant, system, value) is unique among the live ones."""

    TOPIC: ClassVar[str] = "patient.identifier-added"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.IDENTIFIERS})

    identifier: Identifier


class IdentifierRetired(PatientEvent):
    """An identifier is no longer this patient's; its value is free again."""

    TOPIC: ClassVar[str] = "patient.identifier-retired"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.IDENTIFIERS})

    identifier_id: UUID
    reason: str


class NextOfKinAdded(PatientEvent):
    """A next of kin was added."""

    TOPIC: ClassVar[str] = "patient.next-of-kin-added"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.NEXT_OF_KIN})

    next_of_kin: NextOfKin

    @property
    def touched_key(self) -> str | None:
        """The id of the entry."""
        return str(self.next_of_kin.id)


class NextOfKinRemoved(PatientEvent):
    """A next of kin was removed, for a reason."""

    TOPIC: ClassVar[str] = "patient.next-of-kin-removed"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.NEXT_OF_KIN})

    next_of_kin_id: UUID
    reason: str

    @property
    def touched_key(self) -> str | None:
        """The id of the entry."""
        return str(self.next_of_kin_id)


EVENTS: tuple[type[Event], ...] = (
    PatientRegistered,
    DemographicsCorrected,
    NameAdded,
    NameReplaced,
    NameRetired,
    IdentifierAdded,
    IdentifierRetired,
    NextOfKinAdded,
    NextOfKinRemoved,
)
"""Every event class that the log may hold; the mapper knows these topics and no other."""
