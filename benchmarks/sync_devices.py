"""Many devices that come back online at once, in a process of their own.

Each pushes what it queued, batch by batch, then pulls its facility and looks for what it pushed.
Where the service says 429 or 503, or ``retry`` of a mutation, it waits as long as it was told to,
longer each time and by chance (so that they do not come back together), and asks the same again.
"""

import asyncio
import multiprocessing
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop

from benchmarks.sync_workloads import creates, documents, filled, head, ids

_LONGEST_WAIT = 15.0
_LATER = (429, 503)
_DONE = ("applied", "duplicate")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who syncs: so many devices of so many facilities, each with batches of mutations."""

    host: str
    port: int
    token: str
    devices: int
    facilities: int
    batches: int
    size: int
    seconds: float

    @property
    def mutations(self) -> int:
        """How many mutations there are in all."""
        return self.devices * self.batches * self.size


@dataclass(slots=True)
class Sync:
    """What came of it. ``waits``: what sent a device away for a while, and how often.

    ``wrong`` is everything that was neither a success nor a reason to come back.
    """

    pushed: int = 0
    pulled: int = 0
    drained: int = 0
    pushed_after: float = 0.0
    seconds: float = 0.0
    waits: "Counter[str]" = field(default_factory=Counter)
    wrong: "Counter[str]" = field(default_factory=Counter)


class _WrongError(Exception):
    """An answer after which a device cannot go on."""


def run(fleet: Fleet) -> Sync:
    """Let the devices sync, in a process of its own, for ``fleet.seconds`` at most."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(_process, fleet).result()


def _process(fleet: Fleet) -> Sync:
    return uvloop.run(sync(fleet))


async def sync(fleet: Fleet) -> Sync:
    """Let the devices sync on this event loop."""
    result = Sync()
    bodies = [orjson.loads(body) for body in documents(200)]
    devices = [_Device(fleet, number, bodies, result) for number in range(fleet.devices)]
    start = time.monotonic()
    with suppress(TimeoutError):
        async with asyncio.timeout(fleet.seconds), asyncio.TaskGroup() as group:
            for device in devices:
                group.create_task(device.sync(start))
    result.seconds = time.monotonic() - start
    return result


class _Device:
    def __init__(
        self, fleet: Fleet, number: int, bodies: list[dict[str, Any]], result: Sync
    ) -> None:
        self._fleet = fleet
        self._name = f"tablet-{number}"
        self._facility = f"site-{number % fleet.facilities}"
        self._chance = random.Random(number)
        self._result = result
        self._link = _Link(fleet.host, fleet.port)
        self._texts = creates(
            [orjson.dumps(body | {"facility": self._facility}) for body in bodies]
        )
        self._ids = ids()
        self._own: set[str] = set()
        self._position = 0

    async def sync(self, start: float) -> None:
        """Push everything, pull everything."""
        try:
            for _ in range(self._fleet.batches):
                await self._push(dict(self._queued() for _ in range(self._fleet.size)))
            self._result.pushed_after = time.monotonic() - start
            await self._pull()
            self._result.drained += 1
        except _WrongError as error:
            self._result.wrong[str(error)] += 1
        finally:
            self._link.close()

    def _queued(self) -> tuple[str, bytes]:
        text = filled(self._chance.choice(self._texts), self._ids)
        mutation = orjson.loads(text)
        self._own.add(mutation["aggregateId"])
        return mutation["clientMutationId"], text

    async def _push(self, queue: dict[str, bytes]) -> None:
        start = head("POST", "/v1/sync/push", f"Bearer {self._fleet.token}")
        attempt = 0
        while queue:
            body = b'{"clientId":"%s","mutations":[%s]}' % (
                self._name.encode(),
                b",".join(queue.values()),
            )
            said = await self._asked(
                b"%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (start, len(body), body)
            )
            self._position = max(self._position, said["position"])
            later = 0.0
            for result in said["results"]:
                if result["status"] == "retry":
                    later = max(later, result["retryAfter"])
                elif result["status"] not in _DONE:
                    raise _WrongError(f"{result['status']} {result.get('code')}")
                else:
                    del queue[result["clientMutationId"]]
                    self._result.pushed += 1
            if queue:
                self._result.waits["retry"] += 1
                await self._wait(later, attempt)
                attempt += 1

    async def _pull(self) -> None:
        path = f"/v1/sync/pull?limit=1000&facility={self._facility}"
        more = f"&minPosition={self._position}"
        missing = set(self._own)
        while more:
            said = await self._asked(
                head("GET", path + more, f"Bearer {self._fleet.token}") + b"\r\n"
            )
            self._result.pulled += len(said["items"])
            missing -= {item["id"] for item in said["items"]}
            more = f"&cursor={said['cursor']}" if said["more"] else ""
        if missing:
            raise _WrongError(f"{len(missing)} records missing")

    async def _asked(self, request: bytes) -> Any:
        """Return what is answered, in the end."""
        attempt = 0
        while True:
            try:
                status, answer, body = await self._link.ask(request)
            except (OSError, asyncio.IncompleteReadError) as error:
                raise _WrongError(type(error).__name__) from None
            if status == 200:
                return orjson.loads(body)
            if status not in _LATER or b"\r\nretry-after:" not in answer:
                raise _WrongError(f"{status} {body[:100]!r}")
            self._result.waits[str(status)] += 1
            await self._wait(float(_value(answer, b"retry-after")), attempt)
            attempt += 1

    async def _wait(self, seconds: float, attempt: int) -> None:
        self._link.close()  # the service would, before the device is back
        longer = min(_LONGEST_WAIT, seconds * 1.5**attempt)
        await asyncio.sleep(self._chance.uniform(1, 1.5) * longer)


class _Link:
    """One keep-alive connection, made when it is needed."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Return status, head in lower case, and body of the answer."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._writer.write(request)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        body = await self._reader.readexactly(int(_value(answer, b"content-length")))
        if b"\r\nconnection: close" in answer:
            self.close()
        return int(answer[9:12]), answer, body

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def _value(answer: bytes, name: bytes) -> bytes:
    return answer.partition(b"\r\n%s:" % name)[2].partition(b"\r\n")[0].strip()
