"""Search after merges: the survivor is found by all that was known of those merged into it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.projections.given import People, calmed, storm, uuid
from tests.projections.test_search import Search

from registration.api.wire import FoundPatient

pytestmark = pytest.mark.anyio
ANNA, EVA, OLD, OTHER = 1, 2, 3, 4


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def found(module_database_url: str) -> AsyncIterator[Search]:
    async with await AsyncConnection.connect(module_database_url, autocommit=True) as connection:
        made = Search(connection)
        await made.empty()
        yield made


@pytest.fixture
def people() -> People:
    """Three records of one person, and one of somebody else."""
    log = People()
    log.register(ANNA, "Meyer, Anna", values=["A-1"])
    log.register(EVA, "Schulz, Eva", "Meyer, Anna", values=["E-1"], birth_date="1980-05-17")
    log.register(OLD, "Weber, Ewa", values=["O-1"])
    log.register(OTHER, "Meyer, Otto", values=["X-1"])
    return log


async def item(found: Search, number: int) -> dict[str, Any]:
    """Return what a list shows of a patient, checked against the declared shape."""
    page = await found.page(include_inactive=True)
    (shown,) = [each for each in page.items if each["id"] == str(uuid(number))]
    FoundPatient.model_validate(shown)
    return shown


async def rows(found: Search) -> dict[str, list[Any]]:
    """Return all rows, the versions of the patients aside."""
    tables = await found.rows()
    tables["patient"] = [row[:2] + row[3:] for row in tables["patient"]]
    return tables


async def test_the_retired_one_is_found_only_where_inactive_ones_are_asked_for(
    found: Search, people: People
) -> None:
    people.merge(ANNA, EVA)
    await found.apply(people.events)

    for asked in (
        {},
        {"name": "Anna"},
        {"identifier": "urn:mrn|A-1"},
        {"name": "ana", "fuzzy": True},
    ):
        assert ANNA not in await found.find(**asked)
        assert ANNA in await found.find(include_inactive=True, **asked)
    shown = await item(found, ANNA)
    assert (shown["active"], shown["replacedBy"]) == (False, str(uuid(EVA)))
    assert "replacedBy" not in await item(found, EVA)


async def test_the_survivor_is_found_by_the_identifiers_and_names_of_the_retired_one(
    found: Search, people: People
) -> None:
    people.merge(OLD, EVA)
    await found.apply(people.events)

    assert await found.find(identifier="urn:mrn|O-1") == [EVA]
    assert await found.find(identifier="urn:mrn|E-1") == [EVA]
    assert await found.find(name="Weber") == [EVA]
    assert await found.find(family="web", given="ew") == [EVA]
    assert await found.find(name="Webr Ewa", fuzzy=True) == [EVA]
    assert await found.find(name="weber", birth_date="1980-05-17") == [EVA]
    assert await found.find(name="weber schulz") == []


async def test_the_survivor_shows_its_own_names_and_apart_those_that_only_others_had(
    found: Search, people: People
) -> None:
    people.merge(ANNA, EVA)
    await found.apply(people.events)
    alone, seen = await item(found, EVA), len(people.events)
    people.merge(OLD, EVA)
    await found.apply(people.events[seen:])

    shown = await item(found, EVA)

    assert "formerNames" not in alone  # Anna Meyer is a name of hers already
    assert (shown["display"], shown["names"]) == (alone["display"], alone["names"])
    assert [(each["family"], each["mergedFrom"]) for each in shown["formerNames"]] == [
        ("Weber", str(uuid(OLD)))
    ]
    assert [
        (each["value"], each.get("use"), each.get("mergedFrom")) for each in shown["identifiers"]
    ] == [
        ("E-1", None, None),
        ("A-1", "old", str(uuid(ANNA))),
        ("O-1", "old", str(uuid(OLD))),
    ]


async def test_through_a_chain_the_last_one_is_found_by_everything(
    found: Search, people: People
) -> None:
    people.merge(OLD, ANNA)
    people.merge(ANNA, EVA)
    await found.apply(people.events)

    for value in ("O-1", "A-1", "E-1"):
        assert await found.find(identifier=f"urn:mrn|{value}") == [EVA]
    assert await found.find(name="weber ewa") == [EVA]
    assert await found.find(name="weber ewa", include_inactive=True) == [ANNA, EVA, OLD]
    assert (await item(found, OLD))["replacedBy"] == str(uuid(ANNA))


async def test_a_name_that_the_survivor_loses_is_then_a_former_one(
    found: Search, people: People
) -> None:
    people.merge(ANNA, EVA)
    await found.apply(people.events)
    _, meyer = people.patient(uuid(EVA)).plain()["names"]
    seen = len(people.events)
    people.retire_name(EVA, meyer["id"])
    await found.apply(people.events[seen:])

    assert await found.find(name="Anna Meyer") == [EVA]
    assert [each["family"] for each in (await item(found, EVA))["formerNames"]] == ["Meyer"]


async def test_undone_everything_is_as_before(found: Search, people: People) -> None:
    await found.apply(people.events)
    before, seen = await rows(found), len(people.events)
    decision = people.merge(ANNA, EVA)
    await found.apply(people.events[seen:])
    seen = len(people.events)

    people.part(decision)
    await found.apply(people.events[seen:])

    assert await rows(found) == before
    assert await found.find(identifier="urn:mrn|A-1") == [ANNA]


async def test_a_link_of_a_chain_undone_leaves_the_other(found: Search, people: People) -> None:
    first = people.merge(OLD, ANNA)
    people.merge(ANNA, EVA)
    await found.apply(people.events)
    assert await found.find(name="weber") == [EVA]
    seen = len(people.events)

    people.part(first)
    await found.apply(people.events[seen:])

    assert await found.find(name="weber") == await found.find(identifier="urn:mrn|O-1") == [OLD]
    assert await found.find(identifier="urn:mrn|A-1") == [EVA]


@pytest.mark.parametrize("seed", range(4))
async def test_when_all_merges_are_undone_it_is_as_if_there_had_been_none(
    found: Search, seed: int
) -> None:
    log = calmed(seed, 60)
    await found.apply(log.without_merges().events)
    never = await rows(found)
    await found.empty()
    await found.apply(log.events, 9)
    assert await rows(found) == never


@pytest.mark.parametrize("seed", range(6))
async def test_the_rows_do_not_depend_on_how_the_log_was_cut(found: Search, seed: int) -> None:
    log = storm(seed, 60)
    await found.apply(log.events)
    whole = await found.rows()
    for batch in (1, 2, 7, 31):
        await found.empty()
        await found.apply(log.events, batch)
        assert await found.rows() == whole, batch
