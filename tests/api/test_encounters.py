"""Encounters: opened, moved through the state machine, listed, and shown on the board of a day."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.service import (
    Clock,
    Desk,
    Service,
    etag,
    new_id,
    place,
    problem,
    running,
    succeeded,
)

from registration import docs
from registration.api import vital_status
from registration.domain.encounter import INITIAL, STATUSES, TERMINAL, TRANSITIONS, allowed

Encounter = dict[str, Any]
ENCOUNTERS = "/v1/encounters"
BOARD = "/v1/encounters/board"
NOBODY = "0192f0c1-2345-7abc-8def-0123456789ab"
NOON = datetime(2031, 3, 3, 12, tzinfo=UTC)
"""A Monday that tests set the clock to."""
TODAY, YESTERDAY, TOMORROW = "2031-03-03", "2031-03-02", "2031-03-04"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)

PATHS: dict[str, tuple[str, ...]] = {
    "planned": (),
    "arrived": ("arrived",),
    "triaged": ("arrived", "triaged"),
    "in-progress": ("arrived", "in-progress"),
    "onleave": ("arrived", "in-progress", "onleave"),
    "finished": ("arrived", "in-progress", "finished"),
    "cancelled": ("cancelled",),
    "entered-in-error": ("entered-in-error",),
}
"""How a planned encounter comes to a status."""


def opens(desk: Desk, patient: dict[str, Any] | None = None, **said: Any) -> httpx.Response:
    """Open an encounter, of a patient of its own unless one is given."""
    patient = patient or desk.given_patient()
    headers = {name: said.pop(name) for name in ("Idempotency_Key", "If_Match") if name in said}
    return desk.post(ENCOUNTERS, {"patientId": patient["id"], "class": "AMB"} | said, **headers)


def opened(desk: Desk, patient: dict[str, Any] | None = None, **said: Any) -> Encounter:
    return succeeded(opens(desk, patient, **said))


def where(encounter: Encounter) -> str:
    return f"{ENCOUNTERS}/{encounter['id']}"


def moves(desk: Desk, encounter: Encounter, to: str, **said: Any) -> httpx.Response:
    headers = {"If_Match": etag(encounter)}
    return desk.post(f"{where(encounter)}/transitions", {"to": to} | said, **headers)


def moved(desk: Desk, encounter: Encounter, *path: str, **said: Any) -> Encounter:
    for to in path:
        reason = {"reason": "because"} if to == "entered-in-error" else {}
        encounter = succeeded(moves(desk, encounter, to, **reason | said))
    return encounter


def head(desk: Desk) -> str:
    """Return where the log of the desk's tenant stands, which a refusal says too."""
    return str(desk.post(ENCOUNTERS, {}).headers.get("x-log-position", 0))


def listed(desk: Desk, **asked: Any) -> list[str]:
    """Return the ids of a list, as of now."""
    params = _wire(asked) | {"minPosition": head(desk)}
    return [item["id"] for item in succeeded(desk.get(ENCOUNTERS, params=params))["items"]]


def board(desk: Desk, **asked: Any) -> dict[str, Any]:
    """Return a board, as of now."""
    return succeeded(desk.get(BOARD, params=asked | {"minPosition": head(desk)}))


def on_board(desk: Desk, **asked: Any) -> list[str]:
    return [item["id"] for item in board(desk, **asked)["items"]]


def _wire(asked: dict[str, Any]) -> dict[str, Any]:
    names = {"since": "from", "until": "to"}
    return {names.get(name, name): value for name, value in asked.items()}


def pages(desk: Desk, path: str, **asked: Any) -> list[list[str]]:
    """Return the ids of every page of a list."""
    params, found = _wire(asked) | {"minPosition": head(desk)}, []
    while True:
        page = succeeded(desk.get(path, params=params))
        found.append([item["id"] for item in page["items"]])
        if page["next"] is None:
            return found
        params["cursor"] = page["next"]


def recorded(encounter: Encounter) -> Encounter:
    """Return an encounter as a conflict shows it: whatever merges made of its patient."""
    return {name: value for name, value in encounter.items() if name != "currentPatientId"}


def ids(*encounters: Encounter) -> list[str]:
    return [encounter["id"] for encounter in encounters]


