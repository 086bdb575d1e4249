"""What holds of the data that some JSON Schemas accept, and what two schemas have in common.

Source: JSON Schema draft 2020-12 (Core, Validation).
"""

import math
from collections.abc import Iterable
from typing import Any

import jsonschema_rs

from registration.domain.json_schema_document import (
    COMPARED,
    Node,
    contains_pattern,
    plain,
    reference,
    validator,
)

# A number is whole or it is not, and then no two of these share a value.
ATOMS = {
    "null": frozenset({"null"}),
    "boolean": frozenset({"boolean"}),
    "integer": frozenset({"integer"}),
    "number": frozenset({"integer", "fraction"}),
    "string": frozenset({"string"}),
    "array": frozenset({"array"}),
    "object": frozenset({"object"}),
}
NUMBERS = ATOMS["number"]
_ANY_TYPE = frozenset().union(*ATOMS.values())
OF_TYPE = {name: Node("", {"type": name}) for name in ATOMS}
"""For each type, the schema that says it and no more."""
AT_LEAST = {"minLength": "string", "minItems": "array", "minProperties": "object"}
AT_MOST = {"maxLength": "string", "maxItems": "array", "maxProperties": "object"}


def json_key(value: Any) -> Any:
    """Return what is equal where JSON values are: 1 is 1.0 and is not true."""
    if isinstance(value, dict):
        return frozenset((name, json_key(member)) for name, member in value.items())
    if isinstance(value, list):
        return tuple(map(json_key, value))
    return (isinstance(value, bool), value)


def _atom(value: Any) -> str:
    kinds: list[tuple[type, str]] = [
        (bool, "boolean"),
        (int, "integer"),
        (str, "string"),
        (list, "array"),
        (dict, "object"),
    ]
    if isinstance(value, float):
        return "integer" if value.is_integer() else "fraction"
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def atoms_of(said: Any) -> frozenset[str]:
    """Return the disjoint kinds of value that ``type`` says."""
    names = [said] if isinstance(said, str) else said
    return frozenset().union(*(ATOMS[name] for name in names))


class Facts:
    """What holds of all data that a set of schemas accepts: the strictest of what each says."""

    def __init__(self, nodes: frozenset[Node]) -> None:
        self.nodes = nodes
        self.ordered = sorted(nodes, key=lambda node: node.pointer)
        self.types = _ANY_TYPE
        self.values: list[Any] | None = None
        self.least = dict.fromkeys(AT_LEAST, 0)
        self.most: dict[str, float] = dict.fromkeys(AT_MOST, math.inf)
        self.lower: tuple[float, bool] = (-math.inf, False)
        """The bound, and whether it is itself excluded."""
        self.upper: tuple[float, bool] = (-math.inf, False)
        """The same, both signs turned."""
        self.required: set[str] = set()
        for node in self.ordered:
            if isinstance(node.schema, dict):
                self._add(node.schema)
                if (rest := node.one("items")) and rest.schema is False:
                    first = len(node.inner("prefixItems"))
                    self.most["maxItems"] = min(self.most["maxItems"], first)
            elif not node.schema:
                self.types = frozenset()
        self._conclude()

    def _add(self, schema: dict[str, Any]) -> None:
        self.types &= atoms_of(schema.get("type", list(ATOMS)))
        for listed in ([schema["const"]] if "const" in schema else None, schema.get("enum")):
            if listed is not None and (self.values is None or len(listed) < len(self.values)):
                self.values = listed
        for keyword in AT_LEAST:
            self.least[keyword] = max(self.least[keyword], schema.get(keyword, 0))
        for keyword in AT_MOST:
            self.most[keyword] = min(self.most[keyword], schema.get(keyword, math.inf))
        for excluded, low, high in (
            (False, "minimum", "maximum"),
            (True, "exclusiveMinimum", "exclusiveMaximum"),
        ):
            self.lower = max(self.lower, (schema.get(low, -math.inf), excluded))
            self.upper = max(self.upper, (-schema.get(high, math.inf), excluded))
        self.required.update(schema.get("required", ()))

    def _conclude(self) -> None:
        if self.values is None and self.types <= {"null", "boolean"}:
            self.values = [None, False, True]
        if self.values is not None:
            self.values = [value for value in self.values if _atom(value) in self.types]
            self.types &= set(map(_atom, self.values))
        if "fraction" not in self.types:
            self.lower, self.upper = _whole(self.lower), _whole(self.upper)
        self.least["minProperties"] = max(self.least["minProperties"], len(self.required))


def _whole(bound: tuple[float, bool]) -> tuple[float, bool]:
    limit, excluded = bound
    if math.isinf(limit):
        return bound
    return (math.floor(limit) + 1 if excluded else math.ceil(limit), False)


class EndlessError(Exception):
    """The comparison takes more steps than it may."""


