"""The read model of possible duplicates on a real PostgreSQL: what raises, changes, closes one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from tests.eventstore.given import TENANT, open_store, stored
from tests.projections.clinic import (
    OTHER,
    TENANTS,
    Clinics,
    Step,
    patient_id,
    phone,
    registration,
)
from tests.projections.oracle import Queue

from registration.domain import events
from registration.domain.candidate import candidate_id
from registration.domain.resources import Name
from registration.eventstore import database
from registration.eventstore.records import RecordedEvent
from registration.mpi.blocking import block_keys
from registration.projections import matching as model
from registration.projections import matching_tables, rebuild, runner
from registration.projections import status as how
from registration.projections.matching_queue import Candidate, CandidateQuery, candidates

ADA, ADAH, BJORN, EVE = map(patient_id, range(4))
SAME, ALIKE, STRANGER = 0, 3, 26
"""Choices of ``clinic``: a person, the same with another spelling, and somebody else."""

_TABLES = {"patient": "tenant, id", "block": "tenant, key, patient_id"} | {
    "candidate": "tenant, id",
    "dismissal": "tenant, candidate_id",
}


@dataclass
class ReadModel:
    """The tables in a database."""

    connection: AsyncConnection[TupleRow]

    async def empty(self) -> None:
        await self.connection.execute(
            "DROP SCHEMA IF EXISTS matching CASCADE; CREATE SCHEMA matching"
        )
        await self.connection.execute(f"SET search_path = matching; {model.DDL}")

    async def clear(self) -> None:
        await self.connection.execute("TRUNCATE matching.patient, matching.block")
        await self.connection.execute("TRUNCATE matching.candidate, matching.dismissal")
        await self.connection.execute("TRUNCATE registration.event")

    async def take(self, *batches: Sequence[RecordedEvent]) -> None:
        """Take in batches as the runner does: each tenant's part of one by itself."""
        for batch in batches:
            async with self.connection.transaction():
                await self.connection.execute("SET LOCAL search_path = matching")
                for tenant in TENANTS:
                    if its_own := [event for event in batch if event.tenant == tenant]:
                        await model.apply(self.connection, its_own)

    async def store(self, log: Iterable[RecordedEvent]) -> None:
        """Put the log where the read model looks earlier events up."""
        async with self.connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO registration.event (tenant, position, stream_id, version, topic, data,"
                " metadata, recorded_at, hash) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, '')",
                [
                    (e.tenant, e.position, e.stream_id, e.version, e.topic, e.data, e.metadata,
                     e.recorded_at)
                    for e in log
                ],
            )  # fmt: skip

    async def rows(self) -> dict[str, list[TupleRow]]:
        found = {}
        for table, order in _TABLES.items():
            cursor = await self.connection.execute(
                f"SELECT * FROM matching.{table} ORDER BY {order}"
            )
            found[table] = await cursor.fetchall()
        return found

    async def of(self, tenant: str, table: str, columns: str) -> list[TupleRow]:
        cursor = await self.connection.execute(
            f"SELECT {columns} FROM matching.{table} WHERE tenant = %s ORDER BY 1, 2", (tenant,)
        )
        return await cursor.fetchall()

    async def candidates(self, tenant: str) -> list[TupleRow]:
        return await self.of(
            tenant,
            "candidate",
            "id, one, other, current_one, current_other, status, raised_at, score, grade, evidence",
        )


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[ReadModel]:
    async with await database.connect(url, name="test") as connection:
        yield ReadModel(connection)


@pytest.fixture(scope="module")
def law_url(module_database_url: str) -> str:
    """The module's database with the empty tables."""

    async def make() -> None:
        async with connected(module_database_url) as found:
            await found.empty()

    asyncio.run(make())
    return module_database_url


