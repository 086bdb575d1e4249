"""How fast the search read model is built anew from the log."""

import asyncio
import time

from benchmarks.append import Caller
from benchmarks.bench import Bench, connect
from benchmarks.results import at_least
from benchmarks.sample import Requests, registrations
from registration.memory import collect_seldom
from registration.projections import search
from registration.projections.rebuild import rebuild


def run(bench: Bench) -> None:
    """Fill a log with registrations of 5,000 different patients, over and over; rebuild twice."""
    bench.say("projection")
    events = bench.scaled(120_000, 10_000)
    with bench.database() as url:
        with connect(url) as connection:
            Caller(connection, Requests(registrations(bench.scaled(5000, 1000)))).of_requests(
                events, 256
            )
        bench.settle()
        collect_seldom()  # as `registration rebuild` does
        rates = []
        for _ in range(bench.scaled(2, 1)):
            start = time.perf_counter()
            asyncio.run(rebuild(url, search.NAME))
            rates.append(events / (time.perf_counter() - start))
    bench.add(
        "projection",
        f"rebuild of the search read model over {events:,} events",
        max(rates),
        "events/s",
        at_least(8000),
        note="runs: " + " / ".join(f"{rate:,.0f}" for rate in rates),
    )
