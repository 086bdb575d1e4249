"""JSON Schemas of the registry: what is admitted, and that no schema can be made costly."""

import faulthandler
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registration.domain.json_schema import (
    DEEPEST,
    DIALECT,
    MOST_BYTES,
    MOST_CHECKS,
    MOST_SUBSCHEMAS,
    inadmissible,
    violations,
)
from registration.domain.json_schema_document import MOST_FINDINGS, read
from registration.domain.json_schema_work import Work, work

ROOT = {"$ref": "#"}


@pytest.fixture(autouse=True)
def _hung_tests_say_where() -> Iterator[None]:
    assert sys.__stderr__ is not None
    faulthandler.dump_traceback_later(120, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


def nested(times: int, around: Callable[[Any], Any], value: Any) -> Any:
    for _ in range(times):
        value = around(value)
    return value


def chained(length: int, link: Callable[[dict[str, str]], Any]) -> dict[str, Any]:
    """Return a schema of definitions each of which leads to the next."""
    definitions = {f"{i}": link({"$ref": f"#/$defs/{i + 1}"}) for i in range(length)}
    return {"$ref": "#/$defs/0", "$defs": definitions | {f"{length}": {"type": "string"}}}


def bounds(schema: Any) -> Work:
    return work(read(schema), {}, DEEPEST)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        False,
        {},
        {"$schema": DIALECT, "$id": "https://clinic.example/allergies", "title": "Allergies"},
        {"$schema": f"{DIALECT}#"},
        {"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"type": "string"}}},
        {"$ref": "#/definitions/a", "definitions": {"a": {}}},
        {"$ref": "#here", "$defs": {"a": {"$anchor": "here"}}},
        {"properties": {"$ref": {"type": "string"}, "$id": {}, "dependencies": {}}},
        {"format": "date", "contentEncoding": "base64", "contentSchema": {}, "x-label": {"a": 1}},
        {"pattern": r"^[A-Z]{2}\d{6}$", "patternProperties": {r"^\p{Lu}": {}}},
        # What looks like a reference in a place for data is data.
        {"enum": [{"$ref": "https://elsewhere.example"}], "const": {"$ref": "#/nowhere"}},
        {"default": {"$id": "a"}, "examples": [{"$dynamicRef": "#a"}], "x-more": {"$ref": "b"}},
        # Trees, and lists of all shapes.
        {"properties": {"next": ROOT}},
        {"properties": {"left": ROOT, "right": ROOT, "all": {"items": ROOT}}},
        {"type": ["object", "string"], "additionalProperties": ROOT},
        {"anyOf": [{"type": "string"}, {"type": "array", "items": ROOT}]},
        {"properties": {"children": {"items": ROOT}}, "unevaluatedProperties": False},
        {
            "$ref": "#/$defs/base",
            "properties": {"extra": {}},
            "unevaluatedProperties": False,
            "$defs": {"base": {"properties": {"parts": {"items": {"$ref": "#/$defs/base"}}}}},
        },
        {"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}},
        {"oneOf": [{"const": code, "title": f"Code {code}"} for code in range(500)]},
        {"enum": [f"code {number}" for number in range(4000)]},
        {"properties": {f"field{number}": {"type": "string"} for number in range(1500)}},
        {"type": "object", "required": [f"field{number}" for number in range(500)]},
    ],
)
def test_an_ordinary_schema_is_admitted(schema: Any) -> None:
    assert inadmissible(schema) == []


@pytest.mark.parametrize(
    ("schema", "place", "why"),
    [
        (None, "", "is no JSON Schema: is not of type boolean or object"),
        ([], "", "is no JSON Schema"),
        ({"type": "text"}, "/type", "is no JSON Schema"),
        ({"properties": {"a": {"minLength": -1}}}, "/properties/a/minLength", "is less than 0"),
        ({"required": ["a", "a"]}, "/required", "has an item twice"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema", "has to be"),
        ({"items": {"$schema": "https://a.example"}}, "/items/$schema", "has to be"),
        ({"$ref": "https://elsewhere.example/a"}, "/$ref", "this document alone"),
        ({"$id": "https://a.example", "$ref": "https://a.example#"}, "/$ref", "alone"),
        ({"$ref": "other.json#/a"}, "/$ref", "this document alone"),
        ({"$ref": "#/$defs/a"}, "/$ref", "refers to no subschema"),
        ({"$ref": "#a"}, "/$ref", "refers to no subschema"),
        ({"$ref": "#/allOf/00", "allOf": [{}]}, "/$ref", "refers to no subschema"),
        ({"$ref": "#/x-more", "x-more": {}}, "/$ref", "refers to no subschema"),
        ({"$ref": "#/const", "const": {}}, "/$ref", "refers to no subschema"),
        ({"$ref": "#/%C3%28"}, "/$ref", "refers to no subschema"),
        ({"x/y~": 1, "items": {"$ref": "#b"}}, "/items/$ref", "refers to no subschema"),
        ({"$defs": {"a/~": {"$id": "b"}}}, "/$defs/a~1~0/$id", "at the root alone"),
        ({"allOf": [{"$anchor": "a"}, {"$anchor": "a"}]}, "/allOf/0/$anchor", "is there twice"),
        ({"$dynamicRef": "#a"}, "/$dynamicRef", "is not admitted"),
        ({"not": {"$dynamicAnchor": "a"}}, "/not/$dynamicAnchor", "is not admitted"),
        ({"$vocabulary": {}}, "/$vocabulary", "is not admitted"),
        ({"$recursiveRef": "#"}, "/$recursiveRef", "is of an older draft"),
        ({"dependencies": {}}, "/dependencies", "is of an older draft"),
        ({"items": {}, "additionalItems": False}, "/additionalItems", "is of an older draft"),
        ({"pattern": "(?=a)b"}, "/pattern", "linear-time"),
        ({"pattern": r"(a)\1"}, "/pattern", "linear-time"),
        ({"pattern": "("}, "/pattern", "linear-time"),
        ({"pattern": "(a{999}){999}"}, "/pattern", "linear-time"),
        ({"pattern": r"^\p{L}{1,50}$"}, "/pattern", "linear-time"),
        ({"patternProperties": {"(?!a/)": {}}}, "/patternProperties/(?!a~1)", "linear-time"),
        ({"maximum": float("nan")}, "", "holds a number that JSON does not have"),
        ({"maximum": 10**400}, "", "holds a number beyond 64 bits"),
        ({"const": "\ud800"}, "", "holds half of a surrogate pair"),
        ({"\udc00": 1}, "", "holds half of a surrogate pair"),
        ({1: 2}, "", "is not JSON"),
        ({"enum": (1, 2)}, "", "is not JSON"),
        ({"const": {1, 2}}, "", "is not JSON"),
    ],
)
def test_a_schema_is_refused_with_place_and_reason(schema: Any, place: str, why: str) -> None:
    found = inadmissible(schema)

    assert [where for where, _ in found][:1] == [place]
    assert why in found[0][1]


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (ROOT, ""),
        ({"allOf": [ROOT]}, ""),
        ({"anyOf": [{"not": ROOT}]}, ""),
        ({"if": ROOT}, ""),
        ({"dependentSchemas": {"a": ROOT}}, ""),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"oneOf": [{"$ref": "#/$defs/a"}]}}},
            "/$defs/a",
        ),
    ],
)
def test_a_reference_that_never_steps_into_the_data_is_refused(schema: Any, place: str) -> None:
    assert inadmissible(schema) == [(place, "comes back to itself without a step into the data")]


