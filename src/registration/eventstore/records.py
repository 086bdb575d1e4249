"""What goes into the store and what comes out of it, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from registration.domain.events import Event, PatientErased
from registration.domain.personal import said_when_erased
from registration.eventstore.mapper import UnknownTopicError, decode
from registration.eventstore.sealing import KEYRING, Place, is_sealed, public_part


def key_hash(*parts: bytes | str) -> UUID:
    """Return the first 16 bytes of sha256 over length-prefixed parts, as the store's key type."""
    pieces: list[bytes] = []
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        pieces += (len(raw).to_bytes(4, "big"), raw)
    return UUID(bytes=sha256(b"".join(pieces)).digest()[:16])


def event_digest(
    tenant: str, stream_id: UUID, version: int, topic: str, metadata: bytes, data: bytes
) -> bytes:
    """Return sha256 over an event's canonical bytes; the chain adds position and time to it.

    Canonical bytes: each part with its length before it (4 bytes, big-endian), so that no two
    events share them: tenant, stream id (16 bytes), version (8 bytes), topic, metadata, data.
    """
    raw_tenant = tenant.encode()
    raw_topic = topic.encode()
    canonical = (
        len(raw_tenant).to_bytes(4, "big"),
        raw_tenant,
        b"\0\0\0\x10",
        stream_id.bytes,
        b"\0\0\0\x08",
        version.to_bytes(8, "big", signed=True),  # whatever somebody wrote there since
        len(raw_topic).to_bytes(4, "big"),
        raw_topic,
        len(metadata).to_bytes(4, "big"),
        metadata,
        len(data).to_bytes(4, "big"),
        data,
    )
    return sha256(b"".join(canonical)).digest()


@dataclass(frozen=True)
class RecordedEvent:
    """One event of the log, as it is stored; opened and decoded when somebody asks.

    ``key`` is what it takes to open it (see ``sealing``): the wrapped keys of those whom it is
    about, ``None`` where one of them is gone, or where nothing is sealed.
    """

    tenant: str
    position: int
    stream_id: UUID
    version: int
    topic: str
    data: bytes
    metadata: bytes
    recorded_at: datetime
    hash: bytes
    key: bytes | None = None

    @cached_property
    def event(self) -> Event:
        """The domain event, upcast to its newest shape.

        Where somebody whom it is about was erased, what it said of people is blank.
        """
        return decode(self.topic, self.state)

    @property
    def state(self) -> bytes:
        """The JSON that its event is decoded from; with blanks for what is erased.

        Whoever comes upon an erasure forgets the keys that it holds.
        """
        if self.topic == PatientErased.TOPIC:
            KEYRING.forget()
        text = self._opened()
        return said_when_erased(self.topic, public_part(self.data)) if text is None else text

    @property
    def said(self) -> bytes:
        """What it says, as JSON: all of it, or what is left where somebody was erased."""
        text = self._opened()
        return public_part(self.data) if text is None else text

    @property
    def is_about_the_erased(self) -> bool:
        """Whether somebody whom it is about was erased: the key to what it said is gone."""
        return self.key is None and is_sealed(self.data)

    def _opened(self) -> bytes | None:
        if not is_sealed(self.data):
            return self.data
        place = Place(self.tenant, self.stream_id, self.version, self.topic)
        return KEYRING.opened(place, self.data, self.key)

    @property
    def known(self) -> Event | None:
        """The domain event; ``None`` where this program is too old to know it."""
        try:
            return self.event
        except UnknownTopicError:
            return None

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Who did it and how: actor, client, facility, operation, idempotency key."""
        result: dict[str, Any] = orjson.loads(self.metadata)
        return result


class NewEvent(NamedTuple):
    """An event to append; ``digest`` is :func:`event_digest` of the rest."""

    stream_id: UUID
    version: int
    topic: str
    data: bytes
    metadata: bytes
    digest: bytes


class Claim(NamedTuple):
    """An identifier that a request takes (``take``) or gives back."""

    system: str
    value: str
    stream_id: UUID
    take: bool


class AppendRequest(NamedTuple):
    """All that one command stores, or one refusal to remember (``body``, and no events).

    ``version`` is the version that the resource ``stream_id`` has afterwards; ``status`` the HTTP
    status to give again when the key returns. ``guard`` names a stream that the decision looked at
    and the version it had: moved on, the verdict is :class:`VersionConflict`. ``new_key`` is the
    wrapped key of the person whom the stream is about, where that is new.
    """

    stream_id: UUID
    version: int
    status: int
    events: Sequence[NewEvent] = ()
    claims: Sequence[Claim] = ()
    key: UUID | None = None
    fingerprint: UUID | None = None
    body: bytes | None = None
    guard: tuple[UUID, int] | None = None
    new_key: bytes | None = None


class Stored(NamedTuple):
    """The request is in the log, durably."""

    position: int
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the first request with this key. ``late``: its time to live has passed.

    ``body`` is sealed where it says something of people; ``body_key`` opens it.
    """

    fingerprint: UUID | None
    status: int
    stream_id: UUID
    version: int
    position: int
    body: bytes | None
    recorded_at: datetime
    late: bool
    body_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The key belongs to another request."""


@dataclass(frozen=True, slots=True)
class VersionConflict:
    """A stream moved on between load and append, or somebody whom it is about was erased."""


@dataclass(frozen=True, slots=True)
class IdentifierConflict:
    """An identifier is held by ``holder``."""

    holder: UUID


Verdict = Stored | Outcome | KeyReused | VersionConflict | IdentifierConflict


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stream's events from version 1 (or after the version asked for), and the key's outcome."""

    events: Sequence[RecordedEvent]
    outcome: Outcome | None
