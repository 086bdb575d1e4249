"""The stored JSON of every event version is approved: it is the permanent record.

``tests/approved/<topic>.v<version>.json`` holds the exact bytes. When a test here fails, history
would no longer be read as it was written: give the class a new version and an upcast, and add the
new version's file; never change an approved one.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import orjson
import pytest
from eventsourcing.persistence import StoredEvent

from registration.domain import events
from registration.domain.contract import Touch
from registration.domain.events import EVENTS, Event
from registration.domain.resources import (
    Address,
    ContactPoint,
    Evidence,
    Identifier,
    Name,
    NextOfKin,
    Obstacle,
)
from registration.eventstore import mapper
from registration.eventstore.mapper import (
    EventMapper,
    StreamEvent,
    UnknownTopicError,
    decode,
    encode,
)

APPROVED = Path(__file__).parents[1] / "approved"

NAME = Name(
    id=UUID(int=1),
    use="official",
    family="Müller-Okoro",
    given=("Ada", "Ngozi"),
    prefix=("Dr",),
    suffix=("MD",),
    text="Dr Ada Ngozi Müller-Okoro MD",
    script="Latn",
    language="de-CH",
)
ARABIC = Name(id=UUID(int=2), use="usual", text="محمد", script="Arab")
PHONE = ContactPoint(system="phone", value="+49 30 123456", use="mobile")
ADDRESS = Address(
    use="home",
    text="Hauptstr. 1, 10115 Berlin",
    line=("Hauptstr. 1", "Hinterhaus"),
    city="Berlin",
    district="Mitte",
    state="BE",
    postal_code="10115",
    country="DE",
)
IDENTIFIER = Identifier(
    id=UUID(int=3), system="https://fhir.example/mrn", value="4711", type="MR", use="usual"
)
AT = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
KIN = NextOfKin(
    id=UUID(int=4), name="Obi Okoro", relationship="brother", telecom=(PHONE,), address=ADDRESS
)

SAMPLES: dict[type[Event], Event] = {
    type(event): event
    for event in (
        events.PatientRegistered(
            names=(NAME, ARABIC),
            gender="female",
            birth_date="1980-02",
            birth_date_estimated=True,
            identifiers=(IDENTIFIER,),
            telecom=(PHONE,),
            addresses=(ADDRESS,),
            next_of_kin=(KIN,),
            facility="north",
            marital_status="M",
            preferred_language="ar",
        ),
        events.DemographicsCorrected(
            changes={
                "gender": "other",
                "birthDate": None,
                "birthDateEstimated": False,
                "telecom": [{"system": "email", "value": "ada@example.org"}],
            }
        ),
        events.NameAdded(name=ARABIC),
        events.NameReplaced(name=NAME),
        events.NameRetired(name_id=NAME.id, reason="married"),
        events.IdentifierAdded(identifier=IDENTIFIER),
        events.IdentifierRetired(identifier_id=IDENTIFIER.id, reason="card lost"),
        events.NextOfKinAdded(next_of_kin=KIN),
        events.NextOfKinRemoved(next_of_kin_id=KIN.id, reason="asked to"),
        *(
            kind(
                flag="research",
                policy="https://clinic.example/research-2",
                evidence=Evidence(kind="signature", reference="form 7", witness="Nurse Ola"),
                valid_from=AT,
                valid_until=AT + timedelta(days=365),
            )
            for kind in (
                events.ConsentGranted,
                events.ConsentRefused,
                events.ConsentWithdrawn,
            )
        ),
        events.PortraitSet(
            portrait_id=UUID(int=5),
            content_hash="ab" * 32,
            media_type="image/jpeg",
            width=768,
            height=1024,
            size=81920,
            retain_until=AT,
        ),
        events.PortraitRemoved(portrait_id=UUID(int=5), cause="requested", reason="asked to"),
        events.ExtensionSet(
            schema_name="housing",
            schema_version=2,
            data={"rooms": 3, "floor": None, "shared": True, "rent": 12.5, "with": ["Obi"]},
        ),
        events.ExtensionRemoved(schema_name="housing", reason="moved"),
        events.DeathRecorded(deceased_at=AT, cause="I21.9", certificate="D-4711"),
        events.DeathReversed(reason="wrong record"),
        events.PatientMergedAway(merge_id=UUID(int=7), survivor_id=UUID(int=8)),
        events.PatientAbsorbed(
            merge_id=UUID(int=7),
            patient_id=UUID(int=6),
            names=(ARABIC,),
            identifiers=(IDENTIFIER,),
        ),
        events.PatientRestored(merge_id=UUID(int=7)),
        events.PatientReleased(merge_id=UUID(int=7), patient_ids=(UUID(int=6), UUID(int=9))),
        events.PatientErased(erasure_id=UUID(int=10)),
        events.ErasureRequested(
            patient_id=UUID(int=8),
            patient_ids=(UUID(int=8), UUID(int=6)),
            basis="gdpr-17-1-b",
            reason="asked to",
        ),
        events.ErasureApproved(),
        events.ErasureRefused(reason="the law demands that it be kept"),
        events.ErasureShredded(patient_ids=(UUID(int=8), UUID(int=6))),
        events.MergeProposed(
            survivor_id=UUID(int=8),
            retired_id=UUID(int=6),
            survivor_version=3,
            retired_version=2,
            reason="the same passport",
            overridden=(Obstacle(kind="identifier", system="https://fhir.example/mrn"),),
            override_reason="registered twice by us",
        ),
        events.MergeApproved(survivor_version=3, retired_version=2),
        events.MergeExecuted(survivor_id=UUID(int=8), retired_id=UUID(int=6)),
        events.MergeRejected(reason="twins"),
        events.MergeReversed(
            survivor_id=UUID(int=8),
            retired_id=UUID(int=6),
            released_by=(UUID(int=8), UUID(int=9)),
            reason="twins after all",
        ),
        events.CandidateDismissed(
            patient_ids=(UUID(int=6), UUID(int=8)), evidence="5e1f", reason="father and son"
        ),
        events.EncounterOpened(
            at=AT,
            reason="cough",
            patient_id=UUID(int=6),
            encounter_class="AMB",
            status="planned",
            planned_start=AT + timedelta(days=1),
            facility="north",
            post_mortem=True,
        ),
        *(
            kind(at=AT, reason="because")
            for kind in EVENTS
            if issubclass(kind, events.EncounterEvent) and kind is not events.EncounterOpened
        ),
        events.ExtensionSchemaPublished(
            name="housing",
            title="Housing",
            compatibility="none",
            definition={"type": "object", "properties": {"rooms": {"type": "integer"}}},
        ),
    )
}
"""One event of each class with every member that it can have: what any version must decode to."""

VERSIONS = [(event, v) for event in EVENTS for v in range(1, event.class_version + 1)]


def approved(event: type[Event], version: int) -> Path:
    return APPROVED / f"{event.TOPIC}.v{version}.json"


def test_every_event_version_is_approved() -> None:
    assert {path.name for path in APPROVED.iterdir()} == {
        approved(event, version).name for event, version in VERSIONS
    }
    assert set(SAMPLES) == set(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
def test_the_sample_leaves_no_member_out(event: type[Event]) -> None:
    sample = SAMPLES[event]
    assert sample.model_fields_set == set(event.model_fields)
    assert None not in dict(sample).values()


@pytest.mark.parametrize("event", EVENTS)
def test_events_are_stored_as_approved(event: type[Event]) -> None:
    assert encode(SAMPLES[event]) == approved(event, event.class_version).read_bytes()


@pytest.mark.parametrize(("event", "version"), VERSIONS)
def test_what_was_stored_is_read_as_it_was_meant(event: type[Event], version: int) -> None:
    stored = approved(event, version).read_bytes()
    assert decode(event.TOPIC, stored) == SAMPLES[event]
    stream_event = StreamEvent(UUID(int=9), 3, SAMPLES[event])
    stored_event = StoredEvent(UUID(int=9), 3, event.TOPIC, stored)
    assert EventMapper().to_domain_event(stored_event) == stream_event


def test_topics_and_touches_are_not_shared() -> None:
    assert len({event.TOPIC for event in EVENTS}) == len(EVENTS)
    assert all(event.TOUCHES for event in EVENTS)


def test_a_null_that_says_something_is_kept() -> None:
    """A demographic member that was taken away is not the same as one that was not touched."""
    event = events.DemographicsCorrected(changes={"birthDate": None})
    assert decode(event.TOPIC, encode(event)) == event


def test_a_topic_from_a_newer_program_is_refused() -> None:
    with pytest.raises(UnknownTopicError):
        decode("patient.teleported", b"{}")


class Weighed(Event):
    """Once pounds in ``weight``, then kilograms, then grams under a name that says so."""

    TOPIC: ClassVar[str] = "test.weighed"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset()
    class_version: ClassVar[int] = 3

    body_weight: int

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        state["kg"] = state.pop("weight") / 2

    @staticmethod
    def upcast_v2_v3(state: dict[str, Any]) -> None:
        state["bodyWeight"] = round(state.pop("kg") * 1000)


@pytest.fixture
def _weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mapper.TOPICS, Weighed.TOPIC, Weighed)


@pytest.mark.usefixtures("_weighed")
@pytest.mark.parametrize(
    "stored",
    [
        b'{"weight": 160}',
        b'{"kg": 80, "class_version": 2}',
        b'{"bodyWeight": 80000, "class_version": 3}',
    ],
)
def test_older_shapes_are_upcast_step_by_step(stored: bytes) -> None:
    assert decode(Weighed.TOPIC, stored) == Weighed(body_weight=80_000)


@pytest.mark.usefixtures("_weighed")
def test_a_later_shape_says_its_version() -> None:
    event = Weighed(body_weight=1)
    assert orjson.loads(encode(event)) == {"bodyWeight": 1, "class_version": 3}
    assert decode(Weighed.TOPIC, encode(event)) == event


@pytest.mark.usefixtures("_weighed")
def test_a_shape_from_a_newer_program_is_refused() -> None:
    with pytest.raises(UnknownTopicError):
        decode(Weighed.TOPIC, b'{"bodyWeight": 1, "class_version": 4}')


@pytest.mark.parametrize("event", EVENTS)
def test_what_can_be_left_out_can_be_read_without(event: type[Event]) -> None:
    """A member that is null is not stored: so every member that may be null has a default."""
    for name, field in event.model_fields.items():
        may_be_null = not _refuses_null(event, name)
        assert not (may_be_null and field.is_required()), name


def _refuses_null(event: type[Event], name: str) -> bool:
    said = SAMPLES[event].model_dump(mode="json", by_alias=True)
    alias = event.model_fields[name].alias
    assert alias is not None
    try:
        event.model_validate(said | {alias: None})
    except ValueError:
        return True
    return False
