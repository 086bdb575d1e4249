"""The runner on a real PostgreSQL, with a read model small enough to see through."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from tests.eventstore.given import TENANT, fill, next_of_kin, open_store, registered, stored

from registration.domain.events import EVENTS, NextOfKinAdded, PatientRegistered
from registration.eventstore import database
from registration.eventstore.records import RecordedEvent
from registration.projections import feed, rebuild, runner
from registration.projections import status as how

OTHER = "clinic-b"


class Tally:
    """Remembers every event it saw, in the order it saw them."""

    NAME = "tally"
    VERSION = 1
    EVENTS = EVENTS
    DDL = """
    CREATE TABLE seen (
        number bigserial PRIMARY KEY, tenant text, position bigint, stream_id uuid, name text,
        UNIQUE (tenant, position)
    );
    CREATE TABLE tally (tenant text PRIMARY KEY, events int NOT NULL);
    """

    def __init__(self) -> None:
        self.poison: set[str] = set()
        self.largest = 0

    async def apply(
        self, connection: AsyncConnection[TupleRow], events: Sequence[RecordedEvent]
    ) -> None:
        self.largest = max(self.largest, len(events))
        rows = [(e.tenant, e.position, e.stream_id, self._name(e)) for e in events]
        async with connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO seen (tenant, position, stream_id, name) VALUES (%s, %s, %s, %s)", rows
            )
        await connection.execute(
            "INSERT INTO tally VALUES (%s, %s) ON CONFLICT (tenant)"
            " DO UPDATE SET events = tally.events + excluded.events",
            (events[0].tenant, len(events)),
        )

    def _name(self, record: RecordedEvent) -> str:
        event = record.event
        if isinstance(event, PatientRegistered):
            name = event.names[0].family or ""
        else:
            assert isinstance(event, NextOfKinAdded)
            name = event.next_of_kin.name
        if name in self.poison:
            raise ValueError(name)
        return name


@asynccontextmanager
async def running(url: str, *models: Tally) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run_forever(url, stop=stop, models=models))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(task, 5)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AsyncConnection[TupleRow]]:
    async with await database.connect(url, name="test") as connection:
        yield connection


async def rows(url: str, query: str) -> list[TupleRow]:
    async with connected(url) as connection:
        cursor = await connection.execute(query)
        return await cursor.fetchall()


async def seen(url: str, schema: str = "tally") -> list[TupleRow]:
    return await rows(url, f"SELECT tenant, position, name FROM {schema}.seen ORDER BY 1, 2")


async def wait_for(url: str, position: int, tenant: str = TENANT, name: str = "tally") -> None:
    async with connected(url) as connection:
        assert await how.wait_for(connection, name, tenant, position, 10)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110  (a database has no event to wait for)
            await asyncio.sleep(0.02)


async def leader_pid(url: str) -> int | None:
    found = await rows(
        url,
        f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = {feed.LEADER}"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    return found[0][0] if found else None


async def kill_leader(url: str) -> bool:
    """End the leader's connection; says whether there was one."""
    pid = await leader_pid(url)
    return pid is not None and bool(await rows(url, f"SELECT pg_terminate_backend({pid})"))


async def assert_exactly_once(url: str, count: int, tenant: str = TENANT) -> None:
    """Every position from 1 was applied once, in order."""
    found = await rows(
        url, f"SELECT position FROM tally.seen WHERE tenant = '{tenant}' ORDER BY number"
    )
    assert [position for (position,) in found] == list(range(1, count + 1))
    assert await rows(url, f"SELECT events FROM tally.tally WHERE tenant = '{tenant}'") == [
        (count,)
    ]


def test_applies_every_tenants_events_in_order(database_url: str) -> None:
    async def scenario() -> None:
        model = Tally()
        async with open_store(database_url) as store, running(database_url, model):
            await fill(store, 2500)
            await fill(store, 30, tenant=OTHER)
            await wait_for(database_url, 2500)
            await wait_for(database_url, 30, OTHER)
        await assert_exactly_once(database_url, 2500)
        await assert_exactly_once(database_url, 30, OTHER)
        assert 1 < model.largest <= feed.BATCH

    asyncio.run(scenario())


def test_tenants_share_a_batch_and_the_small_ones_are_served_whole() -> None:
    read = {"big": 10}
    heads = {"big": 1_000_000, "small": 3, "level": 0}
    slices = feed.divide(heads, read)
    assert slices == [("small", 0, 3, ()), ("big", 10, 10 + feed.BATCH - 3, ())]
    assert read == {"big": 10 + feed.BATCH - 3, "small": 3}
    many = feed.divide({f"t{n}": 5 for n in range(2 * feed.BATCH)}, {})
    assert sum(part.until - part.after for part in many) == feed.BATCH


