"""Laws of sealing: what is sealed comes back whole to whoever has the keys, and else not at all."""

import os
from collections.abc import Callable
from functools import partial
from uuid import UUID

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.conftest import MASTER_KEY

from registration.eventstore.sealing import (
    NEVER_SEALED,
    WRAPPED_SIZE,
    Keyring,
    MasterKeyError,
    Place,
    SealBrokenError,
    master_id,
    master_of,
    parted,
    public_part,
    subjects_of,
)

RING = Keyring()
RING.use(master_of(MASTER_KEY))
PLACE = Place("clinic-a", UUID(int=9), 3, "patient.name-added")
SECRET = "Okoro, wohnhaft"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), json_values, max_size=6)
people = st.lists(st.uuids(), min_size=1, max_size=2, unique=True).map(tuple)


def keys_of(subjects: tuple[UUID, ...], tenant: str = PLACE.tenant) -> bytes:
    return b"".join(RING.new(tenant, each) for each in subjects)


def sealed(
    said: dict[str, object], subjects: tuple[UUID, ...], keys: bytes, public: frozenset[str]
) -> bytes:
    return RING.seal(PLACE, *parted(orjson.dumps(said), public), subjects, keys)


def broken(attempt: Callable[[], object]) -> None:
    """Insist that something is found to be broken, without a word of what it says."""
    with pytest.raises(SealBrokenError) as caught:
        attempt()
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(objects, people, st.data())
def test_whoever_has_the_keys_reads_what_was_said(
    said: dict[str, object], subjects: tuple[UUID, ...], data: st.DataObject
) -> None:
    public = frozenset(data.draw(st.sets(st.sampled_from([*said, "absent"]))))
    keys = keys_of(subjects)
    stored = sealed(said, subjects, keys, public)
    opened = RING.opened(PLACE, stored, keys)
    assert opened is not None
    assert orjson.loads(opened) == orjson.loads(orjson.dumps(said))
    shown = {name: value for name, value in said.items() if name in public}
    assert orjson.loads(public_part(stored)) == orjson.loads(orjson.dumps(shown))
    assert subjects_of(stored) == subjects
    assert RING.opened(PLACE, stored, None) is None


@given(objects)
def test_what_is_not_sealed_is_what_it_is(said: dict[str, object]) -> None:
    text = orjson.dumps(said)
    assert RING.opened(PLACE, text, None) == RING.opened(PLACE, text, b"any") == text
    assert (public_part(text), subjects_of(text)) == (text, ())


@given(people)
def test_another_process_with_the_master_key_reads_it_too(subjects: tuple[UUID, ...]) -> None:
    keys = keys_of(subjects)
    stored = sealed({"name": SECRET}, subjects, keys, frozenset())
    other = Keyring()
    other.use(os.urandom(32), [master_of(MASTER_KEY)])
    assert other.opened(PLACE, stored, keys) == orjson.dumps({"name": SECRET})
    again = b"".join(
        other.rewrapped(PLACE.tenant, each, keys[at : at + WRAPPED_SIZE])
        for each, at in zip(subjects, (0, WRAPPED_SIZE), strict=False)
    )
    assert other.opened(PLACE, stored, again) == orjson.dumps({"name": SECRET})
    with pytest.raises(MasterKeyError):
        RING.opened(PLACE, stored, again)


@pytest.mark.parametrize(
    "elsewhere",
    [
        PLACE._replace(stream_id=UUID(int=8)),
        PLACE._replace(version=4),
        PLACE._replace(version=-3),
        PLACE._replace(topic="patient.name-replaced"),
        PLACE._replace(topic=""),
        PLACE._replace(tenant="clinic-b"),
    ],
)
@given(people)
def test_moved_to_another_place_it_is_broken(elsewhere: Place, subjects: tuple[UUID, ...]) -> None:
    keys = keys_of(subjects)
    stored = sealed({"name": SECRET}, subjects, keys, frozenset())
    broken(lambda: RING.opened(elsewhere, stored, keys))


