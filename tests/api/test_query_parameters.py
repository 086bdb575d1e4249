"""Query parameters: each is taken for what it says, or refused; none is ignored, none is a fault."""

import base64
from typing import Any

import orjson
import pytest
from tests.api.given_audit import Audited
from tests.api.test_access import Scene
from tests.service import Service, new_id, problem

from registration.api.app import application
from registration.settings import Settings

EXTREMES = [
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.999999-23:59",
]
INSTANTS = {"asOf", "validAt", "from", "to", "at"}
NEEDED = {
    "/v1/audit/proofs/consistency": {"from": "1"},
    "/v1/audit/proofs/inclusion": {"position": "1"},
}
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
    for place in ODD_PLACES:
        cursor = base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")
        answer = audited.desk.get(url_of(given, path), params={"cursor": cursor})
        assert answer.status_code in (200, 422), (place, answer.text)


@pytest.mark.parametrize("day", ["1900-01-01", "2199-12-31"])
def test_the_first_and_the_last_day(scene: tuple[Audited, Scene], day: str) -> None:
    desk = scene[0].desk
    assert desk.get("/v1/encounters/board", params={"day": day}).status_code == 200
    for name in ("from", "to"):
        for report in ("registrations", "consent-coverage"):
            answer = desk.get(f"/v1/reports/{report}", params={name: day})
            assert answer.status_code in (200, 422), answer.text
