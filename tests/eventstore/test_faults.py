"""What goes wrong between the store and its database: lost answers, a database that hangs."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from uuid import UUID, uuid4

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.eventstore.given import (
    TENANT,
    open_store,
    registered,
    request,
    server_of_its_own,
    stored,
)

from registration.eventstore.embedded import EmbeddedPostgres
from registration.eventstore.records import Outcome, Stored
from registration.eventstore.store import EventStore, StoreUnavailableError
from registration.eventstore.verify import verify_log


class Proxy:
    """Stands between a client and PostgreSQL, and can keep an answer to itself."""

    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            self._host = connection.info.host
            self._port = connection.info.port
        self._url = url
        self.cut_next_answer = False
        self.cuts = 0
        self._served: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            yield make_conninfo(
                self._url, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable"
            )
        await asyncio.gather(*self._served)

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        if self._host.startswith("/"):
            path = f"{self._host}/.s.PGSQL.{self._port}"
            server, query = await asyncio.open_unix_connection(path)
        else:
            server, query = await asyncio.open_connection(self._host, self._port)
        await asyncio.gather(self._forward(client, query), self._answer(server, answer))

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        await _close(sink)

    async def _answer(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            # the server sends what a statement returns after its commit
            if self.cut_next_answer:
                self.cut_next_answer = False
                self.cuts += 1
                break
            sink.write(data)
            await sink.drain()
        await _close(sink)


async def _close(sink: asyncio.StreamWriter) -> None:
    sink.close()
    with suppress(ConnectionError):  # the other side was first
        await sink.wait_closed()


def test_an_answer_that_was_lost_after_the_commit(database_url: str) -> None:
    async def scenario() -> None:
        proxy = Proxy(database_url)
        async with proxy.running() as url, open_store(url) as store:
            # the statement is prepared by now: one round trip, and the first answer is the only one
            for _ in range(6):
                await stored(store, registered(), key=uuid4())
            key = uuid4()
            lost = request(registered(), key=key)
            proxy.cut_next_answer = True
            with pytest.raises(StoreUnavailableError):
                await store.append(TENANT, lost)
            assert proxy.cuts == 1

            retried = await store.append(TENANT, request(registered(), key=key))
            assert isinstance(retried, Outcome)
            assert (retried.stream_id, retried.version, retried.position) == (lost.stream_id, 1, 7)
            assert await store.head(TENANT) == 7
            assert [e.stream_id for e in await store.read_log(TENANT, 6, 10)] == [lost.stream_id]

    asyncio.run(scenario())
    assert verify_log(database_url).ok


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server of these tests' own, to be frozen at will."""
    with server_of_its_own() as server:
        yield server


@contextmanager
def frozen(server: EmbeddedPostgres) -> Iterator[None]:
    """Every process of the server stands still, as on a host that hangs."""
    assert server.pid is not None
    postmaster = psutil.Process(server.pid)
    pids = [postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_database_that_hangs(postgres: EmbeddedPostgres) -> None:
    async def scenario() -> None:
        async with open_store(postgres.url, deadline=1.0) as store:
            await stored(store, registered())
            keys = [uuid4() for _ in range(8)]
            with frozen(postgres):
                for _ in range(2):
                    begin = time.monotonic()
                    results = await asyncio.gather(
                        *(store.append(TENANT, request(registered(), key=key)) for key in keys),
                        return_exceptions=True,
                    )
                    assert time.monotonic() - begin < 1.5
                    assert {type(r) for r in results} == {StoreUnavailableError}
                begin = time.monotonic()
                with pytest.raises(StoreUnavailableError):
                    await store.head(TENANT)
                assert time.monotonic() - begin < 1.5

            verdicts = await asyncio.gather(*(_retry(store, key) for key in keys))
            assert len({verdict.position for verdict in verdicts}) == 8
            # every key once, whether its first attempt got through or the last
            assert await store.head(TENANT) == 9
            again = await asyncio.gather(*(_retry(store, key) for key in keys))
            assert [v.position for v in again] == [v.position for v in verdicts]
            assert await store.head(TENANT) == 9

    asyncio.run(scenario())
    assert verify_log(postgres.url).ok


async def _retry(store: EventStore, key: UUID) -> Stored | Outcome:
    """Do what a client does after a 503: the same again, a little later."""
    async with asyncio.timeout(10):
        while True:
            try:
                verdict = await store.append(TENANT, request(registered(), key=key))
            except StoreUnavailableError:
                await asyncio.sleep(0.1)
            else:
                assert isinstance(verdict, Stored | Outcome)
                return verdict
