"""A lean HTTP load generator, in a process of its own.

Requests are bytes made beforehand, or nearly so; of an answer only the status line and the length
are read, and what the workload asks for. That takes about 15 µs a request, so on a machine that
generator, service and database share, most of the time is theirs.

*Closed loop*: each connection sends its next request when it has its answer. *Open loop* (with a
rate): requests are due at fixed instants whether or not the service keeps up, and a latency counts
from the instant at which its request was due, the wait for a free connection included. Due times
are looked at once a millisecond, which is in the latencies too.
"""

import asyncio
import gc
import math
import multiprocessing
import time
from array import array
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast

import uvloop

_GRACE = 30.0
_MOST_SAMPLES = 5


class Workload(Protocol):
    """What is sent, and what has to come back. Has to be picklable."""

    def request(self, connection: int) -> bytes:
        """Return the next request of a connection, whole."""

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Take in the answer to the connection's last request; returns whether it is right.

        ``head`` is in lower case and ends with a line end.
        """


Work = TypeVar("Work", bound=Workload)


@dataclass(frozen=True, slots=True)
class Plan(Generic[Work]):
    """What to do. Answers of the first ``warm_up`` seconds are checked but not measured.

    ``rate``: requests a second, open loop; ``None``: closed loop.
    """

    host: str
    port: int
    workload: Work
    connections: int
    seconds: float
    warm_up: float = 0.0
    rate: float | None = None


@dataclass(slots=True)
class Report(Generic[Work]):
    """What came of it; ``latencies`` in seconds, sorted, of the measured answers."""

    workload: Work
    seconds: float
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    statuses: "Counter[int]" = field(default_factory=Counter)
    unexpected: int = 0
    samples: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Measured answers a second."""
        return len(self.latencies) / self.seconds

    def ms(self, quantile: float) -> float:
        """Return the latency, in milliseconds, that this share of the answers did not exceed."""
        if not self.latencies:
            return math.nan
        return self.latencies[max(0, math.ceil(quantile * len(self.latencies)) - 1)] * 1000


class UnexpectedAnswersError(Exception):
    """Some answers were not what they should be: a rate of refusals is no rate."""


def run(plan: Plan[Work]) -> Report[Work]:
    """Carry a plan out in a process of its own.

    Raises :class:`UnexpectedAnswersError` with samples if any answer was not as it should be.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        report = executor.submit(_process, plan).result()
    if report.unexpected:
        raise UnexpectedAnswersError(
            f"{report.unexpected} unexpected answers, statuses {dict(report.statuses)}; "
            f"such as: {'; '.join(report.samples)}"
        )
    return report


def _process(plan: Plan[Any]) -> Report[Any]:
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing here makes cycles
    return uvloop.run(generate(plan))


async def generate(plan: Plan[Work]) -> Report[Work]:
    """Carry a plan out on this event loop; unexpected answers are counted in the report."""
    return await _Generator(plan).run()


class _Generator(Generic[Work]):
    def __init__(self, plan: Plan[Work]) -> None:
        self._plan = plan
        self.workload = plan.workload
        self.report: Report[Work] = Report(plan.workload, plan.seconds)
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._connections: list[_Connection] = []
        self._idle: deque[_Connection] = deque()
        self._due: deque[float] = deque()
        self._planned = 0
        self._start = self._next_due = 0.0
        self._busy = 0
        self._lost = 0
        self._from = self._until = 0.0

    async def run(self) -> Report[Work]:
        plan = self._plan
        for number in range(plan.connections):
            _, connection = await self._loop.create_connection(
                lambda number=number: _Connection(self, number),  # type: ignore[misc]
                plan.host,
                plan.port,
            )
            self._connections.append(connection)
        start = time.monotonic()
        self._from = start + plan.warm_up
        self._until = self._from + plan.seconds
        if plan.rate is None:
            for connection in self._connections:
                self._send(connection, time.monotonic())
        else:
            self._idle.extend(self._connections)
            self._start = self._next_due = start
            self._tick(1 / plan.rate)
        try:
            async with asyncio.timeout(plan.warm_up + plan.seconds + _GRACE):
                await self._done
        except TimeoutError:
            self._wrong(f"{self._busy} requests without an answer after {_GRACE:.0f} s")
        for connection in self._connections:
            connection.close()
        self.report.latencies = array("d", sorted(self.report.latencies))
        return self.report

    def _tick(self, interval: float) -> None:
        now = time.monotonic()
        while self._next_due <= now and self._next_due < self._until:
            self._due.append(self._next_due)
            self._planned += 1
            self._next_due = self._start + self._planned * interval
        while self._due and self._idle:
            self._send(self._idle.popleft(), self._due.popleft())
        if self._next_due < self._until:
            self._loop.call_later(max(0.001, self._next_due - now), self._tick, interval)
        else:
            self._finish_if_idle()

    def _send(self, connection: "_Connection", intended: float) -> None:
        self._busy += 1
        connection.send(self.workload.request(connection.number), intended)

    def answered(self, connection: "_Connection", status: int, head: bytes, body: bytes) -> None:
        now = time.monotonic()
        self._busy -= 1
        if self._from <= now < self._until:
            self.report.latencies.append(now - connection.intended)
        self.report.statuses[status] += 1
        if not self.workload.answered(connection.number, status, head, body):
            self._wrong(f"{status} {body[:200].decode(errors='replace')}")
        if self._plan.rate is None:
            if now < self._until:
                self._send(connection, now)
                return
        elif self._due:
            self._send(connection, self._due.popleft())
            return
        else:
            self._idle.append(connection)
        self._finish_if_idle()

    def lost(self, connection: "_Connection", why: str) -> None:
        """Count a connection that ended before its time."""
        if connection.waiting:
            self._busy -= 1
        elif connection in self._idle:
            self._idle.remove(connection)
        self._lost += 1
        self._wrong(why)
        self._finish_if_idle()

    def _wrong(self, sample: str) -> None:
        self.report.unexpected += 1
        if len(self.report.samples) < _MOST_SAMPLES:
            self.report.samples.append(sample)

    def _finish_if_idle(self) -> None:
        if self._plan.rate is None:
            over = time.monotonic() >= self._until
        else:
            over = self._next_due >= self._until and not self._due
        finished = (self._busy == 0 and over) or self._lost == self._plan.connections
        if finished and not self._done.done():
            self._done.set_result(None)


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    __slots__ = (
        "_closing",
        "_generator",
        "_received",
        "_transport",
        "intended",
        "number",
        "waiting",
    )

    def __init__(self, generator: _Generator[Any], number: int) -> None:
        self.number = number
        self.intended = 0.0
        self.waiting = False
        self._generator = generator
        self._received = b""
        self._closing = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def send(self, request: bytes, intended: float) -> None:
        assert self._transport is not None
        self.intended = intended
        self.waiting = True
        self._transport.write(request)

    def close(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._generator.lost(self, f"connection lost: {exc or 'closed by the service'}")

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            self._received = received
            return
        head = received[: end + 2].lower()
        end += 4 + _length(head)
        if len(received) < end:
            self._received = received
            return
        self._received = b""
        if len(received) > end or not self.waiting:
            self.close()
            self._generator.lost(self, "more came than was asked for")
            return
        self.waiting = False
        body = received[len(head) + 2 :]
        self._generator.answered(self, int(head[9:12]), head, body)


def _length(head: bytes) -> int:
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return 0  # such as a 304; an answer in chunks would come as more than was asked for
    return int(head[at + 17 : head.index(b"\r\n", at + 17)])
