"""The SQL function ``append`` by itself: one caller, 1, 10 and 100 requests a call, and its cost
while the log grows from nothing to 1,000,000 events in one session without ANALYZE.

The caller does what the store does: arrays, the same statement, prepared. What the arrays hold is
made outside the time that counts. Each request holds an event, a key and an identifier claim.
"""

import time
from collections.abc import Sequence
from datetime import timedelta

import psycopg
from psycopg.rows import TupleRow

from benchmarks.bench import Bench, connect
from benchmarks.results import at_least, share_of_limit
from benchmarks.sample import Requests, registrations
from registration.eventstore.store import APPEND, append_arguments

_SIZES = ((1, 0.15), (10, 0.50), (100, 0.75))
_FILL_BATCH = 256
_STEPS = 10


def run(bench: Bench) -> None:
    """Measure the rates, then the growth."""
    bench.say("append")
    bodies = registrations(500)
    mean = sum(map(len, bodies)) // len(bodies)
    for size, share in _SIZES:
        with bench.database() as url, connect(url) as connection:
            caller = Caller(connection, Requests(bodies))
            caller.for_seconds(0.5, size)
            bench.settle()
            rate = caller.for_seconds(bench.scaled(8, 1), size)
        bench.add(
            "append",
            f"{size} request(s) a call, one caller",
            rate,
            "commands/s",
            share_of_limit(share),
            ratio=True,
            note=f"events of {mean} bytes" if size == 1 else "",
        )
    _growth(bench, bodies)


def _growth(bench: Bench, bodies: Sequence[bytes]) -> None:
    total = bench.scaled(1_000_000, 20_000)
    with bench.database() as url, connect(url) as connection:
        bench.settle()
        caller = Caller(connection, Requests(bodies))
        rates = [caller.of_requests(total // _STEPS, _FILL_BATCH) for _ in range(_STEPS)]
    bench.add(
        "append",
        f"flat from 0 to {total:,} events: the last tenth's rate over the first's",
        rates[-1] / rates[0],
        "",
        at_least(0.8),
        note=f"{_FILL_BATCH} a call; events/s by tenth: " + " ".join(f"{r:,.0f}" for r in rates),
    )


class Caller:
    """Calls ``append`` as fast as it answers."""

    def __init__(self, connection: psycopg.Connection[TupleRow], requests: Requests) -> None:
        self._connection = connection
        self._requests = requests

    def for_seconds(self, seconds: float, size: int) -> float:
        """Return requests a second over a time, ``size`` of them a call."""
        spent, done = 0.0, 0
        while spent < seconds:
            spent += self._call(size)
            done += size
        return done / spent

    def of_requests(self, n: int, size: int) -> float:
        """Return requests a second over about ``n`` of them, ``size`` a call."""
        spent, done = 0.0, 0
        while done < n:
            spent += self._call(size)
            done += size
        return done / spent

    def _call(self, size: int) -> float:
        arguments = append_arguments(
            self._requests.tenant, None, timedelta(hours=24), self._requests.take(size)
        )
        start = time.perf_counter()
        cursor = self._connection.execute(APPEND, arguments, prepare=True, binary=True)
        verdicts = cursor.fetchall()
        spent = time.perf_counter() - start
        if len(verdicts) != size or any(row[0] != "stored" for row in verdicts):
            raise RuntimeError(f"append refused: {verdicts[0]}")
        return spent
