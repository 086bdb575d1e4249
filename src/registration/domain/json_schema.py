"""JSON Schema in the registry of extension schemas: which schemas it admits, and what fits them.

Sources: JSON Schema draft 2020-12 (Core, Validation), RFC 6901 (JSON Pointer). Schemas and data
come from outside: everything here is bounded, nothing is fetched, and no message holds a value of
the data.

The registry admits the 2020-12 dialect in one self-contained document:

- ``$ref`` is a fragment of the same document (``#``, ``#/$defs/a``, ``#anchor``). An ``$id`` at
  the root is admitted and names nothing; further in, it would change what ``#`` means.
- ``$dynamicRef``, ``$dynamicAnchor`` and ``$vocabulary`` serve those who extend the language.
  ``$recursiveRef``, ``dependencies`` and ``additionalItems`` belong to older drafts, and this one
  would silently ignore them. All are refused. Other unknown keywords are annotations.
- ``format`` and ``content*`` are annotations too, as the draft has it by default. What has to hold
  is said with ``pattern``.
- A pattern is one of Rust's ``regex`` crate, which matches in linear time: no lookaround and no
  backreferences. Counted repetition of a large class (``\\p{L}{1,50}``) makes a large automaton
  and is refused: ``maxLength`` counts for less.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from operator import mul
from typing import Any

import jsonschema_rs
import orjson

from registration.domain.json_schema_checker import Checker, reason, size
from registration.domain.json_schema_compatibility import compare
from registration.domain.json_schema_document import (
    LARGEST_PATTERN,
    MOST_FINDINGS,
    Finding,
    Node,
    escape,
    plain,
    read,
    validator,
)
from registration.domain.json_schema_work import circular, work

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MOST_BYTES = 64 * 1024
"""Of a schema as compact JSON; and the most values in a schema or in data."""
DEEPEST = 32
"""Levels of a schema and of data; a value without members is one level."""
MOST_SUBSCHEMAS = 2_000
MOST_CHECKS = 1_000
"""Of one place in the data, as `registration.domain.json_schema_work` counts them."""
MOST_NESTED = 256
"""Subschemas one inside another on the way to the deepest data: each takes stack."""
MOST_WORK = 1_000_000
"""Checks of one validation, over all places of the data: a second or two if all are costly."""
MOST_PATTERN_BYTES = 2 << 20
"""Of all patterns of a schema together."""

_PATTERN_SIZES = (1 << 10, 1 << 13, 1 << 16, LARGEST_PATTERN)
_NODE_WEIGHT, _PATTERN_BYTES_A_STEP = 30, 16
"""What a subschema costs to be made ready for data, in the checks that take as long."""
_NOT_LINEAR = (
    "is no pattern of the linear-time engine, which has no lookaround and no backreferences, or"
    f" takes more than {LARGEST_PATTERN} bytes as an automaton"
)
_SURROGATE = re.compile("[\ud800-\udfff]")

_REFUSED = {
    "$dynamicRef": "is not admitted: refer with `$ref`",
    "$dynamicAnchor": "is not admitted: name with `$anchor`",
    "$vocabulary": "is not admitted: it is for metaschemas",
    "$recursiveRef": "is of an older draft: refer with `$ref`",
    "$recursiveAnchor": "is of an older draft: name with `$anchor`",
    "dependencies": "is of an older draft: use `dependentRequired` or `dependentSchemas`",
    "additionalItems": "is of an older draft: use `prefixItems` and `items`",
}


def canonical(value: Any) -> bytes:
    """Return JSON as bytes that are the same whatever the order of its members."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def inadmissible(schema: Any) -> list[Finding]:
    """Return why the registry does not admit a schema: JSON Pointers into it, each with a reason.

    An admitted schema (nothing is returned) is valid by the metaschema of draft 2020-12 and within
    the dialect that this module describes; its references resolve and never go in circles without
    a step into the data; and its size, its patterns and the work that it can make are bounded. Any
    value may be asked about, and the answer takes well under a second.
    """
    try:
        _levels(schema)
    except ValueError as error:
        return [("", str(error))]
    if len(orjson.dumps(schema)) > MOST_BYTES:
        return [("", f"has more than {MOST_BYTES} bytes")]
    try:
        _metaschema().validate(schema)
    except jsonschema_rs.ValidationError as error:
        why = reason(error.kind.name, error.kind.value)
        return [(_pointer(error.instance_path), f"is no JSON Schema: {why}")]
    nodes = read(schema)
    if len(nodes) > MOST_SUBSCHEMAS:
        return [("", f"has more than {MOST_SUBSCHEMAS} subschemas")]
    sizes: dict[str, int] = {}
    steps = (
        _out_of_dialect(nodes),
        _unresolved(nodes),
        _unmatchable(nodes, sizes),
        _unbounded(nodes, sizes),
        _unusable(nodes),
    )
    # Each step relies on the ones before, and starts when they have found nothing.
    return next((found for step in steps if (found := list(islice(step, MOST_FINDINGS)))), [])


def violations(schema: Any, data: Any) -> list[Finding]:
    """Return how data does not fit an admitted schema: JSON Pointers into it, each with a reason.

    A reason may show what the schema says, and never shows the data. At most `MOST_FINDINGS` are
    returned, ordered by pointer. Data that could take more than `MOST_WORK` checks does not fit;
    saying what is wrong takes no more either, and ends there.
    """
    try:
        levels = _levels(data)
    except ValueError as error:
        return [("", str(error))]
    checker = _checker(canonical(schema))
    if sum(map(mul, checker.checks, (sum(map(size, level)) for level in levels))) > MOST_WORK:
        return [("", "is too large for all that the schema checks at one place")]
    return [] if checker.fits(data) else checker.explain(data)


