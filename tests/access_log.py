"""An access log to be disturbed, and killed, on a real PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg

from registration.access import _LOCKS, AccessLog, Read

TENANT = "clinic"


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