def test_says_how_far_it_is(database_url: str) -> None:
    async def scenario() -> None:
        model = Tally()
        async with open_store(database_url) as store, connected(database_url) as connection:
            [before] = await how.status(connection, [model])
            assert (before.leader, before.tenants) == (False, ())
            async with running(database_url, model):
                await stored(store, registered())
                await wait_for(database_url, 1)
                [now] = await how.status(connection, [model])
                assert (now.name, now.leader) == ("tally", True)
                assert now.tenants == (how.TenantStatus(TENANT, 1, 1, 0),)
            await stored(store, registered())
            [after] = await how.status(connection, [model])
            assert (after.leader, after.behind, after.dead_letters) == (False, 1, 0)
            assert not await how.wait_for(connection, "tally", TENANT, 2, 0.03)

    asyncio.run(scenario())


def test_another_takes_over_when_the_leader_is_cut_off(database_url: str) -> None:
    async def scenario() -> None:
        async with (
            open_store(database_url) as store,
            running(database_url, Tally()),
            running(database_url, Tally()),
        ):
            count = 0
            for _ in range(3):
                await until(lambda: kill_leader(database_url))
                await fill(store, 50)
                count += 50
                async with asyncio.timeout(3):
                    await wait_for(database_url, count)
        await assert_exactly_once(database_url, count)

    asyncio.run(scenario())


def test_killed_in_the_middle_it_loses_and_doubles_nothing(database_url: str) -> None:
    async def scenario() -> None:
        done = False

        async def killer() -> None:
            while not done:
                await kill_leader(database_url)
                await asyncio.sleep(0.06)

        async with open_store(database_url) as store, running(database_url, Tally()):
            killing = asyncio.create_task(killer())
            for _ in range(60):
                await fill(store, 100)
            done = True
            await killing
            await wait_for(database_url, 6000)
        await assert_exactly_once(database_url, 6000)

    asyncio.run(scenario())


