"""Read models that one process feeds together: what befalls one is no trouble of the others."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from tests.eventstore.given import TENANT, fill, next_of_kin, open_store, registered, stored
from tests.projections.test_runner import (
    Tally,
    assert_exactly_once,
    connected,
    rows,
    running,
    seen,
    until,
    wait_for,
)

from registration.domain.events import Event, NextOfKinAdded, PatientErased
from registration.eventstore.records import RecordedEvent
from registration.projections import rebuild, runner


class Second(Tally):
    """Another read model, which can be held up."""

    NAME = "second"

    def __init__(self) -> None:
        super().__init__()
        self.decoded: list[Event] = []
        self.batches: list[int] = []
        self.free = asyncio.Event()
        self.free.set()

    async def apply(
        self, connection: AsyncConnection[TupleRow], events: Sequence[RecordedEvent]
    ) -> None:
        await self.free.wait()
        self.decoded += [event.event for event in events]
        self.batches.append(len(events))
        await super().apply(connection, events)


def test_a_batch_is_read_decoded_and_committed_once(database_url: str) -> None:
    async def scenario() -> None:
        models = (first, second) = (Second(), Second())
        first.NAME = "tally"
        async with open_store(database_url) as store:
            await fill(store, 50)
            async with running(database_url, *models):
                await wait_for(database_url, 50)
                await wait_for(database_url, 50, name="second")
        assert len(first.decoded) == 50
        assert all(a is b for a, b in zip(first.decoded, second.decoded, strict=True))
        written = "SELECT DISTINCT xmin::text FROM registration.read_model_position"
        assert len(await rows(database_url, written)) == 1

    asyncio.run(scenario())


def test_each_is_told_of_its_own_events_alone(database_url: str) -> None:
    async def scenario() -> None:
        model = Second()
        model.EVENTS = (NextOfKinAdded,)
        async with open_store(database_url) as store, running(database_url, Tally(), model):
            await stored(store, registered("First"), next_of_kin("Kin"))
            await wait_for(database_url, 2)
            await wait_for(database_url, 2, name="second")
        assert [name for _, _, name in await seen(database_url)] == ["First", "Kin"]
        assert [name for _, _, name in await seen(database_url, "second")] == ["Kin"]

    asyncio.run(scenario())


def test_poison_of_one_is_food_for_the_other(database_url: str) -> None:
    async def scenario() -> None:
        model = Second()
        model.poison = {"Poison"}
        bad = uuid4()
        async with open_store(database_url) as store, running(database_url, Tally(), model):
            await stored(store, registered("Poison"), next_of_kin("Lost"), stream=bad)
            await stored(store, registered("Fine"))
            await wait_for(database_url, 3)
            await wait_for(database_url, 3, name="second")
        assert [name for _, _, name in await seen(database_url, "second")] == ["Fine"]
        parked = await rows(database_url, "SELECT name, stream_id FROM registration.dead_letter")
        assert parked == [("second", bad)]
        await assert_exactly_once(database_url, 3)

    asyncio.run(scenario())


class Forgetful(Second):
    """Another read model, which lets go of who was erased, or fails to."""

    NAME = "second"

    def __init__(self) -> None:
        super().__init__()
        self.fails = False

    async def apply(
        self, connection: AsyncConnection[TupleRow], events: Sequence[RecordedEvent]
    ) -> None:
        gone = [e.stream_id for e in events if isinstance(e.event, PatientErased)]
        if gone and self.fails:
            raise ValueError
        if others := [e for e in events if e.stream_id not in gone]:
            await super().apply(connection, others)
        await connection.execute("DELETE FROM seen WHERE stream_id = ANY(%s)", (gone,))


@pytest.mark.parametrize("fails", [False, True])
def test_of_a_parked_stream_it_is_told_who_was_erased(database_url: str, *, fails: bool) -> None:
    async def scenario() -> None:
        model = Forgetful()
        model.poison, model.fails = {"Poison"}, fails
        bad = uuid4()
        async with open_store(database_url) as store, running(database_url, model):
            await stored(store, registered("Ada"), stream=bad)
            await wait_for(database_url, 1, name="second")
            await stored(store, next_of_kin("Poison"), stream=bad, version=1)
            await wait_for(database_url, 2, name="second")
            assert [name for _, _, name in await seen(database_url, "second")] == ["Ada"]
            await stored(store, PatientErased(erasure_id=bad), stream=bad, version=2)
            await stored(store, registered("Fine"))
            await wait_for(database_url, 4, name="second")
        left = [name for _, _, name in await seen(database_url, "second")]
        assert left == (["Ada", "Fine"] if fails else ["Fine"])
        parked = await rows(database_url, "SELECT name, position FROM registration.dead_letter")
        assert parked == [("second", 2)]

    asyncio.run(scenario())


def test_a_broken_one_does_not_hold_the_other_up(database_url: str) -> None:
    async def scenario() -> None:
        broken = Second()
        async with open_store(database_url) as store, running(database_url, Tally(), broken):
            await fill(store, 10)
            await wait_for(database_url, 10, name="second")
            async with connected(database_url) as connection:
                await connection.execute("ALTER TABLE second.tally RENAME TO gone")
                for count in (20, 30):
                    await fill(store, 10)
                    await wait_for(database_url, count)
                    await asyncio.sleep(0.6)
                await connection.execute("ALTER TABLE second.gone RENAME TO tally")
            await wait_for(database_url, 30, name="second")
        await assert_exactly_once(database_url, 30)
        assert len(await seen(database_url, "second")) == 30

    asyncio.run(scenario())


def test_one_with_a_pace_of_its_own_is_waited_for_by_nobody(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        slow = Second()
        slow.free.clear()
        monkeypatch.setattr(runner, "OWN_PACE", {slow.NAME: 7})
        async with open_store(database_url) as store, running(database_url, Tally(), slow):
            for count in (10, 20):
                await fill(store, 10)
                await wait_for(database_url, count)
            assert await seen(database_url, "second") == []
            slow.free.set()
            await wait_for(database_url, 20, name="second")
        assert slow.batches == [7, 7, 6]
        await assert_exactly_once(database_url, 20)
        assert len(await seen(database_url, "second")) == 20

    asyncio.run(scenario())


def test_a_swap_leaves_one_out_and_lets_the_other_go_on(database_url: str) -> None:
    async def scenario() -> None:
        async with open_store(database_url) as store, running(database_url, Tally(), Second()):
            await fill(store, 10)
            await wait_for(database_url, 10, name="second")
            async with connected(database_url) as swapping, swapping.transaction():
                await swapping.execute(
                    "SELECT FROM registration.read_model WHERE name = 'second' FOR UPDATE"
                )
                await fill(store, 10)
                await wait_for(database_url, 20)
                assert len(await seen(database_url, "second")) == 10
            await wait_for(database_url, 20, name="second")
            await rebuild.rebuild(database_url, "second", models=[Second()])
            await fill(store, 10)
            await wait_for(database_url, 30, name="second")
        await assert_exactly_once(database_url, 30)
        assert len(await seen(database_url, "second")) == 30

    asyncio.run(scenario())


def test_the_rebuild_of_one_does_not_hold_the_other_up(database_url: str) -> None:
    async def scenario() -> None:
        async with open_store(database_url) as store:
            async with running(database_url, Tally(), Second()):
                await fill(store, 50)
                await wait_for(database_url, 50, name="second")
            newer = Second()
            newer.VERSION = 2
            newer.free.clear()
            async with running(database_url, Tally(), newer):

                async def is_rebuilding() -> bool:
                    return bool(
                        await rows(database_url, "SELECT WHERE to_regnamespace('second_rebuild')>0")
                    )

                await until(is_rebuilding)
                await fill(store, 10)
                await wait_for(database_url, 60)
                newer.free.set()
                await wait_for(database_url, 60, name="second")
        assert await rows(
            database_url, "SELECT name, version FROM registration.read_model ORDER BY name"
        ) == [("second", 2), ("tally", 1)]
        await assert_exactly_once(database_url, 60, TENANT)
        assert len(await seen(database_url, "second")) == 60

    asyncio.run(scenario())
