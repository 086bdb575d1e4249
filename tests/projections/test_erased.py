"""Read models after people were erased: as a rebuild makes them, and nothing of these people."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection, sql
from tests.projections.erasing import CANARY, Erasing, keys_of, readings
from tests.projections.given import TENANT, uuid

from registration.eventstore.records import RecordedEvent
from registration.projections import analytics, changes, encounters
from registration.projections.registry import ReadModel

pytestmark = pytest.mark.anyio
MODELS = (changes, encounters, analytics)
ANNA, EVA, OLD = 1, 2, 3
ALL = 10**6


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Tables:
    """The tables of a read model, beside a log of which keys are deleted."""

    connection: AsyncConnection[Any]
    model: Any

    async def fed(
        self, log: Erasing, events: Sequence[RecordedEvent], size: int = ALL, ahead: int = 0
    ) -> dict[str, list[Any]]:
        """Return all rows after the log was taken in, in batches, by a projector that is behind."""
        await self._begin(events)
        wanted = self.model.EVENTS
        for gone, batch in readings(log, events, size, ahead):
            await self.connection.execute(
                "DELETE FROM registration.personal_key WHERE id = ANY(%s)", (list(gone),)
            )
            if told := [each for each in batch if isinstance(each.event, wanted)]:
                async with self.connection.transaction():
                    await self._search_path()
                    await self.model.apply(self.connection, told)
        return await self.rows()

    async def _search_path(self) -> None:
        statement = sql.SQL("SET LOCAL search_path = {}, registration")
        await self.connection.execute(statement.format(sql.Identifier(self.model.NAME)))

    async def _begin(self, events: Sequence[RecordedEvent]) -> None:
        run = self.connection.execute
        name = sql.Identifier(self.model.NAME)
        async with self.connection.transaction():
            await run(sql.SQL("DROP SCHEMA IF EXISTS {0} CASCADE").format(name))
            await run(sql.SQL("CREATE SCHEMA {0}").format(name))
            await self._search_path()
            await run(self.model.DDL)
        await run("ALTER TABLE registration.event DISABLE TRIGGER ALL")
        await run("DELETE FROM registration.event; DELETE FROM registration.personal_key")
        async with self.connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO registration.personal_key VALUES (%s, %s, %s)",
                [(TENANT, its_id, key) for its_id, key in keys_of(events).items()],
            )
            await cursor.executemany(
                "INSERT INTO registration.event (tenant, position, stream_id, version, topic, data,"
                " metadata, recorded_at, hash) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, '')",
                [
                    (e.tenant, e.position, e.stream_id, e.version, e.topic, e.data, e.metadata,
                     e.recorded_at)
                    for e in events
                ],
            )  # fmt: skip

    async def rows(self) -> dict[str, list[Any]]:
        """Return every row of every table."""
        cursor = await self.connection.execute(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = %s AND table_type = 'BASE TABLE'",
            (self.model.NAME,),
        )
        found = {}
        for (table,) in await cursor.fetchall():
            query = sql.SQL("SELECT * FROM {}").format(sql.Identifier(self.model.NAME, table))
            rows = await (await self.connection.execute(query)).fetchall()
            found[table] = sorted(rows, key=str)
        return found


@pytest.fixture
async def connection(module_database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await AsyncConnection.connect(module_database_url, autocommit=True) as made:
        yield made


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.NAME)
@pytest.mark.parametrize("seed", range(6))
async def test_the_rows_are_those_of_a_rebuild_however_far_behind_the_projector_was(
    connection: AsyncConnection[Any], model: ReadModel, seed: int
) -> None:
    log, tables = Erasing.storm(seed, 90), Tables(connection, model)
    events = log.sealed()
    assert log.erased

    rebuilt = await tables.fed(log, events, ahead=ALL)
    for size, ahead in ((1, 0), (5, 0), (7, 3), (31, 20), (1, ALL), (9, ALL)):
        assert await tables.fed(log, events, size, ahead) == rebuilt, (size, ahead)


def whole_life() -> Erasing:
    """Return a person who is erased with the record that was merged into it, and another one."""
    log = Erasing()
    log.register(ANNA, f"Meyer, {CANARY[0]}", values=[CANARY[1]], facility="north")
    log.register(OLD, f"{CANARY[0]}, Anne", values=[CANARY[1] + "1"], birth_date="1980-02-03")
    log.register(EVA, "Weber, Eva", values=["17"], facility="south")
    log.visit(1001, ANNA, "north")
    log.visit(1002, OLD, "west")
    log.visit(1003, EVA, "south")
    log.merge(OLD, ANNA)
    log.move_house(ANNA, "east")
    log.part(log.merge(ANNA, EVA))
    return log


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.NAME)
@pytest.mark.parametrize("size", [1, ALL])
async def test_nothing_of_the_person_is_in_any_column(
    connection: AsyncConnection[Any], model: ReadModel, size: int
) -> None:
    log, tables = whole_life(), Tables(connection, model)
    before = str(await tables.fed(log, log.sealed(), size))
    log.erase(ANNA)
    after = str(await tables.fed(log, log.sealed(), size))

    if model is changes:
        assert all(word in before for word in CANARY[:2])
        assert "Weber" in after
    assert not [word for word in (*CANARY, "1980") if word in after]


async def test_the_feed_keeps_that_they_are_gone_and_since_when(
    connection: AsyncConnection[Any],
) -> None:
    log, tables = whole_life(), Tables(connection, changes)
    merges = [its_id for its_id in log.streams if its_id.int & 0xFFFF >= 5000]
    since = len(log.events)
    log.erase(ANNA)
    rows = (await tables.fed(log, log.sealed(), 4))["record"]

    gone = {row[1]: (row[2], row[4]) for row in rows if row[-1] is None}
    assert gone == {
        uuid(ANNA): ("patient", since + 1),
        uuid(OLD): ("patient", since + 2),
        uuid(1001): ("encounter", since + 1),
        uuid(1002): ("encounter", since + 2),
        merges[0]: ("merge", since + 2),
        merges[1]: ("merge", since + 1),
    }
    assert {row[1] for row in rows if row[-1] is not None} == {uuid(EVA), uuid(1003)}


async def test_who_once_held_the_erased_begins_anew_for_those_who_see_it(
    connection: AsyncConnection[Any],
) -> None:
    log, tables = whole_life(), Tables(connection, changes)
    since = len(log.events)
    log.erase(ANNA)
    scopes = (await tables.fed(log, log.sealed(), 4))["scope"]

    found: dict[UUID, set[Any]] = {}
    for _, facility, its_id, _, position, present in scopes:
        found.setdefault(its_id, set()).add((facility, position, present))
    assert found[uuid(ANNA)] == {("", since + 1, False)}
    assert found[uuid(EVA)] == {("", since + 2, False), ("south", since + 2, True)}


async def test_encounters_of_each_record_of_the_person_are_gone(
    connection: AsyncConnection[Any],
) -> None:
    log, tables = whole_life(), Tables(connection, encounters)
    log.erase(ANNA)
    rows = (await tables.fed(log, log.sealed(), 3))["encounter"]

    assert [row[1] for row in rows] == [uuid(1003)]


async def test_reports_count_the_bare_record(connection: AsyncConnection[Any]) -> None:
    log, tables = whole_life(), Tables(connection, analytics)
    log.erase(ANNA)
    rows = await tables.fed(log, log.sealed(), 3)

    facts = {row[1]: row[4:] for row in rows["patient_fact"]}
    at = log.events[-2].recorded_at
    bare: tuple[Any, ...] = (
        "north",
        "north",
        "unknown",
        None,
        None,
        False,
        0,
        {},
        0,
        0,
        None,
        None,
        at,
    )
    assert facts[uuid(ANNA)] == bare
    assert len(facts) == len(rows["encounter_fact"]) == 3
    assert rows["consent_fact"] == []


def test_every_model_is_told_of_an_erasure() -> None:
    from registration.domain.events import PatientErased

    models: tuple[ModuleType, ...] = MODELS
    assert all(PatientErased in model.EVENTS for model in models)
