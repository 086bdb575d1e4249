"""A JSON Schema document as a graph of subschemas.

Sources: JSON Schema draft 2020-12 (Core, Validation), RFC 6901 (JSON Pointer), RFC 3986
(fragments).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import jsonschema_rs

Finding = tuple[str, str]
"""A JSON Pointer and a sentence in plain English."""

MOST_FINDINGS = 50
LARGEST_PATTERN = 1 << 18
"""The most bytes that the automaton of a pattern may take."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ONE = _words(
    "additionalProperties contains contentSchema else if items not propertyNames then"
    " unevaluatedItems unevaluatedProperties"
)
_MANY = _words("allOf anyOf oneOf prefixItems")
_NAMED = _words("$defs definitions dependentSchemas patternProperties properties")
ASSERTING = _words(
    "const dependentRequired enum exclusiveMaximum exclusiveMinimum maxContains maxItems maxLength"
    " maxProperties maximum minContains minItems minLength minProperties minimum multipleOf"
    " pattern required type uniqueItems"
)
"""The keywords without subschemas that data can fail."""
COMPARED = (ASSERTING | _ONE | _MANY | _NAMED) - _words("$defs definitions contentSchema")
"""The keywords that data can fail, but for ``$ref``."""


@dataclass(eq=False, slots=True)
class Node:
    """A subschema: where it is, what it says, its own subschemas, and what its ``$ref`` means.

    ``within`` has the subschemas by keyword and then by name or index (``""`` for a lone one).
    """

    pointer: str
    schema: Any
    within: dict[str, dict[str, "Node"]] = field(default_factory=dict)
    target: "Node | None" = None

    def says(self, keyword: str) -> Any:
        """Return the value of a keyword, or ``None``."""
        return self.schema.get(keyword) if isinstance(self.schema, dict) else None

    def one(self, keyword: str) -> "Node | None":
        """Return the lone subschema of a keyword."""
        return self.within.get(keyword, {}).get("")

    def inner(self, *keywords: str) -> list["Node"]:
        """Return the subschemas of some keywords."""
        return [node for keyword in keywords for node in self.within.get(keyword, {}).values()]


def escape(token: str) -> str:
    """Return a name as it is written in a JSON Pointer."""
    return token.replace("~", "~0").replace("/", "~1")


def read(schema: Any) -> list[Node]:
    """Return all subschemas, the root first, with their references resolved.

    Only what the draft calls a subschema is one: what looks like it inside ``enum``, ``const``,
    ``default``, ``examples`` or an unknown keyword is data.
    """
    nodes = list(_walk(Node("", schema)))
    places = {node.pointer: node for node in nodes}
    for node in nodes:
        if isinstance(anchor := node.says("$anchor"), str):
            places.setdefault("#" + anchor, node)
    for node in nodes:
        ref = node.says("$ref")
        if isinstance(ref, str) and ref.startswith("#"):
            fragment = unquote(ref[1:])
            pointed = not fragment or fragment.startswith("/")
            node.target = places.get(fragment if pointed else "#" + fragment)
    return nodes


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for keyword, value in node.schema.items() if isinstance(node.schema, dict) else ():
        inner: Iterable[tuple[str, Any]]
        if keyword in _ONE:
            inner = [("", value)]
        elif keyword in _MANY and isinstance(value, list):
            inner = ((str(index), member) for index, member in enumerate(value))
        elif keyword in _NAMED and isinstance(value, dict):
            inner = value.items()
        else:
            continue
        place = f"{node.pointer}/{escape(keyword)}"
        node.within[keyword] = {
            name: Node(place if keyword in _ONE else f"{place}/{escape(name)}", member)
            for name, member in inner
        }
        for member in node.within[keyword].values():
            yield from _walk(member)


def reference(pointer: str, document: str = "urn:schema") -> str:
    """Return the reference to a subschema from outside of its document."""
    return f"{document}#{quote(pointer)}" if pointer else document


def plain(node: Node) -> Any:
    """Return a schema with the keywords that assert and nothing else; references are pointers.

    A validator that gets this and no more cannot read anything into the rest.
    """
    if not isinstance(node.schema, dict):
        return node.schema
    built = {keyword: said for keyword, said in node.schema.items() if keyword in ASSERTING}
    for keyword, inner in node.within.items():
        made = {name: plain(member) for name, member in inner.items()}
        if keyword in _ONE:
            built[keyword] = made[""]
        else:
            built[keyword] = list(made.values()) if keyword in _MANY else made
    if node.target:
        built["$ref"] = reference(node.target.pointer, "") or "#"
    return built


def validator(
    schema: Any, largest_pattern: int = LARGEST_PATTERN, **more: Any
) -> jsonschema_rs.Draft202012Validator:
    """Return a validator that matches patterns in linear time and fetches nothing.

    Raises ``ValueError`` for a pattern that its engine does not know or that takes too much.
    """
    options = jsonschema_rs.RegexOptions(size_limit=largest_pattern, dfa_size_limit=1 << 16)
    return jsonschema_rs.Draft202012Validator(
        schema, pattern_options=options, validate_formats=False, offline=True, **more
    )


def contains_pattern(pattern: str, text: str) -> bool:
    """Return whether a pattern is found in a text."""
    return _pattern(pattern).is_valid(text)


@lru_cache(maxsize=64)
def _pattern(pattern: str) -> jsonschema_rs.Draft202012Validator:
    return validator({"pattern": pattern})
