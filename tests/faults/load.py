"""Work that goes on while the service and its database are killed again and again."""

import asyncio
import random
import signal
import threading
import time
from typing import Any

import httpx
import psycopg
from tests.faults.program import Program

from registration.projections import status as how


class Worker(threading.Thread):
    """Sends commands, each with a key of its own, and repeats each until it is answered."""

    def __init__(self, program: Program, number: int, stop: threading.Event) -> None:
        super().__init__()
        self.program = program
        self.number = number
        self.stop = stop
        self.random = random.Random(number)
        self.done: list[tuple[dict[str, Any], httpx.Response]] = []
        self.retries = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Work until told to stop."""
        try:
            with self.program.client() as client:
                while not self.stop.is_set():
                    self.one_turn(client)
        except BaseException as error:
            self.error = error
            raise

    def one_turn(self, client: httpx.Client) -> None:
        """Do one piece of work."""
        raise NotImplementedError

    def send(
        self, client: httpx.Client, method: str, path: str, said: Any, if_match: str = ""
    ) -> httpx.Response:
        """Return the answer to a command; remembered where it is a success."""
        headers = {"Idempotency-Key": f"{self.number}-{len(self.done)}"}
        if if_match:
            headers["If-Match"] = if_match
        request = {"method": method, "url": path, "json": said, "headers": headers}
        answer = self.answered(client, **request)
        if answer.is_success:
            self.done.append((request, answer))
        return answer

    def answered(self, client: httpx.Client, **request: Any) -> httpx.Response:
        """Ask until there is an answer that is no trouble of the service."""
        deadline = time.monotonic() + 45
        while True:
            assert time.monotonic() < deadline, "no answer for too long"
            try:
                answer = client.request(**request)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code not in (429, 503):
                return answer
            self.retries += 1
            time.sleep(0.05)


def under_load(
    program: Program, workers: list[Worker], stop: threading.Event, seed: int, cycles: int
) -> None:
    """Kill the service and the database in turn while the workers work."""
    chance = random.Random(seed)
    for worker in workers:
        worker.start()
    for cycle in range(cycles):
        time.sleep(chance.uniform(0.3, 1.2))
        if cycle % 2:
            program.kill_postgres()
            time.sleep(chance.uniform(0.0, 1.5))
        else:
            program.end(signal.SIGKILL)
            program.start()
    time.sleep(1.0)
    stop.set()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
        assert worker.error is None


def read_model(url: str, name: str) -> dict[str, list[str]]:
    """Return all rows of a read model, by table."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = %s AND table_type = 'BASE TABLE'",
            (name,),
        ).fetchall()
        return {
            table: [
                row
                for (row,) in connection.execute(f"SELECT t::text FROM {name}.{table} t ORDER BY 1")
            ]
            for (table,) in tables
        }


async def caught_up(url: str) -> bool:
    """Return whether every read model is fed, and soon has all of the log."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for _ in range(500):
            if all(m.behind == 0 and m.leader for m in await how.status(connection)):
                return True
            await asyncio.sleep(0.02)
    return False
