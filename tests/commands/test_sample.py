"""`registration sample`: made-up patients that are the same each time, and that can be imported."""

import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest
import uuid_utils.compat as uuids
from stdnum import luhn
from typer.testing import CliRunner

from registration.commands import CommandError, app
from registration.commands.sample import AS_OF, FAULT, TRUTH, patients
from registration.domain.commands import RegisterPatient
from registration.domain.context import Context
from registration.domain.events import PatientRegistered
from registration.domain.patient import decide_register
from registration.fhir import map_patient

RUN = CliRunner()


def tags(resource: dict[str, Any], system: str) -> list[str]:
    return [tag["code"] for tag in resource["meta"]["tag"] if tag["system"] == system]


@pytest.fixture(scope="module")
def made() -> list[dict[str, Any]]:
    return list(patients(3000, 1, 0.1, AS_OF.date()))


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "patients.ndjson"
    printed = RUN.invoke(app, ["sample", "200", "--seed", "7"])
    written = RUN.invoke(app, ["sample", "200", "--seed", "7", "-o", str(file)])
    assert (printed.exit_code, written.exit_code, written.stdout) == (0, 0, "")
    assert printed.stdout_bytes == file.read_bytes()
    assert printed.stdout_bytes.count(b"\n") == 200
    more = RUN.invoke(app, ["sample", "300", "--seed", "7"]).stdout_bytes
    assert more.startswith(printed.stdout_bytes)
    assert RUN.invoke(app, ["sample", "200", "--seed", "8"]).stdout_bytes != printed.stdout_bytes


def test_every_patient_can_be_registered(made: list[dict[str, Any]]) -> None:
    context = Context(
        now=datetime(2026, 1, 1, tzinfo=UTC),
        new_id=uuids.uuid7,
        tenant="sample",
        actor="sample",
        scopes=frozenset(),
        identifier_systems={"urn:example:national-id": "luhn"},
    )
    scripts: Counter[str] = Counter()
    for resource in made:
        payload = RegisterPatient.model_validate(map_patient(resource).said)
        (event,) = decide_register(None, payload, context)
        assert isinstance(event, PatientRegistered)
        scripts.update({name.script for name in event.names})
    assert set(scripts) >= {
        *("Latn", "Arab", "Hebr", "Cyrl", "Grek", "Hani", "Jpan", "Kore", "Deva", "Beng"),
        *("Thai", "Armn", "Geor"),
    }


def test_no_two_share_an_id_or_an_identifier(made: list[dict[str, Any]]) -> None:
    ids = [resource["id"] for resource in made]
    numbers = [(n["system"], n["value"]) for resource in made for n in resource["identifier"]]
    assert len(set(ids)) == len(ids)
    assert len(set(numbers)) == len(numbers)
    national = [value for system, value in numbers if system == "urn:example:national-id"]
    assert len(national) > 1500
    assert all(map(luhn.is_valid, national))


def test_near_duplicates_say_whom_they_are_of_and_what_was_done(
    made: list[dict[str, Any]],
) -> None:
    seen: dict[str, dict[str, Any]] = {}
    faults: Counter[str] = Counter()
    for resource in made:
        (person,) = tags(resource, TRUTH)
        done = tags(resource, FAULT)
        assert bool(done) == (person in seen)
        faults.update(done)
        if done:
            original = seen[person]
            assert original["id"] != resource["id"]
            assert {name: original[name] for name in ("gender",)} == {"gender": resource["gender"]}
        seen.setdefault(person, resource)
    duplicates = len(made) - len(seen)
    assert 0.08 < duplicates / len(made) < 0.12
    assert set(faults) == {"typo", "day-and-month", "transposed", "missing", "one-script"}


def test_the_share_of_duplicates_can_be_said() -> None:
    none = list(patients(300, 1, 0, AS_OF.date()))
    assert all(not tags(resource, FAULT) for resource in none)
    half = [bool(tags(resource, FAULT)) for resource in patients(1000, 1, 0.5, AS_OF.date())]
    assert 400 < sum(half) < 600


def test_what_registries_know_of_people(made: list[dict[str, Any]]) -> None:
    births = Counter(len(resource.get("birthDate", "")) for resource in made)
    assert set(births) == {0, 4, 7, 10}
    estimated = [resource for resource in made if "_birthDate" in resource]
    assert all(resource["birthDate"].endswith("-01-01") for resource in estimated)
    assert len(estimated) > 100
    babies = [name["text"] for r in made for name in r["name"] if name["use"] == "anonymous"]
    assert babies
    assert all(baby.startswith("Baby of ") for baby in babies)
    members = Counter(member for resource in made for member in resource)
    assert all(members[name] > 500 for name in ("telecom", "address", "contact", "communication"))
    two_names = sum(len(resource["name"]) > 1 for resource in made)
    assert two_names > 600


def test_ages_are_counted_from_the_day_that_is_said() -> None:
    day = date(1970, 1, 1)
    births = [resource.get("birthDate", "") for resource in patients(500, 1, 0.1, day)]
    assert max(births) <= day.isoformat()
    assert max(births) > "1969"


def test_whoever_reads_may_stop() -> None:
    program = "from registration.commands import sample; from registration.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "sample", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len([orjson.loads(line) for line in islice(process.stdout, 3)]) == 3
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 0


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    result = RUN.invoke(app, ["sample", "1", "-o", str(tmp_path / "none" / "x")])
    assert isinstance(result.exception, CommandError)
    assert "No such file or directory" in str(result.exception)
