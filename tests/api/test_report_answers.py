"""How reports answer: what is kept back, CSV, refusals, scopes, tenants, no names."""

import csv
import io
from pathlib import Path

import pytest
from tests.api.given_merges import Index
from tests.api.given_reports import (
    BOTH_DAYS,
    DAY,
    HOUR,
    MONDAY,
    Clinic,
    registered,
    set_clock,
    table,
    two_days,
    until,
)
from tests.service import CARD, Service, place, problem, running, succeeded
from tests.sync.given import GRANTED, push

from registration.reports.catalogue import REPORTS


@pytest.fixture
def clinic(service: Service, clock) -> Clinic:
    """A clinic on a Monday."""
    set_clock(clock, MONDAY)
    return Clinic.of(service)


def test_small_counts_are_kept_back_from_those_who_see_no_records(clinic: Clinic) -> None:
    for number in range(6):
        clinic.patient(telecom=[{"system": "phone", "value": "1"}] if number else [])
    clinic.patient(clinic.south)
    kept_back = (None,) * 13
    found = clinic.asks(clinic.analyst, "data-completeness")
    assert table(found) == [
        # one without a telephone could be told from five of six; of the others there is none
        *[("north", 6, 6, 1.0, 0, 0.0, 0, 0.0, None, None, 0, 0.0, 0, 0.0, True)],
        *[("south", *kept_back, True)],
    ]
    assert found["suppressed"]
    for role in ("auditor", "admin"):
        desk = clinic.service.desk(clinic.tenant, scope=f"report:read {ALL_ROLES[role]}")
        seen = clinic.asks(desk, "data-completeness")
        assert (seen["suppressed"], table(seen, "patients", "telecom")) == (
            False,
            [(6, 5), (1, 0)],
        )


ALL_ROLES = {"auditor": "audit:read", "admin": "patient:read"}


def test_what_is_derived_from_a_small_count_is_kept_back_with_it(clinic: Clinic) -> None:
    two_days(clinic)
    found = clinic.asks(clinic.analyst, "registrations", **BOTH_DAYS)
    assert (
        table(found, "registrations", "captured", "latencyMedian", "latencyP95", "suppressed")
        == [(None, None, None, None, True)] * 3
    )
    ages = ("applied", "queueAgeMedian", "queueAgeP95", "queueAgeLongest")
    devices = ("devices", "devicesNotSeen")
    until(lambda: clinic.asks(clinic.admin, "sync-health")["items"][0]["devices"] == 1)
    synchronised = clinic.asks(clinic.analyst, "sync-health", **BOTH_DAYS)
    assert table(synchronised, "facility", *ages, *devices, "suppressed") == [
        ("south", *[None] * 6, True)
    ]


def test_a_silent_device_is_shown_among_enough(clinic: Clinic) -> None:
    for number in range(5):
        push(clinic.south, client=f"tablet-{number}")
    with clinic.at(MONDAY + 8 * DAY):
        push(clinic.south, client="tablet-0")

        def devices() -> list[tuple[object, ...]]:
            found = clinic.asks(clinic.analyst, "sync-health")
            return table(found, "devices", "devicesNotSeen", "suppressed")

        until(lambda: devices() == [(5, 4, False)])


def test_one_encounter_is_one_at_each_hour_whatever_is_asked_for(clinic: Clinic) -> None:
    said = {"class": "AMB", "status": "arrived", "at": (MONDAY - 8 * HOUR).isoformat()}
    opened = {"patientId": clinic.patient()["id"]} | said
    succeeded(clinic.north.post("/v1/encounters", opened))
    figures = ("patients", "encounters", "waitingMedian", "stayP90")
    for by in ("", "facility", "status,facility"):
        found = clinic.asks(clinic.analyst, "encounter-census", by=by, **BOTH_DAYS)
        assert table(found, *figures) == [(None,) * 4] * 8
        assert {column["name"] for column in found["columns"]} >= {"hour", *by.split(",")} - {""}
        seen = clinic.asks(clinic.admin, "encounter-census", by=by, **BOTH_DAYS)
        assert table(seen, "hour", "encounters")[0] == ("2031-03-03T02:00:00Z", 1)


