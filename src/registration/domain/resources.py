"""The parts a patient is made of, as they are stored and shown. Members carry FHIR R4 names.

``*Input`` models are what a client may say; the others are what the server made of it.
Sources: FHIR R4 HumanName, Identifier, ContactPoint, Address, Patient.
"""

from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

ShortText = Annotated[str, StringConstraints(min_length=1, max_length=200)]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Code = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:/-]+$")
]
Facility = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
]
Language = Annotated[
    str, StringConstraints(max_length=35, pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$")
]
"""A language tag in the form of BCP 47."""

Gender = Literal["male", "female", "other", "unknown"]
"""FHIR AdministrativeGender."""
NameUse = Literal["usual", "official", "temp", "nickname", "anonymous", "old", "maiden"]
"""FHIR NameUse."""
IdentifierUse = Literal["usual", "official", "temp", "secondary", "old"]
"""FHIR IdentifierUse."""


class Model(BaseModel):
    """Frozen, closed to unknown members, camelCase on the wire."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def trusted(cls, **values: Any) -> Self:
        """Build one from values that the domain has confirmed, without confirming them again.

        What is not given has its default. Checking every part a second time would cost a
        registration more than all its decisions.
        """
        made = cls.__new__(cls)
        _set(made, "__dict__", {**_blank(cls), **values})
        _set(made, "__pydantic_fields_set__", set(values))
        _set(made, "__pydantic_extra__", None)
        _set(made, "__pydantic_private__", None)
        return made

    def encoded(self, **some: Any) -> bytes:
        """Return this as JSON with the names of the wire, leaving out what is null.

        Of ``include``, or all but ``exclude``, where one of them names members.
        A member of a wrong type is an error here: pydantic would warn, and print the value.
        """
        return self.__pydantic_serializer__.to_json(
            self, by_alias=True, exclude_none=True, warnings="error", **some
        )

    def plain(self) -> dict[str, Any]:
        """Return this as plain JSON values by wire name, leaving out what is null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


_set = object.__setattr__


@cache
def _blank(model: type[BaseModel]) -> dict[str, Any]:
    """Return every member in the declared order, which is the order on the wire."""
    return {name: field.get_default() for name, field in model.model_fields.items()}


class ContactPoint(Model):
    """A way to reach a person (FHIR ContactPoint)."""

    system: Literal["phone", "fax", "email", "pager", "url", "sms", "other"]
    value: ShortText
    use: Literal["home", "work", "temp", "old", "mobile"] | None = None


class Address(Model):
    """A postal address (FHIR Address)."""

    use: Literal["home", "work", "temp", "old", "billing"] | None = None
    text: LongText | None = None
    line: Annotated[tuple[ShortText, ...], Field(max_length=10)] = ()
    city: ShortText | None = None
    district: ShortText | None = None
    state: ShortText | None = None
    postal_code: ShortText | None = None
    country: ShortText | None = None


class NameInput(Model):
    """A name as a client says it; ``script`` is ISO 15924 and checked against the text."""

    id: UUID | None = None
    use: NameUse = "official"
    family: ShortText | None = None
    given: Annotated[tuple[ShortText, ...], Field(max_length=20)] = ()
    prefix: Annotated[tuple[ShortText, ...], Field(max_length=10)] = ()
    suffix: Annotated[tuple[ShortText, ...], Field(max_length=10)] = ()
    text: LongText | None = None
    script: Annotated[str, StringConstraints(pattern=r"^[A-Z][a-z]{3}$")] | None = None
    language: Language | None = None


class Name(NameInput):
    """A name as the server confirmed it: normalised to NFC, its script detected."""

    id: UUID
    script: str


class IdentifierInput(Model):
    """An identifier as a client says it; ``system`` is the URI of who issued it."""

    id: UUID | None = None
    system: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^\S+$")]
    value: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    type: Code | None = None
    use: IdentifierUse | None = None


class Identifier(IdentifierInput):
    """An identifier as the server holds it: its value normalised for the system.

    ``merged_from`` names the record that holds it, where that was merged into the one shown.
    """

    id: UUID
    merged_from: UUID | None = None


class Obstacle(Model):
    """What speaks against merging two records; somebody may override it, with a reason.

    ``deceased``: one of the two has died, the other lives. ``identifier``: they hold different
    values of ``system``, which a person has one of.
    """

    kind: Literal["deceased", "identifier"]
    system: str | None = None


class NextOfKinInput(Model):
    """A next of kin as a client says it; ``name`` is free text."""

    id: UUID | None = None
    name: ShortText
    relationship: ShortText
    telecom: Annotated[tuple[ContactPoint, ...], Field(max_length=20)] = ()
    address: Address | None = None


class NextOfKin(NextOfKinInput):
    """A next of kin as the server holds it."""

    id: UUID


def _of_our_time(instant: datetime) -> datetime:
    if not 1850 <= instant.year <= 2250:
        raise ValueError("is no instant of our time")
    return instant


Instant = Annotated[
    AwareDatetime, AfterValidator(_of_our_time), Field(description="RFC 3339 with an offset")
]
Decision = Literal["granted", "refused", "withdrawn"]
"""What a person said to a consent flag."""


EncounterStatus = Literal[
    "planned",
    "arrived",
    "triaged",
    "in-progress",
    "onleave",
    "finished",
    "cancelled",
    "entered-in-error",
]
"""FHIR R4 EncounterStatus; which may follow which is said in ``encounter``."""


class Evidence(Model):
    """How somebody said so: what makes a consent an explicit user action.

    ``kind`` is ``signature``, ``verbal``, ``guardian``, ``electronic`` or another code.
    """

    kind: Code
    reference: ShortText | None = None
    witness: ShortText | None = None


class Consent(Model):
    """One decision about a consent flag (FHIR Consent); ``version`` counts those of the flag."""

    flag: str
    version: Annotated[int, Field(ge=1)]
    decision: Decision
    policy: ShortText | None = None
    evidence: Evidence
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    recorded_at: datetime
    recorded_by: str


class Portrait(Model):
    """What is known of a portrait beside its bytes; ``content_hash`` is their sha256, in hex."""

    id: UUID
    content_hash: str
    media_type: str
    width: int
    height: int
    size: int
    retain_until: datetime | None = None
    recorded_at: datetime
    recorded_by: str


class ExtensionInstance(Model):
    """Data under one extension schema; ``version`` counts the changes of this instance."""

    schema_name: Annotated[str, Field(alias="schema")]
    schema_version: int
    version: Annotated[int, Field(ge=1)]
    data: Any = None
    recorded_at: datetime
    recorded_by: str


class Death(Model):
    """That a patient died, and how it is known."""

    deceased_at: datetime
    cause: LongText | None = None
    certificate: ShortText | None = None
    recorded_at: datetime
    recorded_by: str