class Knowledge:
    """What is found out about the subschemas of two documents, within a number of steps."""

    def __init__(self, old: list[Node], new: list[Node], steps: int) -> None:
        self._steps = steps
        self._equal: dict[tuple[Node, Node], bool] = {}
        self._said: dict[Any, int] = {}
        self._statements: dict[Node, int] = {}
        self._known: dict[frozenset[Node], Facts] = {}
        self._made: dict[tuple[str, ...], Node] = {}
        self._validators: dict[Node, jsonschema_rs.Draft202012Validator] = {}
        self._roots = {"urn:old": old[0], "urn:new": new[0]}
        self._home = dict.fromkeys(old, "urn:old") | dict.fromkeys(new, "urn:new")
        self._registry: jsonschema_rs.Registry | None = None

    def spend(self, steps: int) -> None:
        """Take steps; raise `EndlessError` when none are left."""
        self._steps -= steps
        if self._steps < 0:
            raise EndlessError

    def facts(self, nodes: frozenset[Node]) -> Facts:
        """Take schemas apart: targets of references and members of ``allOf`` hold as well."""
        if nodes not in self._known:
            flat: set[Node] = set()
            left = list(nodes)
            while left:
                node = left.pop()
                if node not in flat:
                    flat.add(node)
                    left += node.inner("allOf") + ([node.target] if node.target else [])
            self._known[nodes] = known = Facts(frozenset(flat))
            self.spend(len(flat) + len(known.values or ()))
        self.spend(1)
        return self._known[nodes]

    def same(self, one: Node, other: Node) -> bool:
        """Return whether two schemas say the same, references followed and annotations aside."""
        seen: set[tuple[Node, Node]] = set()
        left = [(one, other)]
        while left:
            pair = left.pop()
            if pair in seen or self._equal.get(pair):
                continue
            self.spend(1)
            seen.add(pair)
            if self._equal.get(pair) is False or self._states(pair[0]) != self._states(pair[1]):
                self._equal[one, other] = False
                return False
            left += zip(*map(_compared, pair), strict=True)
        self._equal.update(dict.fromkeys(seen, True))
        return True

    def _states(self, node: Node) -> int:
        """Return a number for all that a schema says itself, the same for the same."""
        if node not in self._statements:
            said: Any = node.schema
            if isinstance(said, dict):
                said = frozenset(
                    (keyword, frozenset(inner) if inner is not None else json_key(said[keyword]))
                    for keyword in COMPARED & said.keys()
                    for inner in [node.within.get(keyword)]
                )
            key = (said, node.target is None)
            self._statements[node] = self._said.setdefault(key, len(self._said))
        return self._statements[node]

    def kept(self, old: Facts, new: Node, keyword: str) -> bool:
        """Return whether an old schema has the same subschemas under a keyword."""
        inner = new.within[keyword]
        return any(
            node.within.get(keyword, {}).keys() == inner.keys()
            and all(self.same(node.within[keyword][name], inner[name]) for name in inner)
            for node in old.ordered
        )

    def fit(self, old: Facts, value: Any) -> bool:
        """Return whether the old schemas accept a value, as far as they are of a document."""
        return all(self.fits(node, value) for node in old.ordered if node in self._home)

    def fits(self, node: Node, value: Any) -> bool:
        """Return whether a subschema accepts a value."""
        if node not in self._validators:
            self.spend(200)
            self._registry = self._registry or jsonschema_rs.Registry(
                [(name, plain(root)) for name, root in self._roots.items()]
            )
            ref = reference(node.pointer, self._home[node])
            self._validators[node] = validator({"$ref": ref}, registry=self._registry)
        return self._validators[node].is_valid(value)

    def disjoint(self, one: frozenset[Node], other: frozenset[Node], depth: int = 2) -> bool:
        """Return whether it is plain that no data fits both."""
        a, b = self.facts(one), self.facts(other)
        if not a.types & b.types:
            return True
        if a.values is not None and b.values is not None:
            self.spend(len(a.values) + len(b.values))
            return {json_key(value) for value in a.values}.isdisjoint(map(json_key, b.values))
        return (
            depth > 0
            and a.types & b.types == ATOMS["object"]
            and any(
                self.disjoint(self.at(a, name), self.at(b, name), depth - 1)
                for name in sorted(a.required & b.required)
            )
        )

    def at(self, old: Facts, name: str) -> frozenset[Node]:
        """Return the old schemas for the value of a property."""
        self.spend(len(old.nodes))
        found: set[Node] = set()
        for node in old.ordered:
            named = node.within.get("properties", {}).get(name)
            matched = [
                inner
                for pattern, inner in node.within.get("patternProperties", {}).items()
                if self.matches(pattern, name)
            ]
            if named:
                matched.append(named)
            found.update(matched or node.inner("additionalProperties"))
        return frozenset(found)

    def matches(self, pattern: str, name: str) -> bool:
        """Return whether a pattern is found in a name."""
        self.spend(5)
        return contains_pattern(pattern, name)

    @staticmethod
    def elsewhere(
        old: Facts, pattern: str | None, apart: Iterable[str] = ()
    ) -> list[frozenset[Node]]:
        """Return the old schemas for properties that no old schema names, case by case.

        The properties meant are those that match ``pattern``, or those that match no pattern of
        ``apart``.
        """
        certain: set[Node] = set()
        cases: list[frozenset[Node]] = []
        for node in old.ordered:
            patterns = node.within.get("patternProperties", {})
            if pattern in patterns:
                certain.add(patterns[pattern])
                continue
            rest = frozenset(node.inner("additionalProperties"))
            open_ = [frozenset({inner}) for name, inner in patterns.items() if name not in apart]
            if open_:
                cases = cases or [rest, *open_]
            else:
                certain |= rest
        return [case | certain for case in cases or [frozenset()]]

    def synthetic(self, schema: dict[str, Any], *key: str) -> Node:
        """Return a schema of no document, the same one for the same key."""
        return self._made.setdefault(key, Node("", schema))


def _compared(node: Node) -> list[Node]:
    inner = [
        node.within[keyword][name]
        for keyword in sorted(COMPARED & node.within.keys())
        for name in sorted(node.within[keyword])
    ]
    return [*inner, node.target] if node.target else inner
