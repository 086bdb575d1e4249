"""Reports over real HTTP: known small populations, and the whole tables that they give."""

from datetime import timedelta
from typing import Any

import pytest
from tests.api.given_merges import Index
from tests.api.given_reports import (
    BOTH_DAYS,
    DAY,
    HOUR,
    MONDAY,
    Clinic,
    captured,
    registered,
    set_clock,
    table,
    two_days,
    until,
)
from tests.service import CARD, Desk, Service, etag, new_id, place, succeeded
from tests.sync.given import GRANTED, kin, push, queued


@pytest.fixture
def clinic(service: Service, clock) -> Clinic:
    """A clinic on a Monday."""
    set_clock(clock, MONDAY)
    return Clinic.of(service)


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
        ("2031-03-03T08:00:00Z", "north", "arrived", 2, 2, 25.0, 45.0, 25.0, 45.0, False),
        ("2031-03-03T09:00:00Z", "north", "arrived", 1, 1, 60.0, 60.0, 60.0, 60.0, False),
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
        ("north", "NOT_FOUND", 0, None, None, None, 0, 2, 0, 0, 0, False),
        ("north", "OFFLINE_PROHIBITED", 0, None, None, None, 0, 2, 0, 0, 0, False),
        ("north", None, 2, 2.0, 2.9, 3.0, 0, 0, 0, 1, 0, False),
        ("south", None, 0, None, None, None, 0, 0, 0, 1, 1, False),
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

    assert duplicates() == (7, 0, 0.0, 7, 6, 0.8571, 3, 0, 0, None, None, False)
    with clinic.at(MONDAY + 10 * HOUR):
        index.merged(*merged)
    with clinic.at(MONDAY + 20 * HOUR):
        (candidate,) = pairs_of(clinic, open_pair[0])
        said = {"reason": "twins"}
        path = f"/v1/mpi/candidates/{candidate}/dismissal"
        succeeded(index.clerk.post(path, said, If_Match='"0"'))
    *counts, median, longest, _ = duplicates()
    assert counts == [7, 1, 0.1429, 6, 2, 0.3333, 1, 4, 2]
    assert (round(float(median)), round(float(longest))) == (15, 19)
    assert duplicates(facility="south") == (2, 0, 0.0, 2, 2, 1.0, 1, 0, 0, None, None, False)
    assert duplicates(since="2031-03-04") == (0, 0, None, 0, 0, None, 0, 0, 0, None, None, False)
    (hidden,) = table(clinic.asks(clinic.analyst, "duplicates", facility="south"))
    assert hidden == (*[None] * 11, True)


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
