"""Extension schemas and their instances over HTTP."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.service import Desk, Service, place, problem, succeeded

HOUSING = {
    "type": "object",
    "properties": {"rooms": {"type": "integer", "minimum": 1}, "street": {"type": "string"}},
    "required": ["rooms"],
    "additionalProperties": False,
}
WITH_FLOOR = HOUSING | {"properties": HOUSING["properties"] | {"floor": {"type": "integer"}}}  # type: ignore[operator]


def publishes(desk: Desk, schema: Any, name: str = "housing", **said: Any) -> httpx.Response:
    return desk.post(f"/v1/extension-schemas/{name}/versions", {"schema": schema} | said)


def sets(
    desk: Desk, patient: dict[str, Any], data: Any, version: int, schema_version: int = 1
) -> httpx.Response:
    path = f"{place(patient)}/extensions/housing"
    said = {"schemaVersion": schema_version, "data": data}
    return desk.put(path, said, If_Match=f'"{version}"')


@pytest.fixture
def admin(service: Service) -> Desk:
    """Somebody who may publish, with a schema of theirs."""
    found = service.desk(role="admin")
    succeeded(publishes(found, HOUSING, title="Housing"))
    return found


class TestTheRegistry:
    def test_a_version_is_published_and_never_changes(self, service: Service) -> None:
        admin = service.desk(role="admin")
        answer = publishes(admin, HOUSING, title="Housing")
        shown = succeeded(answer)
        assert answer.headers["location"] == "/v1/extension-schemas/housing/versions/1"
        published_at = shown.pop("publishedAt")
        assert shown == {
            "name": "housing",
            "version": 1,
            "title": "Housing",
            "compatibility": "backward",
            "schema": HOUSING,
            "publishedBy": "desk-1",
        }
        succeeded(publishes(admin, WITH_FLOOR))
        first = admin.get("/v1/extension-schemas/housing/versions/1")
        assert first.json() == shown | {"publishedAt": published_at}
        assert first.headers.get_list("cache-control") == ["private, max-age=86400, immutable"]

    def test_the_same_schema_again_is_the_same_version(self, admin: Desk) -> None:
        again = publishes(admin, HOUSING, title="Housing")
        assert (again.status_code, again.json()["version"]) == (201, 1)

    def test_it_is_listed_with_its_versions(self, admin: Desk) -> None:
        succeeded(publishes(admin, WITH_FLOOR))
        answer = publishes(admin, {"type": "string"}, "allergy-note")
        found = succeeded(
            admin.get(
                "/v1/extension-schemas",
                params={"minPosition": answer.headers["x-log-position"]},
            )
        )
        assert [(s["name"], s["version"]) for s in found["items"]] == [
            ("allergy-note", 1),
            ("housing", 2),
        ]
        versions = succeeded(admin.get("/v1/extension-schemas/housing"))["items"]
        assert [version["schema"] for version in versions] == [HOUSING, WITH_FLOOR]

    def test_the_list_has_pages(self, admin: Desk) -> None:
        for name in "abc":
            answer = publishes(admin, {}, name)
        params: dict[str, Any] = {"limit": 2, "minPosition": answer.headers["x-log-position"]}
        names = []
        while True:
            page = succeeded(admin.get("/v1/extension-schemas", params=params))
            names += [schema["name"] for schema in page["items"]]
            if page["next"] is None:
                break
            params["cursor"] = page["next"]
        assert names == ["a", "b", "c", "housing"]

    def test_what_would_break_old_data_has_to_be_meant(self, admin: Desk) -> None:
        narrower = HOUSING | {"required": ["rooms", "street"]}
        told = problem(publishes(admin, narrower), 422, "EXTENSION_INVALID")
        assert [error["path"] for error in told["errors"]] == ["/schema/required"]
        meant = succeeded(publishes(admin, narrower, compatibility="none"))
        assert (meant["version"], meant["compatibility"]) == (2, "none")

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "objekt"},
            {"$ref": "https://elsewhere.example/schema"},
            {"$ref": "#/$defs/missing"},
            {"$ref": "#"},
            {"pattern": "(a+)+\\1"},
            {"$schema": "http://json-schema.org/draft-07/schema#"},
        ],
        ids=["type", "remote", "missing", "endless", "backreference", "draft 7"],
    )
    def test_what_it_does_not_admit_is_refused_with_a_reason(self, admin: Desk, schema) -> None:
        told = problem(publishes(admin, schema, "other"), 422, "EXTENSION_INVALID")
        assert all(error["path"].startswith("/schema") for error in told["errors"])
        assert all(error["message"] for error in told["errors"])
        problem(admin.get("/v1/extension-schemas/other"), 404, "NOT_FOUND")

    def test_too_much_is_refused_before_it_is_looked_at(self, admin: Desk) -> None:
        deep: Any = True
        for _ in range(40):
            deep = {"items": deep}
        for schema in (deep, {"description": "x" * 70_000}):
            answer = publishes(admin, schema, "other")
            told = problem(answer, 422, "VALIDATION_FAILED")
            assert all(error["path"].startswith("/schema") for error in told["errors"])

    @pytest.mark.parametrize("name", ["Housing", "a_b", "-a", "a--b", "a" * 65])
    def test_names_are_plain(self, admin: Desk, name: str) -> None:
        problem(publishes(admin, {}, name), 422, "VALIDATION_FAILED")

    def test_two_who_publish_at_once_get_versions_of_their_own(self, admin: Desk) -> None:
        schemas = [WITH_FLOOR | {"title": f"by {n}"} for n in range(6)]
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda schema: publishes(admin, schema), schemas))
        assert sorted(succeeded(answer)["version"] for answer in answers) == list(range(2, 8))

    def test_each_tenant_has_its_own(self, service: Service, admin: Desk) -> None:
        stranger = service.desk(role="admin")
        problem(stranger.get("/v1/extension-schemas/housing"), 404, "NOT_FOUND")
        assert succeeded(publishes(stranger, {"type": "array"}))["version"] == 1


class TestInstances:
    def test_data_that_fits_is_kept_with_its_own_version(self, admin: Desk) -> None:
        patient = admin.given_patient()
        answer = sets(admin, patient, {"rooms": 3}, 0)
        shown = succeeded(answer)
        assert answer.headers["etag"] == '"1"'
        recorded_at = shown.pop("recordedAt")
        assert shown == {
            "schema": "housing",
            "schemaVersion": 1,
            "version": 1,
            "data": {"rooms": 3},
            "recordedBy": "desk-1",
        }
        read = admin.get(f"{place(patient)}/extensions/housing")
        assert (read.headers["etag"], read.json()) == ('"1"', shown | {"recordedAt": recorded_at})
        assert succeeded(admin.get(f"{place(patient)}/extensions"))["items"] == [read.json()]
        assert succeeded(admin.get(place(patient)))["extensions"] == [read.json()]

    def test_what_does_not_fit_is_named_place_by_place_and_never_repeated(
        self, admin: Desk
    ) -> None:
        patient = admin.given_patient()
        data = {"rooms": 0, "street": 7, "Zebedeequux": 1}
        answer = sets(admin, patient, data, 0)
        told = problem(answer, 422, "EXTENSION_INVALID")
        assert {error["path"] for error in told["errors"]} >= {"/data/rooms", "/data/street"}
        assert "Zebedeequux" not in "".join(error["message"] for error in told["errors"])
        assert admin.topics(patient) == ["patient.registered"]

    def test_what_was_accepted_stays_readable_when_its_schema_moves_on(self, admin: Desk) -> None:
        patient = admin.given_patient()
        first = succeeded(sets(admin, patient, {"rooms": 3}, 0))
        succeeded(publishes(admin, {"type": "array"}, compatibility="none"))
        path = f"{place(patient)}/extensions/housing"
        assert succeeded(admin.get(path)) == first
        assert succeeded(sets(admin, patient, {"rooms": 4}, 1))["version"] == 2
        assert succeeded(sets(admin, patient, [1], 2, schema_version=2))["schemaVersion"] == 2

    def test_an_unpublished_version_is_none(self, admin: Desk) -> None:
        patient = admin.given_patient()
        told = problem(sets(admin, patient, {"rooms": 3}, 0, 2), 422, "EXTENSION_INVALID")
        assert [error["path"] for error in told["errors"]] == ["/schemaVersion"]

    def test_an_unknown_schema_is_none(self, admin: Desk) -> None:
        patient = admin.given_patient()
        path = f"{place(patient)}/extensions/nothing"
        said = {"schemaVersion": 1, "data": 1}
        problem(admin.put(path, said, If_Match='"0"'), 404, "NOT_FOUND")

    def test_a_stale_edit_shows_both_sides(self, admin: Desk) -> None:
        patient = admin.given_patient()
        succeeded(sets(admin, patient, {"rooms": 3}, 0))
        theirs = succeeded(sets(admin, patient, {"rooms": 4}, 1))
        told = problem(sets(admin, patient, {"rooms": 5}, 1), 412, "OPTIMISTIC_LOCK_CONFLICT")
        assert told["current"] == theirs
        assert told["fields"] == [
            {
                "path": "/data",
                "base": {"rooms": 3},
                "theirs": {"rooms": 4},
                "yours": {"rooms": 5},
            }
        ]

    def test_removed_it_is_not_there_and_may_come_back(self, admin: Desk) -> None:
        patient = admin.given_patient()
        path = f"{place(patient)}/extensions/housing"
        succeeded(sets(admin, patient, {"rooms": 3}, 0))
        removed = admin("DELETE", path, If_Match='"1"', params={"reason": "moved"})
        assert succeeded(removed)["extensions"] == []
        problem(admin.get(path), 404, "NOT_FOUND")
        problem(admin("DELETE", path, If_Match='"0"'), 404, "NOT_FOUND")
        told = problem(sets(admin, patient, {"rooms": 4}, 1), 412, "OPTIMISTIC_LOCK_CONFLICT")
        assert (told["currentVersion"], told["current"]) == (2, {})
        # versions go on counting: an old ETag never means something new
        assert succeeded(sets(admin, patient, {"rooms": 4}, 0))["version"] == 3

    @pytest.mark.parametrize("data", [False, 0, "", [], {}, {"a": None}, [None], 1.5])
    def test_what_is_nearly_nothing_is_kept_as_it_is(self, admin: Desk, data) -> None:
        succeeded(publishes(admin, {}, compatibility="none"))
        patient = admin.given_patient()
        assert succeeded(sets(admin, patient, data, 0, 2))["data"] == data
        assert succeeded(admin.get(place(patient)))["extensions"][0]["data"] == data
        assert admin.history(patient)[-1]["data"]["data"] == data

    @pytest.mark.parametrize(
        "data",
        [None, 10**30, [[]] * 30_000, "x" * 70_000],
        ids=["nothing", "huge number", "many", "long"],
    )
    def test_what_the_log_cannot_hold_is_refused(self, admin: Desk, data) -> None:
        succeeded(publishes(admin, {}, compatibility="none"))
        patient = admin.given_patient()
        path = f"{place(patient)}/extensions/housing"
        headers = {"If-Match": '"0"', "Content-Type": "application/json"}
        import json

        body = json.dumps({"schemaVersion": 2, "data": data}).encode()
        answer = admin("PUT", path, content=body, headers=headers)
        told = problem(answer, 422, "VALIDATION_FAILED")
        assert [error["path"] for error in told["errors"]] == ["/data"]
