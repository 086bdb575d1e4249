"""`kill -9` of the service and of PostgreSQL at random moments, under load.

Whoever was told that a command is done finds it done exactly once; whoever was told nothing asks
again with the same key, and gets the one answer there ever is.
"""

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import orjson
import psycopg
import pytest
from tests.faults.load import Worker, caught_up, read_model, under_load
from tests.faults.program import CANARY, TENANT, serving
from tests.service import succeeded

from registration.eventstore.grants import APP_ROLE
from registration.eventstore.verify import verify_log
from registration.projections import rebuild, search

DESKS = 4


class Desk(Worker):
    """Registers and edits patients of its own."""

    def one_turn(self, client: httpx.Client) -> None:
        said = {
            "names": [{"family": f"{CANARY}{self.number}", "given": [str(len(self.done))]}],
            "gender": "unknown",
            "identifiers": [{"system": "x", "value": f"{self.number}-{len(self.done)}"}],
        }
        patient = succeeded(self.send(client, "POST", "/v1/patients", said))
        at = f"/v1/patients/{patient['id']}"
        for step in range(self.random.randrange(4)):
            if self.random.random() < 0.5:
                said = {"name": f"{CANARY} {step}", "relationship": "cousin"}
                patient = succeeded(self.send(client, "POST", f"{at}/next-of-kin", said))
            else:
                gender = "male" if patient["gender"] != "male" else "female"
                match = f'"{patient["version"]}"'
                path = f"{at}/demographics"
                patient = succeeded(self.send(client, "PATCH", path, {"gender": gender}, match))


def until_ready(client: httpx.Client) -> dict[str, Any]:
    """Return what /readyz says once it has found the database; each dead connection costs a 503."""
    deadline = time.monotonic() + 20
    while (answer := client.get("/readyz")).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.parametrize(
    ("seed", "cycles"),
    [
        pytest.param(1, 3, id="a-few"),
        *(
            pytest.param(seed, 12, id=f"seed-{seed}", marks=pytest.mark.slow)
            for seed in range(2, 8)
        ),
    ],
)
def test_nothing_acknowledged_is_lost_and_nothing_happens_twice(
    tmp_path: Path, seed: int, cycles: int
) -> None:
    with serving(tmp_path) as program:
        stop = threading.Event()
        desks: list[Worker] = [Desk(program, number, stop) for number in range(DESKS)]
        under_load(program, desks, stop, seed, cycles)
        done = [entry for desk in desks for entry in desk.done]
        assert len(done) > 20
        assert sum(desk.retries for desk in desks) > 0

        with program.client() as client:
            for request, first in done:
                again = client.request(**request)
                assert (again.status_code, again.content) == (first.status_code, first.content)
                assert again.headers["idempotency-replayed"] == "true"
                for name in ("etag", "location", "x-log-position"):
                    assert again.headers.get(name) == first.headers.get(name)
            ready = until_ready(client)
            metrics = client.get("/metrics").content

        url = program.postgres.url
        with psycopg.connect(url) as connection:
            rows = connection.execute(
                "SELECT stream_id, version, position, metadata FROM registration.event"
                " WHERE tenant = %s ORDER BY position",
                (TENANT,),
            ).fetchall()
        keys = Counter(orjson.loads(metadata)["idempotencyKey"] for *_, metadata in rows)
        assert keys == Counter(request["headers"]["Idempotency-Key"] for request, _ in done)
        assert [position for _, _, position, _ in rows] == list(range(1, len(rows) + 1))
        versions: Counter[Any] = Counter()
        for stream, version, _, _ in rows:
            versions[stream] += 1
            assert version == versions[stream]
        assert verify_log(url).ok

        assert asyncio.run(caught_up(url))
        live = read_model(url, search.NAME)
        assert len(live["patient"]) == len(versions)
        asyncio.run(rebuild.rebuild(program.postgres.url_of(APP_ROLE)))
        assert read_model(url, search.NAME) == live
        assert all(row["deadLetters"] == 0 for row in ready["readModels"])
        logs = program.logs()
        assert b'"operation":"patient.register"' in logs
        for written in (logs, metrics, str(ready).encode()):
            assert CANARY.encode() not in written
