"""The way between a device and the service, on which everything happens that can."""

from collections.abc import Callable
from email.utils import format_datetime
from random import Random
from threading import Timer

import httpx

from registration.simulation.world import World


class Crash(BaseException):
    """The device's program is killed at this very moment; nothing of it may catch this."""


class Network(httpx.BaseTransport):
    """One device's line; while ``bad`` is set a random fate meets each request.

    A request may get lost, its answer may, it may arrive twice, or late: long after the device
    gave up waiting (:meth:`arrive_late`), when others have been and gone. The service may be
    killed while it carries it out.
    """

    def __init__(
        self, world: World, random: Random, late: list[httpx.Request] | None = None
    ) -> None:
        """Make a line; ``late`` are requests that are on their way."""
        self._world = world
        self._random = random
        self._late = [] if late is None else late
        self.bad = False
        self.killed = False
        """Whether the service died with a request: nobody knows then what it did of it."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or fail."""
        request.read()
        fate = self._fate()
        return fate(request)

    def arrive_late(self) -> bool:
        """Let one request arrive that was on its way so far; whether there was one."""
        if not self._late:
            return False
        self._sent(self._late.pop(self._random.randrange(len(self._late))))
        return True

    def anew(self) -> "Network":
        """Return the line of the device after a crash: what was on its way still is."""
        other = Network(self._world, self._random, self._late)
        other.bad, other.killed = self.bad, self.killed
        return other

    def forget_late(self) -> None:
        """Drop what was on its way: no request is under way for hours."""
        self._late.clear()

    def _fate(self) -> Callable[[httpx.Request], httpx.Response]:
        if not self.bad:
            return self._sent
        (fate,) = self._random.choices(
            (
                self._sent,
                self._lost,
                self._answer_lost,
                self._twice,
                self._delayed,
                self._turned_away,
                self._crash_before,
                self._crash_after,
                self._killed,
            ),
            weights=(62, 8, 9, 5, 4, 5, 2, 4, 1),
        )
        return fate

    def _sent(self, request: httpx.Request) -> httpx.Response:
        answer = self._world.line.handle_request(request)
        answer.read()
        told = {"Date": format_datetime(self._world.now(), usegmt=True)}
        headers = {**answer.headers, **told}
        headers.pop("content-encoding", None)
        headers.pop("content-length", None)
        return httpx.Response(answer.status_code, headers=headers, content=answer.content)

    def _lost(self, _request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("lost")

    def _answer_lost(self, request: httpx.Request) -> httpx.Response:
        self._sent(request)
        raise httpx.ReadError("the answer is lost")

    def _twice(self, request: httpx.Request) -> httpx.Response:
        self._sent(request)
        return self._sent(request)

    def _delayed(self, request: httpx.Request) -> httpx.Response:
        if request.method != "GET":
            self._late.append(request)
        raise httpx.ReadTimeout("no answer")

    def _turned_away(self, _request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            503,
            headers={"Retry-After": "1", "Content-Type": "application/problem+json"},
            content=b'{"code":"UNAVAILABLE","status":503}',
        )

    def _crash_before(self, _request: httpx.Request) -> httpx.Response:
        raise Crash

    def _crash_after(self, request: httpx.Request) -> httpx.Response:
        self._sent(request)
        raise Crash

    def _killed(self, request: httpx.Request) -> httpx.Response:
        # wherever the service is then: before the commit, after it, or done
        timer = Timer(self._random.uniform(0.0, 0.02), self._world.kill_service)
        timer.start()
        try:
            self._sent(request)
        except httpx.TransportError:
            pass  # what it came to is for the device to find out
        finally:
            timer.join()
        self.killed = True
        raise httpx.ReadError("the service died")
