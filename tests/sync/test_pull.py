"""A device gets what changed."""

import base64
import json
import threading
import time
from typing import Any

import httpx
import orjson
import psycopg
import pytest
from tests.merging import merged, parted
from tests.service import CARD, Desk, Service, etag, new_id, place, problem, succeeded
from tests.sync.given import TABLET, correction, kin, outcome, push, registration

_UNDONE = "UPDATE registration.log_head SET position = position + 7 WHERE tenant = %s"
NORTH, SOUTH = "north", "south"


class Device:
    """Who pulls, and what that leaves on the device."""

    def __init__(self, desk: Desk, **params: Any) -> None:
        self.desk = desk
        self.params = params
        self.cursor: str | None = None
        self.records: dict[str, dict[str, Any]] = {}
        self.seen: list[dict[str, Any]] = []

    def page(self) -> dict[str, Any]:
        """Pull one page."""
        params = self.params | ({"cursor": self.cursor} if self.cursor else {})
        body = succeeded(self.desk.get("/v1/sync/pull", params=params))
        self.cursor = body["cursor"]
        for item in body["items"]:
            if item.get("deleted"):
                self.records.pop(item["id"], None)
            else:
                self.records[item["id"]] = item["body"]
        self.seen += body["items"]
        return body

    def pull(self) -> list[tuple[str, str, bool]]:
        """Pull until there is no more; returns (kind, id, deleted) of what came."""
        self.params["minPosition"] = self._head()
        first = len(self.seen)
        while self.page()["more"]:
            pass
        return [
            (item["kind"], item["id"], "deleted" in item)
            for item in self.seen[first:]
            if item["kind"] != "policy"
        ]

    def _head(self) -> int:
        answer = self.desk.post("/v1/sync/push", {"clientId": TABLET, "mutations": []})
        position: int = succeeded(answer)["position"]
        return position


def encounter(desk: Desk, patient: dict[str, Any], **members: Any) -> dict[str, Any]:
    """Return an open encounter."""
    said = {"patientId": patient["id"], "class": "AMB"} | members
    return succeeded(desk.post("/v1/encounters", said))


def moved(desk: Desk, patient: dict[str, Any], facility: str | None) -> dict[str, Any]:
    """Return the patient after it changed its facility."""
    return succeeded(
        desk.patch(f"{place(patient)}/demographics", {"facility": facility}, If_Match=etag(patient))
    )


def test_a_snapshot_then_what_changed(desk: Desk):
    """Given records, when a device pulls twice, then it has them, and later only the news."""
    patient = desk.given_patient()
    visit = encounter(desk, patient)
    device = Device(desk)

    first = device.pull()
    nothing = device.pull()
    patient = desk.given_events(patient, 1)
    news = device.pull()

    assert (first, nothing, news) == (
        [("patient", patient["id"], False), ("encounter", visit["id"], False)],
        [],
        [("patient", patient["id"], False)],
    )
    assert device.records[patient["id"]] == succeeded(desk.get(place(patient)))
    shown = succeeded(desk.get(f"/v1/encounters/{visit['id']}"))
    assert device.records[visit["id"]] | {"currentPatientId": patient["id"]} == shown


def test_a_record_says_at_which_position_it_changed_last(desk: Desk):
    one, two = desk.given_patient(), desk.given_patient()
    desk.given_events(one, 1)
    device = Device(desk)
    device.pull()

    assert [(i["id"], i["version"], i["position"]) for i in device.seen[1:]] == [
        (two["id"], 1, 2),
        (one["id"], 2, 3),
    ]


def test_the_policy_comes_first_and_once(desk: Desk):
    device = Device(desk)
    first, again = device.page()["items"], device.page()["items"]

    assert ([item["kind"] for item in first], again) == (["policy"], [])
    contract = succeeded(desk.get("/v1/sync/contract"))["items"]
    assert first[0]["body"]["rules"] == contract
    assert first[0]["body"]["consentFlags"]["research"] == "Use of the record for research"


