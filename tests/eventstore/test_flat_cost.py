"""An append costs the same in a full log as in an empty one, with no help from ANALYZE.

A plan that is made while the tables are empty stays; one that reads a whole table would show here.
"""

import asyncio
import time
from statistics import median
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.eventstore.given import TENANT, open_store, registered, request

from registration.domain.events import Event
from registration.eventstore.records import AppendRequest, Stored
from registration.eventstore.store import LoadRequest

CALL = 100


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_appends_at_a_flat_cost(database_url: str, count: int) -> None:
    appends, singles, loads = asyncio.run(_measure(database_url, count))
    for times in (appends, singles, loads):
        part = max(5, len(times) // 20)
        assert median(times[-part:]) < 3 * median(times[:part])


async def _measure(url: str, count: int) -> tuple[list[float], list[float], list[float]]:
    """Append ``count`` patients; the seconds of each call, of a lone append and of a load."""
    _without_statistics(url)
    appends: list[float] = []
    singles: list[float] = []
    loads: list[float] = []
    event: Event = registered()
    async with open_store(url) as store:
        await store._append(TENANT, [_request(event, -1)])
        for start in range(0, count, CALL):
            requests = [_request(event, n) for n in range(start, start + CALL)]
            begin = time.perf_counter()
            verdicts = await store._append(TENANT, requests)
            appends.append(time.perf_counter() - begin)
            assert all(isinstance(verdict, Stored) for verdict in verdicts)

            lone = _request(event, -start - 2)
            begin = time.perf_counter()
            await store._append(TENANT, [lone])
            singles.append(time.perf_counter() - begin)

            begin = time.perf_counter()
            loaded = await store._load([LoadRequest(TENANT, lone.stream_id, key=lone.key)])
            loads.append(time.perf_counter() - begin)
            assert len(loaded[0].events) == 1
        # one session from beginning to end, or old plans would not be what was measured
        assert store._pool.get_stats()["connections_num"] == 1
    return appends, singles, loads


def _request(event: Event, n: int) -> AppendRequest:
    return request(event, key=uuid4(), fingerprint=UUID(int=1), take=[("urn:mrn", str(n))])


def _without_statistics(url: str) -> None:
    with psycopg.connect(url, options="-c search_path=registration") as connection:
        for table in ("event", "outcome", "identifier_claim", "log_head"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
