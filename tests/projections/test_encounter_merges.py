"""Encounters after merges: kept as recorded, and found with the person that the patient is now."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from psycopg.rows import TupleRow
from tests.projections.given import TENANT, People, batches, calmed, storm, uuid
from tests.projections.test_encounters import ReadModel, connected

from registration.eventstore.records import RecordedEvent
from registration.projections import encounters as model
from registration.projections.encounters import EncounterQuery, list_encounters

ANNA, EVA, OLD, OTHER = 1, 2, 3, 4


class Visits(ReadModel):
    """The tables, and who is found in them."""

    async def take_in(self, events: Sequence[RecordedEvent], size: int = 1000) -> None:
        for batch in batches(events, size):
            async with self.connection.transaction():
                await self.connection.execute("SET LOCAL search_path = encounters")
                await model.apply(self.connection, batch)

    async def of(self, patient: int) -> list[tuple[int, int]]:
        """Return the encounters of a person, each with the patient that they are found under."""
        rows = await list_encounters(self.connection, EncounterQuery(TENANT, uuid(patient)))
        return [(row[1].int & 0xFFFF, row[3].int & 0xFFFF) for row in rows]

    async def links(self) -> list[TupleRow]:
        cursor = await self.connection.execute(
            "SELECT patient_id, survivor_id, current_id FROM encounters.link ORDER BY patient_id"
        )
        return await cursor.fetchall()


def with_empty_tables(test: Callable[[Visits], Awaitable[None]]) -> Callable[[str], None]:
    """Run a test on empty tables."""

    def run(module_database_url: str) -> None:
        async def steps() -> None:
            async with connected(module_database_url) as found:
                await found.empty()
                await test(Visits(found.connection))

        asyncio.run(steps())

    run.__name__ = test.__name__
    return run


def people() -> People:
    """Return four patients, each with an encounter of their number and a thousand."""
    log = People()
    for number in (ANNA, EVA, OLD, OTHER):
        log.register(number, "Meyer, Anna")
        log.visit(1000 + number, number)
    return log


@with_empty_tables
async def test_merged_records_have_one_list(found: Visits) -> None:
    log = people()
    log.merge(ANNA, EVA)
    await found.take_in(log.events)

    assert await found.of(ANNA) == await found.of(EVA) == [(1001, EVA), (1002, EVA)]
    assert await found.of(OTHER) == [(1004, OTHER)]


@with_empty_tables
async def test_a_chain_has_one_list_whichever_of_it_is_asked_for(found: Visits) -> None:
    log = people()
    log.merge(OLD, ANNA)
    log.merge(ANNA, EVA)
    log.visit(1010, EVA)
    await found.take_in(log.events)

    expected = [(1001, EVA), (1002, EVA), (1003, EVA), (1010, EVA)]
    assert [await found.of(number) for number in (OLD, ANNA, EVA)] == [expected] * 3


@with_empty_tables
async def test_the_middle_of_a_chain_undone_takes_what_was_below_along(found: Visits) -> None:
    log = people()
    log.merge(OLD, ANNA)
    second = log.merge(ANNA, EVA)
    await found.take_in(log.events)
    seen = len(log.events)
    log.part(second)
    await found.take_in(log.events[seen:])

    assert await found.of(OLD) == await found.of(ANNA) == [(1001, ANNA), (1003, ANNA)]
    assert await found.of(EVA) == [(1002, EVA)]


@with_empty_tables
async def test_an_encounter_of_the_survivor_stays_there_when_the_merge_is_undone(
    found: Visits,
) -> None:
    log = people()
    decision = log.merge(ANNA, EVA)
    log.visit(1010, EVA)
    log.go_on(1001, "in-progress")
    log.part(decision)
    await found.take_in(log.events)

    assert await found.of(ANNA) == [(1001, ANNA)]
    assert await found.of(EVA) == [(1002, EVA), (1010, EVA)]
    assert await found.links() == []


@with_empty_tables
async def test_an_encounter_is_found_where_its_patient_is_found_by_the_log(found: Visits) -> None:
    for seed in range(6):
        log = storm(seed, 80)
        await found.empty()
        await found.take_in(log.events)
        rows = await found.rows()
        assert [row[3] for row in rows] == [log.found_under(row[2]) for row in rows]
        assert any(row[2] != row[3] for row in rows), seed
        links = await found.links()
        for size in (1, 2, 7, 31):
            await found.empty()
            await found.take_in(log.events, size)
            assert (await found.rows(), await found.links()) == (rows, links), size


@pytest.mark.parametrize("seed", range(3))
def test_when_all_merges_are_undone_it_is_as_if_there_had_been_none(
    module_database_url: str, seed: int
) -> None:
    log = calmed(seed, 80)

    @with_empty_tables
    async def steps(found: Visits) -> None:
        await found.take_in(log.without_merges().events)
        never = await found.rows()
        await found.empty()
        await found.take_in(log.events, 9)
        assert (await found.rows(), await found.links()) == (never, [])

    steps(module_database_url)