def said(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


@pytest.fixture
def noon(clock: Clock) -> Clock:
    """The clock at noon of a day on which nothing else happens."""
    clock.ahead = NOON - datetime.now(UTC)
    return clock


class TestOpening:
    def test_it_is_planned_at_the_desks_facility_unless_more_is_said(
        self, service: Service
    ) -> None:
        desk = service.desk(sub="desk-1", facility="north")
        patient = desk.given_patient()
        answer = opens(desk, patient)
        shown = answer.json()
        now = shown["openedAt"]
        assert shown == {
            "id": shown["id"],
            "version": 1,
            "patientId": patient["id"],
            "currentPatientId": patient["id"],
            "class": "AMB",
            "status": "planned",
            "statusHistory": [
                {
                    "status": "planned",
                    "at": shown["statusHistory"][0]["at"],
                    "recordedAt": now,
                    "recordedBy": "desk-1",
                }
            ],
            "period": {},
            "facility": "north",
            "postMortem": False,
            "allowed": ["arrived", "cancelled", "entered-in-error"],
            "openedAt": now,
            "lastUpdated": now,
        }
        assert patient["lastUpdated"] <= shown["statusHistory"][0]["at"] <= now
        assert answer.status_code == 201
        assert (answer.headers["etag"], answer.headers["x-log-position"]) == ('"1"', "2")
        assert desk.get(answer.headers["location"]).json() == shown

    def test_all_that_may_be_said(self, desk: Desk, noon: Clock) -> None:
        words: dict[str, Any] = {
            "id": str(new_id()),
            "class": "EMER",
            "status": "arrived",
            "at": "2031-03-03T10:30:00+01:00",
            "plannedStart": "2031-03-03T09:00:00Z",
            "facility": "south",
            "reason": "  persistent   cough ",
            "postMortem": False,
        }
        shown = opened(desk, **words)
        (step,) = shown["statusHistory"]
        for name in ("id", "class", "status", "plannedStart", "facility", "postMortem"):
            assert shown[name] == words[name]
        assert (step["at"], step["reason"]) == ("2031-03-03T09:30:00Z", "persistent cough")
        assert shown["period"] == {"start": "2031-03-03T09:30:00Z"}

    @pytest.mark.parametrize("named", ["id", "clientMutationId", "Idempotency_Key"])
    def test_sent_twice_it_is_opened_once(self, desk: Desk, named: str) -> None:
        patient, key = desk.given_patient(), {named: str(new_id())}
        first, again = (opens(desk, patient, **key) for _ in range(2))
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["idempotency-replayed"] == "true"
        assert listed(desk) == ids(first.json())
        refusal = opens(desk, patient, **key, facility="elsewhere")
        if named == "id":
            problem(refusal, 409, "ID_TAKEN")
        else:
            problem(refusal, 422, "IDEMPOTENCY_KEY_REUSED")

    def test_at_the_same_moment_too(self, desk: Desk) -> None:
        patient, its_id = desk.given_patient(), str(new_id())
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: opens(desk, patient, id=its_id), range(8)))
        assert {(answer.status_code, answer.content) for answer in answers} == {
            (201, answers[0].content)
        }
        assert listed(desk) == [its_id]

    def test_without_a_key_each_is_one_of_its_own(self, desk: Desk) -> None:
        patient = desk.given_patient()
        assert listed(desk) == []
        assert len({opened(desk, patient)["id"] for _ in range(3)}) == 3
        assert len(listed(desk, patientId=patient["id"])) == 3

    def test_of_nobody_that_this_tenant_knows(self, desk: Desk, service: Service) -> None:
        known = desk.given_patient()
        another_tenants = service.desk().given_patient()
        an_encounters = opened(desk, known)
        for nobody in ({"id": NOBODY}, another_tenants, an_encounters):
            problem(opens(desk, nobody), 404, "NOT_FOUND")
        assert listed(desk) == ids(an_encounters)

    def test_an_id_names_one_thing(self, desk: Desk) -> None:
        patient = desk.given_patient()
        encounter = opened(desk, patient)
        for taken in (patient, desk.given_patient(), encounter):
            problem(opens(desk, patient, id=taken["id"]), 409, "ID_TAKEN")
        problem(desk.register(id=encounter["id"]), 409, "ID_TAKEN")
        assert listed(desk) == ids(encounter)

    def test_an_id_of_another_tenant_is_free(self, desk: Desk, service: Service) -> None:
        theirs = opened(service.desk(), status="arrived")
        ours = opened(desk, id=theirs["id"])
        assert desk.get(where(theirs)).json() == ours != theirs

    def test_of_the_dead_only_what_follows_a_death(self, desk: Desk) -> None:
        patient = desk.given_patient()
        dead = dies(desk, patient)
        problem(opens(desk, patient), 409, "PATIENT_DECEASED")
        assert opened(desk, patient, postMortem=True)["postMortem"] is True
        path, reason = f"{place(patient)}/death/reversal", {"reason": "wrong record"}
        succeeded(desk.post(path, reason, If_Match=etag(dead)))
        assert opened(desk, patient)["postMortem"] is False

    @pytest.mark.parametrize("named", ["id", "clientMutationId", "Idempotency_Key"])
    def test_a_retry_after_the_death_gets_the_first_answer(self, desk: Desk, named: str) -> None:
        patient, key = desk.given_patient(), {named: str(new_id())}
        first = opens(desk, patient, **key)
        dies(desk, patient)
        again = opens(desk, patient, **key)
        assert (again.status_code, again.content) == (201, first.content)

    def test_none_is_recorded_after_a_death_that_came_at_that_very_moment(self, desk: Desk) -> None:
        def either(number: int) -> httpx.Response:
            if number == 4:
                said = {"deceasedAt": "2026-01-01T00:00:00Z"}
                return desk.post(f"{place(patient)}/death", said, If_Match=etag(patient))
            return opens(desk, patient)

        outcomes = []
        with ThreadPoolExecutor(8) as pool:
            for _ in range(25):
                patient = desk.given_patient()
                answers = list(pool.map(either, range(8)))
                died = int(answers.pop(4).headers["x-log-position"])
                assert [event["position"] for event in desk.history(patient)][1:] == [died]
                for answer in answers:
                    outcomes.append(answer.status_code)
                    if answer.status_code == 201:
                        path = f"{where(answer.json())}/history"
                        (first,) = succeeded(desk.get(path))["items"]
                        assert first["position"] == int(answer.headers["x-log-position"]) < died
                    else:
                        problem(answer, 409, "PATIENT_DECEASED")
        assert set(outcomes) == {201, 409}

    @pytest.mark.parametrize(
        ("said", "path"),
        [
            ({"class": "X"}, "/class"),
            ({"class": None}, "/class"),
            ({"patientId": None}, "/patientId"),
            ({"patientId": "7"}, "/patientId"),
            ({"status": "finished"}, "/status"),
            ({"status": "triaged"}, "/status"),
            ({"at": "yesterday"}, "/at"),
            ({"at": "2020-01-01T00:00:00"}, "/at"),
            ({"at": "2999-01-01T00:00:00Z"}, "/at"),
            ({"at": "2199-01-01T00:00:00Z"}, "/at"),
            ({"at": "1984-03-01T09:59:59Z"}, "/at"),
            ({"plannedStart": "1984-03-01T09:59:59Z"}, "/plannedStart"),
            ({"plannedStart": "soon"}, "/plannedStart"),
            ({"facility": "north wing"}, "/facility"),
            ({"facility": ""}, "/facility"),
            ({"facility": "x" * 65}, "/facility"),
            ({"reason": ""}, "/reason"),
            ({"reason": "  "}, "/reason"),
            ({"reason": "x" * 1001}, "/reason"),
            ({"reason": "a\u202eb"}, "/reason"),
            ({"reason": "a\0b"}, ""),
            ({"postMortem": "yes"}, "/postMortem"),
            ({"postMortem": None}, "/postMortem"),
            ({"id": "7"}, "/id"),
            ({"priority": "high"}, "/priority"),
            ({"encounterClass": "AMB"}, "/encounterClass"),
        ],
        ids=str,
    )
    def test_what_makes_no_sense_is_refused(self, desk: Desk, said: Any, path: str) -> None:
        extra = problem(opens(desk, **said), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == [path]
        assert listed(desk) == []

    def test_what_is_no_command_is_refused(self, desk: Desk) -> None:
        patient = desk.given_patient()
        problem(opens(desk, patient, clientMutationId=NOBODY[:14] + "4" + NOBODY[15:]), 422, _ID)
        problem(opens(desk, patient, If_Match='"1"'), 400, "MALFORMED_REQUEST")
        problem(desk.post(ENCOUNTERS, []), 422, "VALIDATION_FAILED")
        for content, kind, status, code in (
            (b"{", "application/json", 400, "MALFORMED_REQUEST"),
            (b"{}", "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
            (b'{"class": "AMB", "class": "IMP"}', "application/json", 400, "MALFORMED_REQUEST"),
        ):
            sent = desk("POST", ENCOUNTERS, content=content, Content_Type=kind)
            problem(sent, status, code)
        said = {"patientId": patient["id"], "class": "AMB"}
        query = desk("POST", ENCOUNTERS, said=said, params={"facility": "north"})
        problem(query, 422, "VALIDATION_FAILED")
        assert listed(desk) == []


_ID = "MUTATION_ID_INVALID"


def dies(desk: Desk, patient: dict[str, Any]) -> dict[str, Any]:
    said = {"deceasedAt": "2026-01-01T00:00:00Z"}
    return succeeded(desk.post(f"{place(patient)}/death", said, If_Match=etag(patient)))


class TestMoving:
    def test_each_step_says_when_it_happened_and_who_recorded_it_when(
        self, service: Service, noon: Clock
    ) -> None:
        desk = service.desk(sub="desk-1")
        ward = service.desk(desk.tenant, sub="ward-7")
        steps: list[tuple[Desk, str, datetime, str | None]] = [
            (desk, "arrived", NOON - 3 * HOUR, None),
            (desk, "triaged", NOON - 3 * HOUR, None),
            (ward, "in-progress", NOON - 2 * HOUR, None),
            (ward, "onleave", NOON - HOUR, "at home"),
            (ward, "in-progress", NOON - 30 * MINUTE, None),
            (ward, "finished", NOON - 20 * MINUTE, None),
            (desk, "in-progress", NOON - 10 * MINUTE, "finished too early"),
            (ward, "finished", NOON - 5 * MINUTE, None),
        ]
        encounter = opened(desk, at=said(NOON - 4 * HOUR))
        expected = encounter["statusHistory"]
        for version, (who, to, at, reason) in enumerate(steps, 2):
            noon.ahead += timedelta(seconds=1)
            words = {"at": said(at)} | ({"reason": reason} if reason else {})
            answer = moves(who, encounter, to, **words)
            encounter = succeeded(answer)
            expected = [
                *expected,
                {"status": to, **words}
                | {
                    "recordedAt": encounter["lastUpdated"],
                    "recordedBy": "desk-1" if who is desk else "ward-7",
                },
            ]
            assert encounter["statusHistory"] == expected
            assert (encounter["version"], encounter["status"]) == (version, to)
            assert encounter["allowed"] == allowed(to)  # type: ignore[arg-type]
            assert answer.headers["etag"] == etag(encounter)
        assert encounter["period"] == {"start": said(steps[0][2]), "end": said(steps[-1][2])}
        recorded = [step["recordedAt"] for step in encounter["statusHistory"]]
        assert recorded == sorted(set(recorded))

    def test_it_happened_now_where_nothing_else_is_said(self, desk: Desk, noon: Clock) -> None:
        encounter = moved(desk, opened(desk), "arrived")
        planned, arrived = encounter["statusHistory"]
        assert planned["at"] <= planned["recordedAt"] <= arrived["at"] <= arrived["recordedAt"]
        assert NOON < datetime.fromisoformat(arrived["at"]) < NOON + MINUTE

    @pytest.mark.parametrize("source", STATUSES)
    def test_what_the_state_machine_lacks_is_refused_with_what_it_has(
        self, desk: Desk, source: Any
    ) -> None:
        encounter = moved(desk, opened(desk), *PATHS[source])
        for target in STATUSES:
            if (source, target) in TRANSITIONS:
                continue
            answer = moves(desk, encounter, target, reason="because")
            assert problem(answer, 409, "ENCOUNTER_TRANSITION_NOT_ALLOWED") == {
                "from": source,
                "to": target,
                "allowed": [to for to in STATUSES if (source, to) in TRANSITIONS],
            }
        assert desk.get(where(encounter)).json() == encounter

    def test_a_stale_version_is_refused_with_what_changed(self, service: Service) -> None:
        desk = service.desk(sub="desk-1")
        colleague = service.desk(desk.tenant, sub="desk-2")
        seen = moved(desk, opened(desk), "arrived")
        triaged = moved(colleague, seen, "triaged")
        now = moved(colleague, triaged, "in-progress")
        told = problem(moves(desk, seen, "cancelled"), 412, "OPTIMISTIC_LOCK_CONFLICT")
        period = next(field for field in told["fields"] if field["path"] == "/period")
        assert told == {
            "expectedVersion": 2,
            "currentVersion": 4,
            "changes": [
                {
                    "version": encounter["version"],
                    "event": event,
                    "at": encounter["lastUpdated"],
                    "actor": "desk-2",
                    "fields": ["/status"],
                }
                for encounter, event in (
                    (triaged, "encounter.triaged"),
                    (now, "encounter.started"),
                )
            ],
            "fields": [
                {
                    "path": "/period",
                    "base": seen["period"],
                    "theirs": now["period"],
                    "yours": {"start": seen["period"]["start"], "end": period["yours"]["end"]},
                },
                {
                    "path": "/status",
                    "base": "arrived",
                    "theirs": "in-progress",
                    "yours": "cancelled",
                },
            ],
            "current": recorded(now),
        }

    def test_who_does_what_a_colleague_has_done_sees_no_difference(self, desk: Desk) -> None:
        seen = moved(desk, opened(desk), "arrived")
        now = moved(desk, seen, "triaged")
        told = problem(moves(desk, seen, "triaged"), 412, "OPTIMISTIC_LOCK_CONFLICT")
        assert (told["fields"], told["current"]) == ([], recorded(now))

    def test_of_many_who_move_at_once_one_does(self, desk: Desk) -> None:
        encounter = moved(desk, opened(desk), "arrived")
        wanted = ["triaged", "in-progress", "cancelled"] * 3
        with ThreadPoolExecutor(len(wanted)) as pool:
            answers = list(pool.map(lambda to: moves(desk, encounter, to), wanted))
        (done,) = [answer for answer in answers if answer.is_success]
        for answer in answers:
            if answer is not done:
                problem(answer, 412, "OPTIMISTIC_LOCK_CONFLICT")
        assert succeeded(desk.get(where(encounter))) == done.json()

    @pytest.mark.parametrize(
        ("stated", "status", "code"),
        [
            (None, 428, "VERSION_REQUIRED"),
            ("*", 400, "MALFORMED_REQUEST"),
            ('W/"1"', 400, "MALFORMED_REQUEST"),
            ("1", 400, "MALFORMED_REQUEST"),
            ('"0"', 412, "OPTIMISTIC_LOCK_CONFLICT"),
            ('"2"', 412, "OPTIMISTIC_LOCK_CONFLICT"),
        ],
    )
    def test_the_version_that_was_seen_is_stated(
        self, desk: Desk, stated: str | None, status: int, code: str
    ) -> None:
        encounter = opened(desk)
        headers = {} if stated is None else {"If_Match": stated}
        answer = desk.post(f"{where(encounter)}/transitions", {"to": "arrived"}, **headers)
        extra = problem(answer, status, code)
        if status == 412:
            assert (extra["changes"], extra["fields"], extra["current"]) == (
                [],
                [],
                recorded(encounter),
            )
        assert desk.get(where(encounter)).json() == encounter

    @pytest.mark.parametrize(
        ("words", "path"),
        [
            ({"to": "asleep"}, "/to"),
            ({"to": None}, "/to"),
            ({"to": "In-Progress"}, "/to"),
            ({"to": "entered-in-error"}, "/reason"),
            ({"to": "entered-in-error", "reason": " "}, "/reason"),
            ({"to": "finished", "reason": "a\0b"}, ""),
            ({"to": "finished", "at": "2031-03-03T11:29:59Z"}, "/at"),
            ({"to": "finished", "at": "2031-03-03T13:00:00Z"}, "/at"),
            ({"to": "finished", "at": "2031-03-03"}, "/at"),
            ({"to": "finished", "at": 1}, "/at"),
            ({"to": "finished", "version": 1}, "/version"),
        ],
        ids=str,
    )
    def test_what_makes_no_sense_is_refused(
        self, desk: Desk, noon: Clock, words: Any, path: str
    ) -> None:
        """Above all: what ends did not end before it began, nor will it have ended tomorrow."""
        encounter = opened(desk, status="in-progress", at=said(NOON - 30 * MINUTE))
        extra = problem(moves(desk, encounter, **words), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == [path]
        assert moved(desk, encounter, "finished", at=said(NOON - 30 * MINUTE))["version"] == 2

    def test_a_reopening_needs_a_reason(self, desk: Desk) -> None:
        encounter = moved(desk, opened(desk), *PATHS["finished"])
        extra = problem(moves(desk, encounter, "in-progress"), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == ["/reason"]
        encounter = moved(desk, encounter, "in-progress", reason="bleeding again")
        assert encounter["statusHistory"][-1]["reason"] == "bleeding again"
        assert "end" not in encounter["period"]

    @pytest.mark.parametrize("nobody", [NOBODY, "7", "board", "state-machine", "%00"])
    def test_what_there_is_not_does_not_move(self, desk: Desk, nobody: str) -> None:
        path = f"{ENCOUNTERS}/{nobody}/transitions"
        problem(desk.post(path, {"to": "arrived"}, If_Match='"1"'), 404, "NOT_FOUND")

    def test_neither_does_another_tenants(self, desk: Desk, service: Service) -> None:
        problem(moves(service.desk(), opened(desk), "arrived"), 404, "NOT_FOUND")


class TestReading:
    def test_it_is_what_the_last_command_answered(self, desk: Desk) -> None:
        encounter = moved(desk, opened(desk), *PATHS["finished"])
        answer = desk.get(where(encounter), params={"minPosition": head(desk)})
        assert (answer.json(), answer.headers["etag"]) == (encounter, '"4"')
        answer = desk.get(where(encounter), If_None_Match='"4"')
        assert (answer.status_code, answer.content) == (304, b"")

    def test_as_it_was_at_each_version(self, desk: Desk) -> None:
        encounter = opened(desk)
        versions = [
            encounter,
            *(encounter := moved(desk, encounter, to) for to in PATHS["onleave"]),
        ]
        for version, then in enumerate(versions, 1):
            answer = desk.get(where(encounter), params={"version": version})
            assert (answer.json(), answer.headers["etag"]) == (then, etag(then))
        problem(desk.get(where(encounter), params={"version": 5}), 404, "NOT_FOUND")

    def test_as_it_was_recorded_at_each_instant(self, desk: Desk, clock: Clock) -> None:
        """What happened earlier is not known before it was recorded."""
        first = opened(desk, at="2026-01-01T00:00:00Z")
        clock.ahead = timedelta(days=1)
        second = moved(desk, first, "arrived", at="2026-01-01T01:00:00Z")

        def as_of(instant: str) -> httpx.Response:
            return desk.get(where(first), params={"asOf": instant})

        moment = datetime.fromisoformat(second["lastUpdated"])
        assert as_of(first["lastUpdated"]).json() == first
        assert as_of(said(moment - timedelta(microseconds=1))).json() == first
        assert as_of(second["lastUpdated"]).json() == second
        problem(as_of("2026-01-01T02:00:00Z"), 404, "NOT_FOUND")

    def test_the_history_has_every_event_with_who_and_when(self, service: Service) -> None:
        desk = service.desk(sub="desk-1", client="tablet-7", facility="north")
        patient = desk.given_patient()
        first = opened(desk, patient, clientMutationId=NOBODY)
        second = moved(desk, first, "cancelled", reason="did not come")
        answer = desk.get(f"{where(first)}/history").json()
        digests = [len(event.pop("hash")) for event in answer["items"]]
        common = {"actor": "desk-1", "client": "tablet-7"}
        assert answer == {
            "items": [
                common
                | {
                    "version": 1,
                    "position": 2,
                    "type": "encounter.opened",
                    "at": first["lastUpdated"],
                    "clientMutationId": NOBODY,
                    "supersedes": None,
                    "data": {
                        "patientId": patient["id"],
                        "class": "AMB",
                        "status": "planned",
                        "at": first["statusHistory"][0]["at"],
                        "facility": "north",
                        "postMortem": False,
                    },
                },
                common
                | {
                    "version": 2,
                    "position": 3,
                    "type": "encounter.cancelled",
                    "at": second["lastUpdated"],
                    "clientMutationId": None,
                    "supersedes": None,
                    "data": {
                        "at": second["statusHistory"][1]["at"],
                        "reason": "did not come",
                    },
                },
            ],
            "next": None,
        }
        assert digests == [64, 64]

    @pytest.mark.parametrize("limit", [1, 2, 4])
    def test_the_history_page_by_page(self, desk: Desk, limit: int) -> None:
        encounter = moved(desk, opened(desk), *PATHS["finished"])
        seen, params = [], {"limit": limit}
        while True:
            page = succeeded(desk.get(f"{where(encounter)}/history", params=params))
            seen += [event["version"] for event in page["items"]]
            if page["next"] is None:
                break
            params["cursor"] = page["next"]
        assert seen == [1, 2, 3, 4]

    def test_a_patients_id_is_no_encounters_nor_the_other_way_round(self, desk: Desk) -> None:
        patient = desk.given_patient()
        encounter = opened(desk, patient)
        for path in (f"{ENCOUNTERS}/{patient['id']}", f"/v1/patients/{encounter['id']}"):
            problem(desk.get(path), 404, "NOT_FOUND")
            problem(desk.get(path, params={"version": 1}), 404, "NOT_FOUND")
            problem(desk.get(f"{path}/history"), 404, "NOT_FOUND")
        problem(moves(desk, patient, "arrived"), 404, "NOT_FOUND")
        problem(desk.post(f"{place(encounter)}/names", {"family": "Obi"}), 404, "NOT_FOUND")

    @pytest.mark.parametrize("nobody", [NOBODY, "7", "%00", "x" * 5000])
    def test_what_there_is_not_is_not_found(self, desk: Desk, nobody: str) -> None:
        problem(desk.get(f"{ENCOUNTERS}/{nobody}"), 404, "NOT_FOUND")
        problem(desk.get(f"{ENCOUNTERS}/{nobody}/history"), 404, "NOT_FOUND")

    def test_another_tenant_has_no_such_encounter(self, desk: Desk, service: Service) -> None:
        encounter, stranger = opened(desk), service.desk()
        problem(stranger.get(where(encounter)), 404, "NOT_FOUND")
        problem(stranger.get(f"{where(encounter)}/history"), 404, "NOT_FOUND")
        assert (listed(stranger), on_board(stranger)) == ([], [])

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ({"asOf": "2024-01-01"}, "/asOf"),
            ({"version": "0"}, "/version"),
            ({"version": "1", "asOf": "2024-01-01T00:00:00Z"}, "/asOf"),
            ({"minPosition": "x"}, "/minPosition"),
            ({"status": "planned"}, "/status"),
        ],
        ids=str,
    )
    def test_a_query_that_makes_no_sense_is_refused(
        self, desk: Desk, query: Any, path: str
    ) -> None:
        extra = problem(desk.get(where(opened(desk)), params=query), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == [path]


class TestWhoMay:
    def test_who_writes_without_reading_gets_a_receipt(self, service: Service) -> None:
        desk = service.desk(facility="north")
        patient = desk.given_patient()
        kiosk = service.desk(desk.tenant, scope="encounter:write", facility="north")
        answer = opens(kiosk, patient)
        receipt = answer.json()
        assert receipt == {"id": receipt["id"], "version": 1}
        assert answer.headers["location"] == where(receipt)
        assert moved(kiosk, receipt, "arrived") == {"id": receipt["id"], "version": 2}
        assert succeeded(desk.get(where(receipt)))["facility"] == "north"

    def test_nor_does_a_conflict_tell_them_more(self, service: Service) -> None:
        desk = service.desk()
        encounter = opened(desk)
        now = moved(desk, encounter, "arrived")
        kiosk = service.desk(desk.tenant, scope="encounter:write")
        told = problem(moves(kiosk, encounter, "cancelled"), 412, "OPTIMISTIC_LOCK_CONFLICT")
        assert told == {
            "expectedVersion": 1,
            "currentVersion": 2,
            "changes": [{"version": 2, "event": "encounter.arrived", "at": now["lastUpdated"]}],
        }

    def test_encounters_need_no_right_to_patients(self, service: Service) -> None:
        desk = service.desk()
        patient = desk.given_patient()
        ward = service.desk(desk.tenant, scope="encounter:read encounter:write")
        encounter = moved(ward, opened(ward, patient), "arrived")
        assert ward.get(where(encounter)).json() == encounter
        assert listed(ward, patientId=patient["id"]) == on_board(ward) == ids(encounter)
        refusal = problem(ward.get(place(patient)), 403, "FORBIDDEN")
        assert refusal == {"scope": "patient:read"}

    @pytest.mark.parametrize("path", ["", "/board", f"/{NOBODY}", f"/{NOBODY}/history"])
    def test_reading_needs_the_right_to_it(self, service: Service, path: str) -> None:
        desk = service.desk(scope="patient:read patient:write encounter:write report:read")
        refusal = problem(desk.get(ENCOUNTERS + path), 403, "FORBIDDEN")
        assert refusal == {"scope": "encounter:read"}

    @pytest.mark.parametrize("path", ["", f"/{NOBODY}/transitions"])
    def test_writing_needs_the_right_to_it(self, service: Service, path: str) -> None:
        desk = service.desk(scope="patient:write encounter:read")
        said = {"to": "arrived"} if path else {"patientId": NOBODY, "class": "AMB"}
        refusal = problem(desk.post(ENCOUNTERS + path, said), 403, "FORBIDDEN")
        assert refusal == {"scope": "encounter:write"}

    @pytest.mark.parametrize("path", ["", "/board", "/state-machine", f"/{NOBODY}"])
    def test_nobody_reads_without_a_token(self, service: Service, path: str) -> None:
        problem(service.http.get(ENCOUNTERS + path), 401, "UNAUTHENTICATED")


class TestTheStateMachine:
    def test_it_is_the_table_that_the_service_reads(self, service: Service) -> None:
        anybody = service.desk(scope="report:read")
        assert succeeded(anybody.get(f"{ENCOUNTERS}/state-machine")) == {
            "statuses": list(STATUSES),
            "initial": list(INITIAL),
            "terminal": [status for status in STATUSES if status in TERMINAL],
            "transitions": [
                {
                    "from": move.source,
                    "to": move.target,
                    "event": move.event.TOPIC,
                    "needsReason": move.needs_reason,
                    "case": move.case,
                }
                for move in TRANSITIONS.values()
            ],
        }

    def test_its_page_says_and_draws_every_move(self) -> None:
        page = docs.encounters()
        for move in TRANSITIONS.values():
            assert f"| `{move.source}` | `{move.target}` | `{move.event.TOPIC}` |" in page
        for status in STATUSES:
            drawn = {to for to in STATUSES if _arrow(status, to) in page}
            assert drawn == set(allowed(status)) - {"entered-in-error"}
        assert "every other status may become `entered-in-error`" in page


def _arrow(source: str, target: str) -> str:
    return f"    {source} --> {target}".replace("in-progress", "in_progress")


class TestAList:
    def test_it_shows_encounters_as_they_are_the_earliest_first(
        self, desk: Desk, noon: Clock
    ) -> None:
        patient = desk.given_patient()
        later = opened(desk, patient, plannedStart=said(NOON + HOUR), reason="check")
        earlier = moved(desk, opened(desk, at=said(NOON - HOUR)), *PATHS["finished"])
        earliest = opened(desk, status="arrived", at=said(NOON - 2 * HOUR))
        answer = desk.get(ENCOUNTERS, params={"minPosition": head(desk)})
        assert answer.json() == {"items": [earliest, earlier, later], "next": None}

    def test_by_patient_status_and_facility(self, desk: Desk) -> None:
        ada, obi = desk.given_patient(), desk.given_patient()
        planned = opened(desk, ada, facility="north")
        arrived = opened(desk, ada, facility="south", status="arrived")
        finished = moved(desk, opened(desk, obi, facility="north"), *PATHS["finished"])
        mistake = moved(desk, opened(desk, obi), "entered-in-error")
        for asked, found in (
            ({}, [planned, arrived, finished, mistake]),
            ({"patientId": ada["id"]}, [planned, arrived]),
            ({"patientId": NOBODY}, []),
            ({"status": "arrived"}, [arrived]),
            ({"status": ["finished", "planned"]}, [planned, finished]),
            ({"status": ["planned", "planned"]}, [planned]),
            ({"status": "entered-in-error"}, [mistake]),
            ({"facility": "north"}, [planned, finished]),
            ({"facility": "nort"}, []),
            ({"facility": "north", "status": "finished"}, [finished]),
            ({"facility": "north", "status": "finished", "patientId": ada["id"]}, []),
        ):
            assert sorted(listed(desk, **asked)) == sorted(ids(*found)), asked

    def test_by_when_they_came_or_are_expected(self, desk: Desk, noon: Clock) -> None:
        expected = opened(desk, plannedStart=said(NOON + HOUR))
        came = opened(desk, status="arrived", at=said(NOON - HOUR), plannedStart=said(NOON))
        for asked, found in (
            ({"since": said(NOON)}, [expected]),
            ({"until": said(NOON)}, [came]),
            ({"since": said(NOON - HOUR), "until": said(NOON + HOUR)}, [came]),
            ({"since": said(NOON - HOUR + MINUTE), "until": said(NOON + HOUR)}, []),
            ({"since": "2031-03-03T14:00:00+01:00"}, [expected]),
            ({"since": "0001-01-01T00:00:00+14:00"}, [came, expected]),
            ({"until": "9999-12-31T23:59:59-14:00"}, [came, expected]),
            ({"since": said(NOON), "until": said(NOON)}, []),
        ):
            assert listed(desk, **asked) == ids(*found), asked
        noon.ahead += 2 * HOUR
        expected = moved(desk, expected, "arrived")
        assert listed(desk, since=said(NOON + HOUR), until=said(NOON + 2 * HOUR)) == []
        assert listed(desk, since=said(NOON + 2 * HOUR)) == ids(expected)

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 200])
    @pytest.mark.parametrize(
        ("asked", "count"),
        [({}, 7), ({"status": "arrived"}, 4), ({"status": ["planned", "arrived"]}, 6)],
        ids=str,
    )
    def test_page_by_page_each_comes_once_also_of_one_moment(
        self, desk: Desk, noon: Clock, limit: int, asked: Any, count: int
    ) -> None:
        patient, moment = desk.given_patient(), said(NOON - HOUR)
        for words in [{"status": "arrived"}] * 4 + [{"plannedStart": moment}] * 2:
            opened(desk, patient, at=moment, **words)
        moved(desk, opened(desk, patient, at=moment), "cancelled", at=moment)
        whole = listed(desk, **asked)
        found = pages(desk, ENCOUNTERS, limit=limit, **asked)
        assert [one for page in found for one in page] == whole == sorted(set(whole))
        assert (len(whole), len(found)) == (count, -(-count // limit))

    def test_what_is_new_behind_a_page_is_on_the_next(self, desk: Desk, noon: Clock) -> None:
        first, second = (
            opened(desk, status="arrived", at=said(NOON - ago)) for ago in (3 * HOUR, HOUR)
        )
        page = succeeded(desk.get(ENCOUNTERS, params={"limit": 1, "minPosition": head(desk)}))
        assert ids(*page["items"]) == ids(first)
        before = opened(desk, status="arrived", at=said(NOON - 4 * HOUR))
        between = opened(desk, status="arrived", at=said(NOON - 2 * HOUR))
        assert listed(desk, cursor=page["next"]) == ids(between, second)
        assert listed(desk) == ids(before, first, between, second)

    def test_who_wrote_finds_it_at_once(self, desk: Desk) -> None:
        for _ in range(10):
            answer = opens(desk)
            encounter, position = answer.json(), answer.headers["x-log-position"]
            params = {"patientId": encounter["patientId"], "minPosition": position}
            assert succeeded(desk.get(ENCOUNTERS, params=params))["items"] == [encounter]

    def test_a_position_that_is_not_reached_in_two_seconds_is_said_so(self, desk: Desk) -> None:
        position = int(opens(desk).headers["x-log-position"])

        def asks(path: str) -> httpx.Response:
            return desk.get(path, params={"minPosition": position + 1})

        with ThreadPoolExecutor(2) as pool:
            for answer in pool.map(asks, (ENCOUNTERS, BOARD)):
                assert problem(answer, 503, "READ_MODEL_BEHIND") == {}
                assert 1.9 < answer.elapsed.total_seconds() < 4

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ({"limit": 0}, "/limit"),
            ({"limit": 201}, "/limit"),
            ({"limit": "many"}, "/limit"),
            ({"cursor": "AAAA"}, "/cursor"),
            ({"cursor": ""}, "/cursor"),
            ({"cursor": "é"}, "/cursor"),
            ({"cursor": "bnVsbA"}, "/cursor"),
            ({"cursor": "WyIyMDI2IiwgN10"}, "/cursor"),
            ({"cursor": "A" * 2001}, "/cursor"),
            ({"patientId": "7"}, "/patientId"),
            ({"patientId": ""}, "/patientId"),
            ({"status": "asleep"}, "/status/0"),
            ({"status": ["planned", "asleep"]}, "/status/1"),
            ({"status": ["planned"] * 9}, "/status"),
            ({"facility": ""}, "/facility"),
            ({"facility": "a b"}, "/facility"),
            ({"facility": "\0"}, "/facility"),
            ({"from": "2024-01-01"}, "/from"),
            ({"from": "2024-02-30T00:00:00Z"}, "/from"),
            ({"to": "2024-01-01T00:00:00"}, "/to"),
            ({"to": ""}, "/to"),
            ({"minPosition": -1}, "/minPosition"),
            ({"minPosition": 2**63}, "/minPosition"),
            ({"day": "2024-01-01"}, "/day"),
            ({"since": "2024-01-01T00:00:00Z"}, "/since"),
        ],
        ids=str,
    )
    def test_a_query_that_makes_no_sense_is_refused(
        self, desk: Desk, query: Any, path: str
    ) -> None:
        extra = problem(desk.get(ENCOUNTERS, params=query), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == [path]


class TestTheBoard:
    def test_who_is_there_and_how_long_they_wait(self, desk: Desk, noon: Clock) -> None:
        waiting = opened(desk, status="arrived", at=said(NOON - 50 * MINUTE), facility="north")
        noon.ahead += 10 * MINUTE
        shown = board(desk)
        (item,) = shown["items"]
        assert 3600 <= item["waitingSeconds"] < 3660
        assert shown == {
            "day": TODAY,
            "timeZone": "UTC",
            "counts": {
                "arrived": {
                    "count": 1,
                    "longestWaitSeconds": item["waitingSeconds"],
                    "medianWaitSeconds": item["waitingSeconds"],
                }
            },
            "items": [
                waiting
                | {
                    "waitingSeconds": item["waitingSeconds"],
                    "staySeconds": item["waitingSeconds"],
                }
            ],
            "next": None,
        }

    @pytest.mark.parametrize(
        ("steps", "waited", "stayed"),
        [
            ([("planned", 0)], None, None),
            ([("planned", 0), ("cancelled", 1)], None, None),
            ([("planned", 0), ("arrived", 10), ("in-progress", 25)], 15, "till now"),
            ([("arrived", 10), ("triaged", 20)], "till now", "till now"),
            ([("in-progress", 10)], 0, "till now"),
            ([("arrived", 10), ("triaged", 20), ("in-progress", 40), ("finished", 55)], 30, 45),
            ([("arrived", 10), ("in-progress", 20), ("onleave", 30)], 10, "till now"),
            ([("arrived", 10), ("cancelled", 30)], 20, 20),
            (
                [("arrived", 10), ("in-progress", 20), ("finished", 30), ("in-progress", 40)],
                10,
                "till now",
            ),
        ],
        ids=lambda value: "→".join(s for s, _ in value) if isinstance(value, list) else None,
    )
    def test_waiting_ends_with_care_and_a_stay_with_the_encounter(
        self, desk: Desk, noon: Clock, steps: Any, waited: Any, stayed: Any
    ) -> None:
        began = NOON - HOUR
        (status, minutes), *rest = steps
        encounter = opened(desk, status=status, at=said(began + minutes * MINUTE))
        for to, minutes in rest:
            at = said(began + minutes * MINUTE)
            encounter = moved(desk, encounter, to, at=at, reason="because")
        (item,) = board(desk)["items"]
        arrived = next((m for s, m in steps if s in ("arrived", "in-progress")), 0)
        for found, expected in ((item["waitingSeconds"], waited), (item["staySeconds"], stayed)):
            if expected == "till now":
                assert found >= 60 * (60 - arrived)
            else:
                assert found == (None if expected is None else 60 * expected)

    def test_counts_are_of_the_whole_day_with_the_longest_and_the_median_wait(
        self, desk: Desk, noon: Clock
    ) -> None:
        for minutes in (10, 20, 60):
            encounter = opened(desk, status="arrived", at=said(NOON - 2 * HOUR))
            at = said(NOON - 2 * HOUR + minutes * MINUTE)
            moved(desk, encounter, "in-progress", at=at)
        expected = opened(desk)
        mistake = moved(desk, opened(desk, status="arrived"), "entered-in-error")
        nobody_waited = {"longestWaitSeconds": None, "medianWaitSeconds": None}
        counts = {
            "in-progress": {"count": 3, "longestWaitSeconds": 3600, "medianWaitSeconds": 1200},
            "planned": {"count": 1} | nobody_waited,
            "entered-in-error": {"count": 1} | nobody_waited,
        }
        for asked, found in (({"status": "planned"}, expected), ({"limit": 1}, None)):
            shown = board(desk, **asked)
            assert shown["counts"] == counts
            assert found is None or ids(*shown["items"]) == ids(found)
        assert mistake["id"] not in on_board(desk)
        (item,) = board(desk, status="entered-in-error")["items"]
        assert item == mistake | {"waitingSeconds": None, "staySeconds": None}

    def test_by_facility_and_status(self, desk: Desk, noon: Clock) -> None:
        north, south = (opened(desk, facility=name) for name in ("north", "south"))
        arrived = opened(desk, facility="north", status="arrived", at=said(NOON - HOUR))
        nowhere = opened(desk)
        for asked, found in (
            ({}, [arrived, north, south, nowhere]),
            ({"facility": "north"}, [arrived, north]),
            ({"facility": "north", "status": "planned"}, [north]),
            ({"status": ["arrived", "finished"]}, [arrived]),
            ({"facility": "south", "status": "arrived"}, []),
            ({"facility": "east"}, []),
        ):
            assert on_board(desk, **asked) == ids(*found), asked
        assert board(desk, facility="south")["counts"].keys() == {"planned"}

    def test_a_day_shows_who_came_is_expected_was_there_or_left(
        self, desk: Desk, noon: Clock
    ) -> None:
        late = said(NOON - 14 * HOUR)  # yesterday at ten in the evening
        stays = opened(desk, status="in-progress", at=late)
        left = opened(desk, status="in-progress", at=late)
        left = moved(desk, left, "finished", at=said(NOON - 10 * HOUR))
        went_home = opened(desk, status="in-progress", at=late)
        went_home = moved(desk, went_home, "finished", at=said(NOON - 13 * HOUR))
        never_came = opened(desk, plannedStart=late)
        called_off = moved(desk, opened(desk, plannedStart=late), "cancelled")
        comes_tomorrow = opened(desk, plannedStart=said(NOON + 24 * HOUR))
        comes = opened(desk, plannedStart=said(NOON + HOUR))
        in_no_order = {
            YESTERDAY: [stays, left, went_home, never_came, called_off],
            TODAY: [stays, left, comes],
            TOMORROW: [comes_tomorrow],
            "2031-03-01": [],
        }
        for day, found in in_no_order.items():
            assert sorted(on_board(desk, day=day)) == sorted(ids(*found)), day
        assert on_board(desk) == on_board(desk, day=TODAY)

        noon.ahead += timedelta(days=2)
        stays = moved(desk, stays, "finished", at=said(NOON + 36 * HOUR))
        for day, found in {
            YESTERDAY: [stays, left, went_home, never_came, called_off],
            TODAY: [stays, left, comes],
            TOMORROW: [stays, comes_tomorrow],
            "2031-03-05": [stays],
            "2031-03-06": [],
        }.items():
            assert sorted(on_board(desk, day=day)) == sorted(ids(*found)), day

    def test_who_comes_before_they_are_expected_is_on_the_day_they_came(
        self, desk: Desk, noon: Clock
    ) -> None:
        encounter = opened(desk, plannedStart=said(NOON + 24 * HOUR))
        assert (on_board(desk), on_board(desk, day=TOMORROW)) == ([], ids(encounter))
        moved(desk, encounter, "arrived")
        assert (on_board(desk), on_board(desk, day=TOMORROW)) == (ids(encounter), [])

    @pytest.mark.parametrize("limit", [1, 2, 4, 5])
    def test_page_by_page_each_comes_once(self, desk: Desk, noon: Clock, limit: int) -> None:
        opened(desk, status="in-progress", at=said(NOON - 30 * HOUR))
        for _ in range(3):
            opened(desk, status="arrived", at=said(NOON - HOUR))
        opened(desk)
        whole = on_board(desk)
        found = pages(desk, BOARD, limit=limit)
        assert [one for page in found for one in page] == whole
        assert (len(found), len(set(whole))) == (-(-5 // limit), 5)

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ({"day": "2024-02-30"}, "/day"),
            ({"day": "today"}, "/day"),
            ({"day": "2024-1-1"}, "/day"),
            ({"day": "2024-W01-1"}, "/day"),
            ({"day": "2024-01-01T00:00:00Z"}, "/day"),
            ({"day": "20\u0662\u0664-\u0660\u0661-\u0660\u0661"}, "/day"),
            ({"day": "0001-01-01"}, "/day"),
            ({"day": "9999-12-31"}, "/day"),
            ({"day": ""}, "/day"),
            ({"facility": "a b"}, "/facility"),
            ({"status": "asleep"}, "/status/0"),
            ({"status": ["planned"] * 9}, "/status"),
            ({"limit": 201}, "/limit"),
            ({"cursor": "AAAA"}, "/cursor"),
            ({"minPosition": "x"}, "/minPosition"),
            ({"patientId": NOBODY}, "/patientId"),
        ],
        ids=str,
    )
    def test_a_query_that_makes_no_sense_is_refused(
        self, desk: Desk, query: Any, path: str
    ) -> None:
        extra = problem(desk.get(BOARD, params=query), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == [path]

    @pytest.mark.parametrize("day", ["1900-01-01", "2199-12-31"])
    def test_days_far_away_are_empty(self, desk: Desk, day: str) -> None:
        opened(desk, status="arrived")
        assert (board(desk, day=day)["items"], board(desk, day=day)["counts"]) == ([], {})


class TestADayElsewhere:
    @pytest.fixture
    def auckland(self, database_url: str, tmp_path: Path) -> Iterator[Service]:
        with running(database_url, tmp_path, time_zone="Pacific/Auckland") as service:
            yield service

    def test_days_are_those_of_the_installations_time_zone(self, auckland: Service) -> None:
        desk = auckland.desk()
        auckland.clock.ahead = NOON - datetime.now(UTC)  # one in the morning of the fourth
        before, after = (
            opened(desk, status="in-progress", at=at)
            for at in ("2031-03-03T10:59:59Z", "2031-03-03T11:00:00Z")
        )
        moved(desk, before, "finished", at="2031-03-03T10:59:59Z")
        shown = board(desk)
        assert (shown["day"], shown["timeZone"]) == (TOMORROW, "Pacific/Auckland")
        assert ids(*shown["items"]) == ids(after)
        assert on_board(desk, day=TODAY) == ids(before)

    def test_a_day_of_25_hours_is_whole(self, auckland: Service) -> None:
        desk = auckland.desk()
        auckland.clock.ahead = datetime(2031, 4, 7, tzinfo=UTC) - datetime.now(UTC)
        bounds = ("2031-04-05T10:59:59Z", "2031-04-05T11:00:00Z", "2031-04-06T11:59:59Z")
        came = [opened(desk, plannedStart=at) for at in (*bounds, "2031-04-06T12:00:00Z")]
        assert on_board(desk, day="2031-04-06") == ids(*came[1:3])


class TestADeath:
    def test_it_lists_what_is_open_and_leaves_it_open(self, desk: Desk) -> None:
        patient = desk.given_patient()
        for ended in ("finished", "cancelled", "entered-in-error"):
            moved(desk, opened(desk, patient), *PATHS[ended])
        opened(desk)  # of somebody else
        still_open = [
            moved(desk, opened(desk, patient), *PATHS[status])
            for status in ("planned", "arrived", "triaged", "in-progress", "onleave")
        ]
        answer = dies(desk, patient)
        told = answer.pop("openEncounters")
        assert sorted(ids(*told)) == sorted(ids(*still_open))
        assert all(encounter in still_open for encounter in told)
        assert answer == desk.get(place(patient)).json()
        for encounter in still_open:
            assert desk.get(where(encounter)).json() == encounter
        assert moved(desk, still_open[3], "finished")["status"] == "finished"

    def test_nothing_open_is_said_so(self, desk: Desk) -> None:
        assert dies(desk, desk.given_patient())["openEncounters"] == []

    def test_who_may_not_read_encounters_is_told_of_none(self, service: Service) -> None:
        desk = service.desk()
        patient = desk.given_patient()
        opened(desk, patient)
        registrar = service.desk(desk.tenant, scope="patient:read patient:write")
        assert "openEncounters" not in dies(registrar, patient)

    def test_who_may_not_read_patients_gets_a_receipt(self, service: Service) -> None:
        desk = service.desk()
        patient = desk.given_patient()
        opened(desk, patient)
        clerk = service.desk(desk.tenant, scope="patient:write encounter:read")
        assert dies(clerk, patient) == {"id": patient["id"], "version": 2}


def test_a_death_is_recorded_even_where_nobody_knows_in_time_what_is_open(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = desk.given_patient()
    monkeypatch.setattr(vital_status, "NAME", "a read model that nobody feeds")
    said = {"deceasedAt": "2026-01-01T00:00:00Z"}
    answer = succeeded(desk.post(f"{place(patient)}/death", said, If_Match='"1"'))
    assert answer["openEncounters"] is None
    assert answer["deceased"]["deceasedAt"] == "2026-01-01T00:00:00Z"
