"""The keys of people in the store: nothing is written about somebody without one."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.eventstore.given import META, TENANT, TTL, next_of_kin, open_store, registered, request
from tests.eventstore.samples import AT
from tests.service import new_id, place, problem, running, succeeded

from registration.domain.events import EncounterOpened, Event, PatientErased
from registration.eventstore import database
from registration.eventstore.grants import APP_ROLE, grant
from registration.eventstore.migrations import migrate
from registration.eventstore.records import AppendRequest, Stored, VersionConflict
from registration.eventstore.sealing import KEYRING, Place
from registration.eventstore.store import APPEND, EventStore, LoadRequest, append_arguments
from registration.eventstore.verify import BrokenLink, verify_log
from registration.sealer import new_event

ERASED = PatientErased(erasure_id=UUID(int=1))
WHOLE_SCHEMA = files("registration.eventstore").joinpath("schema")


class Person:
    """Somebody with a key, and what can be said of them."""

    def __init__(self) -> None:
        self.id = uuid4()
        self.key = KEYRING.new(TENANT, self.id)

    def says(
        self, event: Event, version: int, stream: UUID | None = None, **more: Any
    ) -> AppendRequest:
        """Return a request to append an event that is sealed to them."""
        stream = stream or self.id
        spot = Place(TENANT, stream, version, event.TOPIC)
        people = () if event is ERASED else (self.id,)
        made = new_event(spot, event, META, people, {self.id: self.key})
        return request(stream=stream)._replace(version=version, events=[made], **more)

    def registers(self) -> AppendRequest:
        return self.says(registered(), 1, new_key=self.key)

    def is_erased(self, version: int = 2) -> AppendRequest:
        return self.says(ERASED, version)

    def comes(self) -> AppendRequest:
        """Return a request about an encounter of theirs."""
        opened = EncounterOpened(at=AT, patient_id=self.id, encounter_class="AMB", status="planned")
        return self.says(opened, 1, uuid4())


def with_a_store(test: Callable[[EventStore], Awaitable[None]]) -> Callable[[str], None]:
    """Run a test with a store on a database of its own."""

    def run(database_url: str) -> None:
        async def steps() -> None:
            async with open_store(database_url) as store:
                await test(store)

        asyncio.run(steps())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def verdicts(store: EventStore, *requests: AppendRequest) -> list[type]:
    """Return what became of requests in one call."""
    return [type(verdict) for verdict in await store._append(TENANT, requests)]


@with_a_store
async def test_who_has_no_key_cannot_be_told_of(store: EventStore) -> None:
    ada = Person()
    assert await verdicts(store, ada.comes()) == [VersionConflict]
    assert await verdicts(store, ada.registers()) == [Stored]
    assert await verdicts(store, ada.comes()) == [Stored]
    assert await verdicts(store, ada.is_erased()) == [Stored]
    assert await verdicts(store, ada.comes()) == [VersionConflict]
    assert await store.keys(TENANT, [ada.id]) == {}


@with_a_store
async def test_who_is_erased_in_a_call_is_told_of_before_and_not_after(store: EventStore) -> None:
    ada = Person()
    call = [ada.registers(), ada.comes()]
    assert await verdicts(store, *call) == [Stored, VersionConflict]  # nobody knew her before
    call = [ada.comes(), ada.is_erased(), ada.comes()]
    assert await verdicts(store, *call) == [Stored, Stored, VersionConflict]
    log = await store.read_log(TENANT, 0, 10)
    assert [each.topic for each in log] == [
        "patient.registered",
        "encounter.opened",
        "patient.erased",
    ]
    assert [each.is_about_the_erased for each in log] == [True, True, False]


@with_a_store
async def test_what_was_not_appended_erases_nobody(store: EventStore) -> None:
    ada, obi = Person(), Person()
    assert await verdicts(store, ada.registers(), obi.registers()) == [Stored, Stored]
    assert await verdicts(store, ada.is_erased(version=3)) == [VersionConflict]
    assert await verdicts(store, obi.is_erased()) == [Stored]
    assert await store.keys(TENANT, [ada.id, obi.id]) == {ada.id: ada.key}
    (record,) = (await store.load(LoadRequest(TENANT, ada.id))).events
    assert record.event == registered()


@with_a_store
async def test_another_tenant_has_other_keys(store: EventStore) -> None:
    ada = Person()
    assert await verdicts(store, ada.registers()) == [Stored]
    assert await store.keys("clinic-b", [ada.id]) == {}
    assert isinstance(await store.append("clinic-b", ada.comes()), VersionConflict)


@pytest.fixture
def before(empty_database_url: str, tmp_path: Path) -> str:
    """A database from before events were sealed."""
    folder = tmp_path / "schema"
    folder.mkdir()
    for file in WHOLE_SCHEMA.iterdir():
        if file.name.endswith(".sql") and file.name < "0007":
            shutil.copy(str(file), folder)
    migrate(empty_database_url, folder)
    return empty_database_url


def appended_before(url: str, tenant: str, *requests: AppendRequest) -> None:
    """Append as the program of then did."""
    then = APPEND.replace(", n_key => %b::bytea[]", "")
    arguments = append_arguments(tenant, None, TTL, requests)[:-1]
    with psycopg.connect(url, autocommit=True, **database.parameters("before")) as connection:
        rows = connection.execute(then, arguments, binary=True).fetchall()
    assert [row[0] for row in rows] == ["stored"] * len(requests)


def test_who_was_registered_before_goes_on_as_before_and_cannot_be_erased(
    before: str, tmp_path: Path
) -> None:
    ada, obi = new_id(), new_id()
    tenant = "clinic-before"
    refusal = b'{"code":"NOT_FOUND","detail":"Gone.","extra":{}}'
    appended_before(
        before,
        tenant,
        request(registered(), stream=ada, tenant=tenant),
        request(registered("Obi"), stream=obi, tenant=tenant),
    )
    appended_before(before, tenant, request(next_of_kin(), stream=ada, version=1, tenant=tenant))
    kept = request(key=UUID(int=5), body=refusal, status=1, tenant=tenant)
    appended_before(before, tenant, kept)
    assert migrate(before)[0] == "0007_personal_keys.sql"
    grant(before, APP_ROLE)
    with psycopg.connect(before) as connection:
        rows = connection.execute("SELECT id, wrapped FROM registration.personal_key").fetchall()
        assert {row[0]: row[1] for row in rows} == {ada: b"", obi: b""}
    with running(before, tmp_path / "service") as service:
        desk = service.desk(tenant, role="admin", sub="admin-1")
        other = service.desk(tenant, role="admin", sub="admin-2")
        old = succeeded(desk.get(f"/v1/patients/{ada}"))
        assert (old["names"][0]["family"], len(old["nextOfKin"])) == ("Okoro", 1)
        desk.given_events(old, 1)
        said = {"patientId": str(ada), "basis": "gdpr-17-1-b", "reason": "asked for it"}
        erasure = succeeded(desk.post("/v1/erasures", said))
        answer = other.post(f"/v1/erasures/{erasure['id']}/approval", {})
        problem(answer, 409, "ERASURE_NOT_ALLOWED")
        assert len(succeeded(desk.get(f"/v1/patients/{ada}"))["nextOfKin"]) == 2
        new = desk.given_patient()
        merge = {
            "survivorId": new["id"],
            "retiredId": str(ada),
            "survivorVersion": 1,
            "retiredVersion": 3,
            "reason": "a Zebedeequux",
        }
        succeeded(desk.post("/v1/mpi/merges", merge))
        problem(desk.get(place({"id": str(new_id())})), 404, "NOT_FOUND")
    with psycopg.connect(before) as connection:
        stored = connection.execute(
            "SELECT topic, get_byte(data, 0) = 0 FROM registration.event ORDER BY position"
        ).fetchall()
        assert stored == [
            ("patient.registered", False),
            ("patient.registered", False),
            ("patient.next-of-kin-added", False),
            ("patient.next-of-kin-added", False),
            ("erasure.requested", False),
            ("patient.registered", True),
            ("mpi.merge-proposed", True),  # to the one of the two who has a key
        ]
    assert verify_log(before).ok


def test_a_key_that_is_gone_without_an_erasure_breaks_the_log(database_url: str) -> None:
    """Whoever may write to the database can delete a key: nobody was erased by that."""
    ada, obi = Person(), Person()

    async def lived() -> None:
        async with open_store(database_url) as store:
            assert await verdicts(store, ada.registers(), obi.registers()) == [Stored] * 2
            assert await verdicts(store, obi.is_erased()) == [Stored]

    asyncio.run(lived())
    assert verify_log(database_url).ok
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM registration.personal_key WHERE id = %s", (ada.id,))
    assert verify_log(database_url).broken == (
        BrokenLink(TENANT, 1, ada.id, 1, "the key to it is gone, and nobody was erased"),
    )


def test_a_key_of_somebody_else_opens_nothing_and_is_told(
    database_url: str, tmp_path: Path
) -> None:
    with running(database_url, tmp_path) as service:
        desk = service.desk()
        ada, obi = desk.given_patient(), desk.given_patient()
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "UPDATE registration.personal_key SET wrapped = other.wrapped"
                "  FROM registration.personal_key other"
                " WHERE personal_key.id = %s AND other.id = %s",
                (ada["id"], obi["id"]),
            )
        for answer in (
            desk.get(place(ada)),
            desk.get(f"{place(ada)}/history"),
            desk.post(f"{place(ada)}/next-of-kin", {"name": "Obi", "relationship": "brother"}),
        ):
            problem(answer, 409, "LOG_BROKEN")
        assert succeeded(desk.get(place(obi)))["id"] == obi["id"]
