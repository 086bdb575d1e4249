"""Ids grow on a device, whatever its clock does and however often it is started."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from registration.client.device import Device
from registration.client.ids import fresh_id, milliseconds_of, next_id
from registration.client.store import Store

MILLISECONDS = st.integers(0, 2**48 - 1)


@given(MILLISECONDS, st.integers())
def test_an_id_is_a_uuidv7_of_its_time(milliseconds: int, seed: int) -> None:
    made = fresh_id(milliseconds, Random(seed))
    assert (made.version, made.variant, milliseconds_of(made)) == (
        7,
        UUID(int=0x8 << 60).variant,
        milliseconds,
    )


@given(st.lists(st.integers(0, 2**47), min_size=2, max_size=50), st.integers())
def test_each_is_greater_than_the_last_whatever_the_clock_says(times: list[int], seed: int) -> None:
    random = Random(seed)
    made: list[UUID] = []
    for time in times:
        made.append(next_id(made[-1] if made else None, time, random))
    assert made == sorted(set(made))
    assert all(each.version == 7 for each in made)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.timedeltas(timedelta(days=-9000), timedelta(days=9000)), st.booleans()),
        min_size=2,
        max_size=12,
    )
)
def test_they_grow_through_restarts_and_jumps_of_the_clock(
    steps: list[tuple[timedelta, bool]],
) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    made: list[UUID] = []
    with TemporaryDirectory() as folder:
        store = Store(Path(folder) / "device.db")
        for jump, restarted in steps:
            if restarted:
                store.close()
                store = Store(Path(folder) / "device.db")
            device = Device(store, lambda moment=now + jump: moment, Random(3))  # type: ignore[misc]
            with store.transaction():
                made.append(device.next_mutation_id())
        store.close()
    assert made == sorted(set(made))