def test_an_extension_schema_comes_with_all_its_versions(desk: Desk):
    admin = desk.service.desk(desk.tenant, role="admin")
    name = f"survey-{new_id().hex[:8]}"
    for schema in (True, {"type": "object"}):
        said = {"schema": schema, "compatibility": "none"}
        succeeded(admin.post(f"/v1/extension-schemas/{name}/versions", said))
    device = Device(desk)
    device.pull()

    body = device.seen[-1]["body"]
    assert (body["name"], [v["schema"] for v in body["versions"]]) == (
        name,
        [True, {"type": "object"}],
    )


def test_pages_hold_everything_once(desk: Desk):
    push(desk, *[registration() for _ in range(23)])
    device = Device(desk, limit=5)

    came = device.pull()

    assert len(came) == len(set(came)) == 23


def test_a_change_during_the_snapshot_comes_later_and_is_not_missed(desk: Desk):
    push(desk, *[registration() for _ in range(6)])
    device = Device(desk, limit=2)
    device.params["minPosition"] = 6
    device.page()
    patient = {"id": device.seen[1]["id"]}
    desk.given_events(patient, 1)

    device.pull()

    assert device.records[patient["id"]]["version"] == 2
    assert len(device.records) == 7  # and the policy


class TestScope:
    """A facility's device holds what concerns the facility."""

    def test_its_patients_its_encounters_and_what_belongs_to_nobody(self, desk: Desk):
        here = desk.given_patient(facility=NORTH)
        desk.given_patient(facility=SOUTH)
        anywhere = desk.given_patient()
        visitor = desk.given_patient(facility=SOUTH)
        visit = encounter(desk, visitor, facility=NORTH)
        encounter(desk, here, facility=SOUTH)

        came = Device(desk, facility=NORTH).pull()

        assert came == [
            ("patient", here["id"], False),
            ("patient", anywhere["id"], False),
            *sorted(
                [("patient", visitor["id"], False), ("encounter", visit["id"], False)],
                key=lambda item: item[1],
            ),
        ]

    def test_what_leaves_comes_once_as_deleted_without_a_body(self, desk: Desk):
        patient = desk.given_patient(facility=NORTH)
        device = Device(desk, facility=NORTH)
        device.pull()

        patient = moved(desk, patient, SOUTH)
        left = device.pull()
        desk.given_events(patient, 1)

        assert (left, device.pull()) == ([("patient", patient["id"], True)], [])
        assert "body" not in device.seen[-1]

    def test_who_takes_a_snapshot_is_not_told_of_what_left_before(self, desk: Desk):
        patient = moved(desk, desk.given_patient(facility=NORTH), SOUTH)
        assert Device(desk, facility=NORTH).pull() == []
        assert Device(desk, facility=SOUTH).pull() == [("patient", patient["id"], False)]

    @pytest.mark.parametrize("facility", [None, NORTH])
    def test_what_returns_comes_whole(self, desk: Desk, facility: str | None):
        patient = desk.given_patient(facility=NORTH)
        device = Device(desk, facility=NORTH)
        device.pull()
        patient = moved(desk, patient, SOUTH)
        device.pull()

        moved(desk, patient, facility)

        assert device.pull() == [("patient", patient["id"], False)]

    def test_from_everybodys_to_somebody_elses(self, desk: Desk):
        patient = desk.given_patient()
        north, south = Device(desk, facility=NORTH), Device(desk, facility=SOUTH)
        north.pull()
        south.pull()

        moved(desk, patient, SOUTH)

        assert (north.pull(), south.pull()) == (
            [("patient", patient["id"], True)],
            [("patient", patient["id"], False)],
        )

    def test_two_moves_at_once_are_told_once(self, desk: Desk):
        patient = desk.given_patient()
        device = Device(desk, facility=NORTH)
        device.pull()
        moved(desk, moved(desk, patient, NORTH), SOUTH)

        assert device.pull() == [("patient", patient["id"], True)]

    def test_an_encounter_without_facility_goes_with_its_patient(self, desk: Desk):
        patient = desk.given_patient(facility=NORTH)
        visit = encounter(desk, patient)
        succeeded(
            desk.post(
                f"/v1/encounters/{visit['id']}/transitions", {"to": "arrived"}, If_Match='"1"'
            )
        )

        assert Device(desk, facility=SOUTH).pull() == []
        assert Device(desk, facility=NORTH).pull() == [
            ("patient", patient["id"], False),
            ("encounter", visit["id"], False),
        ]

    def test_an_encounter_keeps_its_patient_in_scope(self, desk: Desk):
        patient = desk.given_patient(facility=NORTH)
        encounter(desk, patient, facility=NORTH)
        device = Device(desk, facility=NORTH)
        device.pull()

        moved(desk, patient, SOUTH)

        assert device.pull() == [("patient", patient["id"], False)]

    def test_the_token_names_the_facility_unless_the_query_does(self, desk: Desk):
        here, there = desk.given_patient(facility=NORTH), desk.given_patient(facility=SOUTH)
        clerk = desk.service.desk(desk.tenant, facility=NORTH)

        assert [its_id for _, its_id, _ in Device(clerk).pull()] == [here["id"]]
        assert [its_id for _, its_id, _ in Device(clerk, facility="*").pull()] == [
            here["id"],
            there["id"],
        ]

    def test_a_device_whose_facility_was_revoked_starts_again(self, desk: Desk):
        desk.given_patient(facility=NORTH)
        device = Device(desk.service.desk(desk.tenant, facility=NORTH))
        device.pull()
        moved_on = desk.service.desk(desk.tenant, facility=SOUTH)

        answer = moved_on.get("/v1/sync/pull", params={"cursor": device.cursor})

        problem(answer, 410, "RESYNC_REQUIRED")

    def test_another_tenant_does_not_exist(self, desk: Desk):
        desk.given_patient()
        stranger = Device(desk.service.desk())

        assert stranger.pull() == []

    def test_kinds_that_the_caller_may_not_read_do_not_come(self, desk: Desk):
        patient = desk.given_patient()
        encounter(desk, patient)
        reader = desk.service.desk(desk.tenant, scope="sync patient:read")
        device = Device(reader)

        assert device.pull() == [("patient", patient["id"], False)]
        answer = desk.get("/v1/sync/pull", params={"cursor": device.cursor})
        problem(answer, 410, "RESYNC_REQUIRED")


