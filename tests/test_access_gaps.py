"""What becomes of reads whose process died: whoever looks next says since when some are missing."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.access_log import (
    Database,
    Lost,
    a_read,
    kill,
    locks_held_by_a_stranger,
    next_one,
    until,
    writing,
)

from registration.access import AccessLog, Read
from registration.eventstore.migrations import load, migrate


@pytest.fixture
def database(database_url: str) -> Database:
    return Database(database_url)


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


def test_what_an_earlier_version_said_of_a_crash_is_mended(
    empty_database_url: str, tmp_path: Path
) -> None:
    for file in load():
        if file.name < "0008":
            (tmp_path / file.name).write_text(file.sql)
    migrate(empty_database_url, tmp_path)
    database = Database(empty_database_url)
    with psycopg.connect(database.url, options="-c search_path=registration") as connection:
        connection.execute("INSERT INTO access_log_writer (most) VALUES (50000)")
        for told in (("crash", 50_000), ("overflow", 7)):
            connection.execute(
                "INSERT INTO access_log_gap (since, until, reason, lost)"
                " VALUES (now(), now(), %s, %s)",
                told,
            )
    assert "0008_access_gaps.sql" in migrate(database.url)
    assert database.gaps() == [(None, "crash", None), (None, "overflow", 7)]
    asyncio.run(next_one(database))
    ((ago,),) = database.rows(
        "SELECT until - since FROM registration.access_log_gap ORDER BY id DESC LIMIT 1"
    )
    assert ago > timedelta(minutes=1)
