"""Whether a new schema accepts all that the old one did: what is decided, and that it is sound."""

import copy
from typing import Any

import pytest

from registration.domain.json_schema import inadmissible, incompatibilities

ROOT = {"$ref": "#"}
CLOSED = {"additionalProperties": False}
TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
LABELS = {"oneOf": [{"const": "a", "title": "A"}, {"const": "b", "title": "B"}]}


def kind(name: str, **more: Any) -> dict[str, Any]:
    return {"properties": {"kind": {"const": name}, **more}, "required": ["kind"]}


def ref(to: Any, **more: Any) -> dict[str, Any]:
    return {"$ref": "#/$defs/a", "$defs": {"a": to}} | more


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Annotations, and what changes no meaning.
        (TEXT, TEXT | {"title": "T", "description": "D", "default": "", "examples": [1]}),
        (TEXT | {"$comment": "C", "format": "date", "x-label": 1}, TEXT),
        ({"type": "string"}, {"type": ["string"]}),
        ({"required": ["a", "b"]}, {"required": ["b", "a"]}),
        ({"const": "a"}, {"enum": ["a"]}),
        (TEXT, ref(TEXT)),
        (ref(TEXT), TEXT),
        (TEXT, {"allOf": [TEXT, {}]}),
        ({"$defs": {"unused": TEXT}}, {"$defs": {"unused": False}}),
        # Less is asked.
        ({"required": ["a", "b"]}, {"required": ["a"]}),
        (TEXT, {"type": ["string", "null"]}),
        (WHOLE, {"type": "number"}),
        (WHOLE, {"multipleOf": 1}),
        ({"type": ["integer", "null"]}, {"type": ["number", "null", "array"]}),
        ({"enum": ["a", "b"]}, {"enum": ["c", "b", "a"]}),
        ({"const": "a"}, {"enum": ["a", "b"]}),
        ({"enum": ["a", "b"]}, {"type": "string", "maxLength": 1}),
        ({"enum": [1, 2.0, None]}, {"type": ["integer", "null"], "maximum": 2}),
        ({"enum": [1, 2]}, {"not": {"const": 3}}),
        ({"enum": [1, 2, "a"], "type": "integer"}, {"enum": [1, 2]}),
        ({"type": "boolean"}, {"enum": [True, False, None]}),
        ({"enum": ["a", "b"]}, LABELS),
        (LABELS, {"oneOf": [*LABELS["oneOf"], {"const": "c"}]}),
        (LABELS, {"enum": ["a", "b"]}),
        ({"minimum": 2, "maximum": 3}, {"minimum": 1, "maximum": 3.5}),
        ({"exclusiveMinimum": 2}, {"minimum": 2}),
        (WHOLE | {"exclusiveMinimum": 2}, {"minimum": 3}),
        (WHOLE | {"minimum": 0.5}, {"exclusiveMinimum": 0}),
        ({"multipleOf": 6}, {"multipleOf": 3}),
        ({"multipleOf": 0.1}, {"multipleOf": 0.1}),
        ({"minLength": 2, "maxLength": 5, "pattern": "a"}, {"minLength": 1, "maxLength": 6}),
        ({"minLength": 2}, {"minLength": 0}),
        (TEXT, {"minimum": 5, "required": ["a"], "items": False, "uniqueItems": True}),
        ({"uniqueItems": True, "maxItems": 3}, {"maxItems": 4}),
        ({"maxItems": 1}, {"uniqueItems": True}),
        ({"required": ["a", "b"]}, {"minProperties": 2}),
        # Properties.
        (CLOSED, {"additionalProperties": True}),
        (CLOSED, {"additionalProperties": {"type": "string"}}),
        (CLOSED, CLOSED | {"properties": {"a": TEXT}}),
        (CLOSED | {"properties": {"a": TEXT}}, {"properties": {"a": {}, "b": WHOLE}} | CLOSED),
        ({"properties": {"a": TEXT}}, {}),
        ({"additionalProperties": TEXT}, {"properties": {"a": TEXT}}),
        ({"additionalProperties": TEXT}, {"properties": {"a": {"type": ["string", "null"]}}}),
        ({"properties": {"a": TEXT}, **CLOSED}, {"additionalProperties": TEXT}),
        ({"patternProperties": {"^a": TEXT}, **CLOSED}, {"properties": {"ab": TEXT}}),
        ({"patternProperties": {"^a": TEXT}, **CLOSED}, {"patternProperties": {"^a": TEXT}}),
        ({"patternProperties": {"^a": TEXT}, **CLOSED}, {"additionalProperties": TEXT}),
        ({"properties": {"ab": TEXT}, **CLOSED}, {"patternProperties": {"^a": TEXT}, **CLOSED}),
        ({"properties": {"a": {}}, **CLOSED}, {"propertyNames": {"enum": ["a", "b"]}}),
        ({"propertyNames": {"maxLength": 1}}, {"propertyNames": {"maxLength": 2}}),
        ({"dependentRequired": {"a": ["b", "c"]}}, {"dependentRequired": {"a": ["b"]}}),
        ({"required": ["b"]}, {"dependentRequired": {"a": ["b"]}}),
        (CLOSED, {"dependentRequired": {"a": ["b"]}}),
        ({"required": ["b"]}, {"dependentSchemas": {"a": {"required": ["a", "b"]}}}),
        # Arrays.
        ({"items": WHOLE}, {"items": {"type": "number"}}),
        ({"items": WHOLE}, {"prefixItems": [WHOLE, {"type": "number"}]}),
        ({"prefixItems": [TEXT], "items": WHOLE}, {"prefixItems": [TEXT, WHOLE], "items": WHOLE}),
        ({"prefixItems": [TEXT], "maxItems": 1}, {"items": TEXT}),
        ({"contains": WHOLE, "minContains": 2}, {"contains": {"type": "number"}}),
        ({"contains": TEXT, "maxContains": 2}, {"contains": TEXT, "minContains": 0}),
        ({"items": False}, {"contains": TEXT, "minContains": 0, "maxContains": 0}),
        # Composition.
        ({"anyOf": [TEXT, WHOLE]}, {"type": ["string", "number"]}),
        ({"type": ["string", "integer"]}, {"anyOf": [WHOLE, TEXT]}),
        ({"anyOf": [TEXT, WHOLE]}, {"anyOf": [{"type": "null"}, {"type": "number"}, TEXT]}),
        ({"oneOf": [TEXT, {"type": "null"}]}, {"anyOf": [{"type": "null"}, TEXT]}),
        (TEXT, {"oneOf": [TEXT, {"type": "null"}]}),
        ({"oneOf": [kind("a"), kind("b")]}, {"oneOf": [kind("a"), kind("b")], "title": "T"}),
        (
            {"type": "object", "oneOf": [kind("a"), kind("b")]},
            {"oneOf": [{"type": "object", **kind(name)} for name in "cba"]},
        ),
        (TEXT, {"not": WHOLE}),
        ({"not": ref(TEXT)["$defs"]["a"]}, {"not": TEXT}),
        ({"if": TEXT, "then": {"maxLength": 3}}, {"if": TEXT, "then": {"maxLength": 4}}),
        ({"maxLength": 3}, {"if": {"minLength": 2}, "then": {"maxLength": 4}}),
        (WHOLE, {"if": TEXT, "then": False, "else": WHOLE}),
        ({"properties": {"a": {}}, "unevaluatedProperties": False}, {"properties": {"b": True}}),
        (False, {"enum": []}),
        (TEXT | {"allOf": [WHOLE]}, {"const": 1}),
        # Recursion.
        ({"properties": {"a": ROOT}, **CLOSED}, {"properties": {"a": ROOT, "b": ROOT}, **CLOSED}),
        ({"items": ROOT, "type": "array"}, ref({"items": {"items": ROOT}})),
        (ref({"items": {"$ref": "#/$defs/a"}}), {"items": ROOT}),
    ],
)  # fmt: skip
def test_a_schema_that_accepts_as_much_is_compatible(old: Any, new: Any) -> None:
    assert (inadmissible(old), inadmissible(new)) == ([], [])

    assert incompatibilities(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ({}, False, ""),
        ({}, TEXT, "/type"),
        ({"type": "number"}, WHOLE, "/type"),
        ({"type": ["string", "null"]}, TEXT, "/type"),
        ({"required": ["a"]}, {"required": ["a", "b"]}, "/required"),
        ({"enum": ["a", "b"]}, {"enum": ["a"]}, "/enum"),
        ({"enum": [1]}, {"enum": [True, "1"]}, "/enum"),
        ({"type": "boolean"}, {"enum": [False, None]}, "/enum"),
        # What is no object has no kind, and fits both.
        (kind("a"), {"oneOf": [kind("a"), kind("b")]}, "/oneOf"),
        (TEXT, {"enum": ["a"]}, "/enum"),
        ({"enum": ["a", "b"]}, {"const": "a"}, "/const"),
        ({"enum": ["a", "bb"]}, {"maxLength": 1}, "/maxLength"),
        ({"minimum": 1}, {"minimum": 2}, "/minimum"),
        ({"minimum": 1}, {"exclusiveMinimum": 1}, "/exclusiveMinimum"),
        ({"maximum": 2}, {"maximum": 1}, "/maximum"),
        ({}, {"exclusiveMaximum": 1}, "/exclusiveMaximum"),
        ({"multipleOf": 3}, {"multipleOf": 6}, "/multipleOf"),
        ({"type": "number"}, {"multipleOf": 1}, "/multipleOf"),
        ({"minLength": 1}, {"minLength": 2}, "/minLength"),
        ({}, {"maxLength": 2}, "/maxLength"),
        ({}, {"maxItems": 2}, "/maxItems"),
        ({"maxItems": 2}, {"uniqueItems": True}, "/uniqueItems"),
        ({}, {"minProperties": 1}, "/minProperties"),
        ({"pattern": "^a"}, {"pattern": "a"}, "/pattern"),
        # An optional property of its own was accepted with any value, where others were.
        ({}, {"properties": {"a": TEXT}}, "/properties/a"),
        ({"properties": {"b": {}}}, {"properties": {"a": TEXT, "b": {}}}, "/properties/a"),
        ({"additionalProperties": {}}, {"properties": {"a": TEXT}}, "/properties/a/type"),
        ({"additionalProperties": TEXT}, {"properties": {"a": WHOLE}}, "/properties/a/type"),
        ({"patternProperties": {"^a": TEXT}}, {"properties": {"b": TEXT}}, "/properties/b"),
        ({"properties": {"a": TEXT}}, CLOSED, "/additionalProperties"),
        (CLOSED | {"properties": {"a": TEXT}}, CLOSED, "/additionalProperties"),
        ({"additionalProperties": TEXT}, {"additionalProperties": WHOLE}, "/additionalProperties"),
        ({"properties": {"a": TEXT}}, {"properties": {"a": WHOLE}}, "/properties/a/type"),
        ({}, {"patternProperties": {"^a": TEXT}}, "/patternProperties/^a/type"),
        ({"patternProperties": {"^a": TEXT}, **CLOSED}, CLOSED, "/additionalProperties"),
        ({}, {"propertyNames": {"maxLength": 2}}, "/propertyNames/maxLength"),
        ({}, {"dependentRequired": {"a": ["b"]}}, "/dependentRequired"),
        ({}, {"dependentSchemas": {"a": {"required": ["b"]}}}, "/dependentSchemas/a/required"),
        ({"items": {"type": "number"}}, {"items": WHOLE}, "/items/type"),
        ({"prefixItems": [TEXT]}, {"prefixItems": [TEXT, TEXT]}, "/prefixItems/1/type"),
        ({"prefixItems": [TEXT], "items": WHOLE}, {"items": WHOLE}, "/items/type"),
        ({}, {"contains": TEXT}, "/contains"),
        ({"contains": TEXT, "minContains": 0}, {"contains": TEXT}, "/contains"),
        # A reference whose target changed; what is in place alike is not alike.
        (ref(TEXT), ref(WHOLE), "/$defs/a/type"),
        (ref(TEXT), ref({"allOf": [False]}), "/$defs/a/allOf/0"),
        ({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": TEXT}},
         {"not": {"$ref": "#/$defs/a"}, "$defs": {"a": WHOLE}}, "/not"),
        ({"items": ROOT}, {"items": ROOT, "type": "array"}, "/type"),
        ({"properties": {"a": ROOT}}, {"properties": {"a": {"properties": {"a": TEXT}}}},
         "/properties/a/properties/a/type"),
    ],
)  # fmt: skip
def test_a_schema_that_accepts_less_says_where(old: Any, new: Any, place: str) -> None:
    assert (inadmissible(old), inadmissible(new)) == ([], [])

    assert place in [where for where, _ in incompatibilities(old, new)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"anyOf": [TEXT, {"minimum": 2}]}, {"anyOf": [TEXT, {"minimum": 3}]}),
        ({"oneOf": [TEXT, WHOLE]}, {"oneOf": [TEXT, WHOLE, {"maximum": 3}]}),
        ({"not": {"minimum": 3}}, {"not": {"minimum": 2}}),
        ({"if": TEXT, "then": {"pattern": "a"}}, {"if": {}, "then": {"pattern": "b"}}),
        ({"if": TEXT, "then": TEXT}, {"if": TEXT, "then": TEXT, "else": {"minimum": 1}}),
        ({"contains": TEXT, "maxContains": 3}, {"contains": {}, "maxContains": 3}),
        ({"properties": {"a": {}}, "unevaluatedProperties": False},
         {"properties": {"a": {}, "b": {}}, "unevaluatedProperties": False}),
        ({"pattern": "a+"}, {"pattern": "aa*"}),
    ],
)  # fmt: skip
def test_what_cannot_be_decided_is_said_to_be_so(old: Any, new: Any) -> None:
    found = incompatibilities(old, new)

    assert any(why.startswith("cannot be decided: ") for _, why in found)


def test_a_large_schema_is_compared_whole() -> None:
    old = {"properties": {f"{n}": {"type": "string", "maxLength": 9} for n in range(900)}, **CLOSED}
    new: dict[str, Any] = copy.deepcopy(old)
    for inner in new["properties"].values():
        inner["maxLength"] = 10
    new["properties"]["more"] = TEXT

    assert incompatibilities(old, new) == []
    assert len(incompatibilities(new, old)) == 50


def test_a_comparison_that_would_not_end_is_given_up() -> None:
    def entangled(members: int, step: int) -> dict[str, Any]:
        links = {
            f"{n}": {
                "additionalProperties": {"$ref": f"#/$defs/{(n * 7 + 1) % members}"},
                "properties": {"a": {"$ref": f"#/$defs/{(n * step + 3) % members}"}},
            }
            for n in range(members)
        }
        return {"$ref": "#/$defs/0", "$defs": links | {"0": {"type": "object", **links["0"]}}}

    old, new = entangled(400, 11), entangled(401, 13)

    assert (inadmissible(old), inadmissible(new)) == ([], [])
    assert incompatibilities(old, new) == [
        ("", "cannot be decided: comparing the two schemas takes too many steps")
    ]
