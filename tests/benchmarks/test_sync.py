"""What the sync benchmark sends is what the service takes, and devices come back when told to."""

import asyncio
import gzip
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from urllib.parse import urlsplit
from uuid import UUID

import orjson
import pytest
from benchmarks.load import Plan, Report, generate
from benchmarks.sync_devices import Fleet, Sync, sync
from benchmarks.sync_peers import PEERS
from benchmarks.sync_workloads import (
    PULL,
    Follow,
    Send,
    creates,
    documents,
    filled,
    ids,
    pulled,
    push,
    visits,
)
from tests.service import Desk, running


@pytest.fixture
def desk(database_url, tmp_path) -> Iterator[Desk]:
    with running(database_url, tmp_path) as service:
        yield service.desk()


def address(desk: Desk) -> tuple[str, int]:
    found = urlsplit(desk.service.url)
    assert found.hostname is not None
    assert found.port is not None
    return found.hostname, found.port


def fleet(to: tuple[str, int], token: str, devices: int, batches: int, size: int) -> Fleet:
    return Fleet(*to, token, devices, 2, batches, size, seconds=20)


def carried_out(desk: Desk, workload: Send | Follow) -> Report[Send | Follow]:
    report = asyncio.run(generate(Plan(*address(desk), workload, 1, 0.5)))
    assert report.unexpected == 0, report.samples
    return report


def test_ids_ascend_and_nobody_elses_are_the_same():
    ours, others = list(islice(ids(), 5000)), list(islice(ids(), 5000))

    assert ours == sorted(ours)
    assert {UUID(one.decode()).version for one in ours} == {7}
    assert not set(ours) & set(others)


def test_a_visit_is_of_one_patient_and_built_on_its_registration():
    [text] = visits(documents(1))
    first, kin, consent, visit = orjson.loads(b"[%s]" % filled(text, ids()))

    assert {one["afterMutation"] for one in (kin, consent, visit)} == {first["clientMutationId"]}
    assert {one["aggregateId"] for one in (first, kin, consent)} == {visit["payload"]["patientId"]}


def test_the_service_takes_what_is_pushed_and_gives_it_back(desk):
    bodies = documents(20)
    carried_out(desk, push(desk.bearer, creates(bodies), 10))
    carried_out(desk, push(desk.bearer, creates(bodies), 1))
    pushed = carried_out(desk, push(desk.bearer, visits(bodies), 8, each=4))
    position = desk.register().headers["x-log-position"]

    assert pushed.workload.documents == 8 * pushed.statuses[200]
    for packed in (False, True):
        pages = Follow(
            f"Bearer {desk.bearer}", f"{PULL}&minPosition={position}", pulled, gzip=packed
        )
        assert carried_out(desk, pages).workload.documents > 100


def test_the_next_page_follows_until_there_is_none():
    pages = Follow("", "/first", lambda body: (2, "/second" if body == b"1" else None), gzip=True)
    head = b"\r\ncontent-encoding: gzip\r\n"

    assert pages.request(0).startswith(b"GET /first ")
    assert pages.answered(0, 200, head, gzip.compress(b"1"))
    assert pages.request(0).startswith(b"GET /second ")
    assert pages.answered(0, 200, head, gzip.compress(b"2"))
    assert pages.request(0).startswith(b"GET /first ")
    assert pages.documents == 4
    assert not pages.answered(0, 200, b"\r\n", b"not packed")


def test_what_is_to_be_sent_again_counts_as_nothing():
    work = Send(b"", [b"@0@"], 2, 201, b"ok", later=409)

    assert work.answered(0, 409, b"", b"")
    assert work.documents == 0
    assert work.answered(0, 201, b"", b"ok ok")
    assert work.documents == 2
    assert not work.answered(0, 201, b"", b"ok no")


def test_devices_push_all_and_find_it_again(desk):
    result = asyncio.run(sync(fleet(address(desk), desk.bearer, devices=3, batches=2, size=5)))

    assert (result.pushed, result.drained, result.wrong) == (30, 3, {})
    assert result.pulled >= 30


def test_a_device_that_is_sent_away_comes_back_with_what_is_left():
    result = asyncio.run(_with_one_that_is_busy())

    assert (result.pushed, result.drained, result.wrong) == (4, 1, {})
    assert result.waits == {"429": 1, "503": 1, "retry": 1}


async def _with_one_that_is_busy() -> Sync:
    """Let one device sync with a service that is busy, then takes all but one, then that one."""
    seen: list[str] = []
    asked = 0

    def told(request: bytes) -> tuple[int, object]:
        nonlocal asked
        asked += 1
        if asked in (1, 4):
            return (429 if asked == 1 else 503), {}
        if request.startswith(b"GET"):
            return 200, {"items": [{"id": one} for one in seen], "more": False}
        results = []
        for number, said in enumerate(orjson.loads(request.partition(b"\r\n\r\n")[2])["mutations"]):
            is_late = asked == 2 and number == 0
            its_id = said["clientMutationId"]
            results.append({"clientMutationId": its_id, "status": "applied", "retryAfter": 0})
            results[-1]["status"] = "retry" if is_late else "applied"
            if not is_late:
                seen.append(said["aggregateId"])
        return 200, {"results": results, "position": 7}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            while request := await reader.read(100_000):
                status, said = told(request)
                body = orjson.dumps(said)
                writer.write(
                    b"HTTP/1.1 %d X\r\nRetry-After: 0\r\nContent-Length: %d\r\n\r\n%s"
                    % (status, len(body), body)
                )

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        to = server.sockets[0].getsockname()
        result = await sync(fleet(to, "token", devices=1, batches=1, size=4))
        await asyncio.sleep(0.05)  # the connections that are closed by now end
        return result


def test_peers_have_their_versions_in_their_names():
    assert [peer.name.split()[0] for peer in PEERS] == ["pouchdb-server", "Kinto"]
    assert all(peer.name.split()[1][0].isdigit() for peer in PEERS)
