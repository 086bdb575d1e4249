"""Between domain events and the bytes in the log: explicit topics, and upcasting of older shapes.

:class:`EventMapper` is an ``eventsourcing`` mapper, so that any follower written with that library
can read our log; the hot path calls :func:`encode` and :func:`decode` directly.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol
from uuid import UUID

import orjson
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent
from eventsourcing.utils import register_topic

from registration.domain.events import EVENTS, Event
from registration.eventstore.sealing import parted

TOPICS: dict[str, type[Event]] = {event.TOPIC: event for event in EVENTS}

for _topic, _event in TOPICS.items():
    register_topic(_topic, _event)


class UnknownTopicError(Exception):
    """The log holds a topic, or a version of one, that this program is too old to know."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """A domain event at its place in a stream; what the library calls a domain event."""

    originator_id: UUID
    originator_version: int
    event: Event


class StoredState(Protocol):
    """What decoding needs of a stored event."""

    @property
    def topic(self) -> str:
        """Which event it is."""

    @property
    def data(self) -> bytes:
        """Its stored bytes."""


def encode(event: Event) -> bytes:
    """Return the stored JSON of an event: wire names, no nulls, the class version where not 1."""
    if event.class_version == 1:
        return event.encoded()
    return orjson.dumps(orjson.loads(event.encoded()) | {"class_version": event.class_version})


def encode_parted(event: Event, public: frozenset[str]) -> tuple[bytes, bytes]:
    """Return the stored JSON of an event in two parts: its ``public`` members, and the others."""
    if event.class_version != 1:
        return parted(encode(event), public)
    shown = _fields(type(event), public)
    if not shown:
        return b"{}", event.encoded()
    return event.encoded(include=shown), event.encoded(exclude=shown)


@cache
def _fields(event: type[Event], members: frozenset[str]) -> set[str]:
    return {name for name, field in event.model_fields.items() if field.alias in members}


def decode(topic: str, data: bytes) -> Event:
    """Return the event that the stored JSON says, upcast to the newest shape of its class.

    Raises :class:`UnknownTopicError` for a topic that no class has, or a later version of one.
    """
    try:
        event = TOPICS[topic]
    except KeyError:
        raise UnknownTopicError(topic) from None
    if event.class_version == 1:
        return event.__pydantic_validator__.validate_json(data)  # type: ignore[no-any-return]
    return event.model_validate(_upcast(event, orjson.loads(data)))


def _upcast(event: type[Event], state: dict[str, Any]) -> dict[str, Any]:
    version = state.pop("class_version", 1)
    if version > event.class_version:
        raise UnknownTopicError(f"class version {version}")
    while version < event.class_version:
        getattr(event, f"upcast_v{version}_v{version + 1}")(state)
        version += 1
    return state


class EventMapper(Mapper[UUID]):
    """The library's mapper over our encoding; its domain events are :class:`StreamEvent`."""

    def __init__(self) -> None:
        super().__init__(JSONTranscoder())

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """Encode a :class:`StreamEvent`."""
        return StoredEvent(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=domain_event.event.TOPIC,
            state=encode(domain_event.event),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        """Decode to a :class:`StreamEvent`."""
        return StreamEvent(
            UUID(str(stored_event.originator_id)),
            stored_event.originator_version,
            decode(stored_event.topic, stored_event.state),
        )