def test_several_encounters_of_one_patient_are_about_one(clinic: Clinic) -> None:
    said = {"class": "AMB", "status": "arrived", "at": (MONDAY - HOUR).isoformat()}
    opened = {"patientId": clinic.patient()["id"]} | said
    for _ in range(5):
        succeeded(clinic.north.post("/v1/encounters", opened))
    figures = ("patients", "encounters", "waitingMedian")
    seen = clinic.asks(clinic.admin, "encounter-census", **BOTH_DAYS)
    assert table(seen, *figures) == [(1, 5, 30.0)]
    found = clinic.asks(clinic.analyst, "encounter-census", **BOTH_DAYS)
    assert table(found, *figures) == [(None,) * 3]


def test_one_patient_is_one_for_each_flag_whatever_is_asked_for(clinic: Clinic) -> None:
    patient = clinic.patient()
    flags = clinic.service.settings.consent_flags
    assert len(flags) >= 5
    for flag in flags:
        path = f"{place(patient)}/consents/{flag}"
        succeeded(clinic.north.put(path, GRANTED | {"decision": "refused"}, If_Match='"0"'))
    figures = ("patients", "granted", "refused", "refusedShare")
    for by in ("", "facility", "flag"):
        found = clinic.asks(clinic.analyst, "consent-coverage", by=by)
        assert table(found, *figures) == [(None,) * 4] * len(flags)
        seen = clinic.asks(clinic.admin, "consent-coverage", by=by)
        assert table(seen, *figures) == [(1, 0, 1, 1.0)] * len(flags)
        assert {row["flag"] for row in seen["items"]} == set(flags)


def test_pairs_of_few_records_are_about_few(service: Service, clinic: Clinic) -> None:
    index = Index.of(service, clinic.tenant)
    for _ in range(4):
        clinic.patient(names=[{"family": "Achebe", "given": ["Ngozi", "Ebele"]}])
    for name in ("Adichie", "Oyelowo", "Soyinka"):
        clinic.patient(names=[{"family": name, "given": ["Li"]}], birthDate="1930-10-11")
    asked = ("registered", "recordsInOpenPairs", "openPairs", "recordsDecided", "decisions")
    (seen,) = table(clinic.asks(clinic.admin, "duplicates"), *asked)
    assert seen == (7, 4, 6, 0, 0)
    (told,) = table(clinic.asks(clinic.analyst, "duplicates"), *asked)
    assert told == (7, None, None, 0, 0)
    found = succeeded(clinic.admin.get("/v1/mpi/candidates", params={"limit": 200}))
    for item in found["items"]:
        path = f"/v1/mpi/candidates/{item['id']}/dismissal"
        succeeded(index.clerk.post(path, {"reason": "twins"}, If_Match='"0"'))
    (told,) = table(clinic.asks(clinic.analyst, "duplicates"), *asked, "decisionMedian")
    assert told == (7, 0, 0, None, None, None)


def test_the_threshold_is_the_installations(tmp_path: Path, database_url: str) -> None:
    with running(database_url, tmp_path, report_threshold=2, time_zone="Asia/Kolkata") as service:
        clinic = Clinic.of(service)
        set_clock(service.clock, MONDAY.replace(hour=18, minute=29))
        clinic.patient()
        clinic.patient()
        with clinic.at(MONDAY.replace(hour=18, minute=31)):
            clinic.patient()
            found = clinic.asks(clinic.analyst, "registrations", by="day")
        # half past six in the evening of UTC is midnight there
        assert table(found, "day", "registrations") == [("2031-03-03", 2), ("2031-03-04", None)]
        assert (found["timeZone"], found["from"], found["to"]) == (
            "Asia/Kolkata",
            "2031-02-02",
            "2031-03-05",
        )


