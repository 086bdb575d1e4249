"""The feed after merges: who has one record of a person has the one that is used now."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import pytest
from psycopg import AsyncConnection
from tests.projections.given import People, batches, calmed, storm, uuid

from registration.domain.encounter import Encounter
from registration.domain.events import CandidateDismissed, EncounterOpened, PatientRegistered
from registration.domain.patient_resource import Patient
from registration.eventstore.records import RecordedEvent
from registration.projections import changes as model

pytestmark = pytest.mark.anyio
ANNA, EVA, OLD = 1, 2, 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Feed:
    """The tables in a database."""

    connection: AsyncConnection[Any]

    async def empty(self) -> None:
        await self.connection.execute(
            "DROP SCHEMA IF EXISTS changes CASCADE; CREATE SCHEMA changes"
        )
        await self.connection.execute(f"SET search_path = changes; {model.DDL}; RESET search_path")
        await self.connection.execute(
            "ALTER TABLE registration.event DISABLE TRIGGER ALL; DELETE FROM registration.event"
        )

    async def take_in(self, events: Sequence[RecordedEvent], size: int = 1000) -> None:
        """Take in batches; what came before a batch is read from the log itself."""
        async with self.connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO registration.event (tenant, position, stream_id, version, topic, data,"
                " metadata, recorded_at, hash) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, '')",
                [
                    (e.tenant, e.position, e.stream_id, e.version, e.topic, e.data, e.metadata,
                     e.recorded_at)
                    for e in events
                ],
            )  # fmt: skip
        for batch in batches(events, size):
            async with self.connection.transaction():
                await self.connection.execute("SET LOCAL search_path = changes, registration")
                await model.apply(self.connection, batch)

    async def rows(self, statement: str) -> list[Any]:
        cursor = await self.connection.execute(statement)
        return await cursor.fetchall()

    async def all(self) -> list[list[Any]]:
        return [
            await self.rows("SELECT * FROM changes.record ORDER BY id"),
            await self.rows("SELECT * FROM changes.scope ORDER BY id, facility"),
        ]

    async def seen_from(self) -> dict[UUID, set[str]]:
        """Return in whose scope each record is."""
        found: dict[UUID, set[str]] = {}
        for its_id, facility in await self.rows(
            "SELECT id, facility FROM changes.scope WHERE present"
        ):
            found.setdefault(its_id, set()).add(facility)
        return found

    async def of(self, number: int) -> set[str]:
        return (await self.seen_from())[uuid(number)]


@pytest.fixture
async def feed(module_database_url: str) -> AsyncIterator[Feed]:
    async with await AsyncConnection.connect(module_database_url, autocommit=True) as connection:
        made = Feed(connection)
        await made.empty()
        yield made


def people() -> People:
    """Return three patients of three facilities."""
    log = People()
    for number, facility in ((ANNA, "north"), (EVA, "south"), (OLD, "east")):
        log.register(number, "Meyer, Anna", facility=facility)
    return log


async def test_the_survivor_is_seen_from_wherever_a_retired_one_is(feed: Feed) -> None:
    log = people()
    log.visit(1001, ANNA, "west")
    log.merge(OLD, ANNA)
    log.merge(ANNA, EVA)
    await feed.take_in(log.events)

    assert [await feed.of(number) for number in (OLD, ANNA, EVA)] == [
        {"east"},
        {"east", "north", "west"},
        {"east", "north", "south", "west"},
    ]


async def test_a_retired_one_that_is_everybodys_makes_the_survivor_everybodys(feed: Feed) -> None:
    log = people()
    log.register(4, "Meyer, Anna")
    decision = log.merge(4, EVA)
    await feed.take_in(log.events)
    merged, seen = await feed.of(EVA), len(log.events)
    log.part(decision)
    await feed.take_in(log.events[seen:])

    assert (merged, await feed.of(EVA)) == ({""}, {"south"})


async def test_undone_it_is_seen_from_its_own_places_and_the_others_are_told(feed: Feed) -> None:
    log = people()
    first = log.merge(OLD, ANNA)
    log.merge(ANNA, EVA)
    log.visit(1010, EVA, "west")
    await feed.take_in(log.events)
    seen = len(log.events)
    log.part(first)
    await feed.take_in(log.events[seen:])

    assert await feed.of(EVA) == {"north", "south", "west"}
    assert await feed.of(ANNA) == {"north"}
    left = await feed.rows("SELECT id, facility, position > 0 FROM changes.scope WHERE NOT present")
    assert sorted(left) == [(uuid(ANNA), "east", True), (uuid(EVA), "east", True)]


async def test_a_merge_is_a_record_of_its_own_in_everybodys_scope(feed: Feed) -> None:
    log = people()
    decision = log.merge(ANNA, EVA)
    await feed.take_in(log.events)

    ((kind, version, body),) = await feed.rows(
        f"SELECT kind, version, body FROM changes.record WHERE id = '{decision}'"
    )
    assert (kind, version, orjson.loads(body)["status"]) == ("merge", 3, "executed")
    assert (await feed.seen_from())[decision] == {""}


def test_that_a_pair_was_found_to_be_two_persons_is_not_in_the_feed() -> None:
    assert CandidateDismissed not in model.EVENTS


def expected_scopes(log: People) -> dict[UUID, set[str]]:
    """Return who sees which patient, told from the log."""
    own: dict[UUID, set[str]] = {}
    for recorded in log.events:
        if isinstance(recorded.event, PatientRegistered):
            state = Patient(recorded.stream_id, log.streams[recorded.stream_id]).state
            assert state is not None
            own.setdefault(recorded.stream_id, set()).add(state.facility or "")
        elif isinstance(recorded.event, EncounterOpened):
            before = [
                each
                for each in log.streams[recorded.event.patient_id]
                if each.position < recorded.position
            ]
            then = Patient(recorded.event.patient_id, before).state
            opened = Encounter(recorded.stream_id, log.streams[recorded.stream_id]).state
            assert then is not None
            assert opened is not None
            own[recorded.event.patient_id].add(opened.facility or then.facility or "")
    found = {}
    for its_id in own:
        under = [one for one in own if its_id in _way_up(log, one)]
        seen = set().union(*(own[one] for one in under))
        found[its_id] = {""} if "" in seen else seen
    return found


def _way_up(log: People, its_id: UUID) -> list[UUID]:
    way = [its_id]
    while (state := log.patient(way[-1]).state) is not None and state.merged_into is not None:
        way.append(state.merged_into)
    return way


@pytest.mark.parametrize("seed", range(6))
async def test_who_sees_a_patient_follows_from_the_log_however_it_was_cut(
    feed: Feed, seed: int
) -> None:
    log = storm(seed, 60)
    await feed.take_in(log.events)
    expected, seen = expected_scopes(log), await feed.seen_from()
    assert {its_id: seen[its_id] for its_id in expected} == expected
    whole = await feed.all()
    for size in (1, 2, 7, 31):
        await feed.empty()
        await feed.take_in(log.events, size)
        assert await feed.all() == whole, size


@pytest.mark.parametrize("seed", range(3))
async def test_when_all_merges_are_undone_it_is_as_if_there_had_been_none(
    feed: Feed, seed: int
) -> None:
    log = calmed(seed, 60)
    await feed.take_in(log.without_merges().events)
    never = await feed.seen_from(), await bodies(feed)
    await feed.empty()
    await feed.take_in(log.events, 9)
    seen = {
        its_id: where for its_id, where in (await feed.seen_from()).items() if its_id in never[0]
    }
    assert (seen, await bodies(feed)) == never


async def bodies(feed: Feed) -> dict[UUID, dict[str, Any]]:
    """Return what is shown, but for the version and when it changed."""
    found = {}
    for its_id, body in await feed.rows(
        "SELECT id, body FROM changes.record WHERE kind <> 'merge'"
    ):
        shown = orjson.loads(body)
        found[its_id] = {k: v for k, v in shown.items() if k not in ("version", "lastUpdated")}
    return found
