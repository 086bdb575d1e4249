"""Data under an admitted schema: what is wrong with it, where, and without a word of the data."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registration.domain.json_schema import (
    DEEPEST,
    inadmissible,
    violations,
)
from registration.domain.json_schema_document import MOST_FINDINGS

MARK = "Zq9"
NUMBER = re.compile("9[0-9][0-9]")
ROOT = {"$ref": "#"}
NO_PLACE = "is not one that the schema has a place for"
TOO_LARGE = "is too large for all that the schema checks at one place"
NOT_SAID = "does not fit, and is too large to say where"


@pytest.mark.parametrize(
    ("schema", "data", "expected"),
    [
        (True, {"a": 1}, []),
        (False, 1, [("", "has no place here")]),
        ({"type": "string"}, 1, [("", "is not of type string")]),
        ({"type": ["string", "null"]}, 1, [("", "is not of type string or null")]),
        ({"type": "integer"}, 2.0, []),
        ({"enum": ["a", 1]}, "b", [("", 'is none of ["a", 1]')]),
        ({"enum": ["é" * 300]}, "b", [("", "is none of what the schema says")]),
        ({"const": {"a": None}}, {}, [("", 'is not {"a": null}')]),
        ({"minimum": 3, "maximum": 1}, 2, [("", "is less than 3"), ("", "is more than 1")]),
        ({"exclusiveMinimum": 3}, 3, [("", "is not more than 3")]),
        ({"exclusiveMaximum": 3}, 3.0, [("", "is not less than 3")]),
        ({"multipleOf": 0.1}, 0.25, [("", "is no multiple of 0.1")]),
        ({"multipleOf": 0.1}, 0.3, []),
        ({"minLength": 2}, "é", [("", "has fewer characters than 2")]),
        ({"maxLength": 1}, "ab", [("", "has more characters than 1")]),
        ({"pattern": "^a"}, "ba", [("", 'does not match "^a"')]),
        ({"minItems": 1}, [], [("", "has fewer items than 1")]),
        ({"maxItems": 1}, [1, 2], [("", "has more items than 1")]),
        ({"uniqueItems": True}, [1, 1.0], [("", "has an item twice")]),
        ({"minProperties": 1}, {}, [("", "has fewer members than 1")]),
        ({"maxProperties": 0}, {"a": 1}, [("", "has more members than 0")]),
        ({"required": ["a", "b"]}, {"b": 1}, [("", 'lacks "a"')]),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, [("", 'lacks "b"')]),
        ({"dependentSchemas": {"a": {"required": ["c"]}}}, {"a": 1}, [("", 'lacks "c"')]),
        ({"properties": {"a/~": {"const": 2}}}, {"a/~": 1}, [("/a~1~0", "is not 2")]),
        ({"patternProperties": {"^a": False}}, {"ab": 1}, [("/ab", NO_PLACE)]),
        ({"additionalProperties": False}, {"b": 1, "a": 1}, [("/a", NO_PLACE), ("/b", NO_PLACE)]),
        ({"additionalProperties": {"minimum": 2}}, {"b": 1}, [("/b", "is less than 2")]),
        ({"propertyNames": {"maxLength": 1}}, {"ab": 1},
         [("", "has a member whose name has more characters than 1")]),
        ({"prefixItems": [{}], "items": {"type": "null"}}, [1, 2], [("/1", "is not of type null")]),
        ({"items": {"items": {"maximum": 1}}}, [[1], [1, 2]], [("/1/1", "is more than 1")]),
        ({"contains": {"const": 1}}, [2],
         [("", "has too few or too many of the items that `contains` describes")]),
        ({"contains": {"const": 1}, "maxContains": 1, "minContains": 0}, [], []),
        ({"contains": {"const": 1}, "maxContains": 1}, [1, 1],
         [("", "has too few or too many of the items that `contains` describes")]),
        ({"allOf": [{"minimum": 1}, {"minimum": 2}]}, 0,
         [("", "is less than 1"), ("", "is less than 2")]),
        ({"anyOf": [{"minimum": 1}, {"const": 2}]}, 0, [("", "fits none of the alternatives")]),
        ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, 2,
         [("", "fits none of the alternatives, or more than one")]),
        ({"not": {"type": "string"}}, "a", [("", "is what the schema excludes")]),
        ({"if": {"minimum": 5}, "then": {"maximum": 7}}, 9, [("", "is more than 7")]),
        ({"if": {"minimum": 5}, "else": {"maximum": 3}}, 4, [("", "is more than 3")]),
        ({"$ref": "#a", "$defs": {"x": {"$anchor": "a", "type": "null"}}}, 1,
         [("", "is not of type null")]),
        ({"properties": {"a": {}}, "unevaluatedProperties": False}, {"b": 1}, [("/b", NO_PLACE)]),
        ({"allOf": [{"prefixItems": [True]}], "unevaluatedItems": False}, ["a", "b"],
         [("", "has items that the schema has no place for")]),
        ({"properties": {"a": ROOT}, "required": ["b"]}, {"a": {"a": {"b": 1}, "b": 1}},
         [("", 'lacks "b"')]),
        ({"format": "date", "contentEncoding": "base64"}, "neither", []),
        ({"dependencies-are": 1, "minItems": 1.0}, [], [("", "has fewer items than 1.0")]),
    ],
)  # fmt: skip
def test_a_violation_says_what_the_schema_wants(
    schema: Any, data: Any, expected: list[tuple[str, str]]
) -> None:
    assert inadmissible(schema) == []

    assert violations(schema, data) == expected


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (10**30, "holds a number beyond 64 bits"),
        ({"a": [-(10**5000)]}, "holds a number beyond 64 bits"),
        ([float("inf")], "holds a number that JSON does not have"),
        ("\udfff", "holds half of a surrogate pair"),
        ({"\udfff": 1}, "holds half of a surrogate pair"),
        ({1: 1}, "is not JSON"),
        ([[0] * 300] * 300, "has more than 65536 values"),
    ],
)
def test_what_is_not_json_fits_no_schema(data: Any, why: str) -> None:
    assert violations({}, data) == [("", why)]
    assert violations({"type": "object"}, data) == [("", why)]


def test_numbers_of_any_size_are_compared_exactly() -> None:
    whole = {"type": "integer", "maximum": 9007199254740992}

    assert violations(whole, 9007199254740992.0) == []
    assert violations(whole, 9007199254740993) == [("", "is more than 9007199254740992")]
    assert violations({"minimum": -1e308}, -(2**63)) == []
    assert violations({"multipleOf": 1e-9}, 1e300) == []


def test_data_is_followed_to_its_depth_and_no_further() -> None:
    tree = {"type": "array", "items": ROOT}
    data: Any = 1
    for _ in range(DEEPEST - 1):
        data = [data]

    assert violations(tree, data) == [("/0" * (DEEPEST - 1), "is not of type array")]
    assert violations(tree, [data]) == [("", "is nested more than 32 deep")]


def test_nested_subschemas_are_followed() -> None:
    links = {f"{n}": {"$ref": f"#/$defs/{n + 1}"} for n in range(240)}
    schema = {"$ref": "#/$defs/0", "$defs": links | {"240": {"type": "null"}}}

    assert inadmissible(schema) == []
    assert violations(schema, 1) == [("", "is not of type null")]


def test_violations_are_ordered_and_not_without_end() -> None:
    schema = {"items": {"type": "object", "required": ["b", "a"]}}
    found = violations(schema, [{}] * 1000)

    assert found[:3] == [("/0", 'lacks "a"'), ("/0", 'lacks "b"'), ("/1", 'lacks "a"')]
    assert len(found) == MOST_FINDINGS


def test_the_order_of_members_makes_no_difference() -> None:
    schema = {"required": ["b", "a"], "properties": {"d": {"type": "null"}, "c": False}}
    turned = dict(reversed(schema.items()))

    assert violations(schema, {"c": 1, "d": 1}) == violations(turned, {"d": 1, "c": 1})


def test_a_pattern_takes_linear_time() -> None:
    assert violations({"pattern": "^(a+)+$"}, "a" * 60_000 + "b") == [
        ("", 'does not match "^(a+)+$"')
    ]


def test_data_that_would_take_too_much_work_does_not_fit() -> None:
    schema = {"items": {"allOf": [{"minimum": bound + 0.5} for bound in range(90)]}}

    assert inadmissible(schema) == []
    assert violations(schema, [1.5] * 10_000) == [("", TOO_LARGE)]
    assert violations(schema, [89.5] * 1_000) == []


def test_saying_what_is_wrong_takes_no_more_work_than_a_check() -> None:
    schema = {"anyOf": [{"type": "object"}] * 900}

    assert inadmissible(schema) == []
    assert violations(schema, "x" * 80_000) == [("", TOO_LARGE)]
    assert violations(schema, "x" * 60_000) == [("", NOT_SAID)]
    assert violations(schema, "x") == [("", "fits none of the alternatives")]


TEXTS = st.text(st.sampled_from("ab1"), max_size=3).map(lambda text: MARK + text)
MARKED = st.recursive(
    st.none() | st.booleans() | st.integers(900, 999) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b"]) | TEXTS, inner, max_size=3)
    ),
    max_leaves=8,
)
STRICT: list[Any] = [
    {"enum": ["x"]},
    {"const": {"a": "x"}},
    {"type": "null"},
    {"pattern": "^x", "maxLength": 1, "maximum": 1, "maxItems": 0, "maxProperties": 0},
    {"additionalProperties": False, "items": False},
    {"additionalProperties": {"type": "null"}, "items": {"type": "null"}},
    {"unevaluatedProperties": False, "unevaluatedItems": False},
    {"unevaluatedProperties": {"type": "null"}, "unevaluatedItems": {"enum": ["x"]}},
    {"propertyNames": {"enum": ["x"]}, "contains": {"type": "null"}, "uniqueItems": True},
    {"propertyNames": False, "contains": False},
    {"propertyNames": {"pattern": "^x", "not": {}}, "dependentRequired": {"a": ["c"]}},
    {"not": {"type": ["string", "integer", "array", "object"]}},
    {"anyOf": [{"type": "null"}, {"const": "x"}], "oneOf": [{}, {}]},
    {"if": {"type": "string"}, "then": {"pattern": "^x"}, "else": {"type": "null"}},
    {"properties": {"a": {"type": "null"}}, "required": ["b"], "patternProperties": {"9": False}},
    {"type": ["object", "array"], "additionalProperties": ROOT, "items": ROOT},
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STRICT), MARKED)
def test_no_reason_shows_the_data(schema: Any, data: Any) -> None:
    names = set(keys(data))
    for place, reason in violations(schema, data):
        assert MARK not in reason
        assert not NUMBER.search(reason)
        tokens = place.split("/")[1:]
        assert all(MARK not in token or token in names for token in tokens)


def keys(data: Any) -> list[str]:
    members = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    own = list(data) if isinstance(data, dict) else []
    return own + [name for member in members for name in keys(member)]
