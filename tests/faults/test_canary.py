"""A patient whose every text is a canary is erased: the canary is nowhere any more.

Not in the log, nor in what is remembered of requests; not in a read model, an index or a dump; not
in an answer, nor in what the service says of itself.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest
from tests import canary
from tests.canary import Clinic, columns_with, forms_in
from tests.faults.load import caught_up
from tests.service import Service, place, running

from registration.eventstore.embedded import EmbeddedPostgres


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
    programs = program_of(folder)
    if programs is None:
        pytest.skip("pg_dump of this server's version is not here")
    dump = subprocess.run([programs, url], capture_output=True, check=True)
    assert len(dump.stdout) > 10_000
    assert forms_in(dump.stdout) == []


def test_no_line_that_the_service_wrote_has_it(erased: Erased) -> None:
    lines = list(erased.clinic.service.lines)
    assert len(lines) > 100
    assert [line for line in lines if forms_in(line)] == []


def test_no_answer_has_it(erased: Erased) -> None:
    clinic = erased.clinic
    document = clinic.desk.get("/openapi.json").json()
    gets = [path for path, methods in document["paths"].items() if "get" in methods]
    answers = [
        clinic.desk.get(path.replace("{id}", its_id).format_map(Anything()), headers=headers)
        for path in gets
        for its_id in (erased.ids if "{id}" in path else [""])
        for headers in ({}, {"Accept": "text/html"})
    ]
    answers += [
        clinic.desk.get(path, params=params)
        for path in ("/v1/patients", "/v1/encounters", "/v1/mpi/merges", "/v1/mpi/candidates")
        for params in (*({"patientId": its_id} for its_id in erased.ids), {"limit": 100})
    ]
    answers += [
        clinic.desk.get("/v1/sync/changes", params={"limit": 1000}),
        clinic.desk.get("/v1/audit/events", params={"limit": 1000}),
        clinic.desk.get("/metrics"),
        *clinic.sent_again(),
    ]
    told = {
        (answer.request.method, answer.request.url.path)
        for answer in answers
        if forms_in(answer.content) and b"limit" not in answer.request.url.query
    }
    assert told == set()
    assert [answer.request.url.path for answer in answers if answer.status_code >= 500] == []
    assert not any(erased.picture in answer.content for answer in answers)


class Anything(dict[str, str]):
    """Stands for what is in a path beside the id of a record."""

    def __missing__(self, name: str) -> str:
        return {"flag": "research", "schema": "housing", "version": "1"}.get(name, "1")


def program_of(data_directory: Path) -> Path | None:
    """Return the ``pg_dump`` of the server of a folder, where it is on this machine."""
    import psutil

    try:
        pid = int((data_directory / "postmaster.pid").read_text().splitlines()[0])
        found = Path(psutil.Process(pid).exe()).with_name("pg_dump")
    except (OSError, psutil.Error):
        return None
    return found if found.exists() else None


_ = (EmbeddedPostgres, urlsplit)
