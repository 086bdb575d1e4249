"""The access log itself, on a real PostgreSQL: what it writes, what it cannot, and what it says."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from tests.access_log import (
    TENANT,
    Database,
    Lost,
    a_read,
    until,
    writing,
)

from registration.access import AccessLog
from registration.retention import forget_reads


@pytest.fixture
def database(database_url: str) -> Database:
    return Database(database_url)


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
