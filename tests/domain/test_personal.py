"""What of each event is sealed, and what it says once its people were erased."""

from datetime import datetime
from types import SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

import orjson
import pytest
from tests.eventstore.samples import SAMPLES

from registration.domain.events import EVENTS, Event
from registration.domain.personal import (
    BLANK,
    NOT_ABOUT_PEOPLE,
    PUBLIC,
    people_of,
    public_members,
    said_when_erased,
)
from registration.domain.resources import Obstacle
from registration.eventstore.mapper import decode, encode, encode_parted
from registration.eventstore.sealing import KEYRING, Place, public_part

TENANT = "clinic-a"
STREAM = UUID(int=77)
ABOUT_PEOPLE = sorted(PUBLIC, key=lambda event: event.TOPIC)

CODES = {
    ("erasure.requested", "basis"),
    ("patient.consent-granted", "flag"),
    ("patient.consent-refused", "flag"),
    ("patient.consent-withdrawn", "flag"),
    ("patient.portrait-set", "mediaType"),
    ("encounter.opened", "class"),
}
"""Public members that are text, and yet no free text: each holds a name out of a known list or
a code."""


def members(event: type[Event]) -> dict[str, Any]:
    """Return the type of each member of an event, by its name on the wire."""
    return {str(field.alias): field.annotation for field in event.model_fields.values()}


def texts_in(value: Any) -> list[str]:
    """Return all text in a JSON value that is of some length, wherever it is."""
    match value:
        case str():
            return [value] if len(value) > 2 else []
        case dict():
            return [text for each in value.values() for text in texts_in(each)]
        case list():
            return [text for each in value for text in texts_in(each)]
    return []


def sealed(event: Event) -> bytes:
    """Return an event as it is stored, sealed to somebody."""
    keys = KEYRING.new(TENANT, STREAM)
    parts = encode_parted(event, public_members(event))
    return KEYRING.seal(Place(TENANT, STREAM, 1, event.TOPIC), *parts, (STREAM,), keys)


def test_each_event_either_is_about_people_or_is_not() -> None:
    assert set(PUBLIC) | NOT_ABOUT_PEOPLE == set(EVENTS)
    assert set(PUBLIC) & NOT_ABOUT_PEOPLE == set()


@pytest.mark.parametrize("event", ABOUT_PEOPLE)
def test_what_is_public_and_what_is_blank_are_members_of_it(event: type[Event]) -> None:
    said = members(event)
    assert set(PUBLIC[event]) <= said.keys()
    assert set(BLANK.get(event, {})) <= said.keys() - set(PUBLIC[event])


@pytest.mark.parametrize("event", ABOUT_PEOPLE)
def test_no_free_text_is_public(event: type[Event]) -> None:
    """A public member is a number, a time, an id, a choice, a code: none that holds a sentence."""
    said = members(event)
    free = {(event.TOPIC, name) for name in PUBLIC[event] if may_be_free_text(said[name])}
    assert free <= CODES | {(event.TOPIC, "facility")}
    assert may_be_free_text(said.get("facility")) is ("facility" in said)


def may_be_free_text(annotation: Any) -> bool:
    """Return whether a value of this type may hold a text that somebody typed."""
    if get_origin(annotation) is Literal:
        return False
    if get_origin(annotation) in (tuple, list, Union, UnionType):
        return any(may_be_free_text(each) for each in get_args(annotation) if each is not ...)
    return annotation not in (None, type(None), int, bool, float, UUID, datetime, Obstacle)


@pytest.mark.parametrize("event", ABOUT_PEOPLE)
def test_the_bytes_of_a_sealed_event_hold_no_text_of_its_personal_members(
    event: type[Event],
) -> None:
    said = orjson.loads(encode(SAMPLES[event]))
    personal = {name: value for name, value in said.items() if name not in PUBLIC[event]}
    shown = {name: value for name, value in said.items() if name in PUBLIC[event]}
    stored = sealed(SAMPLES[event])
    assert [text for text in texts_in(personal) if text.encode() in stored] == []
    assert orjson.loads(public_part(stored)) == shown


@pytest.mark.parametrize("event", ABOUT_PEOPLE)
def test_who_was_erased_leaves_an_event_that_says_what_is_public_and_blanks(
    event: type[Event],
) -> None:
    stored = sealed(SAMPLES[event])
    left = decode(event.TOPIC, said_when_erased(event.TOPIC, public_part(stored)))
    said = left.model_dump(mode="json", by_alias=True, exclude_none=True)
    was = SAMPLES[event].model_dump(mode="json", by_alias=True, exclude_none=True)
    assert {name: said[name] for name in PUBLIC[event]} == {
        name: was[name] for name in PUBLIC[event]
    }
    personal = {name: value for name, value in was.items() if name not in PUBLIC[event]}
    rest = {name: value for name, value in said.items() if name not in PUBLIC[event]}
    assert set(texts_in(personal)) & set(texts_in(rest)) <= {"official"}  # as no use is said


@pytest.mark.parametrize("event", ABOUT_PEOPLE)
def test_sealed_and_opened_it_is_the_same_event(event: type[Event]) -> None:
    keys = KEYRING.new(TENANT, STREAM)
    place = Place(TENANT, STREAM, 1, event.TOPIC)
    parts = encode_parted(SAMPLES[event], public_members(SAMPLES[event]))
    opened = KEYRING.opened(place, KEYRING.seal(place, *parts, (STREAM,), keys), keys)
    assert opened is not None
    assert decode(event.TOPIC, opened) == SAMPLES[event]


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_about_people_is_about_somebody(event: type[Event]) -> None:
    seen: Any = SimpleNamespace(patient_ids=(UUID(int=6), UUID(int=8)))
    found = people_of(SAMPLES[event], STREAM, seen)
    assert bool(found) is (event in PUBLIC)
    assert len(found) <= 2
