"""The facts that reports count from: they follow from the log alone."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from tests.api.given_reports import captured
from tests.domain.given import identifier, kin, name
from tests.eventstore.given import TENANT

from registration.domain import events
from registration.domain.aggregate import Stamp
from registration.domain.encounter import TRANSITIONS, allowed
from registration.domain.patient_state import PatientState, evolve
from registration.domain.resources import ContactPoint, Evidence
from registration.eventstore import database
from registration.eventstore.mapper import encode
from registration.eventstore.records import RecordedEvent
from registration.projections import analytics as model

OTHER = "clinic-b"
NOW = datetime(2026, 3, 2, tzinfo=UTC)
TABLES = ("patient", "encounter", "status", "consent", "mutation", "merge")
PHONE = ContactPoint(system="phone", value="0800")


class Log:
    """A log that grows by what is possible; what is not changes nothing."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.events: list[RecordedEvent] = []
        self.patients: dict[UUID, PatientState] = {}
        self.registered: dict[UUID, RecordedEvent] = {}
        self.encounters: dict[UUID, str] = {}
        self._versions: dict[UUID, int] = {}

    def happen(self, kind: int, who: int, other: int, is_pushed: bool) -> None:
        """Let something happen to a patient or an encounter."""
        its_id = UUID(int=who + 1)
        if its_id not in self.patients:
            self._add(its_id, self._registration(who), is_pushed)
        elif kind < len(_CHANGES):
            self._change(its_id, kind, is_pushed)
        elif kind == len(_CHANGES):
            self._merge(its_id, UUID(int=other + 1), is_pushed)
        else:
            self._encounter(UUID(int=100 + who), its_id, other, is_pushed)

    def _registration(self, who: int) -> events.PatientRegistered:
        return events.PatientRegistered(
            names=(name(),),
            gender="female",
            birth_date=(None, "1980", "1980-02", "1980-01-01")[who % 4],
            identifiers=(identifier(),) * (who % 2),
            facility=("north", None)[who % 2],
        )

    def _change(self, its_id: UUID, kind: int, is_pushed: bool) -> None:
        state, event = self.patients[its_id], _CHANGES[kind]
        possible = {
            events.IdentifierAdded: not state.identifiers,
            events.IdentifierRetired: state.identifiers,
            events.NextOfKinAdded: not state.next_of_kin,
            events.NextOfKinRemoved: state.next_of_kin,
            events.DeathReversed: state.deceased,
        }
        if state.merged_into is None and possible.get(type(event), True):
            self._add(its_id, event, is_pushed)

    def _merge(self, survivor: UUID, retired: UUID, is_pushed: bool) -> None:
        """Merge two patients, or undo it where they are merged."""
        merge_id = UUID(int=200 + retired.int)
        known = self.patients.get(retired)
        if known is None or survivor == retired or self.patients[survivor].merged_into:
            return
        if known.merged_into == survivor:
            self._add(retired, events.PatientRestored(merge_id=merge_id), is_pushed)
            released = events.PatientReleased(merge_id=merge_id, patient_ids=(retired,))
            self._add(survivor, released, is_pushed)
            undone = {"survivor_id": survivor, "retired_id": retired, "released_by": (survivor,)}
            self._add(merge_id, events.MergeReversed(**undone, reason="twins"), is_pushed)
        elif known.merged_into is None and not known.absorbed and merge_id not in self._versions:
            away = events.PatientMergedAway(merge_id=merge_id, survivor_id=survivor)
            absorbed = events.PatientAbsorbed(
                merge_id=merge_id, patient_id=retired, identifiers=known.identifiers
            )
            self._add(retired, away, is_pushed)
            self._add(survivor, absorbed, is_pushed)
            done = events.MergeExecuted(survivor_id=survivor, retired_id=retired)
            self._add(merge_id, done, is_pushed)

    def _encounter(self, its_id: UUID, patient_id: UUID, choice: int, is_pushed: bool) -> None:
        at = NOW + timedelta(minutes=len(self.events))
        status = self.encounters.get(its_id)
        if status is None:
            opened = events.EncounterOpened(
                at=at, patient_id=patient_id, encounter_class="AMB", status="planned"
            )
            self.encounters[its_id] = "planned"
            self._add(its_id, opened, is_pushed)
        elif moves := allowed(status):  # type: ignore[arg-type]
            target = moves[choice % len(moves)]
            self.encounters[its_id] = target
            event = TRANSITIONS[status, target].event(at=at, reason="because")  # type: ignore[index]
            self._add(its_id, event, is_pushed)

    def _add(self, its_id: UUID, event: events.Event, is_pushed: bool) -> None:
        at = NOW + timedelta(minutes=len(self.events))
        meta: dict[str, Any] = {"actor": "desk-1", "operation": "x"}
        if is_pushed:
            # two events in a row are of one mutation
            meanwhile = captured(at - timedelta(hours=1), len(self.events) // 2 * 2)
            meta |= {"clientMutationId": str(meanwhile), "client": "tablet"}
        version = self._versions[its_id] = self._versions.get(its_id, 0) + 1
        recorded = RecordedEvent(
            tenant=self.tenant,
            position=len(self.events) + 1,
            stream_id=its_id,
            version=version,
            topic=event.TOPIC,
            data=encode(event),
            metadata=orjson.dumps(meta),
            recorded_at=at,
            hash=b"",
        )
        self.events.append(recorded)
        if isinstance(event, events.PatientEvent):
            stamp = Stamp.of(recorded)
            self.patients[its_id] = evolve(self.patients.get(its_id), event, stamp)
        if isinstance(event, events.PatientRegistered):
            self.registered[its_id] = recorded


_CHANGES: tuple[events.Event, ...] = (
    events.DemographicsCorrected(changes={"birthDate": "1990-01-01", "birthDateEstimated": True}),
    events.DemographicsCorrected(changes={"birthDate": None, "facility": "south"}),
    events.DemographicsCorrected(changes={"gender": "other", "telecom": [PHONE.plain()]}),
    events.DemographicsCorrected(changes={"telecom": None}),
    events.IdentifierAdded(identifier=identifier()),
    events.IdentifierRetired(identifier_id=identifier().id, reason="wrong"),
    events.NextOfKinAdded(next_of_kin=kin()),
    events.NextOfKinRemoved(next_of_kin_id=kin().id, reason="wrong"),
    events.ConsentGranted(flag="research", evidence=Evidence(kind="verbal")),
    events.ConsentWithdrawn(flag="research", evidence=Evidence(kind="verbal"), valid_until=NOW),
    events.DeathRecorded(deceased_at=NOW),
    events.DeathReversed(reason="a mistake"),
    events.NameAdded(name=name(2)),
)


@dataclass
class Tables:
    """The tables of the read model in a database."""

    connection: AsyncConnection[TupleRow]
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def empty(self) -> None:
        await self.connection.execute("DROP SCHEMA IF EXISTS analytics CASCADE")
        await self.connection.execute("CREATE SCHEMA analytics")
        await self.connection.execute("SET search_path = analytics, registration")
        await self.connection.execute(model.DDL)

    async def fed(self, *batches: Sequence[RecordedEvent]) -> dict[str, list[TupleRow]]:
        """Return all rows after these batches alone."""
        for each in TABLES:
            await self.connection.execute(f"DELETE FROM {each}_fact")
        for batch in batches:
            for tenant in (TENANT, OTHER):
                if told := [recorded for recorded in batch if recorded.tenant == tenant]:
                    await model.apply(self.connection, told)
        return {each: await self._rows(each) for each in TABLES}

    async def _rows(self, each: str) -> list[TupleRow]:
        cursor = await self.connection.execute(f"SELECT * FROM {each}_fact ORDER BY 1, 2, 3, 4")
        return await cursor.fetchall()


@pytest.fixture(scope="module")
def tables(module_database_url: str) -> Iterator[Tables]:
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(database.connect(module_database_url, name="test"))
    made = Tables(connection, loop)
    made.run(made.empty())
    yield made
    made.run(connection.close())
    loop.close()


STEP = st.tuples(
    st.booleans(),
    st.integers(0, len(_CHANGES) + 2),
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
)


@given(steps=st.lists(STEP, max_size=60), cuts=st.lists(st.integers(1, 7), max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_rows_follow_from_the_log_however_it_is_cut(
    tables: Tables, steps: list[Any], cuts: list[int]
) -> None:
    logs = {TENANT: Log(TENANT), OTHER: Log(OTHER)}
    for is_other, *step in steps:
        logs[OTHER if is_other else TENANT].happen(*step)
    whole = [recorded for log in logs.values() for recorded in log.events]
    batches, rest = [], list(whole)
    for cut in cuts:
        batches.append(rest[:cut])
        rest = rest[cut:]
    live = tables.run(tables.fed(*batches, rest))
    assert live == tables.run(tables.fed(whole))
    assert [told_of(row) for row in live["patient"]] == [
        expected(log, its_id)
        for log in (logs[TENANT], logs[OTHER])
        for its_id in sorted(log.patients)
    ]


def told_of(row: TupleRow) -> tuple[Any, ...]:
    """Return what is told of a patient, the identifiers of those merged into it added up."""
    *rest, identifiers, absorbed, next_of_kin, telecom, deceased_at, merged_at, erased_at = row
    assert erased_at is None
    in_all = identifiers + sum(absorbed.values())
    return (*rest, in_all, next_of_kin, telecom, deceased_at, merged_at is not None)


def expected(log: Log, its_id: UUID) -> tuple[Any, ...]:
    """Return the same from the state that the patient's stream folds into."""
    state, first = log.patients[its_id], log.registered[its_id]
    born = state.birth_date and datetime.fromisoformat((state.birth_date + "-01-01")[:10]).date()
    pushed = "clientMutationId" in first.meta
    assert isinstance(first.event, events.PatientRegistered)
    return (
        log.tenant,
        its_id,
        first.recorded_at,
        first.recorded_at - timedelta(hours=1) if pushed else None,
        first.event.facility,
        state.facility,
        state.gender,
        state.birth_date,
        born,
        state.birth_date_estimated,
        len(state.identifiers) + sum(len(each.identifiers) for each in state.absorbed.values()),
        len(state.next_of_kin),
        len(state.telecom),
        state.deceased and state.deceased.deceased_at,
        state.merged_into is not None,
    )


def test_a_device_whose_clock_is_ahead_captured_it_when_it_arrived(tables: Tables) -> None:
    log = Log(TENANT)
    log.happen(0, 0, 0, is_pushed=True)
    (recorded,) = log.events
    ahead = {"actor": "a", "operation": "x"} | {
        "clientMutationId": str(captured(NOW + timedelta(days=1)))
    }
    from_tomorrow = replace(recorded, metadata=orjson.dumps(ahead))
    (row,) = tables.run(tables.fed([from_tomorrow]))["mutation"]
    assert row[-2:] == (NOW, NOW)