def test_poison_parks_its_stream_and_nothing_else(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        model = Tally()
        model.poison = {"Poison"}
        bad = uuid4()
        async with (
            open_store(database_url) as store,
            running(database_url, model),
            connected(database_url) as connection,
        ):
            good = UUID(int=5)
            await stored(store, registered("First"), next_of_kin("Kin"), stream=good)
            await stored(store, registered("Poison"), next_of_kin("Lost"), stream=bad)
            await stored(store, next_of_kin("More"), stream=good, version=2)
            await wait_for(database_url, 5)
            await stored(store, next_of_kin("Later"), stream=bad, version=2)
            await stored(store, registered("Last"))
            await wait_for(database_url, 7)

            names = [name for _, _, name in await seen(database_url)]
            assert names == ["First", "Kin", "More", "Last"]
            assert await rows(
                database_url,
                "SELECT name, tenant, stream_id, position, version, topic, error"
                " FROM registration.dead_letter",
            ) == [("tally", TENANT, bad, 3, 1, "patient.registered", "ValueError")]
            [now] = await how.status(connection, [model])
            assert (now.dead_letters, now.behind) == (1, 0)

            # mended, a rebuild takes in what was set aside
            reason = f"ValueError at position 3 of tenant {TENANT}"
            with pytest.raises(rebuild.RebuildError, match=reason):
                await rebuild.rebuild(database_url, "tally", models=[model])
            assert [name for _, _, name in await seen(database_url)] == names
            model.poison.clear()
            await rebuild.rebuild(database_url, "tally", models=[model])
            await stored(store, next_of_kin("Latest"), stream=bad, version=3)
            await wait_for(database_url, 8)
            assert [name for _, _, name in await seen(database_url)] == [
                "First",
                "Kin",
                "Poison",
                "Lost",
                "More",
                "Later",
                "Last",
                "Latest",
            ]
            [now] = await how.status(connection, [model])
            assert now.dead_letters == 0

    asyncio.run(scenario())
    assert "ValueError" in caplog.text
    assert "Poison" not in caplog.text


def test_a_new_leader_keeps_a_stream_parked(database_url: str) -> None:
    async def scenario() -> None:
        model = Tally()
        model.poison = {"Poison"}
        bad = uuid4()
        async with open_store(database_url) as store:
            async with running(database_url, model):
                await stored(store, registered("Poison"), stream=bad)
                await wait_for(database_url, 1)
            model.poison.clear()
            async with running(database_url, model):
                await stored(store, next_of_kin("Later"), stream=bad, version=1)
                await stored(store, registered("Fine"))
                await wait_for(database_url, 3)
        assert [name for _, _, name in await seen(database_url)] == ["Fine"]

    asyncio.run(scenario())


def test_a_rebuild_gives_the_same_rows(database_url: str) -> None:
    async def scenario() -> None:
        model = Tally()
        told: list[tuple[str, int, int]] = []
        async with open_store(database_url) as store, running(database_url, model):
            await fill(store, 1700)
            await fill(store, 20, tenant=OTHER)
            await wait_for(database_url, 1700)
            await wait_for(database_url, 20, OTHER)
            live = await seen(database_url)
            await rebuild.rebuild(database_url, None, lambda *s: told.append(s), models=[model])
            assert await seen(database_url) == live
        assert told[-1] == ("tally", 1720, 1720)
        assert await schemas(database_url) == ["tally"]
        with pytest.raises(rebuild.RebuildError, match="no read model"):
            await rebuild.rebuild(database_url, "nonsense", models=[model])

    asyncio.run(scenario())


async def schemas(url: str) -> list[str]:
    found = await rows(
        url, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tally%' ORDER BY 1"
    )
    return [name for (name,) in found]


def test_rebuilds_without_a_runner_and_before_any(database_url: str) -> None:
    async def scenario() -> None:
        async with open_store(database_url) as store:
            await fill(store, 30)
        await rebuild.rebuild(database_url, "tally", models=[Tally()])
        await assert_exactly_once(database_url, 30)

    asyncio.run(scenario())


def test_rebuilds_while_writers_write(database_url: str) -> None:
    async def scenario() -> None:
        model = Tally()
        count = 0
        done = False

        async def write(tenant: str) -> None:
            nonlocal count
            while not done:
                await fill(store, 20, tenant=tenant, call=20)
                count += 20
                await asyncio.sleep(0.005)

        async with open_store(database_url) as store, running(database_url, model):
            await fill(store, 1500)
            writers = [asyncio.create_task(write(tenant)) for tenant in (TENANT, OTHER)]
            for _ in range(4):
                await rebuild.rebuild(database_url, "tally", models=[model])
            done = True
            await asyncio.gather(*writers)
            total = {tenant: await store.head(tenant) for tenant in (TENANT, OTHER)}
            for tenant, head in total.items():
                await wait_for(database_url, head, tenant)
        for tenant, head in total.items():
            assert head > 100
            await assert_exactly_once(database_url, head, tenant)

    asyncio.run(scenario())


def test_two_rebuilds_of_one_read_model_do_not_meet(database_url: str) -> None:
    async def scenario() -> None:
        model = Tally()
        async with open_store(database_url) as store:
            await fill(store, 3000)
        results = await asyncio.gather(
            *(rebuild.rebuild(database_url, "tally", models=[model]) for _ in range(2)),
            return_exceptions=True,
        )
        assert [type(r) for r in results if r is not None] == [rebuild.RebuildError]
        await assert_exactly_once(database_url, 3000)

    asyncio.run(scenario())


def test_another_version_of_the_program_rebuilds(database_url: str) -> None:
    async def scenario() -> None:
        async with open_store(database_url) as store:
            async with running(database_url, Tally()):
                await fill(store, 300)
                await wait_for(database_url, 300)
            newer = Tally()
            newer.VERSION = 2
            newer.DDL = Tally.DDL.replace("name text", "name text, wide int DEFAULT 3")
            newer.poison = {"Family7"}
            await fill(store, 5)
            async with running(database_url, newer):
                await wait_for(database_url, 305)
                assert len(await rows(database_url, "SELECT wide FROM tally.seen")) == 304
                assert await rows(
                    database_url, "SELECT name, version FROM registration.read_model"
                ) == [("tally", 2)]
                assert await rows(
                    database_url, "SELECT position FROM registration.dead_letter"
                ) == [(8,)]
            assert await schemas(database_url) == ["tally"]

    asyncio.run(scenario())


def test_a_deleted_read_model_comes_back(database_url: str) -> None:
    async def scenario() -> None:
        async with open_store(database_url) as store, running(database_url, Tally()):
            await fill(store, 40)
            await wait_for(database_url, 40)
            async with connected(database_url) as connection:
                await connection.execute("DROP SCHEMA tally CASCADE")
            await fill(store, 10)
            await wait_for(database_url, 50)
        await assert_exactly_once(database_url, 50)

    asyncio.run(scenario())