class TestMerges:
    """Two records of one person: what a downstream system is told."""

    def test_both_records_come_and_the_decision(self, desk: Desk):
        held = {"system": CARD, "value": str(new_id())}
        retired, survivor = desk.given_patient(identifiers=[held]), desk.given_patient()
        visit = encounter(desk, retired)
        device = Device(desk)
        device.pull()

        decision = merged(desk, retired, survivor)

        assert device.pull() == [
            ("patient", retired["id"], False),
            ("patient", survivor["id"], False),
            ("merge", decision["id"], False),
        ]
        gone, stays = device.records[retired["id"]], device.records[survivor["id"]]
        assert (gone["active"], gone["links"]) == (
            False,
            [{"type": "replaced-by", "patientId": survivor["id"]}],
        )
        assert (stays["active"], stays["links"], stays["identifiers"][0]["mergedFrom"]) == (
            True,
            [{"type": "replaces", "patientId": retired["id"]}],
            retired["id"],
        )
        assert device.records[decision["id"]] == decision
        assert device.records[visit["id"]]["patientId"] == retired["id"]

    def test_a_proposal_comes_and_then_what_became_of_it(self, desk: Desk):
        records = [desk.given_patient() for _ in range(2)]
        decision = merged(desk, *records)
        device = Device(desk)
        device.pull()

        decision = parted(desk, decision)

        assert device.pull() == [
            ("patient", records[0]["id"], False),
            ("patient", records[1]["id"], False),
            ("merge", decision["id"], False),
        ]
        assert [device.records[record["id"]]["links"] for record in records] == [[], []]
        assert device.records[decision["id"]]["status"] == "reversed"

    def test_who_has_the_retired_one_gets_the_survivor_until_it_is_undone(self, desk: Desk):
        """Given a facility that sees a record by an encounter, then it follows the chain."""
        records = [desk.given_patient(facility=SOUTH) for _ in range(3)]
        encounter(desk, records[0], facility=NORTH)
        device = Device(desk, facility=NORTH)
        device.pull()

        decisions = [merged(desk, *records[:2]), merged(desk, *records[1:])]
        came = device.pull()
        parted(desk, decisions[1])
        left = device.pull()

        assert came == [
            ("patient", records[0]["id"], False),
            ("merge", decisions[0]["id"], False),
            ("patient", records[1]["id"], False),
            ("patient", records[2]["id"], False),
            ("merge", decisions[1]["id"], False),
        ]
        assert left == [
            ("patient", records[1]["id"], False),
            ("patient", records[2]["id"], True),
            ("merge", decisions[1]["id"], False),
        ]
        assert records[1]["id"] in device.records

    def test_decisions_need_the_right_to_read_them(self, desk: Desk):
        merged(desk, desk.given_patient(), desk.given_patient())
        reader = desk.service.desk(desk.tenant, scope="sync patient:read")
        assert [kind for kind, _, _ in Device(reader).pull()] == ["patient", "patient"]


