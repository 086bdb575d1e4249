"""How much work a JSON Schema can make at one place of the data, whatever the data.

Checks are counted: one for a keyword that asserts, more where it costs more, and at least one for
a subschema. Alternatives and conditions are all counted, since the data decides which of them are
tried. Of ``properties`` one name matches at a place, so the costliest counts.
``unevaluatedProperties`` and ``unevaluatedItems`` try the subschemas beside them once more.

A schema in which subschemas double, ``a`` trying ``b`` twice and ``b`` trying ``c`` twice, or one
that refers to itself twice for the same member, makes exponential work of a small document. So
does an ``anyOf`` of a recursive schema's variants each of which recurs through the same member:
recur in one place, beside the ``anyOf``.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from registration.domain.json_schema_document import ASSERTING, Node

_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")
"""The keywords whose subschemas apply where their schema does, as that of ``$ref`` does."""
_TOO_MANY = 1_000_000_000
_PATTERN_BYTES_A_CHECK = 512
# Numbers are compared exactly, which takes microseconds where one of them is a fraction.
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_BOUND_CHECKS, _FLOAT_CHECKS, _FRACTION_CHECKS = 10, 5, 50


class Work(NamedTuple):
    """The most work that a schema can make: ``checks`` by level of the data, the root first.

    ``heaviest`` is where most of it comes from, a JSON Pointer into the schema; ``nested`` is how
    many subschemas can be one inside another.
    """

    checks: list[int]
    nested: int
    heaviest: str


class _Steps(NamedTuple):
    """Where a subschema leads, as numbers of subschemas, and what it checks itself."""

    node: Node
    checks: tuple[int, int]
    """At its own place, and at each member."""
    in_place: list[int]
    groups: list[tuple[list[int], list[int]]]
    """Of the first of a pair one applies to a member, of the second all may: objects, arrays."""
    members: list[int]
    """All of them."""
    contained: list[int]
    unevaluated: list[int]


def circular(nodes: Iterable[Node]) -> Node | None:
    """Return a subschema that comes back to itself without a step into the data, if any does."""
    return _settled(nodes)[1]


def work(nodes: list[Node], pattern_sizes: Mapping[str, int], levels: int) -> Work:
    """Bound the work of the first of the nodes on data of so many levels.

    No node may be `circular`. The sizes of patterns are in bytes.
    """
    graph = _graph(nodes, pattern_sizes)
    root = next(index for index, steps in enumerate(graph) if steps.node is nodes[0])
    table: list[list[int]] = []
    nested = [0] * len(graph)
    for level in range(levels):
        above = table[-1] if table else [0] * len(graph)
        costs: list[int] = []
        asked: list[int] = []
        deep: list[int] = []
        for steps in graph:
            cost = steps.checks[level] if level < 2 else 0
            again, depth = 0, 0
            if level:
                cost += _below(steps, above)
                depth = max((nested[index] for index in steps.members), default=0)
            for index in steps.in_place:
                # To know what is evaluated, a subschema in place is tried anew, and asked the same.
                again += costs[index] + asked[index]
                cost += costs[index]
                depth = max(depth, deep[index])
            again += sum(above[index] for index in steps.contained)
            if steps.unevaluated:
                cost += again
                again += sum(above[index] for index in steps.unevaluated)
            costs.append(min(cost, _TOO_MANY))
            asked.append(min(again, _TOO_MANY))
            deep.append(depth + 1)
        table.append(costs)
        if level > 1 and costs == above and deep == nested:
            table += [costs] * (levels - len(table))
            break
        nested = deep
    return Work([costs[root] for costs in table], nested[root], _heaviest(graph, table, root))


def _below(steps: _Steps, above: list[int]) -> int:
    most = 0
    for one, every in steps.groups:
        costs = [above[index] for index in one]
        most = max(most, (max(costs) if costs else 0) + sum([above[index] for index in every]))
    return most


def _heaviest(graph: list[_Steps], table: list[list[int]], root: int) -> str:
    """Follow the work down for as long as one subschema makes nearly all of it."""
    level = max(range(len(table)), key=lambda level: table[level][root])
    while True:
        steps = graph[root]
        inner = [(level, index) for index in steps.in_place]
        if level:
            inner += [(level - 1, index) for index in steps.members]
        most = max(inner, key=lambda at: table[at[0]][at[1]], default=None)
        if most is None or table[most[0]][most[1]] * 4 < table[level][root] * 3:
            return steps.node.pointer
        level, root = most


def _graph(nodes: list[Node], pattern_sizes: Mapping[str, int]) -> list[_Steps]:
    order = _settled(nodes)[0]
    number = {node: index for index, node in enumerate(order)}
    return [_steps(node, number, pattern_sizes) for node in order]


def _steps(node: Node, number: Mapping[Node, int], pattern_sizes: Mapping[str, int]) -> _Steps:
    def numbers(*keywords: str) -> list[int]:
        return [number[inner] for inner in node.inner(*keywords)]

    patterns = node.within.get("patternProperties", ())
    member_checks = sum(_pattern_checks(pattern_sizes[pattern]) for pattern in patterns)
    objects = (
        numbers("properties", "additionalProperties"),
        numbers("patternProperties", "propertyNames", "unevaluatedProperties"),
    )
    arrays = numbers("prefixItems", "items"), numbers("contains", "unevaluatedItems")
    return _Steps(
        node,
        (_checks(node.schema, pattern_sizes), member_checks + bool(node.says("uniqueItems"))),
        [number[inner] for inner in _in_place(node)],
        [group for group in (objects, arrays) if any(group)],
        [index for group in (objects, arrays) for indexes in group for index in indexes],
        numbers("contains"),
        numbers("unevaluatedProperties", "unevaluatedItems"),
    )


def _in_place(node: Node) -> list[Node]:
    return node.inner(*_IN_PLACE) + ([node.target] if node.target else [])


def _settled(nodes: Iterable[Node]) -> tuple[list[Node], Node | None]:
    """Return each node after those that apply in its place, and one that is circular, if any is."""
    order: list[Node] = []
    done: dict[Node, bool] = {}
    for start in nodes:
        path = [start]
        while path:
            node = path[-1]
            if node in done:
                path.pop()
                if not done[node]:
                    done[node] = True
                    order.append(node)
                continue
            done[node] = False
            for inner in _in_place(node):
                if done.get(inner) is False:
                    return order, inner
                if inner not in done:
                    path.append(inner)
    return order, None


def _pattern_checks(size: int) -> int:
    return max(1, size // _PATTERN_BYTES_A_CHECK)


def _checks(schema: Any, pattern_sizes: Mapping[str, int]) -> int:
    """Weigh the keywords of a subschema that assert something of one place."""
    if not isinstance(schema, dict):
        return 1
    total = 0
    for keyword in ASSERTING & schema.keys():
        said = schema[keyword]
        match keyword:
            case "pattern":
                total += _pattern_checks(pattern_sizes[said])
            case "required":
                total += len(said)
            case "dependentRequired":
                total += sum(len(names) + 1 for names in said.values())
            case "enum":
                total += 1 if _looked_up(said) else _values(said)
            case "const":
                total += _values(said)
            case "multipleOf" if not float(said).is_integer():
                total += _FRACTION_CHECKS
            case _:
                total += _BOUND_CHECKS if keyword in _BOUNDS else 1
    return max(1, total)


def _values(value: Any) -> int:
    """Weigh a value and all that it holds, since a comparison goes through all of it."""
    if isinstance(value, float):
        return _FLOAT_CHECKS
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_values, inner))


def _looked_up(values: list[Any]) -> bool:
    """Return whether the validator finds a value in a table, and need not compare with each."""
    texts = all(value is None or isinstance(value, str | bool) for value in values)
    whole = all(type(value) is int and abs(value) < 1 << 63 for value in values)
    return texts or whole
