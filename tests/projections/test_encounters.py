"""The read model of encounters on a real PostgreSQL: it holds what the log says, and finds it."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from tests.domain.given import context
from tests.eventstore.given import TENANT, open_store, stored

from registration.domain import commands
from registration.domain.encounter import (
    INITIAL,
    STATUSES,
    TERMINAL,
    Encounter,
    EncounterResource,
    allowed,
    decide_open,
    decide_transition,
)
from registration.domain.errors import DomainError
from registration.domain.patient_state import PatientState
from registration.eventstore import database
from registration.eventstore.mapper import encode
from registration.eventstore.records import RecordedEvent
from registration.projections import encounters as model
from registration.projections import rebuild, runner
from registration.projections import status as how
from registration.projections.encounters import (
    BoardQuery,
    EncounterQuery,
    board,
    list_encounters,
)

OTHER = "clinic-b"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
SOMEBODY = PatientState(names=(), gender="female")
Stream = tuple[str, UUID]


class Step(NamedTuple):
    """Something that a desk tries with an encounter: open it, or move it on."""

    encounter: int
    status: Any
    hours_ago: int
    actor: str

    @property
    def stream(self) -> Stream:
        """Return the stream: two tenants have encounters of the same ids."""
        return (TENANT, OTHER)[self.encounter % 2], UUID(int=self.encounter // 2)


@dataclass
class Log:
    """What was recorded of the steps that the domain allowed, one step an hour."""

    now: datetime = MONDAY
    events: list[RecordedEvent] = field(default_factory=list)
    streams: dict[Stream, list[RecordedEvent]] = field(default_factory=dict)

    @classmethod
    def of(cls, steps: Iterable[Step]) -> "Log":
        """Return the log of these steps."""
        log = cls()
        for step in steps:
            log.take(step)
        return log

    def take(self, step: Step) -> None:
        """Record a step, unless the domain refuses it."""
        self.now += HOUR
        tenant, its_id = step.stream
        history = self.streams.get(step.stream, [])
        try:
            (event,) = self._decided(step, Encounter.of(its_id, history))
        except DomainError:
            return
        recorded = RecordedEvent(
            tenant=tenant,
            position=len(self.events) + 1,
            stream_id=its_id,
            version=len(history) + 1,
            topic=event.TOPIC,
            data=encode(event),
            metadata=orjson.dumps({"actor": step.actor}),
            recorded_at=self.now + timedelta(microseconds=len(self.events)),
            hash=b"",
        )
        self.events.append(recorded)
        self.streams[step.stream] = [*history, recorded]

    def _decided(self, step: Step, seen: Encounter | None) -> Sequence[Any]:
        at = self.now - step.hours_ago * HOUR if step.hours_ago else None
        facility = ("north", "south", None)[step.encounter // 2 % 3]
        now = context()._replace(now=self.now, facility=facility)
        if seen is None or seen.state is None:
            opening = commands.OpenEncounter(
                patient_id=UUID(int=step.encounter // 4),
                encounter_class="AMB",
                status=step.status if step.status in INITIAL else "planned",
                at=at,
                planned_start=self.now + step.hours_ago * HOUR if step.encounter % 3 else None,
            )
            return decide_open(None, opening, now, SOMEBODY)
        move = commands.TransitionEncounter(to=step.status, at=at, reason="because")
        return decide_transition(seen.state, move, now)

    def encounters(self) -> dict[Stream, EncounterResource]:
        """Return every encounter as its stream folds."""
        return {
            (tenant, its_id): Encounter(its_id, history).shown()
            for (tenant, its_id), history in self.streams.items()
        }


@dataclass
class ReadModel:
    """The tables in a database."""

    connection: AsyncConnection[TupleRow]

    async def empty(self) -> None:
        await self.connection.execute(
            "DROP SCHEMA IF EXISTS encounters CASCADE; CREATE SCHEMA encounters"
        )
        await self.connection.execute(f"SET search_path = encounters; {model.DDL}")

    async def clear(self) -> None:
        await self.connection.execute("DELETE FROM encounters.encounter")

    async def take(self, *batches: Sequence[RecordedEvent]) -> None:
        """Take in batches as the runner does: each tenant's part of one by itself."""
        for batch in batches:
            async with self.connection.transaction():
                await self.connection.execute("SET LOCAL search_path = encounters")
                for tenant in (TENANT, OTHER):
                    its_own = [event for event in batch if event.tenant == tenant]
                    if its_own:
                        await model.apply(self.connection, its_own)

    async def rows(self) -> list[TupleRow]:
        cursor = await self.connection.execute(
            "SELECT tenant, id, patient_id, current_id, status, facility, moment, arrived_at,"
            " started_at, ended_at, document FROM encounters.encounter ORDER BY tenant, id"
        )
        return await cursor.fetchall()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[ReadModel]:
    async with await database.connect(url, name="test") as connection:
        yield ReadModel(connection)


