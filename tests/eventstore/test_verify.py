"""Each kind of tampering is found, and the first broken link is named."""

import asyncio
from uuid import UUID

import psycopg
import pytest
from tests.eventstore.given import (
    TENANT,
    fill,
    next_of_kin,
    open_store,
    registered,
    request,
    stored,
)

from registration.eventstore import recorder
from registration.eventstore.mapper import EventMapper, StreamEvent
from registration.eventstore.verify import BrokenLink, VerifyReport, verify_log, verify_stretch

STREAM = UUID(int=3)
AT = f"WHERE tenant = '{TENANT}' AND position"


@pytest.fixture
def url(database_url: str) -> str:
    """Six events of one tenant, positions 3 to 5 in one stream; another tenant beside it."""

    async def scenario() -> None:
        async with open_store(database_url) as store:
            await fill(store, 2)
            await stored(store, registered(), next_of_kin(), next_of_kin("Ngozi"), stream=STREAM)
            await fill(store, 1)
            await fill(store, 4, tenant="other")
            # only a refusal: a head row without events
            await store.append(
                "refused", request(tenant="refused", key=UUID(int=9), body=b"{}", status=409)
            )

    asyncio.run(scenario())
    return database_url


def tamper(url: str, *statements: str) -> BrokenLink:
    with psycopg.connect(url, options="-c search_path=registration") as connection:
        for statement in statements:
            connection.execute(statement)
    report = verify_log(url)
    [broken] = report.broken
    assert not report.ok
    assert verify_log(url, "other").ok
    assert verify_log(url, TENANT).broken == (broken,)
    return broken


def test_a_whole_log_is_whole(url: str) -> None:
    told: list[tuple[int, int]] = []
    report = verify_log(url, None, lambda *step: told.append(step))
    assert report.ok
    assert report.events == 10
    assert told[-1] == (10, 10)
    assert [(log.tenant, log.events) for log in report.logs] == [
        (TENANT, 6),
        ("other", 4),
        ("refused", 0),
    ]
    assert verify_log(url, "nobody") == VerifyReport(())


@pytest.mark.parametrize(
    "change",
    [
        "data = data || ' '",
        "data = '{}'",
        'metadata = \'{"actor": "somebody else"}\'',
        "topic = 'patient.name-added'",
        "recorded_at = recorded_at + interval '1 microsecond'",
        "version = 9",
        "stream_id = gen_random_uuid()",
        "hash = sha256('')",
    ],
)
def test_an_edited_event(url: str, change: str) -> None:
    broken = tamper(url, f"UPDATE event SET {change} {AT} = 4")
    assert (broken.tenant, broken.position) == (TENANT, 4)
    assert broken.reason == "is not what its hash was made of"
    if "version" not in change and "stream_id" not in change:
        assert (broken.stream_id, broken.version) == (STREAM, 2)


def test_a_deleted_event(url: str) -> None:
    assert tamper(url, f"DELETE FROM event {AT} = 3") == BrokenLink(
        TENANT, 4, STREAM, 2, "follows on position 2: what was between them is gone"
    )


def test_a_deleted_event_whose_place_was_closed(url: str) -> None:
    broken = tamper(
        url,
        f"DELETE FROM event {AT} = 2",
        *(f"UPDATE event SET position = position - 1 {AT} = {n}" for n in range(3, 7)),
    )
    assert (broken.position, broken.stream_id) == (2, STREAM)


def test_two_swapped_events(url: str) -> None:
    broken = tamper(
        url,
        f"UPDATE event SET position = -2 {AT} = 2",
        f"UPDATE event SET position = 2 {AT} = 3",
        f"UPDATE event SET position = 3 {AT} = -2",
    )
    assert (broken.position, broken.stream_id, broken.version) == (2, STREAM, 1)


def test_a_cut_tail(url: str) -> None:
    assert tamper(url, f"DELETE FROM event {AT} > 5") == BrokenLink(
        TENANT, 6, None, None, "the log was cut off: its head says that it ends at position 6"
    )


def test_everything_gone(url: str) -> None:
    assert tamper(url, f"DELETE FROM event WHERE tenant = '{TENANT}'").position == 1