class TestCursors:
    """A place in the feed, which the client hands back unread."""

    @pytest.mark.parametrize("cursor", ["", "x", "e30", "W10", "WzEsMl0"])
    def test_what_is_no_cursor(self, desk: Desk, cursor: str):
        problem(desk.get("/v1/sync/pull", params={"cursor": cursor}), 422, "VALIDATION_FAILED")

    @pytest.mark.parametrize(
        ("place_of", "value"), [(2, 99), (5, 1), (6, "0" * 16)], ids=["ahead", "older", "other"]
    )
    def test_a_cursor_of_another_log_or_of_older_tables(
        self, desk: Desk, place_of: int, value: object
    ):
        """As after a restored backup, or a rebuild."""
        desk.given_patient()
        device = Device(desk)
        device.pull()
        said = orjson.loads(base64.urlsafe_b64decode((device.cursor or "") + "==="))
        said[place_of] = value
        forged = base64.urlsafe_b64encode(orjson.dumps(said)).decode().rstrip("=")

        answer = desk.get("/v1/sync/pull", params={"cursor": forged})

        problem(answer, 410, "RESYNC_REQUIRED")

    @pytest.mark.parametrize(
        ("place_of", "value"), [(1, None), (1, True), (2, True), (4, True), (2, 2**70), (3, 7)]
    )
    def test_a_forged_cursor(self, desk: Desk, place_of: int, value: object):
        cursor = succeeded(desk.get("/v1/sync/pull"))["cursor"]
        said = orjson.loads(base64.urlsafe_b64decode(cursor + "==="))
        said[place_of] = value
        forged = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")

        answer = desk.get("/v1/sync/pull", params={"cursor": forged})

        problem(answer, 422, "VALIDATION_FAILED")

    def test_a_position_that_is_not_there_yet(self, desk: Desk):
        answer = desk.get("/v1/sync/pull", params={"minPosition": 5})

        problem(answer, 503, "READ_MODEL_BEHIND")


