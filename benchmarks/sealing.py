"""What sealing costs: the same commands and reads with and without it, side by side in one run.

Two databases take turns of a fraction of a second, so that whatever else the machine does falls on
both alike: in one, each patient has a key and events are sealed; in the other the same program
stores plain JSON and no keys, through the same SQL functions. Each figure is a ratio of the two.

Over HTTP, which is what a command costs whoever sends it; by the gate (rule, idempotency, load,
decision and append of a command), and by the store alone, where a registration stores one row more,
its key: the nearer to the bytes, the more of what is done is sealing.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch
from uuid import UUID

import orjson
import uuid_utils.compat as uuids

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.load import Plan, Workload
from benchmarks.load import run as load
from benchmarks.results import Target, at_least
from benchmarks.sample import MARK, Requests, patients, registrations
from benchmarks.service import Service, serving
from benchmarks.unsealed import NoKeys, UnsealedStore
from registration import sealer
from registration.command import Command
from registration.domain.commands import AddNextOfKin, RegisterPatient
from registration.domain.context import Context
from registration.domain.contract import Operation
from registration.domain.events import PatientRegistered
from registration.eventstore.mapper import decode
from registration.eventstore.records import AppendRequest, Stored
from registration.eventstore.sealing import KEYRING, Place
from registration.eventstore.store import EventStore, LoadRequest
from registration.gate import Gate
from registration.memory import collect_seldom

_TENANT = "default"
_AT_ONCE = 32
_TURN = 0.15
_TURNS = 40
_LONG_TURNS = 10
_COST = 0.10
"""The most that sealing may take of the appends a second."""
_KIN = {"name": "Obi Okoro", "relationship": "brother"}

Work = TypeVar("Work", bound=Workload)

Step = Callable[[], Awaitable[int]]
"""Does a piece of work, and returns how many of what is counted that was."""


def run(bench: Bench) -> None:
    """Measure the service, the gate, the store, and reading."""
    bench.say("sealing")
    _requests(bench)
    asyncio.run(_measure(bench))


def _requests(bench: Bench) -> None:
    """Let two services take turns, each with a PostgreSQL of its own.

    Without read models: those of one would still be at work in the turn of the other.
    """
    folder, alone = bench.data_dir.parent, {"REGISTRATION_PROJECTOR": "false"}
    with (
        serving(folder / "sealed", **alone) as sealed,
        serving(folder / "unsealed", program="benchmarks.unsealed", **alone) as plain,
    ):
        services = (sealed, plain)
        made = _taking_turns(
            bench,
            "registrations",
            [(each, workloads.Register(each.token, "reg")) for each in services],
        )
        _taking_turns(
            bench,
            "next of kin added",
            [
                (each, workloads.AddNextOfKin(each.token, "kin", workload.made))
                for each, workload in zip(services, made, strict=True)
            ],
        )


def _taking_turns(bench: Bench, name: str, loads: Sequence[tuple[Service, Work]]) -> Sequence[Work]:
    """Measure both services under their loads; returns these, with what they noted."""
    seconds = bench.scaled(3, 1)
    sent = [workload for _, workload in loads]
    rates: list[tuple[float, float]] = []
    for turn in range(bench.scaled(_LONG_TURNS, 2)):
        found = {}
        for this in (0, 1) if turn % 2 else (1, 0):
            its = loads[this][0]
            report = load(
                Plan(its.host, its.port, sent[this], _AT_ONCE, seconds, warm_up=seconds / 3)
            )
            sent[this], found[this] = report.workload, report.rate
        rates.append((found[0], found[1]))
    _add(bench, f"{name} over HTTP, {_AT_ONCE} at once", rates, at_least(1 - _COST))
    return sent


def _add(
    bench: Bench, name: str, pairs: Sequence[tuple[float, float]], target: Target | None = None
) -> None:
    """Add the ratio of the rates with sealing and without, in the middle one of many turns.

    Each turn of one is compared with that of the other beside it: the machine was the same then.
    """
    ratio = statistics.median(one / other for one, other in pairs)
    one, other = (statistics.median(each) for each in zip(*pairs, strict=True))
    bench.add(
        "sealing",
        f"{name}: rate sealed over rate plain",
        ratio,
        "",
        target,
        note=f"{one:,.0f}/s over {other:,.0f}/s",
    )


async def _measure(bench: Bench) -> None:
    async with AsyncExitStack() as stack:
        stores = []
        for kind in (EventStore, UnsealedStore):
            store = kind(stack.enter_context(bench.database()), ttl=timedelta(hours=24))
            await store.open()
            stack.push_async_callback(store.close)
            stores.append(store)
        bench.settle()
        collect_seldom()
        sealed, plain = stores
        await _appends(bench, sealed, plain)
        await _commands(bench, sealed, plain)
        await _reads(bench, sealed, plain)


async def _appends(bench: Bench, sealed: EventStore, plain: EventStore) -> None:
    bodies = registrations(500)
    with_keys, without = _Registrations(bodies), _Registrations(bodies)
    for size in (1, 10, 100):
        rates = await _side_by_side(
            bench,
            partial(with_keys.append, sealed, size, keys=True),
            partial(without.append, plain, size, keys=False),
        )
        _add(bench, f"registrations encoded and appended, {size} at once", rates)


class _Registrations:
    """Registrations to append, each encoded when its turn comes, as the service does."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self._requests = Requests(bodies, sealed=False)
        self._events = {body: decode(PatientRegistered.TOPIC, body) for body in bodies}

    async def append(self, store: EventStore, size: int, *, keys: bool) -> int:
        requests = [self._made(request, keys) for request in self._requests.take(size)]
        verdicts = await asyncio.gather(*(store.append(_TENANT, request) for request in requests))
        if not all(isinstance(verdict, Stored) for verdict in verdicts):
            raise RuntimeError(f"append refused: {verdicts[0]}")
        return size

    def _made(self, request: AppendRequest, keys: bool) -> AppendRequest:
        its_id, (stored,) = request.stream_id, request.events
        place = Place(_TENANT, its_id, 1, stored.topic)
        event = self._events[stored.data]
        if not keys:
            return request._replace(events=(sealer.new_event(place, event, stored.metadata),))
        key = KEYRING.new(_TENANT, its_id)
        made = sealer.new_event(place, event, stored.metadata, (its_id,), {its_id: key})
        return request._replace(events=(made,), new_key=key)


