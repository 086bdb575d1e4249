"""The library's own tests on our log, and a follower that knows nothing but the library."""

import asyncio
from collections.abc import Iterator
from threading import Timer
from uuid import UUID, uuid4

import orjson
import pytest
from eventsourcing import persistence
from eventsourcing.application import LocalNotificationLog
from eventsourcing.system import NotificationLogReader
from eventsourcing.tests import persistence as library
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool
from tests.eventstore.given import (
    META,
    TENANT,
    next_of_kin,
    open_store,
    registered,
    request,
    stored,
)

from registration.domain.events import Event, NextOfKinAdded, PatientErased, PatientRegistered
from registration.eventstore import recorder
from registration.eventstore.mapper import EventMapper, StreamEvent
from registration.eventstore.recorder import LogRecorder, StreamRecorder
from registration.eventstore.records import AppendRequest, Stored
from registration.eventstore.sealing import KEYRING, Place
from registration.eventstore.verify import verify_log
from registration.sealer import new_event


@pytest.fixture(scope="module")
def pool(module_database_url: str) -> Iterator[ConnectionPool[Connection[TupleRow]]]:
    with recorder.pool(module_database_url, size=12) as connections:
        yield connections


class WithDatabase:
    pool: ConnectionPool[Connection[TupleRow]]

    @pytest.fixture(autouse=True)
    def _database(self, pool: ConnectionPool[Connection[TupleRow]]) -> None:
        self.pool = pool

    def create_recorder(self) -> LogRecorder:
        return LogRecorder(self.pool, f"tenant-{uuid4()}")


class TestAggregateRecorder(WithDatabase, library.AggregateRecorderTestCase):
    def create_recorder(self) -> StreamRecorder:  # type: ignore[override]
        return StreamRecorder(self.pool, f"tenant-{uuid4()}")


class TestApplicationRecorder(WithDatabase, library.ApplicationRecorderTestCase[LogRecorder]):
    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestNonInterleaving(WithDatabase, library.NonInterleavingNotificationIDsBaseCase):
    pass


def test_a_subscription_waits_and_is_stopped_from_outside(
    pool: ConnectionPool[Connection[TupleRow]],
) -> None:
    log = LogRecorder(pool, f"tenant-{uuid4()}")
    with log.subscribe(topics=["wanted"]) as subscription:
        Timer(0.1, log.insert_events, [[_event("other"), _event("wanted")]]).start()
        assert next(subscription).id == 2
        Timer(0.1, subscription.stop).start()
        assert list(subscription) == []


def _event(topic: str) -> persistence.StoredEvent:
    return persistence.StoredEvent(uuid4(), 1, topic, b"{}")


def test_inserts_keep_the_chain_and_their_metadata(module_database_url: str) -> None:
    with recorder.pool(module_database_url) as connections:
        log = LogRecorder(connections, "library")
        stream = uuid4()
        event = EventMapper().to_stored_event(StreamEvent(stream, 1, registered()))
        assert log.insert_events([event], metadata={"actor": "importer"}) == [1]
        with pytest.raises(TypeError, match="tracking"):
            log.insert_events([event], tracking=1)
        with pytest.raises(persistence.IntegrityError, match=r"^UniqueViolation$"):
            log.insert_events([event])
        assert log.max_notification_id() == 1

    async def scenario() -> None:
        async with open_store(module_database_url) as store:
            [found] = await store.read_log("library", 0, 10)
            assert orjson.loads(found.metadata) == {"actor": "importer"}
            assert found.event == registered()
            assert isinstance(
                await stored(store, next_of_kin(), stream=stream, version=1, tenant="library"),
                object,
            )

    asyncio.run(scenario())
    assert verify_log(module_database_url, "library").ok


def test_a_follower_of_the_library_reads_what_was_sealed(database_url: str) -> None:
    """Given a patient whose events are sealed, when a follower reads before and after the erasure,
    then it is told all, and then what an event cannot be without."""
    ada = UUID(int=1)
    mapper = EventMapper()

    def read(log: LogRecorder) -> list[Event]:
        found = [mapper.to_domain_event(each) for each in log.select_notifications(1, 10)]
        assert list(map(mapper.to_domain_event, log.select_events(ada))) == found
        return [each.event for each in found]

    with recorder.pool(database_url) as connections:
        log = LogRecorder(connections, TENANT)
        asyncio.run(_stored_sealed(database_url, ada, registered(), next_of_kin()))
        assert read(log) == [registered(), next_of_kin()]

        erased = PatientErased(erasure_id=UUID(int=9))
        log.insert_events([mapper.to_stored_event(StreamEvent(ada, 3, erased))])
        with connections.connection() as connection:
            connection.execute("DELETE FROM personal_key")
        blank, kin, last = read(log)

    assert blank == PatientRegistered(names=(), gender="unknown")
    assert isinstance(kin, NextOfKinAdded)
    assert (kin.next_of_kin.name, last) == ("-", erased)


async def _stored_sealed(url: str, patient_id: UUID, *events: Event) -> None:
    """Append a patient's first events, sealed as the service seals them."""
    key = KEYRING.new(TENANT, patient_id)
    new = [
        new_event(
            Place(TENANT, patient_id, version, event.TOPIC),
            event,
            META,
            (patient_id,),
            {patient_id: key},
        )
        for version, event in enumerate(events, 1)
    ]
    async with open_store(url) as store:
        verdict = await store.append(
            TENANT, AppendRequest(patient_id, len(new), 201, new, new_key=key)
        )
    assert isinstance(verdict, Stored)


def test_a_follower_of_the_library_reads_domain_events(database_url: str) -> None:
    stream = UUID(int=1)

    async def scenario() -> None:
        async with open_store(database_url) as store:
            await stored(store, registered(), next_of_kin(), stream=stream)
            await stored(store, registered("Elsewhere"), tenant="clinic-b")
            await store.append(TENANT, request(stream=stream, key=uuid4(), body=META))
            await stored(store, next_of_kin("Ngozi"), stream=stream, version=2)

    asyncio.run(scenario())
    mapper = EventMapper()
    expected = [
        StreamEvent(stream, 1, registered()),
        StreamEvent(stream, 2, next_of_kin()),
        StreamEvent(stream, 3, next_of_kin("Ngozi")),
    ]
    with recorder.pool(database_url) as connections:
        log = LogRecorder(connections, TENANT)
        reader = NotificationLogReader(LocalNotificationLog(log, section_size=2))
        notifications = list(reader.read(start=1))
        assert [n.id for n in notifications] == [1, 2, 3]
        assert list(map(mapper.to_domain_event, notifications)) == expected
        with log.subscribe(gt=1) as subscription:
            followed = [mapper.to_domain_event(next(subscription)) for _ in range(2)]
        assert followed == expected[1:]
        assert list(map(mapper.to_domain_event, log.select_events(stream))) == expected
