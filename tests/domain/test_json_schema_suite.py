"""The official test suite for draft 2020-12: what it requires holds of all that is admitted.

`json_schema_suite/draft2020-12.json` is the required part of JSON-Schema-Test-Suite as the source
distribution of `jsonschema` 4.26.0 carries it, each file of it a member; its licence lies beside.
`not_admitted.json` names the groups that the registry refuses, by file and by the keyword refused.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from registration.domain.json_schema import inadmissible, incompatibilities, violations

FOLDER = Path(__file__).parent / "json_schema_suite"
SUITE: dict[str, list[dict[str, Any]]] = json.loads(
    (FOLDER / "draft2020-12.json").read_text("utf-8")
)
GROUPS = [(name, group) for name, groups in SUITE.items() for group in groups]


def test_the_groups_that_are_not_admitted_are_these() -> None:
    refused: dict[str, dict[str, list[str]]] = {}
    for name, group in GROUPS:
        if found := inadmissible(group["schema"]):
            keyword = found[0][0].rpartition("/")[2]
            refused.setdefault(name, {}).setdefault(keyword, []).append(group["description"])

    assert refused == json.loads((FOLDER / "not_admitted.json").read_text("utf-8"))


@pytest.mark.parametrize("name", SUITE)
def test_what_is_admitted_means_what_the_suite_says(name: str) -> None:
    told = {
        (group["description"], test["description"]): not violations(group["schema"], test["data"])
        for group in SUITE[name]
        if not inadmissible(group["schema"])
        for test in group["tests"]
    }

    assert told == {
        (group["description"], test["description"]): test["valid"]
        for group in SUITE[name]
        for test in group["tests"]
        if (group["description"], test["description"]) in told
    }


def test_most_of_the_suite_is_admitted() -> None:
    admitted = [group for _, group in GROUPS if not inadmissible(group["schema"])]

    assert (len(admitted), len(GROUPS)) == (310, 368)


def test_a_violation_says_where_in_the_data_it_is() -> None:
    for _, group in GROUPS:
        if inadmissible(group["schema"]):
            continue
        for test in group["tests"]:
            for place, reason in violations(group["schema"], test["data"]):
                at(test["data"], place)
                assert reason != "does not fit"


def test_every_schema_is_compatible_with_itself_and_with_its_annotated_self() -> None:
    for _, group in GROUPS:
        schema = group["schema"]
        if not inadmissible(schema):
            assert incompatibilities(schema, schema) == []
            if isinstance(schema, dict):
                assert incompatibilities(schema, schema | {"title": "T", "x-label": "L"}) == []


@pytest.mark.parametrize("name", SUITE)
def test_what_is_compatible_accepts_what_was_accepted(name: str) -> None:
    groups = [group for group in SUITE[name] if not inadmissible(group["schema"])]
    data = [test["data"] for group in groups for test in group["tests"]]
    for pair in pairwise(groups):
        for one, other in (pair, pair[::-1]):
            if incompatibilities(one["schema"], other["schema"]) == []:
                assert not any(
                    violations(other["schema"], value)
                    for value in data
                    if not violations(one["schema"], value)
                )


@pytest.mark.parametrize(
    "spoiled",
    [
        {"type": "text"},
        {"type": ["string", "string"]},
        {"minLength": -1},
        {"minLength": 1.5},
        {"required": ["a", "a"]},
        {"required": "a"},
        {"items": [{}]},
        {"properties": {"a": 1}},
        {"allOf": []},
        {"multipleOf": 0},
        {"enum": "a"},
        {"$defs": {"a": None}},
        {"$anchor": "1"},
        {"$id": "#a"},
        {"uniqueItems": 1},
        {"dependentRequired": {"a": "b"}},
        {"pattern": 1},
        {"patternProperties": []},
        {"if": 0},
        {"title": 1},
        {"default": 1},
        {"minLength": 2.0},
        {"enum": []},
        {"x": 1},
    ],
)
@pytest.mark.parametrize("place", ["", "properties", "not"])
def test_the_metaschema_is_that_of_the_reference_implementation(
    spoiled: dict[str, Any], place: str
) -> None:
    """The registry does not use it: of 64 KiB of mistakes it takes many seconds to speak."""
    schema = {"": spoiled, "properties": {"properties": {"a": spoiled}}, "not": {"not": spoiled}}
    metaschema = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)

    assert metaschema.is_valid(schema[place]) == (not inadmissible(schema[place]))


def test_the_schemas_of_the_suite_are_valid_by_the_reference_implementation() -> None:
    for _, group in GROUPS:
        if not inadmissible(group["schema"]):
            jsonschema.Draft202012Validator.check_schema(group["schema"])


def at(data: Any, pointer: str) -> Any:
    for written in pointer.split("/")[1:]:
        token = written.replace("~1", "/").replace("~0", "~")
        data = data[int(token)] if isinstance(data, list) else data[token]
    return data
