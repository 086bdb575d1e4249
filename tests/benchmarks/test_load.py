"""The load generator counts and measures what it should; no test here depends on time itself."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from benchmarks.load import Plan, Report, UnexpectedAnswersError, generate, run

Answer = Callable[[int], bytes]


class Numbers:
    """Sends one line a request and expects 200 with a body; what came is kept."""

    def __init__(self) -> None:
        self.sent = Counter[int]()
        self.answers = Counter[int]()
        self.bodies: list[bytes] = []

    def request(self, connection: int) -> bytes:
        self.sent[connection] += 1
        return b"GET /%d HTTP/1.1\r\n\r\n" % connection

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        self.answers[connection] += 1
        self.bodies.append(body)
        return status == 200


def ok(body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@asynccontextmanager
async def server(answer: Answer, *, pieces: int = 1, delay: float = 0.0) -> AsyncIterator[int]:
    """Answer request number n with ``answer(n)``, cut into so many pieces; yields the port.

    An empty answer closes the connection.
    """
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                seen += 1
                whole = answer(seen)
                await asyncio.sleep(delay)
                if not whole:
                    break
                size = -(-len(whole) // pieces)
                for start in range(0, len(whole), size):
                    writer.write(whole[start : start + size])
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
        await asyncio.sleep(0.05)  # the connections that are closed by now end


def measured(
    answer: Answer,
    *,
    connections: int = 3,
    seconds: float = 0.2,
    warm_up: float = 0.0,
    rate: float | None = None,
    pieces: int = 1,
    delay: float = 0.0,
) -> Report[Numbers]:
    async def measure() -> Report[Numbers]:
        async with server(answer, pieces=pieces, delay=delay) as port:
            return await generate(
                Plan("127.0.0.1", port, Numbers(), connections, seconds, warm_up, rate)
            )

    return asyncio.run(measure())


def test_every_request_has_its_answer_and_is_counted_once():
    report = measured(lambda n: ok(b"%d" % n))

    assert report.workload.sent == report.workload.answers
    assert set(report.workload.sent) == {0, 1, 2}
    assert report.statuses == {200: report.workload.sent.total()}
    assert sorted(map(int, report.workload.bodies)) == list(range(1, report.statuses[200] + 1))
    assert (report.unexpected, report.samples) == (0, [])


def test_an_answer_in_pieces_is_one_answer():
    report = measured(lambda _: ok(b"x" * 1000), pieces=7)

    assert set(report.workload.bodies) == {b"x" * 1000}
    assert report.unexpected == 0


def test_an_answer_without_a_body_has_none():
    report = measured(lambda _: b"HTTP/1.1 200 OK\r\n\r\n", connections=1)

    assert set(report.workload.bodies) == {b""}
    assert report.unexpected == 0


def test_latencies_are_sorted_and_hold_the_time_that_the_service_takes():
    report = measured(lambda _: ok(), delay=0.02)

    assert list(report.latencies) == sorted(report.latencies)
    assert 0 < len(report.latencies) <= report.statuses[200]
    assert report.ms(0) > 19
    assert report.ms(0) <= report.ms(0.5) <= report.ms(0.99) <= report.ms(1)
    assert report.rate == len(report.latencies) / 0.2


def test_answers_of_the_warm_up_are_checked_but_not_measured():
    report = measured(lambda n: ok() if n > 1 else ok().replace(b"200", b"500"), warm_up=0.1)

    assert len(report.latencies) < report.statuses[200]
    assert (report.unexpected, report.statuses[500]) == (1, 1)


def test_an_open_loop_sends_what_is_due_and_no_more():
    report = measured(lambda _: ok(), seconds=0.5, rate=100)

    assert report.statuses == {200: 50}


def test_an_open_loop_counts_the_wait_for_a_free_connection():
    # one connection that takes 20 ms a request, and a request due every 10 ms
    report = measured(lambda _: ok(), connections=1, seconds=1, rate=100, delay=0.02)

    assert report.statuses == {200: 100}  # all that was due is sent, late as it may be
    assert report.ms(1) > 200


@pytest.mark.parametrize("rate", [None, 200])
def test_unexpected_statuses_are_counted_and_shown(rate):
    refusal = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nslow"
    report = measured(lambda n: refusal if n % 4 == 0 else ok(), rate=rate)

    assert report.unexpected == report.statuses[429] > 0
    assert report.samples[0] == "429 slow"


@pytest.mark.parametrize("rate", [None, 100])
def test_connections_that_the_service_closes_are_unexpected(rate):
    report = measured(lambda n: ok() if n < 10 else b"", rate=rate)

    assert report.statuses == {200: 9}
    assert report.unexpected == 3
    assert report.samples == ["connection lost: closed by the service"] * 3


def test_more_than_was_asked_for_is_unexpected():
    report = measured(lambda _: ok() + b"more", connections=1)

    assert report.unexpected == 1
    assert report.samples == ["more came than was asked for"]


@pytest.mark.parametrize(("status", "error"), [(b"200", None), (b"503", UnexpectedAnswersError)])
def test_a_process_of_its_own_brings_the_workload_back_and_refuses_refusals(status, error):
    async def measure() -> Report[Numbers]:
        async with server(lambda _: ok(b"{}").replace(b"200", status)) as port:
            plan = Plan("127.0.0.1", port, Numbers(), connections=2, seconds=0.2)
            return await asyncio.to_thread(run, plan)

    if error is None:
        report = asyncio.run(measure())
        assert report.workload.answers.total() == report.statuses[200] > 0
        return
    with pytest.raises(
        error, match=r"unexpected answers, statuses \{503: \d+\}; such as: 503 \{\}"
    ):
        asyncio.run(measure())