async def _commands(bench: Bench, sealed: EventStore, plain: EventStore) -> None:
    bodies = patients(500)
    desks = [_Desk(store, bodies, "one") for store in (sealed, plain)]
    for name, steps in (
        ("registrations", [desk.register for desk in desks]),
        ("next of kin added", [desk.add_next_of_kin for desk in desks]),
    ):
        _add(bench, f"{name} by the gate, {_AT_ONCE} at once", await _side_by_side(bench, *steps))


class _Desk:
    """Sends commands through one gate, some at once."""

    def __init__(self, store: EventStore, bodies: Sequence[dict[str, Any]], name: str) -> None:
        self._gate = Gate(store)
        self._name = name
        self._keyring = NoKeys() if isinstance(store, UnsealedStore) else KEYRING
        self._bodies = [orjson.dumps(body).decode() for body in bodies]
        self._sent = 0
        self.known: list[UUID] = []

    async def register(self) -> int:
        with patch.object(sealer, "KEYRING", self._keyring):  # the other desk has its turn later
            self.known += await asyncio.gather(*(self._register() for _ in range(_AT_ONCE)))
        return _AT_ONCE

    async def add_next_of_kin(self) -> int:
        await asyncio.gather(*(self._add_next_of_kin() for _ in range(_AT_ONCE)))
        return _AT_ONCE

    async def _register(self) -> UUID:
        text = self._bodies[self._next() % len(self._bodies)].replace(
            MARK, f"{self._name}-{self._sent}"
        )
        return await self._handle(Operation.REGISTER_PATIENT, RegisterPatient, orjson.loads(text))

    async def _add_next_of_kin(self) -> UUID:
        its_id = self.known[self._next() % len(self.known)]
        return await self._handle(Operation.ADD_NEXT_OF_KIN, AddNextOfKin, _KIN, its_id)

    def _next(self) -> int:
        self._sent += 1
        return self._sent

    async def _handle(
        self, operation: Operation, model: Any, said: dict[str, Any], its_id: UUID | None = None
    ) -> UUID:
        payload = model.model_validate_json(orjson.dumps(said))
        key = str(uuids.uuid7())
        scopes = frozenset({"patient:read", "patient:write"})
        context = Context(datetime.now(UTC), uuids.uuid7, _TENANT, "desk-1", scopes)
        command = Command(operation, payload, said, its_id, key=key)
        reply = await self._gate.handle(command, context)
        return reply.aggregate.id


async def _reads(bench: Bench, sealed: EventStore, plain: EventStore) -> None:
    events = 10
    found = [await _histories(store, events) for store in (sealed, plain)]
    steps = [
        partial(_read, store, streams)
        for store, streams in zip((sealed, plain), found, strict=True)
    ]
    rates = await _side_by_side(bench, *steps)
    _add(bench, f"histories of {events} events loaded and decoded", rates)


async def _histories(store: EventStore, events: int) -> list[UUID]:
    desk = _Desk(store, patients(_AT_ONCE), "other")
    await desk.register()
    for _ in range(events - 1):
        await desk.add_next_of_kin()
    return desk.known


async def _read(store: EventStore, streams: Sequence[UUID]) -> int:
    loaded = await asyncio.gather(*(store.load(LoadRequest(_TENANT, each)) for each in streams))
    return len([[record.event for record in each.events] for each in loaded])


async def _side_by_side(bench: Bench, sealed: Step, plain: Step) -> list[tuple[float, float]]:
    """Return the rates of both steps, turn by turn."""
    rates = []
    for turn in range(bench.scaled(_TURNS, 2)):
        steps = (sealed, plain) if turn % 2 else (plain, sealed)
        measured = {step: await _rate(step, _TURN) for step in steps}
        rates.append((measured[sealed], measured[plain]))
    return rates[2:] or rates


async def _rate(step: Step, seconds: float) -> float:
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        done += await step()
    return done / spent
