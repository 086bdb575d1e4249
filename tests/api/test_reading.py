"""Reading: a patient now and as it stood, its history, and the search."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import httpx
import pytest
from tests.service import ADA, CARD, Clock, Desk, Service, etag, place, problem, succeeded

from registration.api.cursors import encode_cursor

NOBODY = "0192f0c1-2345-7abc-8def-0123456789ab"


class TestOnePatient:
    def test_it_is_what_the_last_command_answered(self, desk: Desk) -> None:
        patient = desk.given_events(desk.given_patient(), 2)
        answer = desk.get(place(patient))
        assert (answer.json(), answer.headers["etag"]) == (patient, '"3"')

    @pytest.mark.parametrize("seen", ['"2"', 'W/"2"', '"1", "2"', "*", '"7" , W/"2"'])
    def test_who_has_this_version_is_told_so(self, desk: Desk, seen) -> None:
        patient = desk.given_events(desk.given_patient(), 1)
        answer = desk.get(place(patient), If_None_Match=seen)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == '"2"'

    @pytest.mark.parametrize("seen", ['"1"', '"22"', "2", ""])
    def test_who_has_another_gets_it(self, desk: Desk, seen) -> None:
        patient = desk.given_events(desk.given_patient(), 1)
        assert desk.get(place(patient), If_None_Match=seen).json() == patient

    def test_as_it_was_at_each_version(self, desk: Desk) -> None:
        patient = desk.given_patient()
        versions = [patient := desk.given_events(patient, 1) for _ in range(3)]
        for version, then in enumerate(versions, 2):
            answer = desk.get(place(patient), params={"version": version})
            assert (answer.json(), answer.headers["etag"]) == (then, etag(then))
        problem(desk.get(place(patient), params={"version": 5}), 404, "NOT_FOUND")

    def test_as_it_was_at_each_instant(self, desk: Desk, clock: Clock) -> None:
        first = desk.given_patient()
        clock.ahead = timedelta(days=1)
        second = desk.given_events(first, 1)
        clock.ahead = timedelta(days=2)
        third = desk.given_events(second, 1)

        def as_of(instant: str) -> Any:
            return desk.get(place(first), params={"asOf": instant}).json()

        assert as_of(first["lastUpdated"]) == first
        moment = datetime.fromisoformat(second["lastUpdated"])
        assert as_of((moment - timedelta(microseconds=1)).isoformat()) == first
        assert as_of(second["lastUpdated"]) == second
        assert as_of("9999-12-31T23:59:59-14:00") == third
        before = desk.get(place(first), params={"asOf": "2001-01-01T00:00:00Z"})
        problem(before, 404, "NOT_FOUND")

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ({"asOf": "2024-01-01"}, "/asOf"),
            ({"asOf": "2024-01-01T00:00:00"}, "/asOf"),
            ({"asOf": "2024-01-01 00:00:00Z"}, "/asOf"),
            ({"asOf": "2024-02-30T00:00:00Z"}, "/asOf"),
            ({"asOf": "2024-01-01T24:00:00Z"}, "/asOf"),
            ({"asOf": ""}, "/asOf"),
            ({"version": "0"}, "/version"),
            ({"version": "-1"}, "/version"),
            ({"version": "1e3"}, "/version"),
            ({"version": "\u0661"}, "/version"),
            ({"version": "99999999999999999999"}, "/version"),
            ({"version": ["1", "1"]}, "/version"),
            ({"version": "1", "asOf": "2024-01-01T00:00:00Z"}, "/asOf"),
            ({"minPosition": "x"}, "/minPosition"),
            ({"asof": "2024-01-01T00:00:00Z"}, "/asof"),
        ],
    )
    def test_a_query_that_makes_no_sense_is_refused(self, desk: Desk, query, path) -> None:
        patient = desk.given_patient()
        extra = problem(desk.get(place(patient), params=query), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == [path]

    @pytest.mark.parametrize("nobody", [NOBODY, "7", "null", "%00", "\u0661" * 36, "x" * 5000])
    def test_nobody_is_not_found(self, desk: Desk, nobody) -> None:
        problem(desk.get(f"/v1/patients/{nobody}"), 404, "NOT_FOUND")
        problem(desk.get(f"/v1/patients/{nobody}/history"), 404, "NOT_FOUND")
        problem(desk.get(f"/v1/patients/{nobody}/names/{NOBODY}"), 404, "NOT_FOUND")


class TestHistory:
    def test_every_event_with_who_when_and_how(self, service: Service) -> None:
        desk = service.desk(sub="desk-1", client="tablet-7", facility="north")
        patient = desk.given_patient(clientMutationId=NOBODY)
        said = {"name": "Obi", "relationship": "brother"}
        now = succeeded(desk.post(f"{place(patient)}/next-of-kin", said))
        answer = desk.get(f"{place(patient)}/history")
        assert answer.json()["next"] is None
        first, second = answer.json()["items"]
        assert [len(event.pop("hash")) for event in (first, second)] == [64, 64]
        assert first == {
            "version": 1,
            "position": 1,
            "type": "patient.registered",
            "at": patient["registeredAt"],
            "actor": "desk-1",
            "client": "tablet-7",
            "clientMutationId": NOBODY,
            "supersedes": None,
            "data": ADA
            | {
                "names": patient["names"],
                "birthDateEstimated": False,
                "facility": "north",
                "identifiers": [],
                "telecom": [],
                "addresses": [],
                "nextOfKin": [],
            },
        }
        assert second == {
            "version": 2,
            "position": 2,
            "type": "patient.next-of-kin-added",
            "at": now["lastUpdated"],
            "actor": "desk-1",
            "client": "tablet-7",
            "clientMutationId": None,
            "supersedes": None,
            "data": {"nextOfKin": now["nextOfKin"][0]},
        }

    @pytest.mark.parametrize("limit", [1, 2, 4, 200])
    def test_page_by_page_nothing_is_missing(self, desk: Desk, limit) -> None:
        patient = desk.given_events(desk.given_patient(), 3)
        whole = desk.history(patient)
        pages, cursor = [], None
        while True:
            params = {"limit": limit} | ({"cursor": cursor} if cursor else {})
            page = succeeded(desk.get(f"{place(patient)}/history", params=params))
            pages.append(page["items"])
            cursor = page["next"]
            if cursor is None:
                break
        assert list(chain(*pages)) == whole
        assert len(pages) == -(-4 // limit)

    def test_nobodys_has_no_second_page_either(self, desk: Desk) -> None:
        for after in (0, 3):
            params = {"cursor": encode_cursor(after)}
            answer = desk.get(f"/v1/patients/{NOBODY}/history", params=params)
            problem(answer, 404, "NOT_FOUND")

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ({"limit": 0}, "/limit"),
            ({"limit": 201}, "/limit"),
            ({"limit": "x"}, "/limit"),
            ({"cursor": "é"}, "/cursor"),
            ({"cursor": "bnVsbA"}, "/cursor"),
            ({"cursor": "LTE"}, "/cursor"),
            ({"cursor": "A" * 2001}, "/cursor"),
            ({"order": "desc"}, "/order"),
        ],
    )
    def test_a_query_that_makes_no_sense_is_refused(self, desk: Desk, query, path) -> None:
        patient = desk.given_patient()
        answer = desk.get(f"{place(patient)}/history", params=query)
        extra = problem(answer, 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == [path]


class TestSearch:
    def found(self, desk: Desk, **params: Any) -> list[dict[str, Any]]:
        head = desk.history(desk.given_patient())[0]["position"]
        answer = desk.get("/v1/patients", params=params | {"minPosition": head})
        items: list[dict[str, Any]] = succeeded(answer)["items"]
        return items

    def test_who_wrote_finds_it_at_once(self, desk: Desk) -> None:
        for number in range(5):
            answer = desk.register(names=[{"family": f"Quickly{number}"}], facility="north")
            position = answer.headers["x-log-position"]
            params = {"family": f"quickly{number}", "minPosition": position}
            assert [
                i["id"] for i in succeeded(desk.get("/v1/patients", params=params))["items"]
            ] == [answer.json()["id"]]

    def test_an_item_shows_who_it_is(self, desk: Desk) -> None:
        patient = desk.given_patient(
            names=[{"family": "Findable"}],
            identifiers=[{"system": CARD, "value": "1"}],
            facility="north",
        )
        (item,) = self.found(desk, family="Findable")
        assert 0 < item.pop("score") <= 1
        assert item == {
            name: patient[name]
            for name in ("id", "version", "active", "display", "names", "gender", "birthDate")
        } | {"identifiers": patient["identifiers"], "facility": "north"}

    @pytest.mark.parametrize("name", ["محمد", "Mohammed", "mohámmed", "Mohamm"])
    def test_either_script_finds_who_was_registered_with_both(self, desk: Desk, name) -> None:
        patient = desk.given_patient(names=[{"family": "Mohammed"}, {"family": "محمد"}])
        assert [item["id"] for item in self.found(desk, name=name)] == [patient["id"]]

    def test_a_typo_is_forgiven_where_it_is_asked_for(self, desk: Desk) -> None:
        patient = desk.given_patient(names=[{"family": "Katherine"}])
        assert self.found(desk, name="Kathxrine") == []
        fuzzy = self.found(desk, name="Kathxrine", fuzzy="true")
        assert [item["id"] for item in fuzzy] == [patient["id"]]

    def test_number_birth_date_gender_and_facility_are_exact(self, desk: Desk) -> None:
        patient = desk.given_patient(
            identifiers=[{"system": CARD, "value": "7"}],
            birthDate="1971-02-03",
            gender="other",
            facility="north",
        )
        for params in (
            {"identifier": f"{CARD}|7"},
            {"birthDate": "1971-02-03"},
            {"birthDate": "1971-02"},
            {"birthDate": "1971"},
            {"gender": "other"},
            {"facility": "north", "name": "Ada"},
        ):
            assert [i["id"] for i in self.found(desk, **params)] == [patient["id"]], params
        for params in (
            {"identifier": f"{CARD}|8"},
            {"identifier": f"{CARD}x|7"},
            {"birthDate": "1971-02-04"},
            {"facility": "nort"},
            {"gender": "male"},
        ):
            assert self.found(desk, **params) == [], params

    def test_a_retired_number_finds_nobody(self, desk: Desk) -> None:
        patient = desk.given_patient(identifiers=[{"system": CARD, "value": "7"}])
        path = f"{place(patient)}/identifiers/{patient['identifiers'][0]['id']}/retirement"
        succeeded(desk.post(path, {"reason": "mistake"}))
        assert self.found(desk, identifier=f"{CARD}|7") == []

    def test_another_tenants_patients_are_never_found(self, service: Service) -> None:
        desk, stranger = service.desk(), service.desk()
        desk.given_patient(identifiers=[{"system": CARD, "value": "7"}])
        assert self.found(stranger, identifier=f"{CARD}|7") == []

    def test_page_by_page_everybody_comes_once(self, desk: Desk) -> None:
        for _ in range(5):
            desk.given_patient()
        seen, params = [], {"name": "okoro", "limit": 2, "minPosition": 5}
        while True:
            page = succeeded(desk.get("/v1/patients", params=params))
            seen += [item["id"] for item in page["items"]]
            if page["next"] is None:
                break
            params["cursor"] = page["next"]
        assert len(seen) == len(set(seen)) == 5

    def test_a_position_that_is_not_reached_in_two_seconds_is_said_so(self, desk: Desk) -> None:
        position = int(desk.register().headers["x-log-position"])
        answer = desk.get("/v1/patients", params={"minPosition": position + 1})
        assert problem(answer, 503, "READ_MODEL_BEHIND") == {}
        assert 1.9 < answer.elapsed.total_seconds() < 4

    def test_those_who_wait_for_a_position_are_in_nobodys_way(self, desk: Desk) -> None:
        position = int(desk.register().headers["x-log-position"])

        def search(number: int) -> httpx.Response:
            waiting = {"minPosition": position + 1} if number else {}
            return desk.get("/v1/patients", params=waiting)

        with ThreadPoolExecutor(24) as pool:
            waiting = [pool.submit(search, number) for number in range(1, 24)]
            time.sleep(0.3)
            answer = search(0)
            assert (answer.status_code, answer.elapsed.total_seconds() < 1) == (200, True)
            assert {future.result().status_code for future in waiting} == {503}

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ({"limit": 201}, "/limit"),
            ({"limit": 0}, "/limit"),
            ({"cursor": "AAAA"}, "/cursor"),
            ({"birthDate": "x"}, "/birthDate"),
            ({"identifier": "7"}, "/identifier"),
            ({"identifier": f"{CARD}|\0"}, "/identifier"),
            ({"facility": "\0"}, "/facility"),
            ({"name": "a\0b"}, "/name"),
            ({"name": "x" * 201}, "/name"),
            ({"gender": "f"}, "/gender"),
            ({"fuzzy": "perhaps"}, "/fuzzy"),
            ({"minPosition": -1}, "/minPosition"),
            ({"minPosition": 2**63}, "/minPosition"),
            ({"surname": "Okoro"}, "/surname"),
        ],
    )
    def test_a_query_that_makes_no_sense_is_refused(self, desk: Desk, query, path) -> None:
        extra = problem(desk.get("/v1/patients", params=query), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == [path]

    @pytest.mark.parametrize(
        "text",
        ["x" * 1000, "𞤀" * 999, "ﷺ" * 990, "龘" * 1000, " ".join("ab" * 9 for _ in range(50))],
    )
    def test_no_name_however_odd_stops_the_read_model(self, desk: Desk, text) -> None:
        position = desk.register(names=[{"text": text}]).headers["x-log-position"]
        found = desk.get("/v1/patients", params={"minPosition": position})
        assert len(succeeded(found)["items"]) == 1
        assert desk.get("/readyz").json()["status"] == "ok"
