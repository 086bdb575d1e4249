"""The stored JSON of every event version is approved: it is the permanent record.

``tests/approved/<topic>.v<version>.json`` holds the exact bytes. When a test here fails, history
would no longer be read as it was written: give the class a new version and an upcast, and add the
new version's file; never change an approved one.
"""

from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import orjson
import pytest
from eventsourcing.persistence import StoredEvent
from tests.eventstore.samples import SAMPLES

from registration.domain import events
from registration.domain.contract import Touch
from registration.domain.events import EVENTS, Event
from registration.eventstore import mapper
from registration.eventstore.mapper import (
    EventMapper,
    StreamEvent,
    UnknownTopicError,
    decode,
    encode,
)

APPROVED = Path(__file__).parents[1] / "approved"

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