def incompatibilities(old: Any, new: Any) -> list[Finding]:
    """Return why data that fits ``old`` may not fit ``new``: JSON Pointers into ``new``.

    Both are admitted. Nothing is returned only where it is proved that ``new`` accepts all that
    ``old`` does; what cannot be decided is said to be so. Annotations make no difference.
    """
    return compare(read(old), read(new))[:MOST_FINDINGS]


def _levels(value: Any) -> list[list[Any]]:
    """Return the values by depth; raise ``ValueError`` for what is not JSON, or too much of it."""
    levels: list[list[Any]] = []
    level = [value]
    count = 0
    while level:
        count += len(level)
        if len(levels) == DEEPEST:
            raise ValueError(f"is nested more than {DEEPEST} deep")
        if count > MOST_BYTES:
            raise ValueError(f"has more than {MOST_BYTES} values")
        for one in level:
            _require_json(one)
        levels.append(level)
        level = list(islice(chain.from_iterable(map(_members, level)), MOST_BYTES))
    return levels


def _members(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        return iter(value.values())
    return iter(value if isinstance(value, list) else ())


def _require_json(value: Any) -> None:
    match value:
        case None | bool() | list():
            pass
        case int():
            if not -(1 << 63) <= value < 1 << 64:
                raise ValueError("holds a number beyond 64 bits")
        case float():
            if not math.isfinite(value):
                raise ValueError("holds a number that JSON does not have")
        case str() | dict():
            if not all(isinstance(text, str) for text in _texts(value)):
                raise ValueError("is not JSON")
            if any(_SURROGATE.search(text) for text in _texts(value)):
                raise ValueError("holds half of a surrogate pair")
        case _:
            raise ValueError("is not JSON")


def _out_of_dialect(nodes: list[Node]) -> Iterator[Finding]:
    for node in nodes:
        dialect = node.says("$schema")
        if dialect is not None and dialect.removesuffix("#") != DIALECT:
            yield f"{node.pointer}/$schema", f"has to be {DIALECT}, or absent"
        if node.pointer and node.says("$id") is not None:
            yield f"{node.pointer}/$id", "is admitted at the root alone"
        for keyword, why in _REFUSED.items():
            if node.says(keyword) is not None:
                yield f"{node.pointer}/{keyword}", why


def _unresolved(nodes: list[Node]) -> Iterator[Finding]:
    anchors = Counter(anchor for node in nodes if (anchor := node.says("$anchor")))
    for node in nodes:
        if anchors[node.says("$anchor")] > 1:
            yield f"{node.pointer}/$anchor", "is there twice"
        ref = node.says("$ref")
        if ref is not None and not ref.startswith("#"):
            yield f"{node.pointer}/$ref", "may refer to this document alone, from `#` on"
        elif ref is not None and node.target is None:
            yield f"{node.pointer}/$ref", "refers to no subschema of this document"
    if circle := circular(nodes):
        yield circle.pointer, "comes back to itself without a step into the data"


def _unmatchable(nodes: list[Node], sizes: dict[str, int]) -> Iterator[Finding]:
    """Fill in the sizes of the patterns."""
    total = 0
    for node in nodes:
        for pointer, pattern in _patterns(node):
            if pattern in sizes:
                continue
            taken = _pattern_size(pattern)
            if taken is None:
                yield pointer, _NOT_LINEAR
                continue
            sizes[pattern] = taken
            total += taken
            if total > MOST_PATTERN_BYTES:
                yield pointer, f"all patterns together take more than {MOST_PATTERN_BYTES} bytes"
                return


def _patterns(node: Node) -> Iterator[tuple[str, str]]:
    pattern = node.says("pattern")
    if pattern is not None:
        yield f"{node.pointer}/pattern", pattern
    for name, inner in node.within.get("patternProperties", {}).items():
        yield inner.pointer, name


def _pattern_size(pattern: str) -> int | None:
    """Return what the automaton of a pattern is counted as, in bytes."""
    for most in _PATTERN_SIZES:
        try:
            validator({"pattern": pattern}, most)
        except ValueError:
            continue
        return most
    return None


def _unbounded(nodes: list[Node], sizes: dict[str, int]) -> Iterator[Finding]:
    bound = work(nodes, sizes, DEEPEST)
    if max(bound.checks) > MOST_CHECKS:
        yield bound.heaviest, f"can make more than {MOST_CHECKS} checks at one place of the data"
    if bound.nested > MOST_NESTED:
        yield "", f"nests more than {MOST_NESTED} subschemas on the way into the data"


def _unusable(nodes: list[Node]) -> Iterator[Finding]:
    """Ask the validator at last: what it does not take is not admitted, whatever the reason."""
    try:
        validator(plain(nodes[0]))
    except (ValueError, jsonschema_rs.ReferencingError):
        yield "", "is not understood"


@lru_cache(maxsize=1)
def _metaschema() -> jsonschema_rs.Draft202012Validator:
    return validator({"$ref": DIALECT})


@lru_cache(maxsize=64)
def _checker(text: bytes) -> Checker:
    nodes = read(orjson.loads(text))
    sizes: dict[str, int] = {}
    if circular(nodes) or any(_unmatchable(nodes, sizes)):
        raise ValueError("the schema is not an admitted one")
    weights = {
        node: _NODE_WEIGHT
        + sum(sizes[pattern] // _PATTERN_BYTES_A_STEP for _, pattern in _patterns(node))
        for node in nodes
    }
    return Checker(nodes, work(nodes, sizes, DEEPEST).checks, weights, MOST_WORK)


def _texts(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value if isinstance(value, dict) else ()


def _pointer(path: list[str | int]) -> str:
    return "".join(f"/{escape(str(token))}" for token in path)
