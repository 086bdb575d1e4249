"""The access log itself, on a real PostgreSQL: what it writes, what it cannot, and what it says."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest

from registration.access import _LOCKS, AccessLog, Read
from registration.retention import forget_reads

TENANT = "clinic"
Scenario = Callable[[], Coroutine[Any, Any, None]]


def a_read(count: int = 1, tenant: str = TENANT, at: datetime | None = None) -> Read:
    ids = [str(uuid4()) for _ in range(count)]
    at = at or datetime.now(UTC)
    return Read(
        tenant, at, "desk-1", None, None, "patient.read", ids, "TREAT", "tab\t \\ ünïcode", "r", 200
    )


class Database:
    """What is in the tables, and the power to disturb whoever writes them."""

    def __init__(self, url: str) -> None:
        self.url = url

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()

    def count(self) -> int:
        ((count,),) = self.rows("SELECT count(*) FROM registration.access_log")
        return int(count)

    def gaps(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT tenant, reason, lost FROM registration.access_log_gap ORDER BY id")

    def writers(self) -> int:
        ((count,),) = self.rows("SELECT count(*) FROM registration.access_log_writer")
        return int(count)

    def hang_up(self) -> None:
        """End the connections of the access logs, as a restart would."""
        self.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'registration access log'"
            " AND datname = current_database()"
        )


@pytest.fixture
def database(database_url: str) -> Database:
    return Database(database_url)


class Lost:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, count: int) -> None:
        self.count += count


@asynccontextmanager
async def writing(
    database: Database, most: int = 1000, **more: Any
) -> AsyncIterator[tuple[AccessLog, Lost]]:
    lost = Lost()
    log = AccessLog(database.url, most=most, lost=lost, **more)
    await log.open()
    try:
        yield log, lost
    finally:
        await log.close()


def test_a_read_is_written_a_moment_later_as_it_was_noted(database: Database) -> None:
    read = a_read(2)

    async def scenario() -> None:
        async with writing(database) as (log, _):
            log.note(read)
            assert len(log) == 2
            assert database.count() == 0
            await until(lambda: len(log) == 0, 1.0)
            assert database.count() == 2

    asyncio.run(scenario())
    rows = database.rows(
        "SELECT tenant, at, actor, client, operation, patient_id::text, purpose, break_glass,"
        " request_id, status FROM registration.access_log"
    )
    assert {row[5] for row in rows} == set(read.patient_ids)
    for row in rows:
        assert (*row[:5], *row[6:]) == (
            *(TENANT, read.at, "desk-1", None, "patient.read"),
            *("TREAT", "tab\t \\ ünïcode", "r", 200),
        )


def test_a_normal_stop_loses_nothing(database: Database) -> None:
    async def scenario() -> None:
        async with writing(database, most=10_000) as (log, _):
            for _ in range(2500):
                log.note(a_read())

    asyncio.run(scenario())
    assert (database.count(), database.gaps(), database.writers()) == (2500, [], 0)


def test_past_the_bound_reads_are_counted_and_the_gap_is_told_by_tenant(database: Database) -> None:
    async def scenario() -> None:
        async with writing(database, most=100) as (log, lost):
            for _ in range(90):
                log.note(a_read())
            log.note(a_read(20))
            log.note(a_read(15, tenant="other"))
            log.note(a_read(10))
            assert (len(log), lost.count) == (100, 35)
            assert await log.flush(2.0)
            await until(lambda: len(database.gaps()) == 2, 2.0)
            log.note(a_read())

    asyncio.run(scenario())
    assert sorted(database.gaps()) == [(TENANT, "overflow", 20), ("other", "overflow", 15)]
    assert database.count() == 101


def test_a_database_that_hangs_up_costs_nothing(database: Database) -> None:
    async def scenario() -> None:
        async with writing(database) as (log, lost):
            for _ in range(5):
                log.note(a_read())
                await log.flush(2.0)
                database.hang_up()
                log.note(a_read(3))
            assert await log.flush(10.0)
            assert lost.count == 0

    asyncio.run(scenario())
    assert (database.count(), database.gaps(), database.writers()) == (20, [], 0)


def test_a_commit_whose_answer_was_lost_is_not_written_twice(database: Database) -> None:
    async def scenario() -> None:
        async with writing(database) as (log, _):
            write, batches = log._write, []

            async def write_and_hang_up(connection: Any) -> None:
                batch = log._batch = log._batch or log._next_batch()
                batches.append(batch)
                await write(connection)
                if len(batches) == 1:
                    # as if the connection had broken just before the acknowledgement came
                    log._batch = batch
                    log._written -= len(batch.rows)
                    raise psycopg.OperationalError

            log._write = write_and_hang_up  # type: ignore[method-assign]
            log.note(a_read(3))
            await until(lambda: len(batches) > 1 and len(log) == 0, 5.0)
            assert batches[0] is batches[1]

    asyncio.run(scenario())
    assert database.count() == 3


def test_who_ends_without_a_word_leaves_a_gap_that_the_next_one_tells(database: Database) -> None:
    async def killed() -> None:
        log = AccessLog(database.url, most=77, lost=Lost())
        await log.open()
        log.note(a_read())
        await log.flush(2.0)
        log.note(a_read())
        await kill(log)

    asyncio.run(killed())
    assert (database.writers(), database.gaps()) == (1, [])
    asyncio.run(next_one(database))
    assert (database.count(), database.writers()) == (1, 0)
    assert database.gaps() == [(None, "crash", None)]
    asyncio.run(next_one(database))
    assert len(database.gaps()) == 1


def test_nobody_knows_how_many_a_crash_cost(database: Database) -> None:
    """Past the bound reads are counted in memory, and the count goes with the process."""

    async def scenario() -> None:
        log = AccessLog(database.url, most=10, lost=Lost())
        await log.open()
        for _ in range(17):
            log.note(a_read())
        await kill(log)

    asyncio.run(scenario())
    asyncio.run(next_one(database))
    assert database.gaps() == [(None, "crash", None)]


def test_a_gap_begins_before_all_that_came_while_a_write_took_long(database: Database) -> None:
    async def scenario() -> None:
        log = AccessLog(database.url, most=100, lost=Lost())
        await log.open()
        write = log._write

        async def write_once(connection: Any) -> None:
            await write(connection)
            await kill(log)

        log._write = write_once  # type: ignore[method-assign]
        log.note(a_read())
        with psycopg.connect(database.url) as other:
            other.execute("LOCK TABLE registration.access_log IN SHARE ROW EXCLUSIVE MODE")
            await asyncio.sleep(0.3)
            assert log._batch is not None
            log.note(a_read())
            await asyncio.sleep(0.3)
        assert log._task is not None
        await asyncio.wait({log._task})

    started = datetime.now(UTC)
    asyncio.run(scenario())
    asyncio.run(next_one(database))
    assert database.count() == 1
    ((since, until),) = database.rows("SELECT since, until FROM registration.access_log_gap")
    assert started < since < started + timedelta(seconds=0.25)
    assert until > since


def test_a_gap_begins_before_what_waits_for_the_next_batch(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registration.access._BATCH", 3)
    reads = [a_read(2) for _ in range(5)]

    async def scenario() -> None:
        log = AccessLog(database.url, most=100, lost=Lost())
        await log.open()
        write = log._write

        async def write_once(connection: Any) -> None:
            await write(connection)
            await kill(log)

        log._write = write_once  # type: ignore[method-assign]
        for read in reads:
            log.note(read)
        assert log._task is not None
        await asyncio.wait({log._task})

    asyncio.run(scenario())
    asyncio.run(next_one(database))
    assert database.count() == 4
    assert database.rows("SELECT since FROM registration.access_log_gap") == [(reads[2].at,)]


def test_connecting_again_is_no_sign_that_all_is_written(database: Database) -> None:
    noted: list[Read] = []

    async def scenario() -> None:
        log = AccessLog(database.url, most=100, lost=Lost())
        await log.open()

        async def write_nothing(connection: Any) -> None:
            await kill(log)

        database.hang_up()
        await asyncio.sleep(0.1)
        log._write = write_nothing  # type: ignore[method-assign]
        assert log._connection is not None
        await log._connection.close()
        noted.append(a_read())
        log.note(noted[0])
        await asyncio.sleep(0.05)
        assert log._task is not None
        await asyncio.wait({log._task})

    asyncio.run(scenario())
    asyncio.run(next_one(database))
    ((since,),) = database.rows("SELECT since FROM registration.access_log_gap")
    assert since < noted[0].at


@contextmanager
def locks_held_by_a_stranger(database: Database, numbers: range) -> Iterator[None]:
    """Have another login of the database take the locks of some writers' numbers."""
    name = f"bi_{uuid4().hex[:12]}"
    parts = urlsplit(database.url)
    secret = f":{parts.password}" if parts.password else ""
    there = parts.netloc.rpartition("@")[2]
    url = urlunsplit(parts._replace(netloc=f"{name}{secret}@{there}"))
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{parts.password or ''}'".encode())
        # as in a database where nobody took it from everybody
        owner.execute(f"GRANT EXECUTE ON FUNCTION pg_advisory_lock(int, int) TO {name}".encode())
        try:
            with psycopg.connect(url, autocommit=True) as stranger:
                for number in numbers:
                    stranger.execute("SELECT pg_advisory_lock(%s, %s)", (_LOCKS, number))
                yield
        finally:
            owner.execute(f"DROP OWNED BY {name}".encode())
            owner.execute(f"DROP ROLE {name}".encode())


