"""Reports over real HTTP: known small populations, and the whole tables that they give."""

import csv
import io
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.api.given_merges import Index
from tests.api.given_reports import (
    DAY,
    HOUR,
    MONDAY,
    Clinic,
    captured,
    registered,
    set_clock,
    table,
)
from tests.service import CARD, Desk, Service, etag, new_id, place, problem, running, succeeded
from tests.sync.given import GRANTED, kin, push, queued

from registration.reports.catalogue import REPORTS

BOTH_DAYS = {"since": "2031-03-03", "until": "2031-03-05"}
TUESDAY = MONDAY + DAY


@pytest.fixture
def clinic(service: Service, clock) -> Clinic:
    """A clinic on a Monday."""
    set_clock(clock, MONDAY)
    return Clinic.of(service)


def two_days(clinic: Clinic) -> None:
    """Monday: two women at the desk, a boy on the tablet, offline; Tuesday: somebody unknown."""
    clinic.patient(birthDate="2000-03-04")
    clinic.patient(birthDate="2001")
    boy = registered(MONDAY - 2 * HOUR, gender="male", birthDate="2027-01-01")
    assert push(clinic.south, boy)[0]["status"] == "applied"
    with clinic.at(TUESDAY):
        clinic.patient(gender="unknown", birthDate=None)


def test_registrations_by_all_that_they_are_told_apart_by(clinic: Clinic) -> None:
    two_days(clinic)
    found = clinic.asks(clinic.admin, "registrations", **BOTH_DAYS)
    latency = found["items"][1].pop("latencyMedian")
    assert found["items"][1].pop("latencyP95") == latency
    assert 7200 <= latency < 7260
    found["items"][1] |= {"latencyMedian": "two hours", "latencyP95": "two hours"}
    none = (0, None, None, False)
    assert table(found) == [
        ("2031-03-03", "north", "female", "25 to 44", "online", 2, *none),
        (
            "2031-03-03",
            "south",
            "male",
            "00 to 04",
            "offline",
            1,
            1,
            "two hours",
            "two hours",
            False,
        ),
        ("2031-03-04", "north", "unknown", "unknown", "online", 1, *none),
    ]
    assert {name: found[name] for name in ("name", "from", "to", "facility", "timeZone")} == {
        "name": "registrations",
        "from": "2031-03-03",
        "to": "2031-03-05",
        "facility": None,
        "timeZone": "UTC",
    }
    assert (found["position"], found["suppressed"]) == (clinic.head(), False)


def test_registrations_by_fewer_dimensions_in_a_window_of_a_facility(clinic: Clinic) -> None:
    two_days(clinic)

    def registrations(**asked: str) -> list[tuple[object, ...]]:
        found = clinic.asks(clinic.admin, "registrations", **(BOTH_DAYS | asked))
        return table(found, *[n for n in asked.get("by", "").split(",") if n], "registrations")

    assert registrations(by="day") == [("2031-03-03", 3), ("2031-03-04", 1)]
    assert registrations(by="gender,mode") == [
        ("female", "online", 2),
        ("male", "offline", 1),
        ("unknown", "online", 1),
    ]
    assert registrations(by="") == [(4,)]
    assert registrations(by="", until="2031-03-04") == [(3,)]
    assert registrations(by="", facility="south") == [(1,)]
    assert registrations(by="day", facility="west") == []


def test_the_age_is_that_of_the_day_of_the_registration(clinic: Clinic) -> None:
    for birth_date in ("2026-03-03", "2026-03-04", "1966-03-03", "1966-03-04", "2031"):
        clinic.patient(birthDate=birth_date)
    found = clinic.asks(clinic.admin, "registrations", by="ageBand", **BOTH_DAYS)
    assert table(found, "ageBand", "registrations") == [
        ("00 to 04", 2),
        ("05 to 14", 1),
        ("45 to 64", 1),
        ("65 and over", 1),
    ]


