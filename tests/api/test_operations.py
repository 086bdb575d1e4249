"""For operators: health, measurements, logs, and the OpenAPI document."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import jsonschema
import orjson
import psycopg
import pytest
from tests.service import ADA, CARD, Desk, Service, new_id, place, problem, running, succeeded

from registration.api import app
from registration.api.command_table import COMMAND_ROUTES, IMAGES
from registration.api.problems import PROBLEMS
from registration.domain.contract import table
from registration.domain.handlers import HANDLERS
from registration.eventstore.records import AppendRequest, NewEvent, Stored, event_digest
from registration.eventstore.store import EventStore
from registration.projections.registry import READ_MODELS

CANARY = "Zebedeequux"


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    """The OpenAPI document as the service gives it."""
    found: dict[str, Any] = succeeded(service.http.get("/openapi.json"))
    return found


def drop(server_url: str, database_url: str) -> None:
    """Drop a database under whoever is connected to it."""
    name = urlsplit(database_url).path.removeprefix("/")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


class TestHealth:
    def test_it_is_alive_and_ready(self, service: Service) -> None:
        assert service.http.get("/livez").json() == {"status": "ok"}
        expected = {model.NAME: (True, 0) for model in READ_MODELS}
        deadline = time.monotonic() + 5  # a service that has just started makes them one by one
        while True:
            ready = service.http.get("/readyz")
            assert ready.status_code == 200
            assert ready.json()["database"] == "ok"
            shown = {
                model["name"]: (model["running"], model["deadLetters"])
                for model in ready.json()["readModels"]
            }
            if shown == expected or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        assert shown == expected

    def test_without_its_database_it_is_alive_and_not_ready(
        self, database_url: str, database_server_url: str, tmp_path: Path
    ) -> None:
        with running(database_url, tmp_path, request_deadline=2.0) as alone:
            desk = alone.desk()
            patient = desk.given_patient(names=[{"family": CANARY}])
            drop(database_server_url, database_url)
            requests: list[Callable[[], httpx.Response]] = [
                lambda: desk.register(names=[{"family": CANARY}], Idempotency_Key="k"),
                lambda: desk.get(place(patient)),
                lambda: desk.get(f"{place(patient)}/history"),
                lambda: desk.get("/v1/patients", params={"name": CANARY}),
                lambda: desk.get("/v1/patients", params={"name": CANARY, "minPosition": 1}),
            ]
            with ThreadPoolExecutor(len(requests)) as pool:
                answers = list(pool.map(lambda request: request(), requests))
            for answer in answers:
                problem(answer, 503, "UNAVAILABLE")
                assert CANARY not in answer.text
            assert service_is(alone, "/livez") == (200, "ok")
            assert service_is(alone, "/readyz") == (503, "unavailable")
            assert alone.http.get("/metrics").status_code == 200
            assert not any(CANARY.encode() in line for line in alone.lines)

    def test_the_measurements_count_requests_by_operation(self, desk: Desk) -> None:
        desk.given_patient()
        desk.get("/nope")
        page = desk.service.http.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
        for part in (
            'registration_requests_total{operation="patient.register",status="201"}',
            'registration_requests_total{operation="unknown",status="404"}',
            'registration_request_seconds_bucket{le="0.005",operation="patient.register"}',
            "registration_append_queue 0.0",
            'registration_read_model_behind_events{read_model="search"}',
            'registration_read_model_dead_letters{read_model="search"} 0.0',
        ):
            assert part in page.text


def service_is(service: Service, path: str) -> tuple[int, str]:
    answer = service.http.get(path)
    return answer.status_code, answer.json()["status"]


class TestLogs:
    @pytest.mark.parametrize(
        ("send", "operation", "status", "code"),
        [
            (lambda d, **h: d.post("/v1/patients", ADA, **h), "patient.register", 201, "OK"),
            (
                lambda d, **h: d.post("/v1/patients", {}, **h),
                "patient.register",
                422,
                "VALIDATION_FAILED",
            ),
            (lambda d, **h: d.get("/v1/patients", **h), "patient.search", 200, "OK"),
            (
                lambda d, **h: d.get(f"/v1/patients/{new_id()}", **h),
                "patient.read",
                404,
                "NOT_FOUND",
            ),
            (
                lambda d, **h: d.get(f"/v1/patients/{new_id()}/history", **h),
                "patient.history",
                404,
                "NOT_FOUND",
            ),
            (lambda d, **h: d.get("/nope", **h), "unknown", 404, "NOT_FOUND"),
            (lambda d, **h: d.get("/livez", **h), "livez", 200, "OK"),
        ],
    )
    def test_a_request_is_one_line(self, desk: Desk, send, operation, status, code) -> None:
        request_id = str(new_id())
        send(desk, X_Request_Id=request_id)
        (line,) = desk.service.logged(request_id)
        assert line.pop("ms") >= 0
        assert line.pop("at").endswith("Z")
        assert line.pop("method") in ("GET", "POST")
        tenant = desk.tenant if operation.startswith("patient.") else None
        assert line == {
            "requestId": request_id,
            "operation": operation,
            "status": status,
            "code": code,
            "tenant": tenant,
        }

    def test_no_line_and_no_measurement_ever_names_a_patient(self, desk: Desk) -> None:
        name = {"family": CANARY, "given": [CANARY]}
        patient = desk.given_patient(
            names=[name, name], identifiers=[{"system": CARD, "value": CANARY}]
        )
        at = place(patient)
        answers = [
            desk.register(identifiers=[{"system": CARD, "value": CANARY}]),
            desk.register(names=[{"family": f"{CANARY}\u202e"}]),
            desk.register(gender=CANARY),
            desk.get("/v1/patients", params={"name": CANARY, "identifier": f"x|{CANARY}"}),
            desk.get(f"/v1/patients/{CANARY}"),
            desk.get(f"/{CANARY}", params={CANARY: CANARY}),
            desk.patch(f"{at}/demographics", {"facility": CANARY}, If_Match='"9"'),
            desk.post(f"{at}/names", {"text": CANARY}, Idempotency_Key=CANARY),
            desk.put(f"{at}/names/{CANARY}", {"text": CANARY}),
            desk("POST", "/v1/patients", content=CANARY.encode(), content_type=CANARY),
            desk.get(at, headers={"Authorization": f"Bearer {CANARY}", "Host": CANARY}),
        ]
        assert {answer.status_code for answer in answers} == {
            200,
            201,
            401,
            404,
            409,
            412,
            415,
            422,
        }
        for line in list(desk.service.lines):
            assert CANARY.encode() not in line
        assert CANARY not in desk.service.http.get("/metrics").text


class TestOpenApi:
    def test_each_command_says_how_it_conflicts_and_whether_offline(self, document) -> None:
        rows = {row["operation"]: row for row in reversed(list(table()))}
        for route in COMMAND_ROUTES:
            operation = document["paths"][route.path][route.method.lower()]
            row = rows[route.operation.value]
            assert operation["operationId"] == route.operation.value
            assert operation["x-conflict-policy"] == row["conflictPolicy"]
            offline = operation["x-offline"]
            assert (offline if isinstance(offline, str) else offline[0]) == row["offline"]
            assert operation["x-required-scope"] == row["scope"]

    def test_every_operation_declares_the_problems_that_it_may_answer(self, document) -> None:
        for path, item in document["paths"].items():
            for method, operation in item.items():
                declared = operation["responses"]
                if not path.startswith("/v1"):
                    continue
                assert {"401", "503"} <= declared.keys(), (method, path)
                if method != "get":
                    assert {"400", "403", "413", "415", "422", "429"} <= declared.keys()
                    # a push tells of conflicts one by one, and a match stores nothing
                    stores = path not in ("/v1/sync/push", "/v1/mpi/match")
                    assert ("IDEMPOTENCY_IN_FLIGHT" in str(declared["409"])) == stores, path
                if "{" in path:
                    assert {"404"} <= declared.keys()
                for status, answer in declared.items():
                    if status.startswith(("4", "5")):
                        assert list(answer["content"]) == ["application/problem+json"]
                        for code in answer["description"].split("`")[1::2]:
                            assert PROBLEMS[code].status == int(status)

    def test_the_contract_is_served_as_the_table_has_it(self, desk: Desk) -> None:
        assert succeeded(desk.get("/v1/sync/contract")) == {"items": list(table()), "next": None}

    def test_every_body_is_described_by_the_model_that_checks_it(self, document) -> None:
        for route in COMMAND_ROUTES:
            operation = document["paths"][route.path][route.method.lower()]
            if not route.has_body:
                assert "requestBody" not in operation
                continue
            content = operation["requestBody"]["content"]
            assert set(content) == set(route.media_types)
            for media in content.values():
                if route.media_types == IMAGES:
                    assert media["schema"] == {"type": "string", "format": "binary"}
                    continue
                name = media["schema"]["$ref"].rpartition("/")[2]
                assert name == (route.body or HANDLERS[route.operation].payload).__name__
                assert name in document["components"]["schemas"]

    def test_answers_are_as_described(self, desk: Desk, document) -> None:
        patient = desk.given_patient(
            telecom=[{"system": "phone", "value": "1"}],
            nextOfKin=[{"name": "O", "relationship": "x"}],
        )

        def check(path: str, shown: str, params: Any = None) -> None:
            schema = document["paths"][shown]["get"]["responses"]["200"]["content"]
            jsonschema.validate(
                orjson.loads(desk.get(path, params=params).content),
                schema["application/json"]["schema"] | {"components": document["components"]},
            )

        at, entry = place(patient), patient["names"][0]["id"]
        check(at, "/v1/patients/{id}")
        check(f"{at}/history", "/v1/patients/{id}/history")
        check(f"{at}/names/{entry}", "/v1/patients/{id}/names/{nameId}")
        check("/v1/patients", "/v1/patients", {"minPosition": 1})


@pytest.fixture(scope="module")
def poisoned(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Desk, dict[str, Any]]]:
    """A patient with an event that no class knows, as a log has it that a newer program wrote."""
    with running(module_database_url, tmp_path_factory.mktemp("poisoned")) as service:
        desk = service.desk()
        patient = desk.given_patient(names=[{"family": CANARY}])
        _store_unknown_event(module_database_url, desk.tenant, patient)
        yield desk, patient


class TestPoison:
    def test_the_read_model_sets_the_patient_aside_and_goes_on(self, poisoned) -> None:
        desk, _ = poisoned
        position = desk.register().headers["x-log-position"]
        found = succeeded(desk.get("/v1/patients", params={"minPosition": position}))["items"]
        assert len(found) == 2
        # nobody knows the event, so no read model can say that it is not meant; that for auditors
        # holds places alone
        deadline = time.monotonic() + 10
        while True:
            ready = desk.service.http.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            shown = {row["name"]: row["deadLetters"] for row in ready.json()["readModels"]}
            if shown == {name: int(name != "audit") for name in shown}:
                break
            assert time.monotonic() < deadline, ready.json()
        metrics = desk.service.http.get("/metrics").text
        assert 'registration_read_model_dead_letters{read_model="search"} 1.0' in metrics

    def test_that_patient_is_a_plain_fault_and_says_nothing_more(self, poisoned) -> None:
        desk, patient = poisoned
        request_id = str(new_id())
        for answer in (
            desk.get(place(patient), X_Request_Id=request_id),
            desk.post(f"{place(patient)}/next-of-kin", {"name": "x", "relationship": "x"}),
            desk.patch(f"{place(patient)}/demographics", {}, If_Match='"1"'),
        ):
            assert problem(answer, 500, "INTERNAL_ERROR") == {}
            for leak in (CANARY, "Traceback", "UnknownTopic", "patient.from-the-future", ".py"):
                assert leak not in answer.text
        fault, line = desk.service.logged(request_id)
        assert fault["fault"] == "UnknownTopicError"
        assert fault["places"]
        assert (line["status"], line["code"]) == (500, "INTERNAL_ERROR")
        assert not any(CANARY.encode() in line for line in desk.service.lines)

    def test_auditors_find_it_all_the_same(self, poisoned) -> None:
        desk, patient = poisoned
        auditor = desk.service.desk(desk.tenant, role="auditor")
        for asked in ({}, {"patientId": patient["id"]}):
            path = "/v1/audit/events"
            found = succeeded(auditor.get(path, params=asked | {"minPosition": 2}))["items"]
            unknown = next(event for event in found if event["position"] == 2)
            assert (unknown["type"], unknown["kind"], unknown["fields"]) == (
                *("patient.from-the-future", "patient", []),
            )
            assert unknown["patientIds"] == [patient["id"]]

    def test_its_past_and_its_history_can_still_be_read(self, poisoned) -> None:
        desk, patient = poisoned
        assert succeeded(desk.get(place(patient), params={"version": 1})) == patient
        assert desk.topics(patient) == ["patient.registered", "patient.from-the-future"]


def test_a_stored_refusal_and_the_patient_data_in_it_go_when_their_time_is_over(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_TIDY_SECONDS", 0.1)
    with (
        running(database_url, tmp_path, idempotency_ttl=1) as service,
        psycopg.connect(database_url, autocommit=True) as connection,
    ):
        desk = service.desk()
        patient = desk.given_patient()
        stale = desk.patch(
            f"{place(patient)}/demographics", {}, If_Match='"9"', Idempotency_Key="k"
        )
        problem(stale, 412, "OPTIMISTIC_LOCK_CONFLICT")
        deadline = time.monotonic() + 10
        kept = "SELECT count(*) FROM registration.outcome WHERE body IS NOT NULL"
        assert connection.execute(kept).fetchone() == (1,)
        while connection.execute(kept).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _store_unknown_event(url: str, tenant: str, patient: dict[str, Any]) -> None:
    async def store() -> None:
        topic, data, meta = "patient.from-the-future", b'{"x":1}', b'{"actor":"someone"}'
        stream = UUID(patient["id"])
        digest = event_digest(tenant, stream, 2, topic, meta, data)
        opened = EventStore(url, ttl=timedelta(hours=24))
        await opened.open()
        try:
            verdict = await opened.append(
                tenant,
                AppendRequest(stream, 2, 200, [NewEvent(stream, 2, topic, data, meta, digest)]),
            )
        finally:
            await opened.close()
        assert isinstance(verdict, Stored)

    asyncio.run(store())


@pytest.mark.skipif(
    "REGISTRATION_TEST_DATABASE_URL" in os.environ, reason="another server's log is its own affair"
)
def test_what_the_embedded_postgresql_logs_names_no_patient(desk: Desk) -> None:
    """Not even where a statement with patient data fails."""
    desk.given_patient(names=[{"family": CANARY}])
    with (
        psycopg.connect(desk.service.database_url) as connection,
        pytest.raises(psycopg.errors.UniqueViolation),
    ):
        connection.execute(
            "INSERT INTO registration.event SELECT tenant, position, stream_id, version, topic,"
            " convert_to(%s, 'UTF8'), metadata, recorded_at, hash FROM registration.event"
            " WHERE tenant = %s",
            (CANARY, desk.tenant),
        )
    with psycopg.connect(desk.service.database_url) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    log = Path(row[0]) / "server.log"
    assert CANARY.encode() not in log.read_bytes()
