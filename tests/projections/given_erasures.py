"""A log as it is stored, sealed to the people whom it is about, some of whom are erased."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from tests.eventstore.given import TENANT
from tests.projections.clinic import TENANTS, Clinics, Step, patient_id

from registration.domain.events import (
    ConsentGranted,
    PatientAbsorbed,
    PatientErased,
    PortraitSet,
)
from registration.domain.personal import NOT_ABOUT_PEOPLE, public_members
from registration.domain.resources import Evidence
from registration.domain.timeline import patients_of
from registration.eventstore.records import RecordedEvent
from registration.eventstore.sealing import KEYRING, Place, parted, subjects_of
from registration.projections import matching, merges, past, portraits, search
from registration.projections.registry import ReadModel

MODELS: tuple[ReadModel, ...] = (search, past, merges, portraits, matching)
ERASURE = UUID(int=77)


@dataclass
class Life:
    """What happened at a clinic, also to those who were erased later."""

    clinics: Clinics = field(default_factory=Clinics)
    gone: set[UUID] = field(default_factory=set)

    def take(self, steps: Iterable[Step]) -> "Life":
        """Record steps; nothing happens any more to who was erased."""
        for step in steps:
            if self.gone.isdisjoint(self._whom(step)):
                its_id, log = patient_id(step.one), self.clinics.log
                before = len(log)
                self.clinics.take(step)
                if step.what == "register" and len(log) > before:
                    self._pose(log[-1].tenant, its_id)
        return self

    def erase(self, number: int) -> "Life":
        """Erase a person of the first clinic, with all records of theirs."""
        its_id: UUID | None = patient_id(number)
        if (TENANT, its_id) not in self.clinics.streams or its_id in self.gone:
            return self
        while its_id is not None:
            top, state = its_id, self.clinics.state(TENANT, its_id)
            its_id = state.merged_into
        for each in (top, *sorted(state.absorbed)):
            self.clinics.record(TENANT, each, PatientErased(erasure_id=ERASURE))
            self.gone.add(each)
        held = self.clinics.merges.get(TENANT, [])
        held[:] = [each for each in held if self.gone.isdisjoint(self._parties(each))]
        return self

    def sealed(self) -> "Stored":
        """Return the log as it is stored."""
        keys: dict[tuple[str, UUID], bytes] = {}
        return Stored([self._sealed(each, keys) for each in self.clinics.log], keys, self.gone)

    def _whom(self, step: Step) -> set[UUID]:
        if step.clinic or step.what == "unmerge":
            return set()
        others = {patient_id(step.other)} if step.what in ("merge", "dismiss") else set()
        return {patient_id(step.one)} | others

    def _parties(self, merge_id: UUID) -> tuple[UUID, ...]:
        return patients_of(merge_id, self.clinics.streams[TENANT, merge_id][0].event)

    def _pose(self, tenant: str, its_id: UUID) -> None:
        spoken = ConsentGranted(flag="portrait", evidence=Evidence(kind="signature"))
        taken = PortraitSet(
            portrait_id=its_id, content_hash="ab", media_type="image/png", width=3, height=4, size=9
        )  # fmt: skip
        self.clinics.record(tenant, its_id, spoken)
        self.clinics.record(tenant, its_id, taken)

    def _sealed(
        self, recorded: RecordedEvent, keys: dict[tuple[str, UUID], bytes]
    ) -> RecordedEvent:
        event, its_id, tenant = recorded.event, recorded.stream_id, recorded.tenant
        if type(event) in NOT_ABOUT_PEOPLE:
            return recorded
        if isinstance(event, PatientAbsorbed):
            people: tuple[UUID, ...] = (event.patient_id,)
        else:
            people = patients_of(its_id, self.clinics.streams[tenant, its_id][0].event)
        for person in people:
            if (tenant, person) not in keys:
                keys[tenant, person] = KEYRING.new(tenant, person)
        key = b"".join(keys[tenant, person] for person in people)
        place = Place(tenant, its_id, recorded.version, recorded.topic)
        data = KEYRING.seal(place, *parted(recorded.data, public_members(event)), people, key)
        return replace(recorded, data=data, key=key)


@dataclass(frozen=True)
class Stored:
    """A log, and the keys that there were."""

    log: Sequence[RecordedEvent]
    keys: dict[tuple[str, UUID], bytes]
    gone: set[UUID]

    def read(self, start: int, end: int, *, whole: bool) -> list[RecordedEvent]:
        """Return a part of the log as it is read before the erasure, or after it."""
        return [each if whole else self._blank(each) for each in self.log[start:end]]

    def _blank(self, recorded: RecordedEvent) -> RecordedEvent:
        erased = recorded.tenant == TENANT and self.gone.intersection(subjects_of(recorded.data))
        return replace(recorded, key=None) if erased else recorded


@dataclass
class Tables:
    """The read models in a database."""

    connection: AsyncConnection[TupleRow]

    async def make(self) -> None:
        """Make the empty tables."""
        for model in MODELS:
            await self.connection.execute(f"CREATE SCHEMA {model.NAME}")
            await self.connection.execute(f"SET search_path = {model.NAME}; {model.DDL}")
        await self.connection.execute("RESET search_path")

    async def take(
        self, stored: Stored, cuts: Sequence[int] = (), read_whole: int = 0
    ) -> dict[str, list[str]]:
        """Take a log into empty tables, in batches; returns all rows.

        The first ``read_whole`` batches are read before the keys go, and the last of these is taken
        in after that.
        """
        await self._fill(stored)
        if read_whole == 0:
            await self._shred(stored)
        bounds = [0, *sorted(min(cut, len(stored.log)) for cut in cuts), len(stored.log)]
        for number, (start, end) in enumerate(pairwise(bounds), 1):
            batch = stored.read(start, end, whole=number <= read_whole)
            if number == read_whole:
                await self._shred(stored)
            for model in MODELS:
                await self._apply(model, batch)
        await self._shred(stored)
        return await self.rows()

    async def rows(self) -> dict[str, list[str]]:
        """Return every row of every table, as text."""
        found = {}
        for table in await self._names():
            cursor = await self.connection.execute(f"SELECT t::text FROM {table} AS t ORDER BY 1")
            found[table] = [row[0] for row in await cursor.fetchall()]
        return found

    async def _apply(self, model: ReadModel, batch: Sequence[RecordedEvent]) -> None:
        async with self.connection.transaction():
            await self.connection.execute(f"SET LOCAL search_path = {model.NAME}, registration")
            for tenant in TENANTS:
                wanted = [
                    each
                    for each in batch
                    if each.tenant == tenant and isinstance(each.event, model.EVENTS)
                ]
                if wanted:
                    await model.apply(self.connection, wanted)

    async def _fill(self, stored: Stored) -> None:
        for table in (
            *await self._names(),
            "registration.event",
            "registration.personal_key",
        ):
            await self.connection.execute(f"TRUNCATE {table}")
        async with self.connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO registration.event (tenant, position, stream_id, version, topic, data,"
                " metadata, recorded_at, hash) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, '')",
                [
                    (e.tenant, e.position, e.stream_id, e.version, e.topic, e.data, e.metadata,
                     e.recorded_at)
                    for e in stored.log
                ],
            )  # fmt: skip
            await cursor.executemany(
                "INSERT INTO registration.personal_key VALUES (%s, %s, %s)",
                [(*whose, key) for whose, key in stored.keys.items()],
            )

    async def _shred(self, stored: Stored) -> None:
        await self.connection.execute(
            "DELETE FROM registration.personal_key WHERE tenant = %s AND id = ANY(%s)",
            (TENANT, list(stored.gone)),
        )

    async def _names(self) -> list[str]:
        cursor = await self.connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname = ANY(%s)"
            " ORDER BY 1",
            ([model.NAME for model in MODELS],),
        )
        return [row[0] for row in await cursor.fetchall()]
