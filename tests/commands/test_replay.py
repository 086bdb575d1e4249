"""`registration replay`: a stream, event by event."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from typing import Any

import pytest
from tests.service import Desk, Service, etag, new_id, place, succeeded
from typer.testing import CliRunner, Result

from registration.cli import app


def replay(service: Service, desk: Desk, *arguments: str) -> Result:
    url = ["--database-url", service.database_url]
    return CliRunner().invoke(app, ["replay", *arguments, "--tenant", desk.tenant, *url])


@pytest.fixture
def patient(desk: Desk) -> dict[str, Any]:
    made = desk.given_patient()
    made = succeeded(
        desk.patch(f"{place(made)}/demographics", {"birthDate": "1985"}, If_Match=etag(made))
    )
    return desk.given_events(made, 1)


def test_each_event_is_told_with_what_it_changed_and_its_hash(service, desk, patient):
    result = replay(service, desk, patient["id"])
    assert result.exit_code == 0, result.output
    history = desk.history(patient)
    lines = result.output.splitlines()
    heads = [line for line in lines if not line.startswith("    ")]
    assert len(heads) == 3
    for head, event in zip(heads, history, strict=True):
        at = event["at"].replace("Z", "+00:00")
        assert head == f'{event["version"]}  {at}  {event["type"]}  by "desk-1"'
    assert '    /birthDate: "1984-03-02" -> "1985"' in lines
    assert '    /gender: - -> "female"' in lines
    assert [line for line in lines if line.startswith("    hash ")] == [
        f"    hash {event['hash']}" for event in history
    ]


def test_as_json_it_is_one_object_a_line(service, desk, patient):
    result = replay(service, desk, patient["id"], "--json")
    shown = [json.loads(line) for line in result.output.splitlines()]
    timeline = succeeded(desk.get(f"{place(patient)}/timeline"))["items"]
    assert [(each["version"], each["type"], each["differences"]) for each in shown] == [
        (each["version"], each["type"], each["differences"]) for each in timeline
    ]
    history = desk.history(patient)
    assert [(each["position"], each["hash"]) for each in shown] == [
        (each["position"], each["hash"]) for each in history
    ]


def test_it_ends_at_a_version_or_an_instant(service, desk, patient):
    history = desk.history(patient)
    by_version = replay(service, desk, patient["id"], "--until", "2")
    by_time = replay(service, desk, patient["id"], "--as-of", history[1]["at"])
    assert by_version.output == by_time.output
    assert "patient.demographics-corrected" in by_version.output
    assert "patient.next-of-kin-added" not in by_version.output
    long_ago = replay(service, desk, patient["id"], "--as-of", "2001-01-01T00:00:00Z")
    assert (long_ago.exit_code, long_ago.output) == (0, "nothing had been recorded by then\n")


def test_encounters_replay_as_well(service, desk, patient):
    said = {"patientId": patient["id"], "class": "AMB", "status": "arrived"}
    opened = succeeded(desk.post("/v1/encounters", said))
    result = replay(service, desk, opened["id"])
    assert '    /status: - -> "arrived"' in result.output.splitlines()


def test_what_is_stored_cannot_command_the_terminal(service, desk, patient):
    admin = service.desk(desk.tenant, role="admin")
    schema = {"schema": {"type": "object"}}
    succeeded(admin.post("/v1/extension-schemas/notes/versions", schema))
    said = {"schemaVersion": 1, "data": {"\x1b]0;x\x07": "\x1b[2J\x9b1m\u202e"}}
    succeeded(desk.put(f"{place(patient)}/extensions/notes", said, If_Match='"0"'))
    output = replay(service, desk, patient["id"]).output
    assert output.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--until", "1", "--as-of", "2026-01-01T00:00:00Z"], "give one"),
        (["--as-of", "yesterday"], "--as-of takes an instant"),
        (["--as-of", "2026-01-01T00:00:00"], "--as-of needs an offset"),
    ],
)
def test_options_that_make_no_sense_are_refused(service, desk, patient, arguments, why):
    result = replay(service, desk, patient["id"], *arguments)
    assert why in str(result.exception)
    assert result.output == ""


def test_another_tenants_stream_is_none(service, desk, patient):
    for stream, whose in ((str(new_id()), desk), (patient["id"], service.desk())):
        result = replay(service, whose, stream)
        assert f"has no stream {stream}" in str(result.exception)


@pytest.mark.parametrize(("key", "events"), [(b"q", 1), (b" ", 3)])
def test_step_by_step_it_waits_for_a_key_in_a_terminal(service, desk, patient, key, events):
    command = [sys.executable, "-m", "registration", "replay", patient["id"], "--step"]
    command += ["--tenant", desk.tenant, "--database-url", service.database_url]
    ours, its = pty.openpty()
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, close_fds=True) as process:
        os.close(its)
        shown = read_for(ours, 30, until=b"hash ")
        shown += read_for(ours, 0.5)
        assert shown.count(b"hash ") == 1
        deadline = time.monotonic() + 30
        while process.poll() is None:
            assert time.monotonic() < deadline
            os.write(ours, key)  # again and again: the terminal drops what comes before it asks
            shown += read_for(ours, 0.2)
        assert process.returncode == 0
    shown += read_for(ours, 0.2)
    os.close(ours)
    assert shown.count(b"hash ") == events


def read_for(terminal: int, seconds: float, until: bytes | None = None) -> bytes:
    """Return what comes within a time, or until something came."""
    shown = b""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and (until is None or until not in shown):
        if select.select([terminal], [], [], left)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
    return shown


def test_without_a_terminal_step_waits_for_nobody(service, desk, patient):
    assert replay(service, desk, patient["id"], "--step").output.count("hash ") == 3