def test_six_writers_with_slow_and_rolled_back_transactions_and_nothing_is_missed(
    service: Service, desk: Desk
):
    """Given writers in many transactions, when a device tails the feed, then it has all of it."""
    done = threading.Event()
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for turn in range(12):
                first = registration()
                push(
                    desk,
                    first,
                    kin(first["aggregateId"]),
                    registration(gender="unsaid"),
                    client=f"tablet-{number}-{turn}",
                )
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    def disturb() -> None:
        """Hold the lock of the log's head for a while, sometimes with a write that is undone."""
        with psycopg.connect(service.database_url, autocommit=True) as connection:
            while not done.is_set():
                with connection.transaction(force_rollback=True):
                    connection.execute(_UNDONE, (desk.tenant,))
                    time.sleep(0.05)
                time.sleep(0.02)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    disturber = threading.Thread(target=disturb)
    device = Device(desk, limit=7)
    for thread in (*threads, disturber):
        thread.start()
    while any(thread.is_alive() for thread in threads):
        device.page()
    done.set()
    disturber.join()
    device.pull()

    assert failures == []
    assert (
        sorted(body["version"] for body in device.records.values() if "registeredAt" in body)
        == [2] * 72
    )
    at = [(item["id"], item["position"]) for item in device.seen if item["kind"] != "policy"]
    assert len(at) == len(set(at))


def test_the_feed_reads_what_a_push_wrote(desk: Desk):
    answer = desk.post(
        "/v1/sync/push", {"clientId": TABLET, "mutations": [registration() for _ in range(50)]}
    )
    position = succeeded(answer)["position"]

    pulled = desk.get("/v1/sync/pull", params={"minPosition": position})

    assert len(succeeded(pulled)["items"]) == 51
    assert pulled.headers["content-encoding"] == "gzip"


class TestStream:
    """Server-sent events: that there is something to pull."""

    def test_positions_and_nothing_else(self, desk: Desk):
        desk.given_patient()
        lines: list[str] = []
        with self.opened(desk) as stream:
            for line in stream.iter_lines():
                lines.append(line)
                if line == 'data: {"position":1}':
                    desk.given_patient()
                if line == 'data: {"position":2}':
                    break

        assert lines == [
            "retry: 2000",
            "",
            "id: 1",
            "event: position",
            'data: {"position":1}',
            "",
            "id: 2",
            "event: position",
            'data: {"position":2}',
        ]

    def test_who_returns_is_told_what_is_newer_only(self, desk: Desk):
        desk.given_patient()
        Device(desk).pull()
        timer = threading.Timer(0.4, desk.given_patient)
        timer.start()
        with self.opened(desk, **{"last-event-id": "1"}) as stream:
            data = next(line for line in stream.iter_lines() if line.startswith("data"))

        assert data == 'data: {"position":2}'
        timer.join()

    def test_who_was_further_than_the_log_is_told_where_it_is(self, desk: Desk):
        """As after a backup was restored: browsers send the id of the last event by themselves."""
        desk.given_patient()
        with self.opened(desk, **{"last-event-id": "99"}) as stream:
            data = next(line for line in stream.iter_lines() if line.startswith("data"))

        assert data == 'data: {"position":1}'

    def test_it_outlives_the_deadline_of_requests_and_ends_with_the_token(self, service: Service):
        desk = service.desk(exp=int(time.time()) + 7)
        began = time.monotonic()
        with self.opened(desk) as stream:
            lines = list(stream.iter_lines())

        assert service.settings.request_deadline < time.monotonic() - began < 40
        assert lines[0] == "retry: 2000"

    def test_it_needs_sync(self, service: Service):
        problem(service.desk(scope="patient:read").get("/v1/sync/stream"), 403, "FORBIDDEN")

    @staticmethod
    def opened(desk: Desk, **headers: str) -> Any:
        return httpx.stream(
            "GET",
            f"{desk.service.url}/v1/sync/stream",
            headers={"Authorization": f"Bearer {desk.bearer}"} | headers,
            timeout=30,
        )


def test_an_edit_pushed_by_one_device_reaches_the_other(desk: Desk):
    first = registration()
    push(desk, first)
    other = Device(desk)
    other.pull()
    assert outcome(
        desk, correction(first["aggregateId"], "1985", base_version=1), client="tablet-8"
    ) == [("applied", 2)]

    other.pull()

    assert other.records[first["aggregateId"]]["birthDate"] == "1985"
