"""What becomes of the access log when the program is stopped, and when it is killed."""

import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from tests.faults.program import TENANT, Program, serving

PATIENT = {"names": [{"family": "Okoro"}], "gender": "female"}
READERS = 4
BOUND = 0.3
"""Seconds of reads that a crash may cost: 100 ms of waiting for others, and the write itself."""


class Reader(threading.Thread):
    """Reads one patient until nobody answers; remembers when each answer came."""

    def __init__(self, program: Program, path: str) -> None:
        super().__init__()
        self.program, self.path = program, path
        self.seen: list[tuple[str, float]] = []

    def run(self) -> None:
        with self.program.client() as client:
            while True:
                try:
                    answer = client.get(self.path)
                except httpx.TransportError:
                    return
                if answer.status_code != 200:
                    return
                self.seen.append((answer.headers["x-request-id"], time.time()))


def read_until(
    program: Program, how: signal.Signals, first: Callable[[], None] = lambda: time.sleep(1.5)
) -> tuple[list[tuple[str, float]], float]:
    """Return what was read until a signal ended the program, and when that was."""
    with program.client() as client:
        patient = client.post("/v1/patients", json=PATIENT).json()
    readers = [Reader(program, f"/v1/patients/{patient['id']}") for _ in range(READERS)]
    for reader in readers:
        reader.start()
    first()
    ended = time.time()
    program.end(how)
    for reader in readers:
        reader.join(20)
    return [entry for reader in readers for entry in reader.seen], ended


def recorded(program: Program) -> set[str]:
    with psycopg.connect(program.postgres.url) as connection:
        rows = connection.execute(
            "SELECT request_id FROM registration.access_log"
            " WHERE tenant = %s AND operation = 'patient.read'",
            (TENANT,),
        ).fetchall()
    return {row[0] for row in rows}


def gaps(program: Program) -> list[dict[str, Any]]:
    with program.client() as client:
        answer = client.get("/v1/audit/access")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["gaps"]
        return found


def test_a_normal_stop_under_load_loses_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as program:
        seen, _ = read_until(program, signal.SIGTERM)
        assert len(seen) > 100
        program.start()
        assert {request for request, _ in seen} - recorded(program) == set()
        assert gaps(program) == []


def test_a_kill_loses_the_last_moment_at_most_and_says_so(tmp_path: Path) -> None:
    with serving(tmp_path) as program:
        seen, killed = read_until(program, signal.SIGKILL)
        assert len(seen) > 100
        program.start()

        known = recorded(program)
        lost = [at for request, at in seen if request not in known]

        assert [at for at in lost if at < killed - BOUND] == []
        (gap,) = gaps(program)
        assert (gap["reason"], gap["lost"]) == ("crash", None)
        assert b"a process ended at once; reads since" in program.logs()


@pytest.mark.parametrize("queue", [50_000, 1000])
def test_a_kill_after_a_write_that_took_long_says_since_when(tmp_path: Path, queue: int) -> None:
    """What waited behind the write is lost, and with a short queue even more than it takes."""
    with serving(tmp_path, ACCESS_LOG_QUEUE=str(queue)) as program:

        def hold_up() -> None:
            time.sleep(0.5)
            with psycopg.connect(program.postgres.url) as connection:
                connection.execute("LOCK TABLE registration.access_log IN SHARE ROW EXCLUSIVE MODE")
                # not so long that the write is given up
                time.sleep(2.2)
            time.sleep(0.02)

        seen, _ = read_until(program, signal.SIGKILL, hold_up)
        program.start()

        known = recorded(program)
        lost = [at for request, at in seen if request not in known]
        # reads past the bound may just have been told, in a gap of their own
        (crash,) = [gap for gap in gaps(program) if gap["reason"] == "crash"]
        assert crash["lost"] is None
        assert lost
        assert min(instant(gap["since"]) for gap in gaps(program)) <= min(lost)
        assert max(lost) <= instant(crash["until"])


def instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
