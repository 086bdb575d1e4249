"""Data against one admitted JSON Schema: whether it fits, and if not, where and why.

Sources: JSON Schema draft 2020-12 (Core, Validation), RFC 6901 (JSON Pointer).

Every verdict is the validator's. Its own list of errors is not used, but for the names that
``unevaluatedProperties`` finds: it shows the data, copies it into every error, and is made whole
before the first error can be read. So what does not fit is followed down from the root, subschema
by subschema, within a budget.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs

from registration.domain.json_schema_document import (
    ASSERTING,
    MOST_FINDINGS,
    Finding,
    Node,
    contains_pattern,
    escape,
    plain,
    reference,
    validator,
)

_MOST_KEPT = 100_000
"""By weight, of the validators for subschemas that a schema keeps for the next explanation."""
_LONGEST_SHOWN = 200
_CHARACTERS = 64
_NO_PLACE = "is not one that the schema has a place for"
_NO_PLACE_FOR_ITEMS = "has items that the schema has no place for"
_WORDS = {
    "anyOf": "fits none of the alternatives",
    "const": "is not {}",
    "contains": "has too few or too many of the items that `contains` describes",
    "enum": "is none of {}",
    "exclusiveMaximum": "is not less than {}",
    "exclusiveMinimum": "is not more than {}",
    "falseSchema": "has no place here",
    "maxItems": "has more items than {}",
    "maxLength": "has more characters than {}",
    "maxProperties": "has more members than {}",
    "maximum": "is more than {}",
    "minItems": "has fewer items than {}",
    "minLength": "has fewer characters than {}",
    "minProperties": "has fewer members than {}",
    "minimum": "is less than {}",
    "multipleOf": "is no multiple of {}",
    "not": "is what the schema excludes",
    "oneOf": "fits none of the alternatives, or more than one",
    "pattern": "does not match {}",
    "required": "lacks {}",
    "type": "is not of type {}",
    "uniqueItems": "has an item twice",
}


def reason(keyword: str, said: Any) -> str:
    """Say that data does not fit a keyword, given what the schema says there."""
    words = _WORDS.get(keyword, f"does not fit `{keyword}`")
    if "{}" not in words:
        return words
    if keyword == "type":
        shown = said if isinstance(said, str) else " or ".join(said)
    else:
        shown = json.dumps(said, ensure_ascii=False, default=str)
    return words.format(shown if len(shown) <= _LONGEST_SHOWN else "what the schema says")


def size(value: Any) -> int:
    """Return what a value alone counts in the work on it: one, and more with long texts."""
    if isinstance(value, str):
        return 1 + len(value) // _CHARACTERS
    return 1 + sum(len(name) // _CHARACTERS for name in value) if isinstance(value, dict) else 1


class Checker:
    """A schema made ready to check data.

    ``checks`` bounds the work by level of the data, ``weights`` is what a subschema costs to be
    made ready, and ``budget`` what an explanation may cost.
    """

    def __init__(
        self, nodes: list[Node], checks: list[int], weights: Mapping[Node, int], budget: int
    ) -> None:
        self.root = nodes[0]
        self.checks = checks
        self.most_checks = [max(checks[level:]) for level in range(len(checks))]
        self.weights = weights
        self.budget = budget
        document = plain(self.root)
        self._validator = validator(document)
        self._registry = jsonschema_rs.Registry([(reference(""), document)])
        self._kept: dict[Node, jsonschema_rs.Draft202012Validator] = {}
        self._room = _MOST_KEPT

    def fits(self, data: Any) -> bool:
        """Return whether data fits."""
        return self._validator.is_valid(data)

    def explain(self, data: Any) -> list[Finding]:
        """Return where data that does not fit goes wrong, at most `MOST_FINDINGS`."""
        found: dict[Finding, None] = {}
        try:
            for one in _Explanation(self).of(self.root, data, "", 0):
                found[one] = None
                if len(found) == MOST_FINDINGS:
                    break
        except _SpentError:
            found = found or {("", "does not fit, and is too large to say where"): None}
        return sorted(found)

    def ready(self, node: Node, weight: int) -> jsonschema_rs.Draft202012Validator:
        """Return a validator for one of the subschemas, which weighs so much with all it needs."""
        made = self._kept.get(node)
        if made is None:
            made = validator({"$ref": reference(node.pointer)}, registry=self._registry)
            if weight <= self._room:
                self._room -= weight
                self._kept[node] = made
        return made


class _SpentError(Exception):
    """The budget of an explanation is spent."""


class _Explanation:
    """One explanation, and what is left of its budget."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._left = checker.budget
        self._ready: dict[Node, jsonschema_rs.Draft202012Validator] = {}
        self._sizes: dict[int, int] = {}

    def of(self, node: Node, value: Any, place: str, level: int) -> Iterator[Finding]:
        """Say why a value does not fit a subschema, which is known."""
        if node.schema is False:
            yield place, reason("falseSchema", None)
            return
        silent = True
        for one in self._reasons(node, value, place, level):
            silent = False
            yield one
        if silent:
            yield from self._unevaluated(node, value, place)

    def _reasons(self, node: Node, value: Any, place: str, level: int) -> Iterator[Finding]:
        self._spend(self._size(value) + size(value) * self._most_checks(level))
        for keyword in sorted(ASSERTING & node.schema.keys()):
            for said in self._failed(keyword, node.schema[keyword], value):
                yield place, reason(keyword if keyword != "dependentRequired" else "required", said)
        yield from self._composed(node, value, place, level)
        for inner in self._in_place(node, value, level):
            if not self._fits(inner, value, level):
                yield from self.of(inner, value, place, level)
        for token, member, inner in self._members(node, value):
            there = f"{place}/{escape(token)}"
            if inner.schema is False:
                yield there, _NO_PLACE
            elif not self._fits(inner, member, level + 1):
                yield from self.of(inner, member, there, level + 1)

    def _failed(self, keyword: str, said: Any, value: Any) -> Iterator[Any]:
        """Return what of a keyword's value it is that data does not fit."""
        self._spend(10)
        if keyword == "required" or keyword == "dependentRequired":
            if isinstance(value, dict):
                lists = [said] if keyword == "required" else [said[n] for n in said if n in value]
                yield from (name for names in lists for name in names if name not in value)
        elif keyword == "pattern":
            self._spend(1000)
            if isinstance(value, str) and not contains_pattern(said, value):
                yield said
        elif keyword not in ("minContains", "maxContains"):
            self._spend(len(said) if isinstance(said, list) else 1)
            if not validator({keyword: said}).is_valid(value):
                yield said

    def _composed(self, node: Node, value: Any, place: str, level: int) -> Iterator[Finding]:
        for keyword, expected in (("anyOf", None), ("oneOf", 1), ("not", 0)):
            if keyword in node.within:
                count = sum(self._fits(inner, value, level) for inner in node.inner(keyword))
                if count != expected if expected is not None else not count:
                    yield place, reason(keyword, None)
        items = node.one("contains")
        if items and isinstance(value, list):
            count = sum(self._fits(items, member, level + 1) for member in value)
            least, most = node.schema.get("minContains", 1), node.schema.get("maxContains", count)
            if not least <= count <= most:
                yield place, reason("contains", None)
        names = node.one("propertyNames")
        if names and isinstance(value, dict):
            for name in value:
                if not self._fits(names, name, level + 1):
                    for _, why in self.of(names, name, "", level + 1):
                        yield place, f"has a member whose name {why}"

    def _in_place(self, node: Node, value: Any, level: int) -> Iterator[Node]:
        if node.target:
            yield node.target
        yield from node.inner("allOf")
        condition = node.one("if")
        if condition and node.inner("then", "else"):
            yield from node.inner("then" if self._fits(condition, value, level) else "else")
        if isinstance(value, dict):
            for name, inner in node.within.get("dependentSchemas", {}).items():
                if name in value:
                    yield inner

    def _members(self, node: Node, value: Any) -> Iterator[tuple[str, Any, Node]]:
        if isinstance(value, list):
            first = node.inner("prefixItems")
            for index, member in enumerate(value):
                for inner in first[index : index + 1] or node.inner("items"):
                    yield str(index), member, inner
        elif isinstance(value, dict):
            named = node.within.get("properties", {})
            patterns = node.within.get("patternProperties", {})
            for name, member in value.items():
                self._spend(1 + 10 * len(patterns))
                inners = [inner for one, inner in patterns.items() if contains_pattern(one, name)]
                if name in named:
                    inners.append(named[name])
                for inner in inners or node.inner("additionalProperties"):
                    yield name, member, inner

    def _unevaluated(self, node: Node, value: Any, place: str) -> Iterator[Finding]:
        """Say what is left to say when all else fits: nothing is copied but for this."""
        self._spend(self._size(value))
        for error in self._validator(node).iter_errors(value):
            if error.kind.name == "unevaluatedProperties":
                for name in error.kind.value:
                    yield f"{place}/{escape(name)}", _NO_PLACE
            elif error.kind.name == "unevaluatedItems":
                # Of items it tells the values, and not which they are.
                yield place, _NO_PLACE_FOR_ITEMS
            else:
                yield place, "does not fit"

    def _fits(self, node: Node, value: Any, level: int) -> bool:
        self._spend(self._size(value) * self._most_checks(level))
        return self._validator(node).is_valid(value)

    def _validator(self, node: Node) -> jsonschema_rs.Draft202012Validator:
        if node not in self._ready:
            weight = self._weight(node)
            self._spend(weight)
            self._ready[node] = self._checker.ready(node, weight)
        return self._ready[node]

    def _weight(self, node: Node) -> int:
        """Return what all that a subschema leads to weighs."""
        seen = {node}
        left = [node]
        total = 0
        while left:
            one = left.pop()
            total += self._checker.weights[one]
            if total > self._left:
                break
            inner = [*one.inner(*one.within), *([one.target] if one.target else [])]
            left += (new := [each for each in inner if each not in seen])
            seen.update(new)
        return total

    def _most_checks(self, level: int) -> int:
        checks = self._checker.most_checks
        return checks[level] if level < len(checks) else 1

    def _size(self, value: Any) -> int:
        if not isinstance(value, dict | list):
            return size(value)
        if id(value) not in self._sizes:
            members = value.values() if isinstance(value, dict) else value
            self._sizes[id(value)] = size(value) + sum(map(self._size, members))
        return self._sizes[id(value)]

    def _spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise _SpentError
