"""Exports after a patient was erased: nothing of the person, and whoever has more is told."""

from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from tests.erasing import erased
from tests.export.given import Analyst, valid
from tests.service import Desk, Service, succeeded

from registration.export import run
from registration.export.folder import Folder
from registration.export.order import Order

CANARY = "Canarias"


class Stopped(BaseException):
    """The process is gone."""


@pytest.fixture
def analyst(service: Service, desk: Desk, tmp_path: Path) -> Analyst:
    """Somebody who exports what the desk registered."""
    return Analyst(service.database_url, desk.tenant, tmp_path)


@pytest.fixture
def patient(desk: Desk) -> dict[str, Any]:
    """A patient with an encounter, beside another one."""
    desk.given_patient()
    made = desk.given_patient(names=[{"family": CANARY}])
    made["visit"] = succeeded(
        desk.post("/v1/encounters", {"patientId": made["id"], "class": "AMB", "reason": CANARY})
    )["id"]
    return made


def test_with_since_a_reader_learns_who_was_erased(
    desk: Desk, analyst: Analyst, patient: dict[str, Any]
) -> None:
    before = analyst.exports(name="before")
    erased(desk, patient)
    export = analyst.exports("--since", before.position, name="after")

    assert export.manifest["output"] == []
    assert export.manifest["deleted"] == [
        {"type": "Bundle", "url": "Bundle.000.ndjson", "count": 2}
    ]
    told = [orjson.loads(each) for each in export.files()["Bundle.000.ndjson"].splitlines()]
    assert sorted(valid(each)["entry"][0]["request"]["url"] for each in told) == [
        f"Encounter/{patient['visit']}",
        f"Patient/{patient['id']}",
    ]


def test_a_first_export_says_nothing_of_them(
    desk: Desk, analyst: Analyst, patient: dict[str, Any]
) -> None:
    erased(desk, patient)
    export = analyst.exports()

    assert [file["count"] for file in export.manifest["output"]] == [1]
    assert export.manifest["deleted"] == []
    words = (CANARY.encode(), patient["id"].encode(), patient["visit"].encode())
    assert not [name for name, file in export.files().items() for word in words if word in file]


def test_as_tables(desk: Desk, analyst: Analyst, patient: dict[str, Any]) -> None:
    before = analyst.exports("--format", "parquet", name="before")
    erased(desk, patient)
    export = analyst.exports("--format", "parquet", "--since", before.position, name="after")

    rows = pq.read_table(export.path / "deleted.000.parquet").to_pylist()
    assert sorted((row["kind"], row["id"]) for row in rows) == [
        ("encounter", patient["visit"]),
        ("patient", patient["id"]),
    ]
    assert {row["position"] > int(before.position) for row in rows} == {True}
    assert [file["type"] for file in export.manifest["deleted"]] == ["deleted"]


def test_a_run_that_goes_on_tells_who_was_erased_since_it_began(
    desk: Desk, analyst: Analyst, patient: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a run that is stopped before its end, when the patient in its files is erased, then
    the files of the next run say so."""

    def stop(*_: Any) -> None:
        raise Stopped

    order = Order(desk.tenant, "ndjson")
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "end", stop)
        with pytest.raises(Stopped):
            run.export(analyst.url, order, analyst.folder / "export", lambda *_: None)
    erased(desk, patient)
    run.export(analyst.url, order, analyst.folder / "export", lambda *_: None)

    bundle = (analyst.folder / "export" / "Bundle.000.ndjson").read_text("utf-8")
    assert patient["id"] in bundle
