"""What every aggregate has: an id, a version, and a state folded from the events of its stream."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar
from uuid import UUID

from registration.domain.events import Event
from registration.domain.resources import Model

State = TypeVar("State")


class Stamp(NamedTuple):
    """What the log says of an event beside what happened: its version, when it was stored, who."""

    version: int
    at: datetime
    by: str

    @classmethod
    def of(cls, record: "Recorded") -> "Stamp":
        """Return what the log says of a recorded event."""
        return cls(record.version, record.recorded_at, record.meta["actor"])


class Recorded(Protocol):
    """What folding needs of an event of the log."""

    @property
    def version(self) -> int:
        """Its version in the stream."""

    @property
    def recorded_at(self) -> datetime:
        """When it was stored."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """Who did it (``actor``), and how."""

    @property
    def event(self) -> Event:
        """What happened."""


def changes_of(numbered: Iterable[tuple[int, Recorded]]) -> list[dict[str, Any]]:
    """Return what happened, as a conflict tells it: event, time, actor, and the members changed."""
    return [
        {
            "version": number,
            "event": record.event.TOPIC,
            "at": record.recorded_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "actor": record.meta["actor"],
            "fields": record.event.fields,
        }
        for number, record in numbered
    ]


class Decided(NamedTuple):
    """What a command stores, all or nothing: on its own stream, and on others by their ids."""

    own: Sequence[Event]
    others: Mapping[UUID, Sequence[Event]] = MappingProxyType({})


class Part(Protocol):
    """A part of an aggregate with a version of its own: a consent flag, an extension instance."""

    @property
    def version(self) -> int:
        """How often it was changed."""

    def encoded(self) -> bytes:
        """Return it as the wire's JSON."""

    def plain(self) -> dict[str, Any]:
        """Return it as plain values by wire name."""


class Aggregate(ABC, Generic[State]):
    """A record folded from its history. Each kind says how, and how the wire shows it."""

    __slots__ = ("created_at", "id", "last_updated", "state", "version")

    KIND: ClassVar[str]
    """What it is called in a sentence."""
    EVENTS: ClassVar[type[Event]]
    """What its stream holds, and no other stream."""
    READ_SCOPE: ClassVar[str | None]
    """Who may see it; ``None``: whoever has a token."""
    ABOUT: ClassVar[frozenset[str]]
    """Members that say nothing of their own about the subject; a conflict does not compare them."""
    OUTLIVES_ERASURE: ClassVar[bool] = False
    """Whether it is shown, without what it said of them, once those whom it is about are erased."""
    HAS_VALIDITY: ClassVar[bool] = False
    """Whether some of it holds since another instant than that at which it was recorded."""

    def __init__(self, aggregate_id: UUID, history: Iterable[Recorded] = ()) -> None:
        self.id = aggregate_id
        self.version = 0
        self.state: State | None = None
        self.created_at: datetime | None = None
        self.last_updated: datetime | None = None
        for record in history:
            self.apply(record.event, Stamp.of(record))

    @classmethod
    def of(cls, aggregate_id: UUID, history: Sequence[Recorded]) -> Self | None:
        """Return what a stream folds into; ``None`` for no stream, or one of another kind."""
        if not history or not isinstance(history[0].event, cls.EVENTS):
            return None
        return cls(aggregate_id, history)

    def apply(self, event: Event, stamp: Stamp) -> None:
        """Take in one more event of the stream."""
        self.state = self.evolve(self.state, event, stamp)
        self.version = stamp.version
        self.last_updated = stamp.at
        if self.created_at is None:
            self.created_at = stamp.at

    @property
    def patient_ids(self) -> tuple[UUID, ...]:
        """The patients that it is about."""
        return ()

    def held_at(self, _moment: datetime) -> Self | None:
        """Return what held at an instant, of all that is known here; ``None``: nothing had begun.

        Where nothing ``HAS_VALIDITY``, that is all.
        """
        return self

    @staticmethod
    @abstractmethod
    def evolve(state: State | None, event: Any, stamp: Stamp) -> State:
        """Return the state after one more event."""

    @property
    @abstractmethod
    def path(self) -> str:
        """Where the wire has it."""

    @abstractmethod
    def shown(self) -> Model:
        """Return it as the wire shows it."""

    def plain(self) -> dict[str, Any]:
        """Return it as plain values by wire name; absent members are left out."""
        return self.shown().plain()

    def encoded(self) -> bytes:
        """Return it as the wire's JSON."""
        return self.shown().encoded()