def test_size_and_depth_are_bounded() -> None:
    most = {"title": "a" * (MOST_BYTES - len('{"title":""}'))}
    deepest = nested(DEEPEST - 1, lambda inner: {"items": inner}, {})
    subschemas: dict[str, Any] = {"properties": {f"{i}": {} for i in range(MOST_SUBSCHEMAS - 1)}}

    assert [inadmissible(schema) for schema in (most, deepest, subschemas)] == [[]] * 3
    assert inadmissible(most | {"a": 1}) == [("", "has more than 65536 bytes")]
    assert inadmissible({"not": deepest}) == [("", "is nested more than 32 deep")]
    subschemas["properties"]["one more"] = {}
    assert inadmissible(subschemas) == [("", "has more than 2000 subschemas")]


TOO_MUCH = f"can make more than {MOST_CHECKS} checks at one place of the data"
DOUBLED = [ROOT, ROOT]


@pytest.mark.parametrize(
    "schema",
    [
        chained(40, lambda link: {"allOf": [link, link]}),
        chained(40, lambda link: {"properties": {"a": {"anyOf": [link, link]}}}),
        chained(40, lambda link: {"not": link, "if": link, "then": link}),
        {"properties": {"a": {"allOf": DOUBLED}}},
        {"items": {"oneOf": DOUBLED}},
        {"properties": {"a": ROOT}, "patternProperties": {"^a": ROOT}},
        {"items": ROOT, "contains": ROOT},
        {"allOf": [{"properties": {"a": ROOT}}, {"properties": {"a": ROOT}}]},
        {"dependentSchemas": {"a": {"properties": {"a": ROOT}}}, "properties": {"a": ROOT}},
        # Variants that each recur through the same member.
        {"anyOf": [{"properties": {"op": {"const": n}, "of": {"items": ROOT}}} for n in range(4)]},
        nested(9, lambda inner: {"anyOf": [inner], "unevaluatedProperties": False}, {}),
        {"anyOf": [{"properties": {"a": ROOT}}], "unevaluatedProperties": False},
        {"allOf": [{"minimum": n} for n in range(200)]},
        {"items": {"enum": [[n] for n in range(MOST_CHECKS)]}},
        {"enum": [n + 0.5 for n in range(MOST_CHECKS)]},
        {"const": [[n] for n in range(MOST_CHECKS)]},
        {"required": [f"{n}" for n in range(MOST_CHECKS + 1)]},
        {"dependentRequired": {f"{n}": ["a", "b"] for n in range(400)}},
        {"allOf": [{"pattern": rf"^\p{{L}}{n}"} for n in range(20)]},
        {"anyOf": [{} for _ in range(MOST_CHECKS + 1)]},
    ],
)
def test_a_schema_that_makes_too_much_work_is_refused(schema: Any) -> None:
    (found,) = inadmissible(schema)

    assert found[1] == TOO_MUCH