def test_whose_number_is_taken_takes_the_next(database: Database) -> None:
    async def scenario() -> None:
        async with writing(database) as (log, lost):
            database.hang_up()
            log.note(a_read())
            assert await log.flush(5.0)
            assert lost.count == 0
            assert database.rows("SELECT id > 39 FROM registration.access_log_writer") == [(True,)]

    with locks_held_by_a_stranger(database, range(1, 40)):
        started = time.monotonic()
        asyncio.run(scenario())
        assert time.monotonic() - started < 4
    assert (database.count(), database.gaps(), database.writers()) == (1, [], 0)


def test_a_stranger_cannot_hide_that_somebody_died(database: Database) -> None:
    async def scenario() -> None:
        log = AccessLog(database.url, most=5, lost=Lost())
        await log.open()
        await kill(log)

    asyncio.run(scenario())
    with locks_held_by_a_stranger(database, range(1, 2)):
        asyncio.run(next_one(database))
        assert database.gaps() == [(None, "crash", None)]


def test_who_lives_notices_another_ones_end(database: Database) -> None:
    async def scenario() -> None:
        async with writing(database, heartbeat=0.05):
            dead = AccessLog(database.url, most=5, lost=Lost())
            await dead.open()
            assert database.gaps() == []
            await kill(dead)
            await until(lambda: database.gaps() == [(None, "crash", None)], 5.0)

    asyncio.run(scenario())


