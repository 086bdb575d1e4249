"""PostgreSQL crashes under a runner and a store that are at work."""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from uuid import UUID, uuid4

import psutil
import pytest
from tests.eventstore.given import TENANT, open_store, registered, request, server_of_its_own
from tests.projections.test_runner import (
    Tally,
    assert_exactly_once,
    connected,
    running,
    seen,
    wait_for,
)

from registration.eventstore.embedded import EmbeddedPostgres
from registration.eventstore.records import Outcome, Stored
from registration.eventstore.store import EventStore, StoreUnavailableError
from registration.eventstore.verify import verify_log
from registration.projections import rebuild
from registration.projections import status as how

WRITERS = 16
CRASHES = 3


@pytest.fixture
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server of this test's own."""
    with server_of_its_own() as server:
        yield server


def crash(server: EmbeddedPostgres) -> None:
    """kill -9 one backend: the server then ends every session at once and recovers from its log."""
    assert server.pid is not None
    backends = [
        child
        for child in psutil.Process(server.pid).children()
        if any(word.startswith("registration") for word in " ".join(child.cmdline()).split())
    ]
    os.kill(random.Random(0).choice(backends).pid, signal.SIGKILL)


def test_nothing_is_lost_or_doubled_when_the_database_crashes(postgres: EmbeddedPostgres) -> None:
    done: dict[UUID, Stored | Outcome] = {}
    keys: list[UUID] = []

    async def write(store: EventStore, stop: asyncio.Event) -> None:
        while not stop.is_set():
            key = uuid4()
            keys.append(key)
            done[key] = await _append(store, key)

    async def scenario() -> None:
        stop = asyncio.Event()
        async with open_store(postgres.url) as store, running(postgres.url, Tally()):
            writers = [asyncio.create_task(write(store, stop)) for _ in range(WRITERS)]
            for _ in range(CRASHES):
                await asyncio.sleep(0.4)
                before = len(done)
                crash(postgres)
                async with asyncio.timeout(15):
                    while len(done) < before + 50:  # noqa: ASYNC110  (16 writers, one condition)
                        await asyncio.sleep(0.02)
            stop.set()
            await asyncio.gather(*writers)
            head = await store.head(TENANT)
            await wait_for(postgres.url, head)
            # every retry gives the first answer
            for key, verdict in list(done.items())[:200]:
                assert (await _append(store, key)).position == verdict.position
            live = await seen(postgres.url)
            await rebuild.rebuild(postgres.url, "tally", models=[Tally()])
            assert await seen(postgres.url) == live
            async with connected(postgres.url) as connection:
                [status] = await how.status(connection, [Tally()])
                assert (status.leader, status.behind) == (True, 0)
        assert sorted(v.position for v in done.values()) == list(range(1, head + 1))
        await assert_exactly_once(postgres.url, head)

    asyncio.run(scenario())
    assert len(done) == len(keys)
    assert verify_log(postgres.url).ok


async def _append(store: EventStore, key: UUID) -> Stored | Outcome:
    """Do what a client does after a 503: the same again, a little later."""
    async with asyncio.timeout(20):
        while True:
            try:
                verdict = await store.append(TENANT, request(registered(), key=key))
            except StoreUnavailableError:
                await asyncio.sleep(0.05)
            else:
                assert isinstance(verdict, Stored | Outcome), verdict
                return verdict