def test_the_refusal_points_at_what_makes_the_work() -> None:
    costly = {"enum": [[n] for n in range(MOST_CHECKS)]}

    found = inadmissible(
        {"properties": {"a": {}, "b": {"items": {"$ref": "#/$defs/c"}}}, "$defs": {"c": costly}}
    )

    assert found == [("/$defs/c", TOO_MUCH)]


def test_work_adds_up_in_place_and_one_name_matches_a_member() -> None:
    text = {"type": "string", "maxLength": 9}
    either = {"anyOf": [text, text]}

    assert bounds(text).checks[:2] == [2, 0]
    assert bounds(either).checks[0] == 5
    assert bounds({"properties": {"a": text, "b": either}}).checks[:3] == [1, 5, 0]
    assert bounds({"properties": {"a": text}, "additionalProperties": either}).checks[1] == 5
    assert bounds({"properties": {"a": text}, "patternProperties": {}}).checks[1] == 2
    assert bounds({"items": text, "contains": either}).checks[1] == 7
    assert bounds({"properties": {"a": ROOT, "b": ROOT}}).checks == [1] + [2] * (DEEPEST - 1)
    assert bounds({"allOf": [text], "unevaluatedItems": False}).checks[:2] == [5, 1]
    assert bounds({"anyOf": [{"not": {"items": ROOT}}]}).nested == 4 * DEEPEST - 1


def test_patterns_are_bounded_together() -> None:
    def properties(times: int) -> dict[str, Any]:
        return {"properties": {f"{n}": {"pattern": rf"^\p{{L}}+{n}$"} for n in range(times)}}

    assert inadmissible(properties(20)) == []
    ((place, why),) = inadmissible(properties(40))
    assert place == "/properties/32/pattern"
    assert "all patterns together" in why
    same = {"properties": {f"{n}": {"pattern": r"^\p{L}+$"} for n in range(1000)}}
    assert inadmissible(same) == []


HOSTILE = [
    {"allOf": [0] * 30_000},
    {"properties": {f"{n}": {"type": 0} for n in range(4_000)}},
    {"properties": {f"{n}": {} for n in range(7_000)}},
    {"required": [f"{n}" for n in range(7_500)] + ["0"]},
    {"type": [{}] * 20_000},
    {"enum": [0] * 30_000},
    {"pattern": r"\p{L}" * 12_000},
    {"pattern": "(" * 30_000 + ")" * 30_000},
    {"pattern": "[" + r"\p{L}" * 12_000 + "]"},
    {"$ref": "#" + "%" * 60_000},
    {"$defs": {f"{n}": {"$ref": "#/$defs/%"} for n in range(1_500)}},
    nested(5_000, lambda inner: {"not": inner}, {}),
    {"enum": nested(60, lambda inner: [inner, inner], [0])},
    chained(990, lambda link: link),
    chained(700, lambda link: {"not": link}),
    chained(500, lambda link: {"items": link}),
    chained(300, lambda link: {"additionalProperties": link, "properties": {"a": link}}),
    chained(400, lambda link: {"unevaluatedProperties": link}),
    {"properties": {f"{n}": {"pattern": f"(?={n})"} for n in range(1_900)}},
    {"properties": {f"{n}": {"pattern": f"[ab]*a{n}"} for n in range(1_900)}},
    {"properties": {f"{n}": {"pattern": f"(a{{9}}){{999}}{n}"} for n in range(1_500)}},
]


@pytest.mark.parametrize("schema", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_schema_is_answered(schema: Any) -> None:
    found = inadmissible(schema)

    assert len(found) <= MOST_FINDINGS
    data: Any
    for data in ([], {"a": 1}, nested(DEEPEST - 1, lambda inner: [inner], 1)):
        assert found or len(violations(schema, data)) <= MOST_FINDINGS


KEYWORDS = (  # noqa: SIM905 (a table of words)
    "type enum const $ref $defs $id $schema $anchor properties items required allOf anyOf not if"
    " then pattern patternProperties contains minimum multipleOf maxLength prefixItems"
    " dependentSchemas unevaluatedItems"
).split()
SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["string", "object", "#", "#/$defs/a", "a", "^a(", DIALECT])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYWORDS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(ANYTHING, ANYTHING)
def test_whatever_is_asked_is_answered(schema: Any, data: Any) -> None:
    if not inadmissible(schema):
        assert len(violations(schema, data)) <= MOST_FINDINGS