def test_corrections_change_who_was_registered_but_not_where(clinic: Clinic) -> None:
    patient = clinic.patient(birthDate="2030")
    said = {"gender": "other", "birthDate": "1950", "facility": "south"}
    succeeded(clinic.north.patch(f"{place(patient)}/demographics", said, If_Match=etag(patient)))
    found = clinic.asks(clinic.admin, "registrations", by="facility,gender,ageBand", **BOTH_DAYS)
    assert table(found, "facility", "gender", "ageBand", "registrations") == [
        ("north", "other", "65 and over", 1)
    ]
    there = clinic.asks(clinic.admin, "data-completeness", facility="south")
    assert table(there, "facility", "patients") == [("south", 1)]


def test_a_record_that_is_merged_away_counts_no_more_until_it_is_restored(
    service: Service, clinic: Clinic
) -> None:
    index = Index.of(service, clinic.tenant)
    survivor, retired = index.patient(1), index.patient(2)

    def registrations() -> list[tuple[object, ...]]:
        return table(
            clinic.asks(clinic.admin, "registrations", by="", **BOTH_DAYS), "registrations"
        )

    assert registrations() == [(2,)]
    merge = index.merged(survivor, retired)
    assert registrations() == [(1,)]
    index.unmerged(merge)
    assert registrations() == [(2,)]


def test_completeness_of_what_is_known_now(service: Service, clinic: Clinic) -> None:
    card = {"system": CARD, "value": "1"}
    clinic.patient(birthDate="1970-01-01", identifiers=[card])
    whole = clinic.patient(
        birthDate="1970",
        birthDateEstimated=True,
        telecom=[{"system": "phone", "value": "0800"}],
        identifiers=[{"system": CARD, "value": "2"}],
    )
    said = {"name": "Obi", "relationship": "brother"}
    whole = succeeded(clinic.north.post(f"{place(whole)}/next-of-kin", said))
    clinic.patient(clinic.south, birthDate=None)
    # what is taken away is known no more
    number = whole["identifiers"][0]["id"]
    succeeded(
        clinic.north.post(f"{place(whole)}/identifiers/{number}/retirement", {"reason": "wrong"})
    )
    found = clinic.asks(clinic.admin, "data-completeness")
    assert table(found) == [
        ("north", 2, 2, 1.0, 1, 0.5, 1, 0.5, 1, 0.5, 1, 0.5, 1, 0.5, False),
        ("south", 1, 0, 0.0, 0, 0.0, 0, 0.0, 0, 0.0, 0, 0.0, 0, 0.0, False),
    ]
    assert found["from"] is None
    assert found["to"] is None


def test_an_identifier_of_a_record_merged_away_is_its_persons(
    service: Service, clinic: Clinic
) -> None:
    index = Index.of(service, clinic.tenant)
    bare, held = index.patient(1, identifiers=[]), index.patient(2)
    merge = index.merged(bare, held)
    columns = ("patients", "identifier")
    assert table(clinic.asks(clinic.admin, "data-completeness"), *columns) == [(1, 1)]
    index.unmerged(merge)
    assert table(clinic.asks(clinic.admin, "data-completeness"), *columns) == [(2, 1)]


def test_the_census_hour_by_hour(clinic: Clinic) -> None:
    def opens(**members: object) -> dict[str, object]:
        said = {"patientId": clinic.patient()["id"], "class": "AMB", "status": "arrived"}
        return succeeded(clinic.north.post("/v1/encounters", said | members))

    def moves(encounter: dict[str, object], to: str, at: object) -> dict[str, object]:
        said = {"to": to, "at": str(at), "reason": "because"}
        answer = clinic.north.post(
            f"/v1/encounters/{encounter['id']}/transitions", said, If_Match=etag(encounter)
        )
        return succeeded(answer)

    came = MONDAY - timedelta(hours=2, minutes=20)  # 7:10
    treated = opens(at=came.isoformat())
    treated = moves(treated, "in-progress", (came + timedelta(minutes=80)).isoformat())  # 8:30
    moves(treated, "finished", (came + timedelta(minutes=110)).isoformat())  # 9:00
    waiting = opens(at=(came + timedelta(minutes=50)).isoformat())  # 8:00
    mistake = opens(at=came.isoformat())
    moves(mistake, "entered-in-error", (came + HOUR).isoformat())
    opens(status="planned", plannedStart=came.isoformat())
    assert waiting["status"] == "arrived"

    found = clinic.asks(clinic.admin, "encounter-census", **BOTH_DAYS)
    # half past nine: the hours to come are not there; who left at nine was not there at nine
    assert table(found) == [
        ("2031-03-03T08:00:00Z", "north", "arrived", 2, 25.0, 45.0, 25.0, 45.0, False),
        ("2031-03-03T09:00:00Z", "north", "arrived", 1, 60.0, 60.0, 60.0, 60.0, False),
    ]
    with clinic.at(MONDAY + 2 * HOUR):
        later = clinic.asks(clinic.admin, "encounter-census", by="hour", **BOTH_DAYS)
        assert table(later, "hour", "encounters", "stayMedian") == [
            ("2031-03-03T08:00:00Z", 2, 25.0),
            ("2031-03-03T09:00:00Z", 1, 60.0),
            ("2031-03-03T10:00:00Z", 1, 120.0),
            ("2031-03-03T11:00:00Z", 1, 180.0),
        ]
    elsewhere = clinic.asks(clinic.admin, "encounter-census", facility="south", **BOTH_DAYS)
    assert elsewhere["items"] == []


