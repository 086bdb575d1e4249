"""The shapes of what auditors are answered, as the OpenAPI document declares them."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from registration.api.wire import Answer


class AuditedEvent(Answer):
    """One event of the log: what was done to what by whom, and its place in the hash chain.

    ``fields`` are the members of the resource that it touches, ``patientIds`` whom it is about.
    """

    position: int
    stream_id: UUID
    kind: str
    version: int
    type: str
    at: datetime
    actor: str
    client: str | None
    facility: str | None
    operation: str | None
    client_mutation_id: UUID | None
    supersedes: UUID | None
    fields: list[str]
    patient_ids: list[UUID]
    hash: str
    data: Annotated[
        dict[str, Any] | None, Field(description="What happened; absent without patient:read")
    ] = None


class AuditedEvents(Answer):
    """A page of events in the order of the log; ``next`` is what to give as ``after``."""

    items: list[AuditedEvent]
    next: int | None
    position: Annotated[
        int, Field(description="How far in the log the answer is complete, if nothing follows")
    ]


class BreakGlass(Answer):
    """Why somebody broke the glass, in their own words."""

    reason: str


class PatientRead(Answer):
    """One answer that showed data of a patient; ``patientId`` null: it showed nobody's."""

    at: datetime
    actor: str
    client: str | None
    facility: str | None
    operation: str
    patient_id: UUID | None
    purpose: Annotated[
        str | None, Field(description="HL7 v3 PurposeOfUse, as stated; null: nobody stated one")
    ]
    break_glass: BreakGlass | None
    request_id: str
    status: int


class AccessGap(Answer):
    """That reads from ``since`` to ``until`` are missing: an overflow counts them.

    After a crash nobody knows how many there were, and there may have been none.
    """

    since: datetime
    until: datetime
    reason: Literal["overflow", "crash"]
    lost: Annotated[int | None, Field(description="How many; null after a crash: nobody knows")]


class AccessList(Answer):
    """A page of reads, the newest first, and what is missing of the time that was asked for."""

    items: list[PatientRead]
    next: str | None
    gaps: Annotated[list[AccessGap], Field(description="The newest 100 of that time")]
    more_gaps: Annotated[
        bool,
        Field(description="Whether there are more: ask for the time before the oldest of these"),
    ]


class FieldDifference(Answer):
    """A field before and after an event; null: it was not there, or is not any more.

    ``path`` is a JSON Pointer; entries of lists stand in it under their id, flag or schema.
    """

    path: str
    before: Any
    after: Any


class TimelineStep(Answer):
    """One event of a record, and the fields that it changed."""

    version: int
    at: datetime
    actor: str
    type: str
    differences: list[FieldDifference]


class Timeline(Answer):
    """A page of a record's history, oldest first."""

    items: list[TimelineStep]
    next: str | None
