"""The service over HTTP: one worker, 32 connections, a bearer token, read models running.

Registrations and additions carry an Idempotency-Key, updates that and If-Match: each stores an
event and an outcome, registrations an identifier claim as well. Updates and reads go over the
patients that the registrations before made, so histories are short, as they are in a clinic. The
load generator, the service, its read models and PostgreSQL share the machine.
"""

# ruff: noqa: A005  (a module of this package, found by its full name)

import statistics
import threading
import time
from bisect import bisect_left
from typing import TypeVar

from benchmarks import bare, limit
from benchmarks.bench import Bench, connect
from benchmarks.load import Plan, Report, Workload
from benchmarks.load import run as load
from benchmarks.results import at_least, at_most, share_of_limit
from benchmarks.service import Service, serving
from benchmarks.workloads import AddNextOfKin, Read, Register, Update

CONNECTIONS = 32
OPEN_RATE = 1000
_CAUGHT_UP_SECONDS = 120
_POLL = 0.005

Work = TypeVar("Work", bound=Workload)


def run(bench: Bench) -> None:
    """Measure the paths one after the other, and L before and after them."""
    if not bench.results.limits:
        limit.run(bench, "before HTTP")
    bench.say("http")
    _bare(bench)
    with serving(bench.data_dir) as service:
        registered = _register(bench, service)
        _update(bench, service, registered)
        _read(bench, service, registered)
        _next_of_kin(bench, service, registered)
        _open_loop(bench, service)
        bench.add("http", "memory of the worker afterwards", service.rss_mb(), "MB", at_most(200))
    limit.run(bench, "after HTTP")


def _bare(bench: Bench) -> None:
    with bare.serving() as port:
        plan = Plan("127.0.0.1", port, Register("none", "bare"), CONNECTIONS, bench.scaled(8, 2))
        report = load(plan)
    bench.add(
        "http",
        "HTTP alone: parse a registration and answer it, no service behind",
        report.rate,
        "requests/s",
        ratio=True,
        note=f"p50 {report.ms(0.5):.1f} ms",
    )


def _register(bench: Bench, service: Service) -> list[bytes]:
    made: list[bytes] = []
    reports = []
    for i in range(_runs(bench)):
        report = closed(bench, service, Register(service.token, f"reg{i}"))
        made += report.workload.made
        reports.append(report)
    middle = show(bench, "http", "register a patient", reports, 0.30)
    bench.add("http", "register a patient, p99", middle.ms(0.99), "ms", at_most(25))
    return made


def _update(bench: Bench, service: Service, patients: list[bytes]) -> None:
    workload = Update(service.token, "upd", CONNECTIONS, patients)
    reports = []
    for _ in range(_runs(bench)):
        reports.append(closed(bench, service, workload))
        workload = reports[-1].workload
    middle = show(bench, "http", "update demographics with If-Match", reports, 0.20)
    bench.add("http", "update demographics, p99", middle.ms(0.99), "ms")


def _read(bench: Bench, service: Service, patients: list[bytes]) -> None:
    registering = next(f.value for f in bench.results.figures if f.name == "register a patient")
    reports = [closed(bench, service, Read(service.token, patients)) for _ in range(_runs(bench))]
    middle = _middle(reports)
    bench.add(
        "http",
        "read a patient by id",
        middle.rate,
        "requests/s",
        at_least(registering or 0),
        ratio=True,
        note=_spread(reports),
    )
    bench.add("http", "read a patient, p99", middle.ms(0.99), "ms")


def _next_of_kin(bench: Bench, service: Service, patients: list[bytes]) -> None:
    report = closed(bench, service, AddNextOfKin(service.token, "kin", patients))
    bench.add(
        "http",
        "add a next of kin",
        report.rate,
        "requests/s",
        ratio=True,
        note=f"p50 {report.ms(0.5):.1f} ms, p99 {report.ms(0.99):.1f} ms",
    )