@given(people, st.data())
def test_with_other_keys_it_is_broken(subjects: tuple[UUID, ...], data: st.DataObject) -> None:
    keys = keys_of(subjects)
    stored = sealed({"name": SECRET}, subjects, keys, frozenset())
    another = RING.new(PLACE.tenant, data.draw(st.uuids()))
    others = [
        keys_of(subjects),  # theirs, but not those
        keys_of(tuple(UUID(int=each.int ^ 1) for each in subjects)),
        another,
        keys + another,
        keys[:-1],
        b"",
        NEVER_SEALED,
    ]
    if len(subjects) == 2:
        others += [
            keys[:WRAPPED_SIZE],
            keys[WRAPPED_SIZE:],
            keys[WRAPPED_SIZE:] + keys[:WRAPPED_SIZE],
        ]
    for wrapped in others:
        broken(partial(RING.opened, PLACE, stored, wrapped))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(people, st.integers(1, 255))
def test_with_any_byte_changed_it_is_broken(subjects: tuple[UUID, ...], flip: int) -> None:
    keys = keys_of(subjects)
    stored = sealed({"name": SECRET, "version": 3}, subjects, keys, frozenset({"version"}))
    for at in range(1, len(stored)):
        changed = bytearray(stored)
        changed[at] ^= flip
        broken(partial(RING.opened, PLACE, bytes(changed), keys))
    for end in range(1, len(stored)):
        broken(partial(RING.opened, PLACE, stored[:end], keys))


@given(st.integers(0, WRAPPED_SIZE - 1), st.integers(1, 255))
def test_with_any_byte_of_a_key_changed_it_cannot_be_opened(at: int, flip: int) -> None:
    subjects = (UUID(int=5),)
    keys = bytearray(keys_of(subjects))
    stored = sealed({"name": SECRET}, subjects, bytes(keys), frozenset())
    keys[at] ^= flip
    with pytest.raises((SealBrokenError, MasterKeyError)):
        RING.opened(PLACE, stored, bytes(keys))


def test_two_seals_over_the_same_share_nothing() -> None:
    keys = keys_of((UUID(int=5),))
    one, other = (sealed({"name": SECRET}, (UUID(int=5),), keys, frozenset()) for _ in range(2))
    head = len(b"\0\1{}\0") + 16
    assert one[:head] == other[:head]
    assert one[head : head + 12] != other[head : head + 12]
    assert one[head + 12 :] != other[head + 12 :]


def test_without_a_master_key_nothing_is_written() -> None:
    with pytest.raises(MasterKeyError, match="no master key"):
        Keyring().new("clinic-a", UUID(int=1))


def test_the_name_of_a_master_key_says_nothing_of_it() -> None:
    key = os.urandom(32)
    assert len(master_id(key)) == 4
    assert master_id(key) not in key


@pytest.mark.parametrize("text", ["", "x", "AAAA", "Zm9v", "é" * 44, "A" * 43, "A" * 44 + "!"])
def test_what_is_no_master_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        master_of(text)


def in_sql(connection: psycopg.Connection, text: bytes) -> tuple[UUID, ...]:
    row = connection.execute(
        "SELECT registration.sealed_to(%b, 1), registration.sealed_to(%b, 2)", (text, text)
    ).fetchone()
    assert row is not None
    return tuple(each for each in row if each is not None)


def heads() -> st.SearchStrategy[bytes]:
    """Return texts that begin as a sealed one does, and go on in any way."""
    return st.builds(
        lambda count, rest: b"\0" + bytes([count]) + rest,
        st.integers(0, 4) | st.just(255),
        st.binary(max_size=80),
    )


def test_the_database_knows_whom_a_text_is_sealed_to(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:

        @settings(max_examples=300)
        @given(st.binary(max_size=80) | heads() | objects.map(orjson.dumps))
        @example(b"")
        @example(b"\0")
        @example(b"\0\1")
        def agree(text: bytes) -> None:
            assert in_sql(connection, text) == subjects_of(text)[:2]

        agree()


def test_the_database_knows_what_of_a_text_is_public(database_url: str) -> None:
    with psycopg.connect(database_url, options="-c search_path=registration") as connection:

        @given(objects, people, st.booleans())
        def agree(said: dict[str, object], subjects: tuple[UUID, ...], seal: bool) -> None:
            text = orjson.dumps(said)
            if seal:
                text = RING.seal(PLACE, text, b"{}", subjects, keys_of(subjects))
            row = connection.execute("SELECT registration.public_part(%b)", (text,)).fetchone()
            assert row is not None
            assert row[0].encode() == public_part(text)

        agree()
