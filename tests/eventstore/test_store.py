"""The store's verdicts, one by one, on a real PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from tests.eventstore.given import (
    META,
    TENANT,
    TTL,
    fill,
    next_of_kin,
    open_store,
    registered,
    request,
    stored,
)

from registration.eventstore.records import (
    AppendRequest,
    IdentifierConflict,
    KeyReused,
    Outcome,
    Stored,
    Verdict,
    VersionConflict,
)
from registration.eventstore.store import (
    FORGOTTEN_IN_TIME,
    MAX_BATCH,
    EventStore,
    Lane,
    LoadRequest,
    StoreOverloadedError,
)
from registration.eventstore.verify import verify_log

Scenario = Callable[[EventStore], Awaitable[None]]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MRN = ("urn:mrn", "4711")
BODY = b'{"code": "IDENTIFIER_CONFLICT"}'


class Clock:
    """A clock that stands until it is moved."""

    now = NOON

    def __call__(self) -> datetime:
        return self.now


def run(url: str, scenario: Scenario, **settings: Any) -> None:
    """Run a scenario on an open store, and insist that the log holds afterwards."""

    async def main() -> None:
        async with open_store(url, **settings) as store:
            await scenario(store)

    asyncio.run(main())
    assert verify_log(url).ok


async def log(store: EventStore, tenant: str = TENANT) -> list[tuple[int, UUID, int]]:
    return [(e.position, e.stream_id, e.version) for e in await store.read_log(tenant, 0, 1000)]


def test_what_is_stored_is_what_is_read(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        stream = uuid4()
        before = datetime.now(UTC)
        first = await stored(store, registered(), next_of_kin(), stream=stream)
        second = await stored(store, next_of_kin("Ngozi"), stream=stream, version=2)
        assert (first.position, second.position) == (2, 3)
        assert before <= first.recorded_at < second.recorded_at <= datetime.now(UTC)

        events = await store.read_log(TENANT, 0, 10)
        assert [e.event for e in events] == [registered(), next_of_kin(), next_of_kin("Ngozi")]
        assert [(e.position, e.stream_id, e.version) for e in events] == [
            (1, stream, 1),
            (2, stream, 2),
            (3, stream, 3),
        ]
        assert events[0].metadata == META
        assert events[0].meta == {"actor": "desk-1"}
        assert events[0].recorded_at < events[1].recorded_at == first.recorded_at
        assert await store.read_log(TENANT, 1, 1) == events[1:2]
        assert (await store.load(LoadRequest(TENANT, stream))).events == events
        between = await store.load(LoadRequest(TENANT, stream, after=1, until=2))
        assert between.events == events[1:2]
        assert (await store.load(LoadRequest(TENANT, uuid4()))).events == []
        assert await store.head(TENANT) == 3

    run(database_url, scenario)


def test_a_key_gives_its_first_outcome_again(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        key, fingerprint = uuid4(), uuid4()
        first = request(registered(), key=key, fingerprint=fingerprint)
        done = await store.append(TENANT, first)
        assert isinstance(done, Stored)
        expected = Outcome(None, 201, first.stream_id, 1, 1, None, done.recorded_at, late=False)
        # the retry of a create is another stream: only the key ties the two together
        retry = request(registered(), key=key, fingerprint=fingerprint)
        assert await store.append(TENANT, retry) == expected
        other = request(registered("Other"), key=key, fingerprint=uuid4())
        assert await store.append(TENANT, other) == KeyReused()
        assert len(await log(store)) == 1

        loaded = await store.load(LoadRequest(TENANT, None, key=key))
        assert loaded.outcome == Outcome(
            fingerprint, 201, first.stream_id, 1, 1, None, done.recorded_at, late=False
        )
        assert (await store.load(LoadRequest(TENANT, None, key=uuid4()))).outcome is None

    run(database_url, scenario)


def test_a_stale_version_is_refused(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        stream = uuid4()
        await stored(store, registered(), next_of_kin(), stream=stream)
        for version in (0, 1, 3):
            stale = request(next_of_kin(), stream=stream, version=version, key=uuid4())
            assert await store.append(TENANT, stale) == VersionConflict()
        # a version that is not there yet, on a stream that is not there at all
        assert await store.append(TENANT, request(next_of_kin(), version=1)) == VersionConflict()
        # one stream of two is stale: neither moves
        good = request(registered())
        bad = request(next_of_kin(), stream=stream, version=1)
        both = AppendRequest(uuid4(), 1, 200, [*good.events, *bad.events])
        assert await store.append(TENANT, both) == VersionConflict()
        assert await log(store) == [(1, stream, 1), (2, stream, 2)]
        # nothing of a refused request stays: its key is free
        assert await outcomes(database_url) == []

    run(database_url, scenario)


def test_versions_of_one_request_follow_each_other(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        good = request(registered(), next_of_kin())
        gap = [good.events[0], good.events[1]._replace(version=3)]
        with pytest.raises(psycopg.DataError):
            await store.append(TENANT, AppendRequest(good.stream_id, 3, 201, gap))
        assert await log(store) == []

    run(database_url, scenario)


async def outcomes(url: str) -> list[Any]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute("SELECT key FROM registration.outcome")
        return [key for (key,) in await cursor.fetchall()]


def test_an_identifier_is_held_by_one_and_free_when_given_back(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        holder, other = uuid4(), uuid4()
        await stored(store, registered(), stream=holder, take=[MRN])
        assert await store.append(
            TENANT, request(registered(), stream=other, take=[("urn:x", "1"), MRN], key=uuid4())
        ) == IdentifierConflict(holder)
        assert await outcomes(database_url) == []
        # the identifier that was free stays free; case and system make another identifier
        await stored(store, registered(), stream=other, take=[("urn:x", "1"), ("urn:MRN", "4711")])
        # giving back what another holds does nothing
        await stored(store, next_of_kin(), stream=other, version=1, give=[MRN])
        assert await store.append(TENANT, request(registered(), take=[MRN])) == IdentifierConflict(
            holder
        )
        await stored(store, next_of_kin(), stream=holder, version=1, give=[MRN])
        await stored(store, next_of_kin(), stream=other, version=2, take=[MRN])
        assert await store.append(TENANT, request(registered(), take=[MRN])) == IdentifierConflict(
            other
        )

    run(database_url, scenario)


def test_two_desks_one_identifier_one_wins(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        async with open_store(database_url) as second:
            for n in range(20):
                mrn = ("urn:mrn", str(n))
                requests = [request(registered(), take=[mrn]) for _ in range(8)]
                verdicts = await asyncio.gather(
                    *((store, second)[i % 2].append(TENANT, r) for i, r in enumerate(requests))
                )
                [winner] = [
                    r.stream_id
                    for r, v in zip(requests, verdicts, strict=True)
                    if isinstance(v, Stored)
                ]
                assert verdicts.count(IdentifierConflict(winner)) == 7

    run(database_url, scenario)


def test_one_request_eight_times_at_once_is_one(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        async with open_store(database_url) as second:
            for n in range(1, 21):
                key = uuid4()
                verdicts = await asyncio.gather(
                    *(
                        (store, second)[i % 2].append(TENANT, request(registered(), key=key))
                        for i in range(8)
                    )
                )
                [first] = [v for v in verdicts if isinstance(v, Stored)]
                replays = [v for v in verdicts if isinstance(v, Outcome)]
                assert [v.position for v in replays] == [first.position] * 7
                assert await store.head(TENANT) == n

    run(database_url, scenario)


def test_a_refusal_is_kept_until_its_time_has_passed(database_url: str) -> None:
    clock = Clock()

    async def scenario(store: EventStore) -> None:
        key = uuid4()
        stream = uuid4()
        refusal = request(stream=stream, key=key, body=BODY, status=FORGOTTEN_IN_TIME)
        assert await store.append(TENANT, refusal) == Stored(0, NOON)
        assert await store.head(TENANT) == 0
        again = Outcome(None, FORGOTTEN_IN_TIME, stream, 0, 0, BODY, NOON, late=False)
        assert await store.append(TENANT, request(registered(), key=key)) == again
        clock.now = NOON + TTL - timedelta(seconds=1)
        assert await store.append(TENANT, request(registered(), key=key)) == again
        assert (await store.load(LoadRequest(TENANT, None, key=key))).outcome == Outcome(
            UUID(int=1), FORGOTTEN_IN_TIME, stream, 0, 0, BODY, NOON, late=False
        )

        clock.now = NOON + TTL
        assert (await store.load(LoadRequest(TENANT, None, key=key))).outcome is None
        await stored(store, registered(), key=key)
        assert (await log(store))[0][0] == 1

    run(database_url, scenario, clock=clock)


def test_what_was_applied_is_never_applied_again(database_url: str) -> None:
    clock = Clock()

    async def scenario(store: EventStore) -> None:
        key, stream = uuid4(), uuid4()
        await stored(store, registered(), key=key, stream=stream)
        clock.now = NOON + 1000 * TTL
        assert await store.forget_refusals() == 0
        late = Outcome(None, 201, stream, 1, 1, None, NOON, late=True)
        assert await store.append(TENANT, request(registered(), key=key)) == late
        loaded = await store.load(LoadRequest(TENANT, stream, key=key))
        assert loaded.outcome is not None
        assert loaded.outcome.late
        assert await store.head(TENANT) == 1

    run(database_url, scenario, clock=clock)


def test_old_refusals_are_forgotten(database_url: str) -> None:
    clock = Clock()

    async def scenario(store: EventStore) -> None:
        await store.append(TENANT, request(key=uuid4(), body=BODY, status=FORGOTTEN_IN_TIME))
        await stored(store, registered(), key=uuid4())
        clock.now = NOON + TTL / 2
        kept = uuid4()
        await store.append(TENANT, request(key=kept, body=BODY, status=FORGOTTEN_IN_TIME))
        clock.now = NOON + TTL
        assert await store.forget_refusals() == 1
        assert len(await outcomes(database_url)) == 2
        assert kept in await outcomes(database_url)

    run(database_url, scenario, clock=clock)


def test_that_a_queued_write_was_refused_is_kept_for_good_and_what_it_held_is_not(
    database_url: str,
) -> None:
    clock = Clock()

    async def scenario(store: EventStore) -> None:
        key = uuid4()
        body = b'{"code": "IDENTIFIER_CONFLICT", "detail": "Ada", "extra": {"patientId": "7"}}'
        await store.append(TENANT, request(key=key, body=body, status=1))
        clock.now = NOON + 1000 * TTL

        assert [await store.forget_refusals() for _ in range(2)] == [1, 0]
        found = (await store.load(LoadRequest(TENANT, None, key=key))).outcome
        assert found is not None
        assert found.body is not None
        assert orjson.loads(found.body) == {
            "code": "IDENTIFIER_CONFLICT",
            "detail": "It was refused before; what else was said is forgotten.",
            "extra": {},
        }
        assert isinstance(await store.append(TENANT, request(registered(), key=key)), Outcome)
        assert await store.head(TENANT) == 0

    run(database_url, scenario, clock=clock)


def test_time_in_the_log_never_goes_back(database_url: str) -> None:
    clock = Clock()

    async def scenario(store: EventStore) -> None:
        await stored(store, registered())
        clock.now = NOON - timedelta(hours=1)
        await stored(store, registered(), next_of_kin())
        times = [e.recorded_at for e in await store.read_log(TENANT, 0, 10)]
        assert times == [NOON + timedelta(microseconds=n) for n in range(3)]

    run(database_url, scenario, clock=clock)


def test_each_request_of_a_call_has_its_own_outcome(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        key, holder, fresh = uuid4(), uuid4(), uuid4()
        await stored(store, registered(), stream=holder, key=key, take=[MRN])
        requests = [
            request(registered(), next_of_kin(), stream=fresh, take=[("urn:mrn", "1")]),
            request(registered(), key=key),
            request(registered(), key=uuid4(), take=[MRN, ("urn:mrn", "2")]),
            request(next_of_kin(), stream=uuid4(), version=4),
            request(key=uuid4(), body=BODY, status=FORGOTTEN_IN_TIME),
            request(next_of_kin(), stream=holder, version=1, give=[MRN]),
            request(registered(), key=key, fingerprint=uuid4()),
        ]
        verdicts = await store._append(TENANT, requests)
        assert list(map(type, verdicts)) == [
            Stored,
            Outcome,
            IdentifierConflict,
            VersionConflict,
            Stored,
            Stored,
            KeyReused,
        ]
        assert [v.position for v in verdicts if isinstance(v, Stored)] == [3, 3, 4]
        assert await log(store) == [(1, holder, 1), (2, fresh, 1), (3, fresh, 2), (4, holder, 2)]
        await stored(store, registered(), take=[MRN, ("urn:mrn", "2")])

    run(database_url, scenario)


def test_a_rollback_gives_its_positions_back(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        await stored(store, registered())
        twice = [("urn:mrn", "1"), ("urn:mrn", "1")]
        with pytest.raises(psycopg.IntegrityError):
            await store.append(TENANT, request(registered(), take=twice))
        assert (await stored(store, registered())).position == 2
        assert [position for position, _, _ in await log(store)] == [1, 2]

    run(database_url, scenario)


def test_tenants_do_not_meet(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        key, stream = uuid4(), uuid4()
        for tenant in (TENANT, "clinic-b"):
            done = await stored(
                store, registered(tenant), tenant=tenant, key=key, stream=stream, take=[MRN]
            )
            assert done.position == 1
        for tenant in (TENANT, "clinic-b"):
            [event] = await store.read_log(tenant, 0, 10)
            assert event.event == registered(tenant)
            loaded = await store.load(LoadRequest(tenant, stream, key=key))
            assert loaded.events == [event]
        assert (await store.load(LoadRequest("clinic-c", stream, key=key))).outcome is None
        assert (await store.load(LoadRequest("clinic-c", stream))).events == []
        assert await store.head("clinic-c") == 0

    run(database_url, scenario)


class Calls:
    """Counts what the store sends to the database in one call."""

    def __init__(self, store: EventStore) -> None:
        self.batches: list[Sequence[AppendRequest]] = []
        self._call = store._append
        store._append = self  # type: ignore[method-assign]

    async def __call__(self, tenant: str, requests: Sequence[AppendRequest]) -> Sequence[Verdict]:
        self.batches.append(requests)
        return await self._call(tenant, requests)

    @property
    def sizes(self) -> list[int]:
        return list(map(len, self.batches))


def test_what_waits_shares_a_call(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        calls = Calls(store)
        verdicts = await asyncio.gather(
            *(store.append(TENANT, request(registered())) for _ in range(MAX_BATCH + 100))
        )
        # no timer: the first goes at once with what was queued in the same turn of the loop
        assert calls.sizes == [MAX_BATCH, 100]
        positions = [v.position for v in verdicts if isinstance(v, Stored)]
        assert positions == list(range(1, MAX_BATCH + 101))

    run(database_url, scenario)


@pytest.mark.parametrize("shared", ["key", "stream", "claim"])
def test_what_excludes_each_other_shares_no_call(database_url: str, shared: str) -> None:
    async def scenario(store: EventStore) -> None:
        calls = Calls(store)
        choices: dict[str, dict[str, Any]] = {
            "key": {"key": uuid4()},
            "stream": {"stream": uuid4()},
            "claim": {"take": [MRN]},
        }
        common = choices[shared]
        requests = [request(registered(), **(common if n % 2 else {})) for n in range(10)]
        verdicts = await asyncio.gather(*(store.append(TENANT, r) for r in requests))
        assert calls.sizes == [6, 1, 1, 1, 1]
        assert sum(isinstance(v, Stored) for v in verdicts) == 6
        # in the order in which they came
        contended = [r for batch in calls.batches for r in batch if r in requests[1::2]]
        assert contended == requests[1::2]
        assert isinstance(verdicts[1], Stored)

    run(database_url, scenario)


def test_a_request_that_nobody_waits_for_any_more_is_not_sent(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        first = asyncio.create_task(store.append(TENANT, request(registered())))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        given_up = asyncio.create_task(store.append(TENANT, request(registered())))
        await asyncio.sleep(0)
        given_up.cancel()
        await first
        await stored(store, registered())
        assert await store.head(TENANT) == 2

    run(database_url, scenario)


def test_more_than_the_queue_takes_is_refused_at_once(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        results = await asyncio.gather(
            *(store.append(TENANT, request(registered())) for _ in range(25)),
            return_exceptions=True,
        )
        assert sum(isinstance(r, Stored) for r in results) == 10
        assert sum(isinstance(r, StoreOverloadedError) for r in results) == 15
        assert store.queued == 0
        await stored(store, registered())
        assert await store.head(TENANT) == 11

    run(database_url, scenario, queue_limit=10)


@pytest.mark.parametrize("where", ["claim", "topic"])
def test_what_the_database_cannot_take_does_not_hurt_its_neighbours(
    database_url: str, where: str
) -> None:
    async def scenario(store: EventStore) -> None:
        bad = request(registered(), take=[("urn:mrn", "nul\0byte")] if where == "claim" else ())
        if where == "topic":
            event = bad.events[0]._replace(topic="lone \ud800 surrogate")
            bad = AppendRequest(bad.stream_id, 1, 201, [event])
        requests = [*(request(registered()) for _ in range(5)), bad, request(registered())]
        results = await asyncio.gather(
            *(store.append(TENANT, r) for r in requests), return_exceptions=True
        )
        assert [isinstance(r, Stored) for r in results] == [*[True] * 5, False, True]
        assert isinstance(results[5], psycopg.DataError | UnicodeEncodeError)
        assert await store.head(TENANT) == 6

    run(database_url, scenario)


def test_loads_share_a_call_across_tenants(database_url: str) -> None:
    async def scenario(store: EventStore) -> None:
        await fill(store, 300)
        await fill(store, 50, tenant="clinic-b")
        events = [*await store.read_log(TENANT, 0, 300), *await store.read_log("clinic-b", 0, 50)]
        loaded = await asyncio.gather(
            *(store.load(LoadRequest(e.tenant, e.stream_id)) for e in events)
        )
        assert [stream.events for stream in loaded] == [[event] for event in events]

    run(database_url, scenario)


def test_an_idle_lane_holds_no_task() -> None:
    async def scenario() -> None:
        async def call(requests: Sequence[int]) -> Sequence[int]:
            await asyncio.sleep(0)
            return [-n for n in requests]

        lane: Lane[int, int] = Lane(call)
        assert await asyncio.gather(*(lane.submit(n) for n in range(1000))) == [
            -n for n in range(1000)
        ]
        await lane.idle()
        assert (len(lane), lane._running) == (0, None)

    asyncio.run(scenario())