def test_who_is_never_idle_notices_it_too(database: Database) -> None:
    async def scenario() -> None:
        async with writing(database, heartbeat=0.1) as (log, _):
            dead = AccessLog(database.url, most=5, lost=Lost())
            await dead.open()
            await kill(dead)
            deadline = time.monotonic() + 5
            while not database.gaps():
                assert time.monotonic() < deadline
                log.note(a_read())
                await asyncio.sleep(0.02)

    asyncio.run(scenario())


def test_who_lives_is_not_taken_for_dead(database: Database) -> None:
    async def scenario() -> None:
        async with writing(database) as (log, _), writing(database, heartbeat=0.05):
            log.note(a_read())
            await asyncio.sleep(0.5)

    asyncio.run(scenario())
    assert (database.gaps(), database.writers()) == ([], 0)


def test_without_a_database_a_stop_ends_in_time_and_counts_what_is_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("registration.access.STOP_SECONDS", 0.3)
    lost = Lost()

    async def scenario() -> None:
        log = AccessLog(database.url, most=100, lost=lost)
        await log.open()
        log._url = "postgresql://127.0.0.1:1/none"
        database.hang_up()
        log.note(a_read(7))
        started = time.monotonic()
        await log.close()
        assert time.monotonic() - started < 3

    asyncio.run(scenario())
    assert lost.count == 7
    assert "7 reads could not be written" in caplog.text
    assert database.writers() == 1


def test_a_stop_that_cannot_tell_what_was_lost_leaves_that_to_the_next_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registration.access.STOP_SECONDS", 0.3)

    async def scenario() -> None:
        log = AccessLog(database.url, most=5, lost=Lost())
        await log.open()
        with psycopg.connect(database.url) as other:
            other.execute("LOCK TABLE registration.access_log_gap IN SHARE ROW EXCLUSIVE MODE")
            log.note(a_read(6))
            await log.close()
        await kill(log)

    asyncio.run(scenario())
    assert (database.writers(), database.gaps()) == (1, [])
    asyncio.run(next_one(database))
    assert database.gaps() == [(None, "crash", None)]


def test_what_is_past_its_time_is_let_go(database: Database) -> None:
    now = datetime.now(UTC)

    async def scenario() -> None:
        async with writing(database) as (log, _):
            for days in (1, 29, 31, 400):
                log.note(a_read(at=now - timedelta(days=days)))
        assert await forget_reads(database.url, now - timedelta(days=30)) == 2
        assert await forget_reads(database.url, now - timedelta(days=30)) == 0

    asyncio.run(scenario())
    assert database.count() == 2


async def kill(log: AccessLog) -> None:
    """Leave a log as a process does that ends without a word."""
    assert log._task is not None
    log._task.cancel()
    assert log._connection is not None
    await log._connection.close()


async def next_one(database: Database) -> None:
    """Start and stop, as the next process does."""
    async with writing(database):
        pass


async def until(happened: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
