"""`registration rewrap`: another master key, and the former one is not needed any more."""

import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path

import orjson
import psycopg
import pytest
from tests.conftest import MASTER_KEY
from tests.service import Desk, as_service, new_id, place, problem, running, succeeded

from registration.eventstore.sealing import KEYRING, master_id, master_of

NEW = b64encode(b"the next key, of thirty-two byte").decode()
BOTH = {"MASTER_KEY": NEW, "FORMER_MASTER_KEYS": orjson.dumps([MASTER_KEY]).decode()}


def command(url: str, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """Start a command of the program with some settings."""
    said = {f"REGISTRATION_{name}": value for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "registration", *arguments, "--database-url", url],
        env=os.environ | said,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def rewrap(url: str) -> tuple[int, str]:
    return ended(command(url, "rewrap", **BOTH))


def wrapped_by(url: str) -> dict[bytes, int]:
    """Return how many keys each master key wraps."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT substring(wrapped FROM 1 FOR 4), count(*) FROM registration.personal_key"
            " GROUP BY 1"
        ).fetchall()
    return dict(rows)


@pytest.fixture
def patient(database_url: str, tmp_path: Path) -> tuple[Desk, str]:
    """A patient, another one who was erased, and a service that has ended."""
    with running(database_url, tmp_path) as service:
        desk = service.desk(role="admin")
        gone = desk.given_patient()
        said = {"patientId": gone["id"], "basis": "gdpr-17-1-b", "reason": "asked for it"}
        erasure = succeeded(desk.post("/v1/erasures", said))
        other = service.desk(desk.tenant, role="admin", sub="admin-2")
        succeeded(other.post(f"/v1/erasures/{erasure['id']}/approval", {}))
        problem(desk.get(place(gone)), 410, "ERASED")
        return desk, desk.given_events(desk.given_patient(), 2)["id"]


def shown(url: str, patient: tuple[Desk, str], **settings: str) -> tuple[int, str]:
    desk, its_id = patient
    return ended(command(url, "replay", its_id, "--tenant", desk.tenant, **settings))


def test_everything_is_read_with_the_new_key_alone(
    database_url: str, patient: tuple[Desk, str]
) -> None:
    url = as_service(database_url)
    code, before = shown(url, patient, MASTER_KEY=MASTER_KEY)
    assert (code, "Okoro" in before) == (0, True), before
    assert rewrap(url) == (0, "keys wrapped anew: 1\n")
    assert rewrap(url) == (0, "keys wrapped anew: 0\n")
    assert shown(url, patient, MASTER_KEY=NEW) == (0, before)
    code, said = shown(url, patient, MASTER_KEY=MASTER_KEY)
    assert (code, "sealed with another master key" in said) == (2, True), said


def test_killed_amid_it_and_run_again_it_is_done(
    database_url: str, patient: tuple[Desk, str]
) -> None:
    url, tenant = as_service(database_url), patient[0].tenant
    people = [new_id() for _ in range(20_000)]
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        keys = [(tenant, each, KEYRING.new(tenant, each)) for each in people]
        with cursor.copy("COPY registration.personal_key FROM STDIN") as copy:
            for key in keys:
                copy.write_row(key)
    process = command(url, "rewrap", **BOTH)
    deadline = time.monotonic() + 30
    while master_id(master_of(NEW)) not in wrapped_by(url):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    ended(process)
    assert set(wrapped_by(url)) == {master_id(master_of(NEW)), master_id(master_of(MASTER_KEY))}
    for settings in ({"MASTER_KEY": NEW}, {"MASTER_KEY": MASTER_KEY}):
        code, said = shown(url, patient, **settings)
        assert (code, "sealed with another master key" in said) == (2, True), said
    assert shown(url, patient, **BOTH)[0] == 0
    assert rewrap(url)[0] == 0
    assert wrapped_by(url) == {master_id(master_of(NEW)): len(people) + 1}
    assert shown(url, patient, MASTER_KEY=NEW)[0] == 0
