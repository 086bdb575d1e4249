"""Query parameters: each is taken for what it says, or refused; none is ignored."""

import base64
from typing import Any

import orjson
import pytest
from tests.api.given_audit import Audited
from tests.api.test_access import Scene
from tests.service import Service, new_id, place, problem, succeeded

from registration.api.app import application
from registration.settings import Settings

EXTREMES = [
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.999999-23:59",
]
INSTANTS = {"asOf", "validAt", "from", "to", "at"}
LISTS = {("/v1/encounters", "status"), ("/v1/encounters/board", "status")}
NAMES = {
    "{name}": "consent-coverage",
    "{version}": "1",
}


def queries() -> dict[str, dict[str, Any]]:
    """Return what the OpenAPI document says of each query, by its path."""
    paths = application(Settings.model_construct()).openapi()["paths"]
    return {
        path: item["get"]
        for path, item in sorted(paths.items())
        if path.startswith("/v1/") and "get" in item
    }


def parameters(query: dict[str, Any]) -> list[str]:
    return [each["name"] for each in query.get("parameters", ()) if each["in"] == "query"]


@pytest.fixture(scope="module")
def scene(service: Service) -> tuple[Audited, Scene]:
    audited = Audited.of(service)
    return audited, Scene(audited)


def url_of(scene: Scene, path: str) -> str:
    for name, value in NAMES.items():
        path = path.replace(name, value)
    return scene.url(path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (path, name)
        for path, query in queries().items()
        for name in parameters(query)
        if name in INSTANTS
    ],
)
@pytest.mark.parametrize("moment", EXTREMES)
def test_the_ends_of_the_calendar_are_instants(
    scene: tuple[Audited, Scene], path: str, name: str, moment: str
) -> None:
    audited, given = scene
    asked = {name: moment} | ({"name": "okoro"} if path == "/v1/patients" else {})
    answer = audited.desk.get(url_of(given, path), params=asked)
    # 404: what there was not yet at the beginning; 422: a report's days, and what takes no instant
    assert answer.status_code in (200, 404, 422), answer.text


def wrong(answer: Any) -> list[tuple[str, str]]:
    told = problem(answer, 422, "VALIDATION_FAILED")
    return [(error["path"], error["message"]) for error in told["errors"]]


@pytest.mark.parametrize("path", queries())
@pytest.mark.parametrize("name", ["asof", "nonsense", "access_token"])
def test_what_a_query_does_not_take_is_refused(
    scene: tuple[Audited, Scene], path: str, name: str
) -> None:
    audited, given = scene
    answer = audited.desk.get(url_of(given, path), params={name: "2020-01-01T00:00:00Z"})
    assert wrong(answer) == [(f"/{name}", "is no parameter of this query")]


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, name) for path, query in queries().items() for name in parameters(query)],
)
def test_what_stands_twice_is_refused_where_it_is_no_list(
    scene: tuple[Audited, Scene], path: str, name: str
) -> None:
    """The first would be read, or the last: nobody would know which."""
    audited, given = scene
    value = {"status": "planned"}.get(name, "1")
    answer = audited.desk.get(url_of(given, path), params=[(name, value), (name, value)])
    if (path, name) in LISTS:
        assert answer.is_success
    else:
        assert wrong(answer) == [(f"/{name}", "stands twice")]


@pytest.mark.parametrize(
    "part",
    [
        *("names/{nameId}", "consents/{flag}", "consents/{flag}/history", "extensions/{schema}"),
        *("extensions", "portrait", "history"),
    ],
)
def test_the_present_is_not_shown_as_the_past(scene: tuple[Audited, Scene], part: str) -> None:
    audited, given = scene
    path = url_of(given, f"/v1/patients/{{id}}/{part}")
    assert audited.desk.get(path).is_success
    answer = audited.desk.get(path, params={"asOf": "2020-01-01T00:00:00Z"})
    assert wrong(answer) == [("/asOf", "is no parameter of this query")]


def test_who_may_not_ask_is_told_that_first(scene: tuple[Audited, Scene], service: Service) -> None:
    audited, given = scene
    path = url_of(given, "/v1/patients/{id}/consents")
    stranger = service.desk(audited.desk.tenant, scope="encounter:read")
    problem(stranger.get(path, params={"x": "1"}), 403, "FORBIDDEN")
    problem(service.http.get(path, params={"x": "1"}), 401, "UNAUTHENTICATED")


def test_what_was_refused_is_no_read(service: Service) -> None:
    audited = Audited.of(service)
    patient = audited.desk.given_patient()
    problem(audited.desk.get(f"{place(patient)}?asof=x"), 422, "VALIDATION_FAILED")
    problem(audited.desk.get(f"{place(patient)}/consents?asof=x"), 422, "VALIDATION_FAILED")
    assert audited.reads() == []


def test_a_search_of_the_past_waits_for_a_position_as_well(
    scene: tuple[Audited, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    audited, given = scene
    monkeypatch.setattr("registration.api.reading.POSITION_WAIT", 0.05)
    asked = {"name": "okoro", "asOf": "2100-01-01T00:00:00Z"}
    head = int(given.position)
    reached = audited.desk.get("/v1/patients", params=asked | {"minPosition": head})
    assert {found["id"] for found in succeeded(reached)["items"]} == given.patients
    beyond = audited.desk.get("/v1/patients", params=asked | {"minPosition": head + 1000})
    problem(beyond, 503, "READ_MODEL_BEHIND")


ODD_PLACES: list[Any] = [
    *([moment, str(new_id())] for moment in EXTREMES),
    [0.5, EXTREMES[3], str(new_id())],
    [1, 2],
    [],
    {},
    None,
    2**63,
    -1,
    "x",
]


@pytest.mark.parametrize(
    "path", [path for path, query in queries().items() if "cursor" in parameters(query)]
)
def test_a_cursor_that_nobody_gave_out_is_no_fault(scene: tuple[Audited, Scene], path: str) -> None:
    audited, given = scene
    for odd in ODD_PLACES:
        cursor = base64.urlsafe_b64encode(orjson.dumps(odd)).decode().rstrip("=")
        answer = audited.desk.get(url_of(given, path), params={"cursor": cursor})
        assert answer.status_code in (200, 422), (odd, answer.text)


@pytest.mark.parametrize("day", ["1900-01-01", "2199-12-31"])
def test_the_first_and_the_last_day(scene: tuple[Audited, Scene], day: str) -> None:
    desk = scene[0].desk
    assert desk.get("/v1/encounters/board", params={"day": day}).status_code == 200
    for name in ("from", "to"):
        for report in ("registrations", "consent-coverage"):
            answer = desk.get(f"/v1/reports/{report}", params={name: day})
            assert answer.status_code in (200, 422), answer.text
