"""The shapes of the master patient index on the wire: what is asked for, what is answered."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, model_validator

from registration.api.wire import Answer
from registration.domain.commands import RegisterPatient
from registration.domain.patient_resource import Display, PatientResource
from registration.domain.resources import Gender, NameInput

Grade = Literal["certain", "probable", "possible"]
CandidateStatus = Literal["open", "merged", "dismissed"]
Agreement = Annotated[
    dict[str, float], Field(description="Bits by field: what speaks for one person, and against")
]
Score = Annotated[float, Field(ge=0, le=1, description="How probably it is one person")]

_MATCHED_BY = ("names", "birth_date", "identifiers", "telecom", "addresses")


class MatchQuery(RegisterPatient):
    """What is known of a person, as a registration says it; every member may be left out.

    Matched by `names`, `gender`, `birthDate`, `identifiers`, `telecom` and `addresses`; at least
    one of these beside `gender` is needed. The others are taken, and say nothing.
    """

    names: Annotated[tuple[NameInput, ...], Field(max_length=20)] = ()
    gender: Gender = "unknown"

    @model_validator(mode="after")
    def _says_something(self) -> "MatchQuery":
        if not any(getattr(self, member) for member in _MATCHED_BY):
            raise ValueError("has nothing to match by")
        return self


class MatchedPatient(Answer):
    """A patient who may be meant; of one person's records the one that fits best.

    `currentPatientId` is another than `patientId` where that record was merged away.
    """

    patient_id: UUID
    current_patient_id: UUID
    score: Score
    grade: Grade
    agreement: Agreement
    display: Display
    birth_date: str | None
    gender: Gender


class Matched(Answer):
    """Who may be meant, the likeliest first; at least possibly."""

    items: list[MatchedPatient]


class CandidatePatient(Answer):
    """One of the two records of a pair, and under which record its person is found now.

    A merge of the two states `currentVersion`, which is null where that record is not known yet.
    """

    patient_id: UUID
    version: int
    current_patient_id: UUID
    current_version: int | None
    display: Display
    birth_date: str | None
    gender: Gender
    facility: str | None
    changed_at: Annotated[datetime, Field(description="When it last changed what is compared")]


class CandidateDismissal(Answer):
    """Why a pair is two persons, and who found so when."""

    reason: str
    by: str
    at: datetime


class Candidate(Answer):
    """Two records that may be one person's."""

    id: UUID
    patients: Annotated[list[CandidatePatient], Field(min_length=2, max_length=2)]
    score: Score
    grade: Grade
    agreement: Agreement
    raised_at: Annotated[datetime, Field(description="Since when nobody has looked at it")]
    status: CandidateStatus
    dismissal: CandidateDismissal | None = None


class CandidateList(Answer):
    """A page of pairs, the likeliest first, of equally likely ones the oldest."""

    items: list[Candidate]
    next: str | None


class FieldEvidence(Answer):
    """How far a field agrees; `weight`, in bits, is null where one record has no value.

    `household` is no field and has no level: it takes off what those who live together share.
    """

    field: str
    level: str | None
    weight: float | None


class Difference(Answer):
    """A member in which the two records differ; null: it is absent."""

    path: str
    left: Any
    right: Any


class CandidateDetail(Candidate):
    """A pair with all that there is to decide on.

    `records` and `differences` need patient:read.
    """

    fields: list[FieldEvidence]
    records: Annotated[list[PatientResource] | None, Field(min_length=2, max_length=2)] = None
    differences: list[Difference] | None = None


class CandidateCounts(Answer):
    """How many pairs there are: by status, of the open ones by grade, and how long one waits."""

    status: dict[CandidateStatus, int]
    open_grade: dict[Grade, int]
    oldest_open_at: datetime | None
    oldest_open_seconds: int | None