def _open_loop(bench: Bench, service: Service) -> None:
    """Let patients come in at a fixed rate, and see how far behind the search read model is."""
    caught_up(bench)
    workload = Register(service.token, "open", note_positions=True)
    plan = Plan(
        service.host,
        service.port,
        workload,
        CONNECTIONS,
        bench.scaled(20, 3),
        warm_up=1,
        rate=OPEN_RATE,
    )
    with _Watch(bench.postgres.url) as watch:
        report = load(plan)
        time.sleep(1.0)
    lags = sorted(watch.lags(report.workload.acknowledged))
    rate = f"{OPEN_RATE:,} registrations/s, open loop"
    bench.add("http", f"{rate}: answered", report.rate, "requests/s", at_least(OPEN_RATE * 0.99))
    bench.add("http", f"{rate}: p50 from when it was due", report.ms(0.5), "ms")
    bench.add("http", f"{rate}: p99 from when it was due", report.ms(0.99), "ms")
    bench.add("http", f"{rate}: the read model is behind, p50", _quantile(lags, 0.5), "ms")
    bench.add(
        "http", f"{rate}: the read model is behind, p99", _quantile(lags, 0.99), "ms", at_most(200)
    )


class _Watch:
    """Notes, every 5 ms, how far the search read model is."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch-read-model")
        self._times: list[float] = []
        self._positions: list[int] = []

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()

    def lags(self, acknowledged: list[tuple[float, int]]) -> list[float]:
        """Return, in ms, how long after its answer each position was first seen to be in."""
        found = []
        for answered, position in acknowledged:
            at = bisect_left(self._positions, position)
            seen = self._times[at] if at < len(self._times) else float("inf")
            found.append(max(0.0, seen - answered) * 1000)
        return found

    def _look(self) -> None:
        with connect(self._url) as connection:
            while not self._leaving.wait(_POLL):
                row = connection.execute(_POSITION, prepare=True).fetchone()
                self._times.append(time.monotonic())
                self._positions.append(row[0] if row else 0)


_POSITION = """
SELECT position FROM read_model_position WHERE name = 'search' AND tenant = 'default'
"""
_BEHIND = """
SELECT h.position - coalesce(p.position, 0) FROM log_head h
  LEFT JOIN read_model_position p ON p.name = %s AND p.tenant = h.tenant
 WHERE h.tenant = %s
"""


def caught_up(bench: Bench, name: str = "search", tenant: str = "default") -> float:
    """Wait until the read model has what came before; returns for how many seconds."""
    start = time.monotonic()
    with connect(bench.postgres.url) as connection:
        while (row := connection.execute(_BEHIND, (name, tenant)).fetchone()) and row[0] > 0:
            if time.monotonic() - start > _CAUGHT_UP_SECONDS:
                raise RuntimeError(f"the read model stays {row[0]} events behind")
            time.sleep(0.1)
    seconds = time.monotonic() - start
    bench.say(f"  (the read model was level {seconds:.1f} s after the load before)")
    return seconds


def closed(bench: Bench, service: Service, workload: Work) -> Report[Work]:
    """Let every connection send its next request when the last one is answered."""
    bench.settle()
    seconds = bench.scaled(10, 2)
    return load(
        Plan(service.host, service.port, workload, CONNECTIONS, seconds, warm_up=seconds / 5)
    )


def _runs(bench: Bench) -> int:
    return bench.scaled(3, 1)


def _middle(reports: list[Report[Work]]) -> Report[Work]:
    rate = statistics.median_low(report.rate for report in reports)
    return next(report for report in reports if report.rate == rate)


def _spread(reports: list[Report[Work]]) -> str:
    rates = " / ".join(f"{report.rate:,.0f}" for report in reports)
    return f"{len(reports)} runs: {rates}; p50 {_middle(reports).ms(0.5):.1f} ms"


def show(
    bench: Bench, group: str, name: str, reports: list[Report[Work]], share: float | None
) -> Report[Work]:
    """Add the rate of the middle run, held against a share of L where there is a target."""
    middle = _middle(reports)
    bench.add(
        group,
        name,
        middle.rate,
        "requests/s",
        None if share is None else share_of_limit(share),
        ratio=True,
        note=_spread(reports),
    )
    return middle


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]