@dataclass
class Story:
    """What happens at a clinic, taken in event by event, and what the queue shows then."""

    found: ReadModel
    clinics: Clinics = field(default_factory=Clinics)
    taken: int = 0

    def registered(self, its_id: UUID, choice: int, tenant: str = TENANT) -> None:
        self.clinics.record(tenant, its_id, registration(choice))

    def happened(self, its_id: UUID, event: events.Event) -> None:
        self.clinics.record(TENANT, its_id, event)

    async def queue(self, status: str = "open", tenant: str = TENANT) -> list[Candidate]:
        log = self.clinics.log[self.taken :]
        await self.found.store(log)
        await self.found.take(*([event] for event in log))
        self.taken += len(log)
        return await candidates(self.found.connection, CandidateQuery(tenant, status))

    async def pairs(self, status: str = "open", tenant: str = TENANT) -> list[set[UUID]]:
        return [{each.one.id, each.other.id} for each in await self.queue(status, tenant)]


Told = Callable[[Callable[[Story], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def tell(law_url: str) -> Told:
    """Run a story on empty tables."""

    def run(scenario: Callable[[Story], Coroutine[Any, Any, None]]) -> None:
        async def told() -> None:
            async with connected(law_url) as found:
                await found.clear()
                await scenario(Story(found))

        asyncio.run(told())

    return run


def corrected(**changes: Any) -> events.DemographicsCorrected:
    return events.DemographicsCorrected(changes=changes)


def renamed(family: str, given: str) -> events.NameReplaced:
    return events.NameReplaced(
        name=Name(id=UUID(int=7), family=family, given=(given,), script="Latn")
    )


PHONE = [each.plain() for each in phone(1)]


class TestRaising:
    def test_two_records_alike_are_a_candidate_and_strangers_are_none(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(BJORN, STRANGER)
            assert await it.pairs() == []
            it.registered(ADAH, ALIKE)
            (candidate,) = await it.queue()
            assert {candidate.one.id, candidate.other.id} == {ADA, ADAH}
            assert candidate.id == candidate_id(ADA, ADAH)
            assert candidate.raised_at == it.clinics.log[-1].recorded_at

        tell(story)

    def test_of_another_tenant_is_never_one(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(ADAH, SAME, OTHER)
            assert await it.pairs() == await it.pairs(tenant=OTHER) == []

        tell(story)

    def test_a_change_raises_one_and_another_takes_it_away(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(BJORN, STRANGER)
            it.happened(BJORN, renamed("Okoro", "Ada"))
            it.happened(BJORN, corrected(birthDate="1984-03-02", telecom=[]))
            (raised,) = await it.queue()
            it.happened(BJORN, renamed("Lindqvist", "Björn"))
            it.happened(BJORN, corrected(birthDate="1951-11-30", gender="male"))
            assert await it.queue() == []
            it.happened(BJORN, renamed("Okoro", "Ada"))
            it.happened(BJORN, corrected(birthDate="1984-03-02", gender="female"))
            (again,) = await it.queue()
            assert again.id == raised.id
            assert again.raised_at > raised.raised_at

        tell(story)

    def test_other_evidence_shows_and_leaves_it_as_old_as_it_is(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(ADAH, ALIKE)
            (before,) = await it.queue()
            it.happened(ADAH, renamed("Okoro", "Ada"))
            (after,) = await it.queue()
            assert after.raised_at == before.raised_at
            assert after.evidence != before.evidence
            assert after.agreement != before.agreement

        tell(story)

    def test_what_matching_does_not_see_changes_the_version_alone(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(ADAH, ALIKE)
            it.happened(ADA, corrected(maritalStatus="M", facility="east"))
            it.happened(ADA, events.NextOfKinRemoved(next_of_kin_id=ADA, reason="moved"))
            (candidate,) = await it.queue()
            assert candidate.one.version == 3
            assert candidate.one.facility == "east"
            assert candidate.one.changed_at == it.clinics.log[0].recorded_at

        tell(story)

    def test_one_event_makes_candidates_with_the_likeliest_few(
        self, tell: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model, "MOST_RAISED", 2)

        async def story(it: Story) -> None:
            it.registered(ADA, ALIKE)
            it.registered(ADAH, SAME)
            it.registered(BJORN, SAME)
            await it.queue()
            it.registered(EVE, SAME)
            assert {EVE, ADA} not in await it.pairs()
            assert {EVE, ADAH} in await it.pairs()
            assert {EVE, BJORN} in await it.pairs()

        tell(story)

    def test_who_shares_most_keys_is_compared_first(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            for number in range(8):
                it.registered(patient_id(number), SAME if number == 5 else ALIKE)
            await it.queue()
            keys = block_keys(model.match_record(it.clinics.state(TENANT, ADA)))
            statement = matching_tables.nearest("matching.", "p.id")
            few = statement.replace(f"LIMIT {matching_tables.MOST_COMPARED}", "LIMIT 4")
            cursor = await it.found.connection.execute(
                few, {"tenant": TENANT, "keys": keys, "id": ADA}
            )
            assert [row[0] for row in await cursor.fetchall()] == [
                patient_id(n) for n in (1, 2, 3, 4)
            ]

        tell(story)


class TestDismissing:
    def test_it_leaves_the_queue_until_something_else_speaks_for_it(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(ADAH, ALIKE)
            it.clinics.dismiss(TENANT, ADA, ADAH)
            assert await it.queue() == []
            (dismissed,) = await it.queue("dismissed")
            assert (dismissed.reason, dismissed.dismissed_by) == ("sisters", "desk-2")
            assert dismissed.dismissed_at == it.clinics.log[-1].recorded_at
            it.happened(ADAH, renamed("Okoro", "Ada"))
            (again,) = await it.queue()
            assert again.raised_at == it.clinics.log[-1].recorded_at
            assert await it.queue("dismissed") == []

        tell(story)

    def test_it_is_remembered_when_the_pair_goes_and_comes_back(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(ADAH, ALIKE)
            it.clinics.dismiss(TENANT, ADA, ADAH)
            before = it.clinics.state(TENANT, ADAH).names[0]
            it.happened(ADAH, renamed("Lindqvist", "Björn"))
            it.happened(ADAH, corrected(birthDate="1951-11-30", telecom=[]))
            assert await it.pairs() == await it.pairs("dismissed") == []
            it.happened(ADAH, corrected(birthDate="1984-03-02", telecom=PHONE))
            it.happened(ADAH, events.NameReplaced(name=before))
            it.happened(ADAH, corrected(telecom=[each.plain() for each in phone(1)]))
            assert await it.pairs() == []
            assert await it.pairs("dismissed") == [{ADA, ADAH}]

        tell(story)

    def test_on_evidence_that_has_changed_meanwhile_it_says_nothing(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(ADAH, ALIKE)
            it.clinics.dismiss(TENANT, ADA, ADAH)
            late = it.clinics.log.pop()
            it.clinics.streams.pop((TENANT, late.stream_id))
            it.happened(ADAH, renamed("Okoro", "Ada"))
            it.clinics.record(TENANT, late.stream_id, late.event)
            assert await it.pairs() == [{ADA, ADAH}]

        tell(story)


class TestMerging:
    def test_a_merge_closes_it(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(ADAH, ALIKE)
            it.clinics.merge(TENANT, ADA, ADAH)
            assert await it.queue() == []
            (merged,) = await it.queue("merged")
            assert (merged.one.current_id, merged.other.current_id) == (ADA, ADA)
            assert merged.one.current_version == it.clinics.patient(TENANT, ADA).version

        tell(story)

    def test_a_retired_record_is_a_face_of_its_survivor(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(BJORN, STRANGER)
            it.clinics.merge(TENANT, BJORN, ADA)
            it.registered(EVE, ALIKE)
            (candidate,) = await it.queue()
            assert {candidate.one.id, candidate.other.id} == {ADA, EVE}
            assert {candidate.one.current_id, candidate.other.current_id} == {BJORN, EVE}

        tell(story)

    def test_of_several_faces_the_queue_shows_the_best(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(ADAH, ALIKE)
            it.registered(EVE, SAME)
            assert len(await it.queue()) == 3
            it.clinics.merge(TENANT, ADA, ADAH)
            assert await it.pairs() == [{ADA, EVE}]
            assert len(await it.found.candidates(TENANT)) == 3

        tell(story)

    def test_undone_it_does_not_come_back(self, tell: Told) -> None:
        async def story(it: Story) -> None:
            it.registered(ADA, SAME)
            it.registered(ADAH, ALIKE)
            it.registered(EVE, SAME)
            it.clinics.merge(TENANT, ADA, ADAH)
            it.clinics.merge(TENANT, EVE, ADA)
            it.clinics.unmerge(TENANT, 1)
            assert await it.queue() == []
            shown = await it.queue("dismissed")
            assert [each.reason for each in shown] == ["two persons after all"]
            assert {shown[0].one.current_id, shown[0].other.current_id} == {ADA, EVE}
            it.happened(EVE, renamed("Okorro", "Ada"))
            assert len(await it.queue()) == 1

        tell(story)


CHOICES = st.sampled_from([0, 0, 1, 3, 9, 18, 26, 35])
HISTORIES = st.builds(
    lambda people, steps: [*people, *steps],
    st.lists(CHOICES, min_size=5, max_size=5).map(
        lambda choices: [
            Step("register", number // 4, number % 4, 0, choice)
            for number, choice in enumerate(choices)
        ]
    ),
    st.lists(
        st.builds(
            Step,
            what=st.sampled_from(
                [
                    *("register", "rename", "rename", "correct", "number", "kin"),
                    *("merge", "merge", "unmerge", "dismiss", "dismiss"),
                ]
            ),
            clinic=st.sampled_from([0, 0, 0, 0, 1]),
            one=st.integers(0, 3),
            other=st.integers(0, 3),
            choice=CHOICES,
        ),
        min_size=12,
        max_size=40,
    ),
)
"""Four patients of one clinic and one of the other, and what becomes of them."""


@settings(max_examples=100, deadline=None)
@given(steps=HISTORIES, cuts=st.lists(st.integers(0, 120), max_size=6))
def test_the_rows_follow_from_the_log_however_it_was_cut(
    law_url: str, steps: list[Step], cuts: list[int]
) -> None:
    clinics = Clinics.of(steps)

    async def scenario() -> None:
        async with connected(law_url) as found:
            await found.clear()
            await found.store(clinics.log)
            await found.take(*clinics.cut(cuts))
            for tenant in TENANTS:
                expected = Queue.after(clinics.log, tenant)
                assert await found.candidates(tenant) == expected.candidates()
                assert await found.of(tenant, "block", "key, patient_id") == expected.blocks()
                told = await found.of(tenant, "dismissal", "candidate_id, evidence")
                assert told == expected.dismissals()
            cut = await found.rows()
            await found.clear()
            await found.store(clinics.log)
            await found.take(*([event] for event in clinics.log))
            assert await found.rows() == cut

    asyncio.run(scenario())


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


def many(count: int) -> Iterator[Step]:
    for number in range(count):
        yield Step("register", 0, number, 0, number * 7 % 36)
        if number % 4 == 3:
            yield Step("rename", 0, number - 2, 0, number % 9)
        if number % 9 == 8:
            yield Step("merge", 0, number, number - 5, 0)
        if number % 11 == 10:
            yield Step("dismiss", 0, number, number - 1, 0)
    yield Step("unmerge", 0, 0, 0, 1)


def test_the_runner_and_a_rebuild_give_the_same_rows(database_url: str) -> None:
    async def scenario() -> None:
        log = Clinics.of(many(60)).log
        async with (
            followed(database_url),
            open_store(database_url) as store,
            connected(database_url) as found,
        ):
            for event in log:
                verdict = await stored(
                    store, event.event, stream=event.stream_id, version=event.version - 1
                )
            assert await how.wait_for(found.connection, model.NAME, TENANT, verdict.position, 10)
            live = await found.rows()
            assert live["candidate"]
            await rebuild.rebuild(database_url, model.NAME, models=[model])
            assert await found.rows() == live

    asyncio.run(scenario())