@pytest.mark.parametrize("name", REPORTS)
def test_csv_says_what_json_says(clinic: Clinic, name: str) -> None:
    two_days(clinic)
    dashed = clinic.service.desk(clinic.tenant, facility="-2", role="admin")
    push(dashed, registered(MONDAY, facility="-2"))
    said = {"class": "AMB", "status": "arrived", "at": (MONDAY - HOUR).isoformat()}
    for desk in (clinic.north, dashed):
        patient_id = clinic.patient(desk)["id"]
        succeeded(desk.post("/v1/encounters", said | {"patientId": patient_id}))
    until(lambda: table(clinic.asks(clinic.admin, "sync-health", by=""), "devices") == [(1,)])
    path, asked = f"/v1/reports/{name}", {"minPosition": clinic.head(), "format": "csv"}
    answer = clinic.admin.get(path, params=asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith(f'attachment; filename="{name}')
    assert answer.content.count(b"\n") == answer.content.count(b"\r\n")
    by_header = clinic.admin.get(
        path, params={"minPosition": asked["minPosition"]}, accept="text/csv"
    )
    assert by_header.content == answer.content
    found = clinic.asks(clinic.admin, name)
    header, *rows = csv.reader(io.StringIO(answer.text, newline=""))
    assert header == [column["name"] for column in found["columns"]]
    assert rows == [[as_cell(value) for value in row] for row in table(found)]
    assert rows


def as_cell(value: object) -> str:
    """Return what a cell holds of a JSON value; no text can be a formula."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "true", False: "false"}[value]
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text[0] in "=+-@" else text


@pytest.mark.parametrize(
    ("name", "asked", "path"),
    [
        ("registrations", {"from": "2031-02-30"}, "/from"),
        ("registrations", {"from": "yesterday"}, "/from"),
        ("registrations", {"from": "2031-03-03", "to": "2031-03-03"}, "/to"),
        ("registrations", {"from": "2029-03-03", "to": "2031-03-03"}, "/from"),
        ("encounter-census", {"from": "2031-01-01", "to": "2031-03-03"}, "/from"),
        ("registrations", {"by": "name"}, "/by"),
        ("duplicates", {"by": "facility"}, "/by"),
        ("registrations", {"at": "2031-03-03T00:00:00Z"}, "/at"),
        ("consent-coverage", {"at": "2031-03-03"}, "/at"),
        ("registrations", {"facility": "the north"}, "/facility"),
        ("registrations", {"format": "xml"}, "/format"),
        ("registrations", {"limit": "3"}, "/limit"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    clinic: Clinic, name: str, asked: dict[str, str], path: str
) -> None:
    refused = problem(
        clinic.analyst.get(f"/v1/reports/{name}", params=asked), 422, "VALIDATION_FAILED"
    )
    assert [error["path"] for error in refused["errors"]] == [path]


def test_a_report_that_there_is_not(clinic: Clinic) -> None:
    problem(clinic.analyst.get("/v1/reports/salaries"), 404, "NOT_FOUND")


def test_a_position_that_is_not_reached(clinic: Clinic) -> None:
    answer = clinic.analyst.get("/v1/reports/registrations", params={"minPosition": 10_000})
    problem(answer, 503, "READ_MODEL_BEHIND")


@pytest.mark.parametrize("path", ["/v1/reports", "/v1/reports/registrations"])
def test_reports_need_their_scope(clinic: Clinic, path: str) -> None:
    refused = problem(clinic.north.get(path), 403, "FORBIDDEN")
    assert refused == {"scope": "report:read"}
    problem(clinic.service.http.get(path), 401, "UNAUTHENTICATED")


@pytest.mark.parametrize("name", REPORTS)
def test_another_tenants_data_does_not_exist(service: Service, clinic: Clinic, name: str) -> None:
    neighbour = Clinic.of(service)
    empty = clinic.asks(clinic.admin, name)["items"]
    two_days(neighbour)
    said = {"patientId": neighbour.patient()["id"], "class": "AMB", "status": "arrived"}
    succeeded(neighbour.north.post("/v1/encounters", said))
    assert neighbour.asks(neighbour.admin, name, **BOTH_DAYS) != empty
    assert clinic.asks(clinic.admin, name)["items"] == empty
    # what has one row whatever there is says none
    assert not any(value for row in empty for value in row.values())


def test_the_list_describes_every_column(clinic: Clinic) -> None:
    found = succeeded(clinic.analyst.get("/v1/reports"))["items"]
    assert [report["name"] for report in found] == list(REPORTS)
    for report in found:
        assert report["filters"][:3] == ["from", "to", "facility"]
        answered = clinic.asks(clinic.analyst, report["name"])
        assert answered["columns"] == report["columns"]
        for column in report["columns"]:
            assert len(column["definition"]) > 8
            is_figure = column["type"] in ("integer", "number")
            assert (column["unit"] is not None) == is_figure, column


def test_no_answer_holds_a_name_or_an_id(clinic: Clinic) -> None:
    patient = clinic.patient(
        names=[{"family": "Quxley", "given": ["Zebedee"]}],
        identifiers=[{"system": CARD, "value": "zz-4711"}],
        telecom=[{"system": "phone", "value": "0800-4711"}],
    )
    said = {"patientId": patient["id"], "class": "AMB", "status": "arrived"}
    encounter = succeeded(clinic.north.post("/v1/encounters", said))
    for name in REPORTS:
        text = str(clinic.asks(clinic.admin, name))
        for secret in ("Quxley", "Zebedee", "4711", patient["id"], encounter["id"]):
            assert secret not in text
