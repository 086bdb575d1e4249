"""`kill -9` of the service and of PostgreSQL while patients are erased.

Each erasure is whole, or not there at all: a patient is readable with all that was said, or nobody
can read a word any more.
"""

import asyncio
import threading
from pathlib import Path

import httpx
import psycopg
import pytest
from tests.faults.load import Worker, caught_up, under_load
from tests.faults.program import CANARY, TENANT, Program, serving
from tests.service import succeeded

from registration.eventstore.verify import verify_log

CLERKS = 3


class Clerk(Worker):
    """Registers patients, opens encounters of theirs, and has most of them erased."""

    def __init__(self, program: Program, number: int, stop: threading.Event) -> None:
        super().__init__(program, number, stop)
        self.kept: list[str] = []
        self.erased: list[str] = []

    def one_turn(self, client: httpx.Client) -> None:
        said = {"names": [{"family": CANARY}], "gender": "unknown"}
        patient = succeeded(self.send(client, "POST", "/v1/patients", said))
        about = {"patientId": patient["id"], "class": "AMB", "reason": CANARY}
        succeeded(self.send(client, "POST", "/v1/encounters", about))
        if self.random.random() < 0.2:
            self.kept.append(patient["id"])
            return
        asked = {"patientId": patient["id"], "basis": "gdpr-17-1-b", "reason": CANARY}
        erasure = succeeded(self.send(client, "POST", "/v1/erasures", asked))
        with self.program.client("somebody-else") as other:
            path = f"/v1/erasures/{erasure['id']}/approval"
            done = succeeded(self.send(other, "POST", path, {}))
        assert done["status"] == "shredded"
        self.erased.append(patient["id"])


@pytest.mark.parametrize(
    ("seed", "cycles"),
    [
        pytest.param(1, 3, id="a-few"),
        *(
            pytest.param(seed, 12, id=f"seed-{seed}", marks=pytest.mark.slow)
            for seed in range(2, 6)
        ),
    ],
)
def test_no_half_erasure_outlives_a_kill(tmp_path: Path, seed: int, cycles: int) -> None:
    with serving(tmp_path) as program:
        stop = threading.Event()
        clerks = [Clerk(program, number, stop) for number in range(CLERKS)]
        under_load(program, [*clerks], stop, seed, cycles)
        kept = {each for clerk in clerks for each in clerk.kept}
        erased = {each for clerk in clerks for each in clerk.erased}
        assert erased
        assert sum(clerk.retries for clerk in clerks) > 0

        with program.client() as client:
            answers = {
                its_id: clerks[0].answered(client, method="GET", url=f"/v1/patients/{its_id}")
                for its_id in kept | erased
            }
        assert {i: answer.status_code for i, answer in answers.items()} == {
            **dict.fromkeys(kept, 200),
            **dict.fromkeys(erased, 410),
        }
        url = program.postgres.url
        assert whole(url)
        assert verify_log(url).ok
        assert asyncio.run(caught_up(url))
        assert CANARY.encode() not in program.logs()


def whole(url: str) -> bool:
    """Return whether exactly those have a key who are registered and not erased."""
    of_topic = "SELECT stream_id FROM registration.event WHERE tenant = %s AND topic = %s"
    with psycopg.connect(url) as connection:
        registered, erased = (
            {row[0] for row in connection.execute(of_topic, (TENANT, topic))}
            for topic in ("patient.registered", "patient.erased")
        )
        keys = {
            row[0]
            for row in connection.execute(
                "SELECT id FROM registration.personal_key WHERE tenant = %s", (TENANT,)
            )
        }
        asked = connection.execute(of_topic, (TENANT, "erasure.approved")).fetchall()
        shredded = connection.execute(of_topic, (TENANT, "erasure.shredded")).fetchall()
    return keys == registered - erased and len(asked) == len(shredded) == len(erased)