def test_a_head_moved_back(url: str) -> None:
    assert tamper(
        url,
        "UPDATE log_head h SET position = e.position, hash = e.hash, recorded_at = e.recorded_at"
        f" FROM event e WHERE h.tenant = e.tenant AND e.tenant = '{TENANT}' AND e.position = 5",
    ) == BrokenLink(TENANT, 6, None, None, "lies beyond the head of the log, which says position 5")


@pytest.mark.parametrize("change", ["hash = sha256('')", "recorded_at = now()"])
def test_a_head_that_is_not_the_last_event(url: str, change: str) -> None:
    broken = tamper(url, f"UPDATE log_head SET {change} WHERE tenant = '{TENANT}'")
    assert (broken.position, broken.reason) == (6, "the head row is not that of the last event")


def test_a_missing_head(url: str) -> None:
    broken = tamper(url, f"DELETE FROM log_head WHERE tenant = '{TENANT}'")
    assert (broken.position, broken.reason) == (6, "the log has no head row")


def test_a_stream_with_a_hole_in_a_chain_that_holds(url: str) -> None:
    """Somebody who writes past the service's own check."""
    with recorder.pool(url) as connections:
        recorder.LogRecorder(connections, TENANT).insert_events(
            [EventMapper().to_stored_event(StreamEvent(STREAM, 7, next_of_kin()))]
        )
    assert verify_log(url).broken == (
        BrokenLink(TENANT, 7, STREAM, 7, "its version does not follow the one before it"),
    )


@pytest.mark.parametrize(
    "column", ["stream_id", "version", "topic", "data", "metadata", "recorded_at", "hash"]
)
def test_a_column_that_is_empty(url: str, column: str) -> None:
    """Who owns the table may let it hold NULL: that is a broken link like another."""
    broken = tamper(
        url,
        f"ALTER TABLE event ALTER {column} DROP NOT NULL",
        f"UPDATE event SET {column} = NULL {AT} = 4",
    )
    assert (broken.position, broken.reason) == (4, f"has no {column} any more")
    stretch = verify_stretch(url, TENANT, 0, None)
    assert stretch.broken == broken
    assert stretch.position == 3


def test_an_empty_column_under_a_hash_that_would_be_right(url: str) -> None:
    broken = tamper(
        url,
        "ALTER TABLE event ALTER data DROP NOT NULL",
        f"UPDATE event SET data = NULL, hash = '' {AT} = 6",
    )
    assert broken.reason == "has no data any more"


@pytest.mark.parametrize("column", ["position", "hash", "recorded_at"])
def test_an_empty_column_of_the_head(url: str, column: str) -> None:
    broken = tamper(
        url,
        f"ALTER TABLE log_head ALTER {column} DROP NOT NULL",
        f"UPDATE log_head SET {column} = NULL WHERE tenant = '{TENANT}'",
    )
    assert (broken.position, broken.reason) == (6, "a column of the head row is empty")


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["ALTER TABLE event ENABLE ROW LEVEL SECURITY"], "event has row level security"),
        (["ALTER TABLE log_head ENABLE ROW LEVEL SECURITY"], "log_head has row level security"),
        (["CREATE RULE r AS ON INSERT TO event DO INSTEAD NOTHING"], "event has rules"),
        (
            [
                "ALTER TABLE event RENAME TO event_of_before",
                "CREATE VIEW event AS SELECT * FROM event_of_before",
            ],
            "event is no table",
        ),
    ],
)
def test_what_shows_some_other_rows_than_others(
    url: str, statements: list[str], reason: str
) -> None:
    with psycopg.connect(url, options="-c search_path=registration") as connection:
        for statement in statements:
            connection.execute(statement.encode())
    report = verify_log(url)
    assert not report.ok
    assert not report.broken
    assert reason in str(report.hidden)


def test_a_table_of_other_columns(url: str) -> None:
    with psycopg.connect(url, options="-c search_path=registration") as connection:
        connection.execute("DROP VIEW IF EXISTS readable_event CASCADE")
        connection.execute("ALTER TABLE event ALTER stream_id TYPE text")
    found = {broken.tenant: broken.reason for broken in verify_log(url).broken}
    assert found == dict.fromkeys((TENANT, "other"), "it cannot be read (ValueError)")
