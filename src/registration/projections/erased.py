"""Who was erased, for read models to let go of: nothing about them comes after it."""

from collections.abc import Iterable
from uuid import UUID

from registration.domain.events import PatientErased
from registration.eventstore.records import RecordedEvent


def erased_in(events: Iterable[RecordedEvent]) -> set[UUID]:
    """Return the patients whom these events, of one tenant, erase."""
    return {recorded.stream_id for recorded in events if recorded.topic == PatientErased.TOPIC}