def test_waiting_ends_with_the_start_of_care(clinic: Clinic) -> None:
    said = {
        "patientId": clinic.patient()["id"],
        "class": "EMER",
        "status": "arrived",
        "at": (MONDAY - timedelta(minutes=100)).isoformat(),  # 7:50
    }
    opened = succeeded(clinic.north.post("/v1/encounters", said))
    started = {"to": "in-progress", "at": (MONDAY - timedelta(minutes=60)).isoformat()}  # 8:30
    path = f"/v1/encounters/{opened['id']}/transitions"
    succeeded(clinic.north.post(path, started, If_Match=etag(opened)))
    found = clinic.asks(clinic.admin, "encounter-census", **BOTH_DAYS)
    assert table(found, "hour", "status", "waitingMedian", "stayMedian") == [
        ("2031-03-03T08:00:00Z", "arrived", 10.0, 10.0),
        ("2031-03-03T09:00:00Z", "in-progress", 40.0, 70.0),
    ]


def test_consent_in_force_at_an_instant(clinic: Clinic) -> None:
    one, other, silent, dead = (clinic.patient() for _ in range(4))
    until = (MONDAY + DAY).isoformat()

    def says(patient: dict[str, object], flag: str, version: int, **said: object) -> None:
        path = f"{place(patient)}/consents/{flag}"
        succeeded(clinic.north.put(path, GRANTED | said, If_Match=f'"{version}"'))

    says(one, "research", 0, validUntil=until)
    says(other, "research", 0, decision="refused")
    says(other, "portrait", 0)
    with clinic.at(MONDAY + HOUR):
        says(other, "portrait", 1, decision="withdrawn")
    says(dead, "research", 0)
    died = {"deceasedAt": (MONDAY - HOUR).isoformat()}
    version = succeeded(clinic.north.get(place(dead)))
    succeeded(clinic.north.post(f"{place(dead)}/death", died, If_Match=etag(version)))
    assert silent["active"]

    def coverage(at: object) -> list[tuple[object, ...]]:
        found = clinic.asks(clinic.admin, "consent-coverage", at=str(at), by="flag")
        columns = ("flag", "patients", "granted", "grantedShare", "refused", "withdrawn")
        kept = ("portrait", "research")
        return [row for row in table(found, *columns) if row[0] in kept]

    assert coverage((MONDAY + timedelta(minutes=30)).isoformat()) == [
        ("portrait", 3, 1, 0.3333, 0, 0),
        ("research", 3, 1, 0.3333, 1, 0),
    ]
    assert coverage((MONDAY + 2 * DAY).isoformat()) == [
        ("portrait", 3, 0, 0.0, 0, 1),
        ("research", 3, 0, 0.0, 1, 0),
    ]
    # a flag that nobody said anything about is there too
    everything = clinic.asks(clinic.admin, "consent-coverage")
    assert {row["flag"] for row in everything["items"]} == set(
        clinic.service.settings.consent_flags
    )


