"""A patient whose every text is a canary is erased: the canary is nowhere any more.

Not in the log, nor in what is remembered of requests; not in a read model, an index or a dump; not
in an answer, nor in what the service says of itself.
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg
import pytest
from tests import canary
from tests.canary import Clinic, columns_with, forms_in
from tests.faults.load import caught_up
from tests.service import Service, place, running

from registration.domain.events import EVENTS


class Erased(NamedTuple):
    """Where a canary was, and what was known of it while it was there."""

    clinic: Clinic
    ids: list[str]
    """Of all that was about them: patients, encounters, merges, requests."""
    before: dict[str, list[str]]
    picture: bytes


@pytest.fixture(scope="module")
def alone(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service in whose database there is nobody else."""
    with running(module_database_url, tmp_path_factory.mktemp("canary")) as service:
        yield service


@pytest.fixture(scope="module")
def erased(alone: Service) -> Erased:
    """Two patients, one of them merged from two records, who were here and are erased."""
    clinic = Clinic(alone)
    one, other, third = (clinic.patient(number) for number in range(3))
    merges = clinic.merges(one, other)
    clinic.dismisses(one, third)
    pending = clinic.proposes(one, third)
    picture = clinic.desk.get(f"{place(third)}/portrait").content
    assert picture
    clinic.desk.get("/v1/patients", params={"name": canary.WORD})
    erasures = [clinic.requests(one), clinic.requests(third)]
    assert asyncio.run(caught_up(alone.database_url))
    before = columns_with(alone.database_url)
    for request in erasures:
        assert clinic.approves(request)["status"] == "shredded"
    assert asyncio.run(caught_up(alone.database_url))
    with psycopg.connect(alone.database_url, autocommit=True) as connection:
        connection.execute("ANALYZE")  # what the planner knows of columns is of now
        streams = connection.execute("SELECT DISTINCT stream_id::text FROM registration.event")
        ids = [row[0] for row in streams]
        topics = connection.execute("SELECT DISTINCT topic FROM registration.event")
        assert {row[0] for row in topics} == {event.TOPIC for event in EVENTS}
    known = {each["id"] for each in (one, other, third, *merges, pending, *erasures)}
    assert known <= set(ids)
    return Erased(clinic, ids, before, picture)


def test_the_canary_was_there_and_never_in_the_log(erased: Erased) -> None:
    read_models = {column.split(".")[0] for column in erased.before} - {"registration"}
    assert read_models >= {"search", "encounters", "merges", "changes", "matching", "erasures"}
    assert [column for column in erased.before if column.startswith("registration.")] == [
        "registration.identifier_claim.value"
    ]


def test_no_column_of_any_table_has_it(erased: Erased) -> None:
    assert columns_with(erased.clinic.service.database_url) == {}


def test_no_column_of_any_table_has_the_picture(erased: Erased) -> None:
    parts = [erased.picture[at : at + 64] for at in range(0, len(erased.picture) - 64, 64)]

    def parts_in(content: bytes) -> list[str]:
        return ["the picture"] if any(part in content for part in parts) else []

    assert columns_with(erased.clinic.service.database_url, parts_in) == {}


def test_no_dump_has_it(erased: Erased) -> None:
    url = erased.clinic.service.database_url
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT current_setting('data_directory')").fetchone()
    folder = Path(row[0]) if row else Path()
    program = program_of(folder)
    if program is None:
        pytest.skip("pg_dump of this server's version is not here")
    dump = subprocess.run([program, url], capture_output=True, check=True)
    assert len(dump.stdout) > 10_000
    assert forms_in(dump.stdout) == []


def test_no_file_has_it_once_the_tables_were_written_anew(erased: Erased) -> None:
    with psycopg.connect(erased.clinic.service.database_url, autocommit=True) as connection:
        connection.execute("VACUUM FULL")
        connection.execute("CHECKPOINT")
        row = connection.execute(
            "SELECT current_setting('data_directory'), oid::text FROM pg_database"
            " WHERE datname = current_database()"
        ).fetchone()
    assert row is not None
    folder = Path(row[0], "base", row[1])
    if not os.access(folder, os.R_OK):
        pytest.skip("the files of this server are not here")
    files = [file for file in folder.iterdir() if file.is_file()]
    assert len(files) > 100
    assert {file.name for file in files if forms_in(file.read_bytes())} == set()


def test_no_line_that_the_service_wrote_has_it(erased: Erased) -> None:
    lines = list(erased.clinic.service.lines)
    assert len(lines) > 100
    assert [line for line in lines if forms_in(line)] == []


def test_no_answer_has_it(erased: Erased) -> None:
    clinic = erased.clinic
    document = clinic.desk.get("/openapi.json").json()["paths"]
    answers = [
        clinic.desk.get(path.replace("{id}", its_id).format_map(Anything()))
        for path, methods in document.items()
        for its_id in (erased.ids if "{id}" in path else [""])
        if "get" in methods and "text/event-stream" not in str(methods["get"]["responses"])
    ]
    answers += [
        clinic.desk.get(path, params=params)
        for path in ("/v1/encounters", "/v1/mpi/merges", "/v1/mpi/candidates", "/v1/erasures")
        for params in [{"patientId": its_id} for its_id in erased.ids]
    ]
    answers += [
        clinic.desk.get("/v1/patients", params={"name": canary.WORD}),
        clinic.desk.get("/metrics"),
        *clinic.sent_again(),
    ]
    wrong = {
        (answer.request.method, answer.request.url.path, answer.status_code)
        for answer in answers
        if forms_in(answer.content) or erased.picture in answer.content or answer.status_code >= 500
    }
    assert wrong == set()


class Anything(dict[str, str]):
    """Stands for what is in a path beside the id of a record."""

    def __missing__(self, name: str) -> str:
        return {"flag": "research", "schema": "housing", "version": "1"}.get(name, "1")


def program_of(data_directory: Path) -> Path | None:
    """Return the ``pg_dump`` of the server of a folder, where it is on this machine."""
    try:
        pid = int((data_directory / "postmaster.pid").read_text().splitlines()[0])
        found = Path(psutil.Process(pid).exe()).with_name("pg_dump")
    except (OSError, psutil.Error):
        return None
    return found if found.exists() else None
