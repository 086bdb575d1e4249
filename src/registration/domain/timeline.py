"""A stream step by step: what each event changed of what the wire shows."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from registration.domain import events
from registration.domain.aggregate import Aggregate, Recorded, Stamp
from registration.domain.candidate import Candidate
from registration.domain.differences import Difference, differences
from registration.domain.encounter import Encounter
from registration.domain.erasure import Erasure
from registration.domain.extension_schema import ExtensionSchema
from registration.domain.merge import Merge
from registration.domain.patient_resource import Patient

AGGREGATES: tuple[type[Aggregate[Any]], ...] = (
    Patient,
    Encounter,
    Merge,
    Candidate,
    Erasure,
    ExtensionSchema,
)
"""Every kind of stream."""


class Step(NamedTuple):
    """An event of a stream, and the fields of the resource that it changed."""

    record: Recorded
    differences: Sequence[Difference]


def kind_of(event: events.Event) -> type[Aggregate[Any]]:
    """Return the kind of aggregate that an event belongs to."""
    return next(kind for kind in AGGREGATES if isinstance(event, kind.EVENTS))


def steps(
    kind: type[Aggregate[Any]], its_id: UUID, history: Sequence[Recorded], after: int = 0
) -> Iterator[Step]:
    """Yield the steps past version ``after``; ``history`` is the stream from its first event."""
    seen = kind(its_id)
    before: dict[str, Any] = {}
    for record in history:
        if record.version == after + 1 and seen.state is not None:
            before = seen.plain()
        seen.apply(record.event, Stamp.of(record))
        if record.version > after:
            now = seen.plain()
            yield Step(record, list(differences(before, now, kind.ABOUT | {"id"})))
            before = now


def patients_of(stream_id: UUID, first: events.Event | None) -> tuple[UUID, ...]:
    """Return the patients that a stream is about, by its first event; of ``None`` nobody knows."""
    match first:
        case events.PatientEvent():
            return (stream_id,)
        case events.EncounterOpened():
            return (first.patient_id,)
        case events.MergeProposed():
            return (first.survivor_id, first.retired_id)
        case events.CandidateDismissed():
            return first.patient_ids
        case events.ErasureRequested():
            return (first.patient_id,)
    return ()
