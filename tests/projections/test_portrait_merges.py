"""The retention job's read model after merges: whose portrait may have to go for another's word."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.projections.given import MONDAY, TENANT, People, batches, uuid

from registration.domain.events import ConsentGranted, ConsentWithdrawn, PortraitSet
from registration.domain.resources import Evidence
from registration.eventstore.records import RecordedEvent
from registration.projections import portraits as model
from registration.projections.portraits import outlived_portraits

pytestmark = pytest.mark.anyio
ANNA, EVA, OLD, OTHER = 1, 2, 3, 4
LATER = MONDAY + timedelta(days=1)
YES = ConsentGranted(flag="portrait", evidence=Evidence(kind="verbal"))
NO = ConsentWithdrawn(flag="portrait", evidence=Evidence(kind="verbal"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Tables:
    """The tables in a database."""

    connection: AsyncConnection[Any]

    async def take_in(self, events: Sequence[RecordedEvent], size: int = 1000) -> list[Any]:
        """Take a log into empty tables; returns the rows."""
        await self.connection.execute(
            "DROP SCHEMA IF EXISTS portraits CASCADE; CREATE SCHEMA portraits"
        )
        await self.connection.execute(
            f"SET search_path = portraits; {model.DDL}; RESET search_path"
        )
        wanted = [recorded for recorded in events if isinstance(recorded.event, model.EVENTS)]
        for batch in batches(wanted, size):
            async with self.connection.transaction():
                await self.connection.execute("SET LOCAL search_path = portraits")
                await model.apply(self.connection, batch)
        rows = []
        for table in ("portrait", "link"):
            cursor = await self.connection.execute(
                f"SELECT * FROM portraits.{table} ORDER BY patient_id"
            )
            rows += await cursor.fetchall()
        return rows

    async def outlived(self, now: datetime = LATER) -> list[int]:
        found = await outlived_portraits(self.connection, now, 100)
        assert {tenant for tenant, _ in found} <= {TENANT}
        return sorted(its_id.int & 0xFFFF for _, its_id in found)


@pytest.fixture
async def tables(module_database_url: str) -> AsyncIterator[Tables]:
    async with await AsyncConnection.connect(module_database_url, autocommit=True) as connection:
        yield Tables(connection)


def people() -> People:
    """Return a chain of three and another patient, who all have a portrait."""
    log = People()
    for number in (ANNA, EVA, OLD, OTHER):
        log.register(number, "Meyer, Anna")
        taken = PortraitSet(
            portrait_id=uuid(number), content_hash="ab", media_type="image/jpeg", width=3, height=4,
            size=9,
        )  # fmt: skip
        log.add(uuid(number), YES, taken)
    log.merge(OLD, ANNA)
    log.merge(ANNA, EVA)
    return log


async def test_nobody_while_all_agree(tables: Tables) -> None:
    await tables.take_in(people().events)
    assert await tables.outlived() == []


async def test_all_below_who_ended_the_consent_and_nobody_else(tables: Tables) -> None:
    log = people()
    log.add(uuid(EVA), NO)
    log.add(uuid(OTHER), NO)
    await tables.take_in(log.events)
    assert await tables.outlived() == [ANNA, OLD]
    assert await tables.outlived(MONDAY) == []


async def test_who_was_parted_is_not_below_any_more(tables: Tables) -> None:
    log = people()
    log.add(uuid(EVA), NO)
    log.part(log.merges[0])
    await tables.take_in(log.events)
    assert await tables.outlived() == [ANNA]


async def test_the_rows_do_not_depend_on_how_the_log_was_cut(tables: Tables) -> None:
    log = people()
    log.add(uuid(EVA), NO)
    log.part(log.merges[1])
    log.add(uuid(ANNA), NO, YES)
    log.merge(EVA, ANNA)
    whole = await tables.take_in(log.events)
    for size in (1, 2, 3):
        assert await tables.take_in(log.events, size) == whole, size


async def test_when_all_merges_are_undone_it_is_as_if_there_had_been_none(tables: Tables) -> None:
    log = people()
    log.add(uuid(EVA), NO)
    while log.merges:
        log.part(log.merges[0])
    assert await tables.take_in(log.events) == await tables.take_in(log.without_merges().events)