def test_health_of_synchronisation(clinic: Clinic) -> None:
    with clinic.at(MONDAY - 8 * DAY):
        assert push(clinic.south, client="old-tablet") == []
    created = registered(MONDAY - 3 * HOUR)
    patient_id = created["aggregateId"]
    mutations = [
        created,
        kin(patient_id, id=captured(MONDAY - HOUR)),
        queued("patient.record_death", patient_id, id=captured(MONDAY - HOUR, 1)),
        kin(nobody := new_id(), id=captured(MONDAY - HOUR, 2)),
        kin(nobody, id=captured(MONDAY - HOUR, 3)),
    ]
    results = push(clinic.north, *mutations)
    # told again: what is remembered counts once, what the mutation itself cannot do each time
    push(clinic.north, *mutations)
    refused = sorted(r["code"] for r in results if "code" in r)
    assert refused == ["NOT_FOUND", "NOT_FOUND", "OFFLINE_PROHIBITED"]
    expected = [
        ("north", "NOT_FOUND", 0, None, None, None, 0, 2, 0, 0, 0),
        ("north", "OFFLINE_PROHIBITED", 0, None, None, None, 0, 2, 0, 0, 0),
        ("north", None, 2, 2.0, 2.9, 3.0, 0, 0, 0, 1, 0),
        ("south", None, 0, None, None, None, 0, 0, 0, 1, 1),
    ]
    until(lambda: sync_health(clinic) == expected)


def test_duplicates_open_dismissed_and_confirmed(service: Service, clinic: Clinic) -> None:
    index = Index.of(service, clinic.tenant)

    def twice(family: str, desk: Desk | None = None) -> list[dict[str, object]]:
        return [
            clinic.patient(desk, names=[{"family": family, "given": ["Ngozi", "Ebele"]}])
            for _ in range(2)
        ]

    open_pair = twice("Achebe")
    twice("Oyelowo", clinic.south)
    merged = twice("Adichie")
    clinic.patient(names=[{"family": "Wu", "given": ["Li"]}], birthDate="1930-10-11")

    def duplicates(**asked: str) -> tuple[Any, ...]:
        (row,) = table(clinic.asks(clinic.admin, "duplicates", **asked))
        return row

    assert duplicates() == (7, 0, 0.0, 7, 6, 0.8571, 3, 0, None, None, False)
    with clinic.at(MONDAY + 10 * HOUR):
        index.merged(*merged)
    with clinic.at(MONDAY + 20 * HOUR):
        (candidate,) = pairs_of(clinic, open_pair[0])
        said = {"reason": "twins"}
        path = f"/v1/mpi/candidates/{candidate}/dismissal"
        succeeded(index.clerk.post(path, said, If_Match='"0"'))
    *counts, median, longest, _ = duplicates()
    assert counts == [7, 1, 0.1429, 6, 2, 0.3333, 1, 2]
    assert (round(float(median)), round(float(longest))) == (15, 19)
    assert duplicates(facility="south") == (2, 0, 0.0, 2, 2, 1.0, 1, 0, None, None, False)
    assert duplicates(since="2031-03-04") == (0, 0, None, 0, 0, None, 0, 0, None, None, False)
    (hidden,) = table(clinic.asks(clinic.analyst, "duplicates", facility="south"))
    # only that nobody of them was merged, and that nothing was decided, is about none
    assert hidden == (*[None] * 7, 0, None, None, True)


def pairs_of(clinic: Clinic, patient: dict[str, object]) -> list[str]:
    """Return the candidates that a record is in."""
    found = clinic.admin.get("/v1/mpi/candidates", params={"limit": 200})
    return [
        item["id"]
        for item in succeeded(found)["items"]
        if patient["id"] in (each["patientId"] for each in item["patients"])
    ]


def sync_health(clinic: Clinic) -> list[tuple[object, ...]]:
    """Return the whole table, with ages in hours."""
    found = clinic.asks(clinic.admin, "sync-health", **BOTH_DAYS)
    for row in found["items"]:
        for name in ("queueAgeMedian", "queueAgeP95", "queueAgeLongest"):
            row[name] = row[name] and round(row[name] / 3600, 2)
    return sorted(table(found), key=str)


def until(condition: Callable[[], bool]) -> None:
    """Insist on what comes true soon: devices are counted beside their pushes."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


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
    synchronised = clinic.asks(clinic.analyst, "sync-health", **BOTH_DAYS)
    assert (synchronised["suppressed"], table(synchronised, "facility", "applied")) == (
        False,
        [("south", 1)],
    )


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
