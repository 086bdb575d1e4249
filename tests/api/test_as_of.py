"""As known at, as valid at, where the two differ; and searching the past."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.api.given_audit import Audited
from tests.service import CARD, Clock, Desk, Service, etag, place, problem, succeeded

MINUTE = timedelta(minutes=1)
SPOKEN = {"evidence": {"kind": "signature"}}


def now(desk: Desk) -> datetime:
    """Return an instant between what was recorded so far and what comes."""
    return desk.service.clock()


def at(moment: datetime) -> str:
    return moment.isoformat()


@pytest.fixture
def audited(service: Service) -> Audited:
    return Audited.of(service)


class TestDeath:
    def test_it_holds_from_when_it_happened_and_is_known_from_when_it_was_recorded(
        self, desk: Desk, clock: Clock
    ) -> None:
        patient = desk.given_patient()
        died = now(desk)
        clock.ahead += 10 * MINUTE
        before = now(desk)
        clock.ahead += MINUTE
        said = {"deceasedAt": at(died)}
        succeeded(desk.post(f"{place(patient)}/death", said, If_Match=etag(patient)))

        def has_died(**asked: str) -> bool:
            return "deceased" in succeeded(desk.get(place(patient), params=asked))

        assert has_died()
        assert has_died(validAt=at(died))
        assert has_died(validAt=at(before))
        assert not has_died(validAt=at(died - MINUTE))
        # it had happened, but nobody had said so
        assert not has_died(asOf=at(before))
        assert not has_died(asOf=at(before), validAt=at(before))
        assert has_died(asOf=at(now(desk)), validAt=at(died))

    def test_a_reversed_death_never_was_but_was_known(self, desk: Desk, clock: Clock) -> None:
        patient = desk.given_patient()
        said = {"deceasedAt": at(now(desk))}
        dead = succeeded(desk.post(f"{place(patient)}/death", said, If_Match=etag(patient)))
        clock.ahead += MINUTE
        between = now(desk)
        clock.ahead += MINUTE
        reversal = f"{place(patient)}/death/reversal"
        succeeded(desk.post(reversal, {"reason": "another man"}, If_Match=etag(dead)))
        asked = {"validAt": at(between)}
        assert "deceased" not in succeeded(desk.get(place(patient), params=asked))
        known_then = asked | {"asOf": at(between)}
        assert "deceased" in succeeded(desk.get(place(patient), params=known_then))


class TestEncounter:
    def test_a_status_holds_from_when_it_happened(self, desk: Desk, clock: Clock) -> None:
        patient = desk.given_patient()
        arrived = now(desk)
        clock.ahead += 10 * MINUTE
        said = {"patientId": patient["id"], "class": "AMB", "status": "arrived"}
        opened = succeeded(desk.post("/v1/encounters", said | {"at": at(arrived)}))
        path = f"/v1/encounters/{opened['id']}"
        started = now(desk)
        clock.ahead += 10 * MINUTE
        before = now(desk)
        clock.ahead += MINUTE
        said = {"to": "in-progress", "at": at(started)}
        succeeded(desk.post(f"{path}/transitions", said, If_Match=etag(opened)))

        def status(**asked: str) -> str:
            found: str = succeeded(desk.get(path, params=asked))["status"]
            return found

        assert status() == "in-progress"
        assert status(validAt=at(started)) == "in-progress"
        assert status(validAt=at(started - MINUTE)) == "arrived"
        # care had begun, but nobody had said so
        assert status(validAt=at(before)) == "in-progress"
        assert status(asOf=at(before), validAt=at(before)) == "arrived"
        then = {"validAt": at(arrived - MINUTE)}
        problem(desk.get(path, params=then), 404, "NOT_FOUND")
        # it had begun, and was not known
        problem(desk.get(path, params={"asOf": at(started - MINUTE)}), 404, "NOT_FOUND")
        shown = succeeded(desk.get(path, params={"validAt": at(started - MINUTE)}))
        assert [step["status"] for step in shown["statusHistory"]] == ["arrived"]
        assert shown["period"] == {"start": shown["statusHistory"][0]["at"]}

    def test_what_was_entered_in_error_never_was_anything_else(
        self, desk: Desk, clock: Clock
    ) -> None:
        patient = desk.given_patient()
        said = {"patientId": patient["id"], "class": "AMB", "status": "arrived"}
        opened = succeeded(desk.post("/v1/encounters", said))
        path = f"/v1/encounters/{opened['id']}"
        between = now(desk)
        clock.ahead += MINUTE
        said = {"to": "entered-in-error", "reason": "wrong person"}
        succeeded(desk.post(f"{path}/transitions", said, If_Match=etag(opened)))
        asked = {"validAt": at(between)}
        assert succeeded(desk.get(path, params=asked))["status"] == "entered-in-error"
        known_then = asked | {"asOf": at(between)}
        assert succeeded(desk.get(path, params=known_then))["status"] == "arrived"


class TestConsents:
    def test_a_form_that_came_in_late(self, desk: Desk, clock: Clock) -> None:
        patient = desk.given_patient()
        path = f"{place(patient)}/consents"
        signed = now(desk)
        clock.ahead += 60 * MINUTE
        before = now(desk)
        clock.ahead += MINUTE
        said = SPOKEN | {"decision": "granted", "validFrom": at(signed)}
        succeeded(desk.put(f"{path}/research", said, If_Match='"0"'))

        def granted(**asked: str) -> list[bool]:
            answer = succeeded(desk.get(path, params=asked))
            return [each["inForce"] for each in answer["items"]]

        assert granted() == [True]
        assert granted(validAt=at(signed)) == [True]
        assert granted(validAt=at(signed - MINUTE)) == []
        assert granted(asOf=at(before)) == []
        assert granted(asOf=at(before), validAt=at(signed)) == []
        assert granted(asOf=at(now(desk)), validAt=at(before)) == [True]

    def test_without_valid_at_it_is_what_was_known_to_hold_then(
        self, desk: Desk, clock: Clock
    ) -> None:
        patient = desk.given_patient()
        path = f"{place(patient)}/consents"
        until = now(desk) + 30 * MINUTE
        said = SPOKEN | {"decision": "granted", "validUntil": at(until)}
        succeeded(desk.put(f"{path}/research", said, If_Match='"0"'))
        clock.ahead += MINUTE
        then = now(desk)
        clock.ahead += 60 * MINUTE
        answer = succeeded(desk.get(path, params={"asOf": at(then)}))
        moment = then.isoformat().replace("+00:00", "Z")
        assert (answer["asOf"], answer["validAt"]) == (moment, moment)
        assert [each["inForce"] for each in answer["items"]] == [True]
        assert succeeded(desk.get(path))["asOf"] is None

    def test_the_patient_shows_the_decision_that_had_begun(self, desk: Desk, clock: Clock) -> None:
        patient = desk.given_patient()
        path = f"{place(patient)}/consents/research"
        granted = SPOKEN | {"decision": "granted"}
        succeeded(desk.put(path, granted, If_Match='"0"'))
        clock.ahead += MINUTE
        between = now(desk)
        later = SPOKEN | {"decision": "withdrawn", "validFrom": at(between + MINUTE)}
        succeeded(desk.put(path, later, If_Match='"1"'))

        def decision(**asked: str) -> list[str]:
            shown = succeeded(desk.get(place(patient), params=asked))["consents"]
            return [each["decision"] for each in shown]

        assert decision() == ["withdrawn"]
        assert decision(validAt=at(between)) == ["granted"]
        assert decision(validAt=at(between + MINUTE)) == ["withdrawn"]
        assert decision(validAt=at(between - 10 * MINUTE)) == []


@pytest.mark.parametrize("said", ["", "now", "2026-11-28", "2026-11-28T10:00:00", "9999-99-99T"])
def test_what_is_no_instant_is_refused(desk: Desk, said: str) -> None:
    patient = desk.given_patient()
    for path in (place(patient), f"{place(patient)}/consents"):
        for name in ("asOf", "validAt"):
            told = problem(desk.get(path, params={name: said}), 422, "VALIDATION_FAILED")
            assert told["errors"][0]["path"] == f"/{name}"
    searched = {"name": "okoro", "asOf": said}
    problem(desk.get("/v1/patients", params=searched), 422, "VALIDATION_FAILED")


def test_what_has_no_validity_takes_no_instant_of_it(audited: Audited) -> None:
    one, two = audited.desk.given_patient(), audited.desk.given_patient()
    said = {"survivorId": one["id"], "retiredId": two["id"], "reason": "one"}
    versions = {"survivorVersion": 1, "retiredVersion": 1}
    merge = succeeded(audited.desk.post("/v1/mpi/merges", said | versions))
    path = f"/v1/mpi/merges/{merge['id']}"
    answer = audited.desk.get(path, params={"validAt": at(datetime.now(UTC))})
    problem(answer, 422, "VALIDATION_FAILED")


class TestSearchingThePast:
    def found(self, desk: Desk, moment: datetime, **asked: Any) -> list[dict[str, Any]]:
        answer = succeeded(desk.get("/v1/patients", params=asked | {"asOf": at(moment)}))
        items: list[dict[str, Any]] = answer["items"]
        return items

    def ids(self, desk: Desk, moment: datetime, **asked: Any) -> list[str]:
        return [item["id"] for item in self.found(desk, moment, **asked)]

    def test_by_the_name_of_then_and_not_by_that_of_now(self, desk: Desk, clock: Clock) -> None:
        before = now(desk)
        clock.ahead += MINUTE
        patient = desk.given_patient(names=[{"family": "Okoro", "given": ["Ada", "Grace"]}])
        clock.ahead += MINUTE
        then = now(desk)
        clock.ahead += MINUTE
        path = f"{place(patient)}/names/{patient['names'][0]['id']}"
        succeeded(desk.put(path, {"family": "Bello", "given": ["Ada"]}))
        clock.ahead += MINUTE
        after = now(desk)
        its_id = [patient["id"]]

        assert self.ids(desk, then, name="okoro") == its_id
        assert self.ids(desk, then, name="GRACE Okoro") == its_id
        assert self.ids(desk, then, family="Okoro", given="ada") == its_id
        assert self.ids(desk, then, given="okoro") == []
        assert self.ids(desk, then, name="bello") == []
        assert self.ids(desk, after, name="bello") == its_id
        assert self.ids(desk, after, name="okoro") == []
        assert self.ids(desk, before, name="okoro") == []
        # words of two names are no name
        assert self.ids(desk, after, name="grace bello") == []
        (shown,) = self.found(desk, then, name="okoro")
        assert (shown["version"], shown["names"][0]["family"]) == (1, "Okoro")
        assert shown["display"]["default"]["text"] == "Ada Grace Okoro"

    def test_by_an_identifier_that_moved_on(self, desk: Desk, clock: Clock) -> None:
        held = {"system": CARD, "value": "moved-1"}
        first = desk.given_patient(identifiers=[held])
        clock.ahead += MINUTE
        then = now(desk)
        clock.ahead += MINUTE
        path = f"{place(first)}/identifiers/{first['identifiers'][0]['id']}/retirement"
        succeeded(desk.post(path, {"reason": "lost"}))
        second = desk.given_patient(identifiers=[held])
        clock.ahead += MINUTE
        asked = {"identifier": f"{CARD}|moved-1"}
        assert self.ids(desk, then, **asked) == [first["id"]]
        assert self.ids(desk, now(desk), **asked) == [second["id"]]

    def test_the_other_criteria_are_those_of_then(self, desk: Desk, clock: Clock) -> None:
        patient = desk.given_patient(facility="north")
        clock.ahead += MINUTE
        then = now(desk)
        clock.ahead += MINUTE
        said = {"gender": "male", "birthDate": "1990-05", "facility": "south"}
        path = f"{place(patient)}/demographics"
        succeeded(desk.patch(path, said, If_Match=etag(patient)))
        clock.ahead += MINUTE
        for moment, criteria, others in (
            (then, {"gender": "female", "birthDate": "1984", "facility": "north"}, said),
            (now(desk), {"gender": "male", "birthDate": "1990", "facility": "south"}, {}),
        ):
            for name, value in criteria.items():
                assert self.ids(desk, moment, name="okoro", **{name: value}) == [patient["id"]]
            for name, value in others.items():
                assert self.ids(desk, moment, name="okoro", **{name: value}) == []

    def test_a_merge_holds_from_when_it_was_made(self, audited: Audited, clock: Clock) -> None:
        desk, approver = audited.desk, audited.desk.service
        one = desk.given_patient(names=[{"family": "Survivor"}])
        two = desk.given_patient(
            names=[{"family": "Retired"}], identifiers=[{"system": CARD, "value": "m-1"}]
        )
        clock.ahead += MINUTE
        then = now(desk)
        clock.ahead += MINUTE
        said = {
            "survivorId": one["id"],
            "retiredId": two["id"],
            "survivorVersion": 1,
            "retiredVersion": 1,
            "reason": "one person",
        }
        merge = succeeded(desk.post("/v1/mpi/merges", said))
        other = approver.desk(desk.tenant, role="mpi", sub="clerk-2")
        succeeded(other("POST", f"/v1/mpi/merges/{merge['id']}/approval"))
        clock.ahead += MINUTE
        after = now(desk)
        for asked in ({"name": "retired"}, {"identifier": f"{CARD}|m-1"}):
            assert self.ids(desk, then, **asked) == [two["id"]]
            assert self.ids(desk, after, **asked) == [one["id"]]
            everybody = self.ids(desk, after, includeInactive=True, **asked)
            assert set(everybody) == {one["id"], two["id"]}

    def test_pages_follow_each_other(self, desk: Desk, clock: Clock) -> None:
        patients = [desk.given_patient(names=[{"family": "Paged"}])["id"] for _ in range(5)]
        clock.ahead += MINUTE
        asked = {"name": "paged", "asOf": at(now(desk)), "limit": 2}
        pages: list[list[str]] = []
        cursor = None
        while True:
            at_place = asked | ({"cursor": cursor} if cursor else {})
            page = succeeded(desk.get("/v1/patients", params=at_place))
            pages.append([item["id"] for item in page["items"]])
            cursor = page["next"]
            if cursor is None:
                break
        assert [len(page) for page in pages] == [2, 2, 1]
        assert sorted(its_id for page in pages for its_id in page) == sorted(patients)

    def test_another_tenant_has_a_past_of_its_own(self, desk: Desk, service: Service) -> None:
        desk.given_patient()
        assert self.ids(service.desk(), now(desk) + MINUTE, name="okoro") == []

    @pytest.mark.parametrize(
        ("asked", "where"),
        [
            ({}, "/asOf"),
            ({"gender": "male"}, "/asOf"),
            ({"birthDate": "1984-03-02"}, "/asOf"),
            ({"name": "okoro", "fuzzy": True}, "/fuzzy"),
            ({"name": "okoro", "cursor": "x"}, "/cursor"),
            ({"identifier": "no system"}, "/identifier"),
        ],
    )
    def test_what_cannot_be_answered_whole_is_refused(
        self, desk: Desk, asked: dict[str, Any], where: str
    ) -> None:
        answer = desk.get("/v1/patients", params=asked | {"asOf": at(now(desk))})
        told = problem(answer, 422, "VALIDATION_FAILED")
        assert [error["path"] for error in told["errors"]] == [where]

    def test_a_name_of_too_many_is_refused_and_not_cut(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("registration.api.past_search.MOST_CANDIDATES", 2)
        for given in ("Ada", "Ada", "Joy"):
            desk.given_patient(names=[{"family": "Many", "given": [given]}])
        moment = now(desk) + MINUTE
        answer = desk.get("/v1/patients", params={"name": "many", "asOf": at(moment)})
        told = problem(answer, 422, "VALIDATION_FAILED")
        assert "say more" in told["errors"][0]["message"]
        assert len(self.ids(desk, moment, name="many ada")) == 2
