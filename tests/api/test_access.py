"""The access log over HTTP: whoever was shown data of a patient is found there, and nobody else."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from tests.api.given_audit import Audited
from tests.api.given_merges import Index
from tests.service import CARD, Service, new_id, picture, place, problem, succeeded

from registration.api.app import application
from registration.domain.candidate import candidate_id
from registration.settings import Settings

SPOKEN = {"decision": "granted", "evidence": {"kind": "signature"}}
SHOW_NOBODY = {
    "/v1/audit/checkpoints",
    "/v1/audit/proofs/consistency",
    "/v1/audit/proofs/inclusion",
    "/v1/audit/verify",
    "/v1/consent-flags",
    "/v1/encounters/state-machine",
    "/v1/extension-schemas",
    "/v1/extension-schemas/{schema}",
    "/v1/extension-schemas/{schema}/versions/{version}",
    "/v1/mpi/candidates/counts",
    "/v1/reports",
    "/v1/reports/{name}",
    "/v1/sync/contract",
    "/v1/sync/stream",
}


@pytest.fixture
def audited(service: Service) -> Audited:
    return Audited.of(service)


class Scene:
    """A tenant in which every query of the service has something to show."""

    def __init__(self, audited: Audited) -> None:
        desk = audited.desk
        kin = [{"name": "Obi", "relationship": "brother"}]
        one, two = (
            desk.given_patient(
                identifiers=[{"system": CARD, "value": value, "use": "secondary"}], nextOfKin=kin
            )
            for value in ("1", "2")
        )
        path = place(one)
        for flag in ("research", "portrait"):
            succeeded(desk.put(f"{path}/consents/{flag}", SPOKEN, If_Match='"0"'))
        succeeded(desk("PUT", f"{path}/portrait", content=picture(), Content_Type="image/png"))
        schema = {"schema": {"type": "object"}}
        succeeded(desk.post("/v1/extension-schemas/housing/versions", schema))
        said = {"schemaVersion": 1, "data": {"rooms": 3}}
        succeeded(desk.put(f"{path}/extensions/housing", said, If_Match='"0"'))
        opened = desk.post("/v1/encounters", {"patientId": one["id"], "class": "AMB"})
        one = succeeded(desk.get(path))
        proposed = desk.post(
            "/v1/mpi/merges",
            {
                "survivorId": one["id"],
                "retiredId": two["id"],
                "survivorVersion": one["version"],
                "retiredVersion": two["version"],
                "reason": "one person",
            },
        )
        said = {"patientId": one["id"], "basis": "gdpr-17", "reason": "asked to"}
        requested = desk.post("/v1/erasures", said)
        self.position = requested.headers["x-log-position"]
        self.patients = {one["id"], two["id"]}
        self.one = one["id"]
        self.of = {
            "/v1/patients/": one["id"],
            "/v1/encounters/": succeeded(opened)["id"],
            "/v1/mpi/merges/": succeeded(proposed)["id"],
            "/v1/erasures/": succeeded(requested)["id"],
            "/v1/mpi/candidates/": str(candidate_id(UUID(one["id"]), UUID(two["id"]))),
        }
        self.parts = {
            "{nameId}": one["names"][0]["id"],
            "{identifierId}": one["identifiers"][0]["id"],
            "{nokId}": one["nextOfKin"][0]["id"],
            "{flag}": "research",
            "{schema}": "housing",
        }

    def url(self, path: str) -> str:
        for start, its_id in self.of.items():
            if path.startswith(start):
                path = path.replace("{id}", its_id)
        for name, value in self.parts.items():
            path = path.replace(name, value)
        return path


@pytest.fixture(scope="module")
def scene(service: Service) -> tuple[Audited, Scene]:
    audited = Audited.of(service)
    return audited, Scene(audited)


def queries() -> list[tuple[str, str]]:
    document = application(Settings.model_construct()).openapi()
    return [
        (path, item["get"]["operationId"])
        for path, item in sorted(document["paths"].items())
        if path.startswith("/v1/") and "get" in item and path not in SHOW_NOBODY
    ]


@pytest.mark.parametrize(("path", "operation"), queries())
def test_every_query_that_shows_patients_is_recorded_for_each_of_them(scene, path, operation):
    """A query that is added to the service fails here until it says whom it shows."""
    audited, given = scene
    takes_position = operation in ("patient.search", "encounter.list", "encounter.board")
    takes_position |= operation in ("sync.pull", "mpi.merges", "audit.events")
    takes_position |= operation in ("mpi.candidates", "mpi.candidate", "erasure.list")
    asked = {"minPosition": given.position} if takes_position else {}

    answer = audited.desk.get(given.url(path), params=asked)

    assert answer.status_code == 200, answer.text
    request_id = answer.headers["x-request-id"]
    recorded = [read for read in audited.reads() if read["requestId"] == request_id]
    assert {read["operation"] for read in recorded} == {operation}
    assert len(recorded) == len({read["patientId"] for read in recorded})
    shown = {its_id for its_id in given.patients if its_id in answer.text} | {given.one}
    if answer.headers["content-type"] != "application/json":
        shown = {given.one}
    assert shown <= {read["patientId"] for read in recorded} <= given.patients


def test_a_read_says_who_when_what_and_why(audited, clock):
    patient = audited.desk.given_patient()
    before = datetime.now(UTC)

    answer = audited.desk.get(place(patient), X_Purpose_Of_Use="ETREAT", X_Request_Id="request-1")

    assert answer.status_code == 200
    (read,) = audited.who_saw(patient)
    assert before <= datetime.fromisoformat(read.pop("at")) <= datetime.now(UTC)
    assert read == {
        "actor": "desk-1",
        "client": "tablet-7",
        "facility": "north",
        "operation": "patient.read",
        "patientId": patient["id"],
        "purpose": "ETREAT",
        "breakGlass": None,
        "requestId": "request-1",
        "status": 200,
    }


def test_what_the_caller_had_already_is_a_read_too(audited):
    patient = audited.desk.given_patient()
    assert audited.desk.get(place(patient), If_None_Match='"1"').status_code == 304
    assert [read["status"] for read in audited.who_saw(patient)] == [304]


def test_a_search_is_recorded_for_each_patient_shown_and_for_none(audited):
    desk = audited.desk
    patients = [desk.given_patient(names=[{"family": "Quill"}]) for _ in range(3)]
    position = desk.get(f"{place(patients[2])}/history").json()["items"][0]["position"]
    found = desk.get("/v1/patients", params={"name": "quill", "minPosition": position})
    assert len(succeeded(found)["items"]) == 3
    assert succeeded(desk.get("/v1/patients", params={"name": "nobody"}))["items"] == []

    searches = [read for read in audited.reads() if read["operation"] == "patient.search"]

    assert searches[0]["patientId"] is None
    assert {read["patientId"] for read in searches[1:]} == {each["id"] for each in patients}
    assert "quill" not in str(searches).lower()


def test_what_was_refused_showed_nothing(audited, service):
    patient = audited.desk.given_patient()
    stranger = service.desk(audited.desk.tenant, scope="encounter:read")
    problem(stranger.get(place(patient)), 403, "FORBIDDEN")
    problem(audited.desk.get(f"/v1/patients/{new_id()}"), 404, "NOT_FOUND")
    problem(audited.desk.get(place(patient), params={"version": 9}), 404, "NOT_FOUND")
    problem(audited.desk.get(f"{place(patient)}/names/{new_id()}"), 404, "NOT_FOUND")
    assert audited.reads() == []


def test_a_conflict_that_shows_the_record_is_a_read(audited):
    desk = audited.desk
    patient = desk.given_patient()
    path = f"{place(patient)}/demographics"
    succeeded(desk.patch(path, {"gender": "other"}, If_Match='"1"'))
    told = problem(
        desk.patch(path, {"gender": "male"}, If_Match='"1"'), 412, "OPTIMISTIC_LOCK_CONFLICT"
    )
    assert told["current"]["gender"] == "other"
    opened = desk.post("/v1/encounters", {"patientId": patient["id"], "class": "AMB"})
    moves = f"/v1/encounters/{succeeded(opened)['id']}/transitions"
    succeeded(desk.post(moves, {"to": "arrived"}, If_Match='"1"'))
    problem(desk.post(moves, {"to": "cancelled"}, If_Match='"1"'), 412, "OPTIMISTIC_LOCK_CONFLICT")
    stale = {
        "clientMutationId": str(new_id()),
        "operation": "patient.update_demographics",
        "aggregateId": patient["id"],
        "baseVersion": 1,
        "payload": {"gender": "male"},
    }
    pushed = desk.post("/v1/sync/push", {"clientId": "tablet-7", "mutations": [stale]})
    assert succeeded(pushed)["results"][0]["problem"]["current"]["gender"] == "other"
    assert [(read["operation"], read["status"]) for read in audited.who_saw(patient)] == [
        ("sync.push", 200),
        ("encounter.transition", 412),
        ("patient.update_demographics", 412),
    ]


def test_who_holds_an_identifier_is_told_and_recorded(audited):
    desk = audited.desk
    card = {"system": CARD, "value": "A-17"}
    holder, other = desk.given_patient(identifiers=[card]), desk.given_patient()
    problem(desk.post(f"{place(other)}/identifiers", card), 409, "IDENTIFIER_CONFLICT")
    taken = {
        "clientMutationId": str(new_id()),
        "operation": "patient.add_identifier",
        "aggregateId": other["id"],
        "payload": card,
    }
    pushed = desk.post("/v1/sync/push", {"clientId": "tablet-7", "mutations": [taken]})
    assert succeeded(pushed)["results"][0]["problem"]["patientId"] == holder["id"]
    assert [(read["operation"], read["status"]) for read in audited.who_saw(holder)] == [
        ("sync.push", 200),
        ("patient.add_identifier", 409),
    ]


def test_a_stale_approval_tells_what_came_to_both_records(service):
    audited = Audited.of(service)
    index = Index.of(service, audited.desk.tenant)
    survivor, retired = index.two()
    merge = index.proposed(survivor, retired)
    changed = audited.desk.given_events(survivor, 1)
    approval = index.approves(merge)
    told = problem(approval, 412, "OPTIMISTIC_LOCK_CONFLICT")
    assert [each["patientId"] for each in told["patients"]] == [survivor["id"]]
    reads = [(read["operation"], read["status"]) for read in audited.who_saw(changed)]
    assert reads[0] == ("mpi.approve_merge", 412)


def test_a_refusal_that_shows_a_survivor_is_a_read_of_the_survivor(service):
    """Given a merged-away record, when it is asked for, then whoever is shown is in the log."""
    audited = Audited.of(service)
    index = Index.of(service, audited.desk.tenant)
    survivor, retired = index.two()
    index.merged(survivor, retired)
    edit = {"maritalStatus": "M"}
    visit = {"patientId": retired["id"], "class": "AMB"}

    def mutation(operation: str, its_id: str, payload: dict[str, Any], **more: Any) -> Any:
        said = {
            "clientMutationId": str(new_id()),
            "operation": operation,
            "aggregateId": its_id,
            "payload": payload,
        }
        body = {"clientId": "tablet-7", "mutations": [said | more]}
        return audited.desk.post("/v1/sync/push", body)

    path = f"{place(retired)}/demographics"
    both, one = {survivor["id"], retired["id"]}, {survivor["id"]}
    for answer, shown in (
        (audited.desk.post("/v1/encounters", visit), one),
        (audited.desk.patch(path, edit, If_Match='"1"'), both),
        (mutation("encounter.open", str(new_id()), visit), one),
        (mutation("patient.update_demographics", retired["id"], edit, baseVersion=1), both),
    ):
        assert "PATIENT_MERGED" in answer.text
        request_id = answer.headers["x-request-id"]
        reads = [read for read in audited.reads() if read["requestId"] == request_id]
        assert {read["patientId"] for read in reads} == shown


class TestBreakingTheGlass:
    def test_the_reason_is_recorded_counted_and_found(self, audited, service):
        patient = audited.desk.given_patient()
        before = metric(service, "registration_break_glass_total")
        why = "bewusstlos, keine Angehörigen, لا أقارب".encode()

        assert audited.desk.get(place(patient), headers={b"X-Break-Glass": why}).is_success
        assert audited.desk.get(place(patient)).is_success

        (found,) = audited.reads(breakGlass=True)
        assert found["breakGlass"] == {"reason": why.decode()}
        assert len(audited.who_saw(patient)) == 2
        assert metric(service, "registration_break_glass_total") == before + 1

    @pytest.mark.parametrize(
        "reason",
        [b"", "\u00a0".encode(), b"x" * 501, b"\xff\xfe", "\u202e".encode(), "a\u0085b".encode()],
    )
    def test_without_a_reason_nothing_is_shown(self, audited, reason):
        patient = audited.desk.given_patient()
        answer = audited.desk.get(place(patient), headers={b"X-Break-Glass": reason})
        problem(answer, 400, "MALFORMED_REQUEST")
        assert audited.reads() == []

    def test_it_opens_nothing_that_the_token_does_not(self, audited, service):
        patient = audited.desk.given_patient()
        stranger = service.desk(audited.desk.tenant, scope="encounter:read")
        problem(stranger.get(place(patient), X_Break_Glass="emergency"), 403, "FORBIDDEN")


@pytest.mark.parametrize("said", ["", "treat", "FUN", "TREAT, HRESCH", "TREAT;q=1", "x" * 5000])
def test_a_purpose_is_a_code_of_hl7_or_nothing_is_shown(audited, said):
    patient = audited.desk.given_patient()
    answer = audited.desk.get(place(patient), X_Purpose_Of_Use=said)
    problem(answer, 400, "MALFORMED_REQUEST")
    assert audited.reads() == []


def test_two_purposes_in_two_lines_are_none(audited):
    patient = audited.desk.given_patient()
    lines = [(b"X-Purpose-Of-Use", b"TREAT"), (b"X-Purpose-Of-Use", b"HRESCH")]
    lines.append((b"Authorization", f"Bearer {audited.desk.bearer}".encode()))
    answer = audited.desk.service.http.get(place(patient), headers=lines)
    problem(answer, 400, "MALFORMED_REQUEST")


class TestLookingIntoIt:
    def test_by_patient_actor_and_time_page_by_page(self, audited, service):
        one, two = audited.desk.given_patient(), audited.desk.given_patient()
        colleague = service.desk(audited.desk.tenant, sub="desk-2")
        for desk, patient in ((audited.desk, one), (colleague, one), (colleague, two)) * 3:
            assert desk.get(place(patient)).is_success

        assert len(audited.reads()) == 9
        assert len(audited.reads(patientId=one["id"])) == 6
        assert len(audited.reads(actor="desk-2")) == 6
        assert len(audited.reads(actor="desk-2", patientId=two["id"])) == 3
        moments = [datetime.fromisoformat(read["at"]) for read in audited.reads()]
        assert moments == sorted(moments, reverse=True)
        middle = moments[4].isoformat()
        assert len(audited.reads(**{"from": middle})) == 5
        assert len(audited.reads(to=middle)) == 4

        pages, cursor = [], None
        while True:
            asked = {"actor": "desk-2", "limit": 4} | ({"cursor": cursor} if cursor else {})
            page = succeeded(audited.auditor.get("/v1/audit/access", params=asked))
            pages.append(page["items"])
            cursor = page["next"]
            if cursor is None:
                break
        assert [len(page) for page in pages] == [4, 2]
        assert [read for page in pages for read in page] == audited.reads(actor="desk-2")

    def test_it_takes_the_scope_and_shows_no_other_tenant(self, audited, service):
        patient = audited.desk.given_patient()
        assert audited.desk.get(place(patient)).is_success
        mere = service.desk(audited.desk.tenant)
        for path in ("/v1/audit/access", f"{place(patient)}/access"):
            assert problem(mere.get(path), 403, "FORBIDDEN") == {"scope": "audit:read"}
        elsewhere = Audited.of(service)
        assert elsewhere.reads(patientId=patient["id"]) == []
        problem(elsewhere.auditor.get(f"{place(patient)}/access"), 404, "NOT_FOUND")

    def test_auditors_are_watched_as_well(self, audited):
        patient = audited.desk.given_patient()
        succeeded(audited.auditor.get("/v1/audit/access", params={"patientId": patient["id"]}))
        found = succeeded(audited.auditor.get(f"{place(patient)}/access"))["items"]
        assert [(read["actor"], read["operation"]) for read in found] == [
            ("auditor-1", "audit.access")
        ]

    @pytest.mark.parametrize(
        ("asked", "place_of_it"),
        [
            ({"patientId": "x"}, "/patientId"),
            ({"from": "yesterday"}, "/from"),
            ({"to": "2026-01-01T00:00:00"}, "/to"),
            ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "/to"),
            ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-02T01:00:00+01:00"}, "/to"),
            ({"cursor": "AAAA"}, "/cursor"),
            ({"limit": 0}, "/limit"),
            ({"limit": 201}, "/limit"),
            ({"actor": "a\0b"}, "/actor"),
            ({"minPosition": 1}, "/minPosition"),
            ({"nonsense": 1}, "/nonsense"),
            ({"breakGlass": "perhaps"}, "/breakGlass"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, audited, asked, place_of_it):
        answer = audited.auditor.get("/v1/audit/access", params=asked)
        told = problem(answer, 422, "VALIDATION_FAILED")
        assert [error["path"] for error in told["errors"]] == [place_of_it]


def test_no_line_of_the_log_and_no_metric_says_who_was_read_or_why(audited, service):
    patient = audited.desk.given_patient(names=[{"family": "Zebedeequux"}])
    answer = audited.desk.get(place(patient), X_Break_Glass="because Zebedeequux fell")
    (line,) = service.logged(answer.headers["x-request-id"])
    assert "Zebedeequux" not in str(line)
    assert patient["id"] not in str(line)
    page = service.http.get("/metrics").text
    assert patient["id"] not in page
    assert "Zebedeequux" not in page


def test_the_table_holds_ids_and_no_names(audited, service):
    desk = audited.desk
    patient = desk.given_patient(names=[{"family": "Zebedeequux"}])
    for path in (place(patient), f"{place(patient)}/history", "/v1/patients?name=zebedeequux"):
        assert desk.get(path).is_success
    audited.reads()
    with psycopg.connect(service.database_url) as connection:
        rows = connection.execute(
            "SELECT row_to_json(a)::text FROM registration.access_log a WHERE tenant = %s",
            (desk.tenant,),
        ).fetchall()
    assert rows
    assert "zebedeequux" not in str(rows).lower()


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({"patient_id": new_id()}, "access_log_patient"),
        ({"actor": "desk-1"}, "access_log_actor"),
        ({"broken_glass": True}, "access_log_break_glass"),
        ({}, "access_log_pkey"),
    ],
)
def test_each_filter_is_one_walk_along_its_index(database_url, asked, index):
    """On a table of some size, whether it was analysed or not."""
    plans = [plan_of(database_url, asked, analysed=analysed) for analysed in (False, True)]
    for plan in plans:
        assert index in plan
        assert "Sort" not in plan
        assert "Seq Scan" not in plan


def plan_of(database_url: str, asked: dict[str, Any], *, analysed: bool) -> str:
    conditions = {
        "patient_id": "patient_id = %(patient_id)s",
        "actor": "actor = %(actor)s",
        "broken_glass": "break_glass IS NOT NULL",
    }
    where = " AND ".join(["tenant = 'clinic'", *(conditions[name] for name in asked)])
    with psycopg.connect(database_url) as connection:
        connection.execute(
            """
            INSERT INTO registration.access_log
            SELECT 'clinic', now() - n * interval '1 second', gen_random_uuid(),
                   'desk-' || n % 50, NULL, NULL, 'patient.read', gen_random_uuid(), NULL,
                   CASE WHEN n % 1000 = 0 THEN 'why' END, 'r', 200
              FROM generate_series(1, 20000) AS n
            """
        )
        if analysed:
            connection.execute("ANALYZE registration.access_log")
        rows = connection.execute(
            "EXPLAIN SELECT * FROM registration.access_log"
            f" WHERE {where} ORDER BY at DESC, id DESC LIMIT 51",
            asked,
        ).fetchall()
        connection.rollback()
    return str(rows)


def metric(service: Service, name: str) -> float:
    lines = service.http.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])
