"""A database that hangs, a queue that is full, and a stop while requests are in flight."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.faults.program import CANARY, Program, at_once, serving
from tests.service import problem

ADA = {"names": [{"family": CANARY}], "gender": "female"}
QUEUE = 40


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program, with a short queue."""
    with serving(tmp_path_factory.mktemp("frozen"), APPEND_QUEUE_LIMIT=str(QUEUE)) as found:
        yield found


@pytest.fixture
def client(program: Program) -> Iterator[httpx.Client]:
    """A desk at the program."""
    limits = httpx.Limits(max_connections=None)
    with program.client(limits=limits) as found:
        yield found


def register(client: httpx.Client, key: str) -> httpx.Response:
    return client.post("/v1/patients", json=ADA, headers={"Idempotency-Key": key})


def test_while_the_database_hangs_everything_answers_in_time_and_nothing_is_lost(
    program: Program, client: httpx.Client
) -> None:
    patient = register(client, "first").json()
    at = f"/v1/patients/{patient['id']}"
    kin = {"name": CANARY, "relationship": "x"}
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/patients", {"json": ADA, "headers": {"Idempotency-Key": "k1"}}),
        ("POST", f"{at}/next-of-kin", {"json": kin, "headers": {"Idempotency-Key": "k2"}}),
        (
            "PATCH",
            f"{at}/demographics",
            {"json": {"gender": "male"}, "headers": {"Idempotency-Key": "k3", "If-Match": '"1"'}},
        ),
        ("GET", at, {}),
        ("GET", f"{at}/history", {}),
        ("GET", f"{at}/names/{patient['names'][0]['id']}", {}),
        ("GET", "/v1/patients", {"params": {"name": CANARY}}),
        ("GET", "/v1/patients", {"params": {"minPosition": "1"}}),
        ("GET", "/v1/patients", {"params": {"minPosition": "9999"}}),
        ("GET", "/readyz", {}),
        ("GET", "/metrics", {}),
        ("GET", "/livez", {}),
    ]
    with program.frozen_postgres():
        for _ in range(2):  # the second time every connection hangs already
            answers = at_once(
                len(requests), lambda n: client.request(*requests[n][:2], **requests[n][2])
            )
            for (_, path, _), answer in zip(requests, answers, strict=True):
                assert answer.elapsed.total_seconds() < 5, path
                if path.startswith("/v1"):
                    problem(answer, 503, "UNAVAILABLE")
            ready, metrics, alive = answers[-3:]
            assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
            assert (metrics.status_code, alive.status_code) == (200, 200)
    deadline = time.monotonic() + 20
    while client.get(at).status_code != 200 or client.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for method, path, more in requests[:3]:
        assert client.request(method, path, **more).is_success
    now = client.get(at).json()
    assert (now["version"], now["gender"], len(now["nextOfKin"])) == (3, "male", 1)
    found = client.get("/v1/patients", params={"name": CANARY, "minPosition": 4}).json()["items"]
    assert len(found) == 2


def test_past_the_length_of_the_queue_commands_are_turned_away_at_once(
    program: Program, client: httpx.Client
) -> None:
    """The first call takes what it finds; behind it the queue fills."""
    with program.frozen_postgres():
        answers = at_once(3 * QUEUE, lambda n: register(client, f"queue-{n}"))
    codes = Counter(answer.status_code for answer in answers)
    assert set(codes) == {429, 503}
    assert codes[429] >= QUEUE
    for answer in answers:
        if answer.status_code == 429:
            problem(answer, 429, "TOO_MANY_REQUESTS")
        else:
            problem(answer, 503, "UNAVAILABLE")
        assert answer.elapsed.total_seconds() < 5.5
    deadline = time.monotonic() + 20
    while register(client, "after-the-queue").status_code != 201:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for number in (0, 3 * QUEUE - 1):
        assert register(client, f"queue-{number}").status_code == 201


def test_eight_processes_with_one_request_make_one_patient(
    program: Program, client: httpx.Client
) -> None:
    script = (
        "import http.client, json, sys\n"
        "port, headers, body = json.loads(sys.stdin.readline())\n"
        "connection = http.client.HTTPConnection('127.0.0.1', port)\n"
        "connection.connect()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "connection.request('POST', '/v1/patients', body, headers)\n"
        "answer = connection.getresponse()\n"
        "print(answer.status, answer.headers.get('Idempotency-Replayed'), answer.read().decode())\n"
    )
    headers = {
        "Authorization": client.headers["Authorization"],
        "Content-Type": "application/json",
        "Idempotency-Key": "eight",
    }
    start = json.dumps([program.port, headers, json.dumps(ADA)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{start}\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        said, _ = process.communicate(timeout=20)
        answers.append(said.split(" ", 2))
    assert {(status, body) for status, _, body in answers} == {("201", answers[0][2])}
    assert Counter(replayed for _, replayed, _ in answers) == {"true": 7, "None": 1}


def test_requests_in_flight_finish_when_it_is_told_to_stop(tmp_path: Path) -> None:
    with serving(tmp_path) as program:
        with program.client(limits=httpx.Limits(max_connections=None)) as client:
            assert register(client, "warm").status_code == 201
            answers: list[httpx.Response] = []
            flying = [
                threading.Thread(target=lambda n=n: answers.append(register(client, f"fly-{n}")))
                for n in range(10)
            ]
            with program.frozen_postgres():
                for thread in flying:
                    thread.start()
                time.sleep(0.5)
                program.process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
                assert program.process.poll() is None
            for thread in flying:
                thread.join()
            assert [answer.status_code for answer in answers] == [201] * 10
        assert program.wait() == 0
        assert CANARY.encode() not in program.logs()