class Care(NamedTuple):
    """When a patient came or is expected, came, was seen and left, told from the history."""

    moment: datetime
    arrived: datetime | None
    started: datetime | None
    ended: datetime | None

    @classmethod
    def of(cls, shown: EncounterResource) -> "Care":
        """Return when care took place."""
        steps = shown.status_history
        came = [step.at for step in steps if step.status in ("arrived", "in-progress")]
        seen = [step.at for step in steps if step.status == "in-progress"]
        arrived = came[0] if came else None
        return cls(
            moment=arrived or shown.planned_start or steps[0].at,
            arrived=arrived,
            started=seen[0] if seen else None,
            ended=steps[-1].at if shown.status in TERMINAL else None,
        )


def expected_rows(log: Log) -> list[tuple[Any, ...]]:
    """Return the rows that the log stands for."""
    return [
        (
            tenant,
            its_id,
            shown.patient_id,
            shown.patient_id,
            shown.status,
            shown.facility,
            *Care.of(shown),
            shown.encoded().decode(),
        )
        for (tenant, its_id), shown in sorted(log.encounters().items())
    ]


STEPS = st.lists(
    st.builds(
        Step,
        encounter=st.integers(0, 5),
        status=st.sampled_from(STATUSES),
        hours_ago=st.integers(0, 3),
        actor=st.sampled_from(["desk-1", "ward-7"]),
    ),
    max_size=60,
)


@pytest.fixture(scope="module")
def law_url(module_database_url: str) -> str:
    """The module's database with the empty tables."""

    async def make() -> None:
        async with connected(module_database_url) as found:
            await found.empty()

    asyncio.run(make())
    return module_database_url


@settings(max_examples=80, deadline=None)
@given(steps=STEPS, cuts=st.lists(st.integers(0, 60), max_size=8))
def test_a_row_is_the_folded_stream_however_the_log_was_cut(
    law_url: str, steps: list[Step], cuts: list[int]
) -> None:
    log = Log.of(steps)
    bounds = [0, *sorted(min(cut, len(log.events)) for cut in cuts), len(log.events)]

    async def scenario() -> None:
        async with connected(law_url) as found:
            await found.clear()
            await found.take(*(log.events[a:b] for a, b in pairwise(bounds)))
            live = await found.rows()
            assert live == expected_rows(log)
            await found.clear()
            await found.take(log.events)
            assert await found.rows() == live

    asyncio.run(scenario())


def people(seed: int, count: int, steps: int) -> Log:
    """Return a log of encounters that mostly go where the state machine lets them."""
    chance = random.Random(seed)
    log = Log()
    for _ in range(steps):
        number = chance.randrange(count)
        step = Step(number, "planned", 0, "desk-1")
        history = log.streams.get(step.stream)
        known = history and Encounter(step.stream[1], history).shown().status
        choice = [to for to in allowed(known) if to != "entered-in-error"] if known else INITIAL
        status = chance.choice(choice) if choice and chance.random() < 0.98 else "entered-in-error"
        log.take(step._replace(status=status, hours_ago=chance.choice([0, 0, 1, 5])))
    return log


PEOPLE = people(seed=5, count=200, steps=720)
"""A month of two clinics."""
KNOWN = PEOPLE.encounters()


@pytest.fixture(scope="module")
def clinics(_databases: Any, _migrated_template: str) -> Iterator[str]:
    """A database of the clinics' read model."""
    name, url = _databases.create(_migrated_template)

    async def fill() -> None:
        async with connected(url) as found:
            await found.empty()
            await found.take(PEOPLE.events)

    asyncio.run(fill())
    yield url
    _databases.drop(name)


TENANTS = st.sampled_from([TENANT, OTHER, "nobody"])
FACILITIES = st.sampled_from([None, None, "north", "south", "east"])
WANTED = st.lists(st.sampled_from(STATUSES), max_size=3)
INSTANTS = st.none() | st.integers(-24, 740).map(lambda hours: MONDAY + hours * HOUR)


