"""A law: where nothing is incompatible, the new schema accepts all that the old one does."""

import copy
import random
from collections.abc import Callable
from typing import Any

import orjson
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from registration.domain import json_schema
from registration.domain.json_schema import inadmissible, incompatibilities

VALUES: list[Any] = [None, True, False, -1, 0, 1, 2, 3, 0.5, 1.0, 1.5, "", "a", "b", "ab", "abc"]
NAMES = ["a", "b", "c", "ab"]
PATTERNS = ["^a", "b$", "c"]
TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]
REFERENCES = ["#", "#/$defs/x", "#/$defs/y"]


def some_data(chance: random.Random, depth: int) -> Any:
    choice = chance.random()
    if depth == 0 or choice < 0.3:
        return chance.choice(VALUES)
    if choice < 0.7:
        names = chance.sample(NAMES, chance.randint(0, 3))
        return {name: some_data(chance, depth - 1) for name in names}
    return [some_data(chance, depth - 1) for _ in range(chance.randint(0, 3))]


CHANCE = random.Random(1)
DATA = [*VALUES, *(some_data(CHANCE, depth) for depth in (1, 2, 2, 3) for _ in range(500))]


def one(keyword: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return values.map(lambda value: {keyword: value})


def some(keywords: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """One of some keywords with the same values."""
    return st.sampled_from(keywords.split()).flatmap(lambda keyword: one(keyword, values))


def unique(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), unique=True, max_size=3)


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    few = st.integers(0, 3)
    named = st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=3)
    return st.one_of(
        one("type", st.sampled_from(TYPES) | unique(TYPES).filter(bool)),
        one("enum", st.lists(st.sampled_from(DATA[:60]), max_size=4)),
        one("const", st.sampled_from(VALUES)),
        some("minLength maxLength minItems maxItems minProperties maxProperties", few),
        some(
            "minimum maximum exclusiveMinimum exclusiveMaximum",
            st.sampled_from([-1, 0, 0.5, 1, 1.5, 2, 3]),
        ),
        one("multipleOf", st.sampled_from([0.5, 1, 2, 3])),
        one("pattern", st.sampled_from(PATTERNS)),
        one("uniqueItems", st.booleans()),
        one("required", unique(NAMES)),
        one("dependentRequired", st.dictionaries(st.sampled_from(NAMES), unique(NAMES))),
        some("properties dependentSchemas", named),
        one("properties", named),
        one("patternProperties", st.dictionaries(st.sampled_from(PATTERNS), inner, min_size=1)),
        some("additionalProperties items propertyNames not", inner),
        some("additionalProperties unevaluatedProperties unevaluatedItems", inner),
        some("prefixItems allOf anyOf oneOf anyOf", st.lists(inner, min_size=1, max_size=3)),
        st.fixed_dictionaries(
            {"contains": inner}, optional={"minContains": few, "maxContains": few}
        ),
        st.fixed_dictionaries({"if": inner}, optional={"then": inner, "else": inner}),
        one("$ref", st.sampled_from(REFERENCES)),
    )


def together(said: list[dict[str, Any]]) -> dict[str, Any]:
    return {keyword: value for one_said in said for keyword, value in one_said.items()}


LEAVES: st.SearchStrategy[Any] = (
    st.booleans() | one("type", st.sampled_from(TYPES)) | one("$ref", st.sampled_from(REFERENCES))
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.lists(keywords(inner), min_size=1, max_size=3).map(together),
    max_leaves=5,
)
KEYWORDS = keywords(SCHEMAS)
ROOTS = st.lists(KEYWORDS, max_size=3).map(together)
DOCUMENTS = st.tuples(ROOTS, SCHEMAS, SCHEMAS).map(
    lambda made: {**made[0], "$defs": {"x": made[1], "y": made[2]}}
)


def places(schema: Any) -> list[tuple[Any, Any]]:
    """Where the subschemas of a document are: containers and keys."""
    found: list[tuple[Any, Any]] = []
    for keyword, value in schema.items() if isinstance(schema, dict) else ():
        if keyword in ("properties", "patternProperties", "dependentSchemas", "$defs"):
            found += [(value, name) for name in value]
        elif keyword in ("allOf", "anyOf", "oneOf", "prefixItems"):
            found += [(value, index) for index in range(len(value))]
        elif isinstance(value, dict | bool) and keyword not in ("const", "uniqueItems"):
            found += [(schema, keyword)] if keyword != "dependentRequired" else []
    return found + [deeper for holder, key in found for deeper in places(holder[key])]


def changed(schema: Any, keyword: dict[str, Any], replacement: Any, change: int) -> Any:
    """Return a subschema changed in one of the ways that real ones change."""
    said = dict(schema) if isinstance(schema, dict) else {}
    ways: list[Callable[[], Any]] = [
        lambda: said | keyword,
        lambda: said | {"properties": said.get("properties", {}) | {"c": replacement}},
        lambda: dict(list(said.items())[1:]),
        lambda: {"anyOf": [schema, replacement]},
        lambda: {"oneOf": [replacement, schema]},
        lambda: {"allOf": [schema]},
        lambda: replacement,
        lambda: {"$ref": REFERENCES[1]},
        lambda: {
            k: v + 1 if isinstance(v, int) and not isinstance(v, bool) else v
            for k, v in said.items()
        },
        lambda: {k: v[:-1] or v if isinstance(v, list) else v for k, v in said.items()},
        lambda: said | {"enum": [*said.get("enum", []), 1, "a"]},
        lambda: {k: v for k, v in said.items() if k != "additionalProperties"},
    ]
    return ways[change % len(ways)]()


@st.composite
def successors(draw: st.DrawFn) -> tuple[Any, Any]:
    """Draw a schema and a changed one."""
    old = draw(DOCUMENTS)
    whole = [copy.deepcopy(old)]
    for _ in range(draw(st.integers(1, 2))):
        found = [(whole, 0), *places(whole[0])]
        holder, key = found[draw(st.integers(0, len(found) - 1))]
        new = changed(holder[key], draw(keywords(SCHEMAS)), draw(SCHEMAS), draw(st.integers(0, 11)))
        if holder is whole:
            new = {**(new if isinstance(new, dict) else {}), "$defs": whole[0]["$defs"]}
        holder[key] = new
    return old, whole[0]


def accepts(schema: Any) -> Callable[[Any], bool]:
    return json_schema._checker(orjson.dumps(schema)).fits


@settings(max_examples=200, deadline=None)
@given(successors())
def test_what_is_compatible_accepts_all_that_was_accepted(pair: tuple[Any, Any]) -> None:
    old, new = pair
    assume(not inadmissible(old) and not inadmissible(new))
    if incompatibilities(old, new) == []:
        before, after = accepts(old), accepts(new)
        assert [data for data in DATA if before(data) and not after(data)] == []