@settings(max_examples=120, deadline=None)
@given(
    query=st.builds(
        EncounterQuery,
        tenant=TENANTS,
        patient_id=st.none() | st.integers(0, 40).map(lambda number: UUID(int=number)),
        statuses=WANTED,
        facility=FACILITIES,
        since=INSTANTS,
        until=INSTANTS,
        limit=st.integers(1, 30),
    )
)
def test_a_list_has_what_was_asked_for_once_in_order(clinics: str, query: EncounterQuery) -> None:
    expected = sorted(
        (moment, its_id, shown.encoded().decode(), shown.patient_id)
        for (tenant, its_id), shown in KNOWN.items()
        if tenant == query.tenant
        and query.patient_id in (None, shown.patient_id)
        and (not query.statuses or shown.status in query.statuses)
        and query.facility in (None, shown.facility)
        and (query.since or MONDAY - DAY) <= (moment := Care.of(shown).moment)
        and (query.until is None or moment < query.until)
    )

    async def scenario() -> None:
        seen: list[TupleRow] = []
        async with connected(clinics) as found:
            while page := await list_encounters(
                found.connection, query._replace(after=(seen[-1][0], seen[-1][1]) if seen else None)
            ):
                assert len(page) <= query.limit
                seen += page
        assert seen == expected

    asyncio.run(scenario())


@settings(max_examples=120, deadline=None)
@given(
    query=st.builds(
        BoardQuery,
        tenant=TENANTS,
        since=st.integers(-2, 32).map(lambda days: MONDAY + days * DAY),
        until=st.just(MONDAY),
        now=st.integers(0, 66).map(lambda half_days: MONDAY + half_days * DAY / 2),
        facility=FACILITIES,
        statuses=WANTED,
        limit=st.integers(1, 30),
    )
)
def test_a_board_has_who_was_there_once_in_order(clinics: str, query: BoardQuery) -> None:
    query = query._replace(until=query.since + DAY)
    of_the_day = {
        its_id: (shown, Care.of(shown))
        for (tenant, its_id), shown in KNOWN.items()
        if tenant == query.tenant
        and query.facility in (None, shown.facility)
        and _is_of_the_day(Care.of(shown), query)
    }
    waits = {its_id: _waited(*told, query.now) for its_id, told in of_the_day.items()}
    counts = []
    for status in sorted({shown.status for shown, _ in of_the_day.values()}):
        among = [i for i, (shown, _) in of_the_day.items() if shown.status == status]
        waited = [wait for i in among if (wait := waits[i][0]) is not None]
        counts.append(
            (status, len(among), max(waited, default=None), median(waited) if waited else None)
        )
    wanted = query.statuses or [status for status in STATUSES if status != "entered-in-error"]
    items = sorted(
        (care.moment, its_id, shown.encoded().decode(), shown.patient_id, *waits[its_id])
        for its_id, (shown, care) in of_the_day.items()
        if shown.status in wanted
    )

    async def scenario() -> None:
        seen: list[TupleRow] = []
        async with connected(clinics) as found:
            while True:
                place = (seen[-1][0], seen[-1][1]) if seen else None
                page = await board(found.connection, query._replace(after=place))
                assert page.counts == counts
                if not page.items:
                    break
                assert len(page.items) <= query.limit
                seen += page.items
        assert seen == items

    asyncio.run(scenario())


def _is_of_the_day(care: Care, query: BoardQuery) -> bool:
    if care.moment >= query.since:
        return care.moment < query.until
    if care.arrived is None:
        return False
    return query.since <= query.now if care.ended is None else query.since <= care.ended


def _waited(
    shown: EncounterResource, care: Care, now: datetime
) -> tuple[float | None, float | None]:
    if shown.status == "entered-in-error" or care.arrived is None:
        return None, None
    seen, left = care.started or care.ended or now, care.ended or now
    return (
        max(0.0, (seen - care.arrived).total_seconds()),
        max(0.0, (left - care.arrived).total_seconds()),
    )


@asynccontextmanager
async def followed(url: str) -> AsyncIterator[None]:
    """Let a runner feed the read model."""
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run_forever(url, stop=stop, models=[model]))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 5)


def test_the_runner_and_a_rebuild_give_the_same_rows(database_url: str) -> None:
    async def scenario() -> None:
        log = people(seed=11, count=30, steps=90)
        reached = {}
        async with (
            followed(database_url),
            open_store(database_url) as store,
            connected(database_url) as found,
        ):
            for event in log.events:
                verdict = await stored(
                    store,
                    event.event,
                    tenant=event.tenant,
                    stream=event.stream_id,
                    version=event.version - 1,
                )
                reached[event.tenant] = verdict.position
            for tenant, position in reached.items():
                assert await how.wait_for(found.connection, model.NAME, tenant, position, 10)
            live = await found.rows()
            # the documents differ in when they were recorded, which is now
            assert [row[:-1] for row in live] == [row[:-1] for row in expected_rows(log)]
            await rebuild.rebuild(database_url, model.NAME, models=[model])
            assert await found.rows() == live

    asyncio.run(scenario())
