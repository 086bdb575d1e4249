"""Whether a new JSON Schema accepts all that an old one did.

Sources: JSON Schema draft 2020-12 (Core, Validation); the assumption that makes comparing
recursive schemas end is that of Amadio and Cardelli, "Subtyping Recursive Types" (1993).

An old schema is taken apart into everything that holds of the data it accepts: itself, the targets
of its references and the members of its ``allOf``. Each keyword of the new schema has to follow
from that. What does not follow directly is tried case by case: by the alternatives of the old
schema, by type, and by value where the old one lists the values.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, combinations, islice

from registration.domain.json_schema_document import (
    MOST_FINDINGS,
    Finding,
    Node,
    escape,
)
from registration.domain.json_schema_facts import (
    AT_LEAST,
    AT_MOST,
    ATOMS,
    NUMBERS,
    OF_TYPE,
    EndlessError,
    Facts,
    Knowledge,
    atoms_of,
    json_key,
)

MOST_STEPS = 60_000
"""Of a comparison; a schema of a thousand properties that all changed takes half of them."""
DEEPEST_COMPARISON = 64


def compare(old: list[Node], new: list[Node]) -> list[Finding]:
    """Return why data that the old schema accepts may be refused by the new one; empty if never."""
    try:
        found = _Comparison(old, new).follows(frozenset({old[0]}), new[0])
    except EndlessError:
        return [("", "cannot be decided: comparing the two schemas takes too many steps")]
    return list(dict.fromkeys(found))


class _Comparison(Knowledge):
    """What is proved, refuted and for now assumed about new subschemas."""

    def __init__(self, old: list[Node], new: list[Node]) -> None:
        super().__init__(old, new, MOST_STEPS)
        self._depth = 0
        self._proved: dict[tuple[frozenset[Node], Node], None] = {}
        self._refuted: dict[tuple[frozenset[Node], Node], list[Finding]] = {}
        self._checks: tuple[Callable[[Facts, Node], Iterable[Finding]], ...] = (
            self._values,
            self._numbers,
            self._sizes,
            self._text,
            self._properties,
            self._patterns,
            self._others,
            self._names,
            self._dependents,
            self._arrays,
            self._contains,
            self._composed,
            self._excluded,
            self._conditional,
            self._unevaluated,
        )

    def follows(self, olds: frozenset[Node], new: Node) -> list[Finding]:
        """Return what in ``new`` does not follow from all of ``olds`` together."""
        if new.schema is True:
            return []
        old = self.facts(olds)
        key = (old.nodes, new)
        if not old.types or key in self._proved:
            return []
        if key in self._refuted:
            return self._refuted[key]
        if any(self.same(node, new) for node in old.ordered):
            return []
        if self._depth >= DEEPEST_COMPARISON:
            return [(new.pointer, "cannot be decided: nested too deep")]
        # Assumed while it is examined: recursive schemas come back to it. What was proved from an
        # assumption that fails is forgotten with it.
        before = len(self._proved)
        self._proved[key] = None
        self._depth += 1
        found = self._examine(old, new)
        self._depth -= 1
        if found:
            while len(self._proved) > before:
                self._proved.popitem()
            self._refuted[key] = found
        return found

    def _examine(self, old: Facts, new: Node) -> list[Finding]:
        self.spend(10)
        if new.schema is False:
            found = [(new.pointer, "accepts nothing any more")]
        else:
            found = list(
                islice((one for check in self._checks for one in check(old, new)), MOST_FINDINGS)
            )
        if found and old.values is not None:
            self.spend(len(old.values))
            if all(self.fits(new, value) or not self.fit(old, value) for value in old.values):
                return []
        elif found:
            cases = self._cases(old, new)
            if cases and not any(self.follows(old.nodes | {case}, new) for case in cases):
                return []
        return found

    def _cases(self, old: Facts, new: Node) -> list[Node]:
        """Return schemas one of which fits whatever the old ones accept, or none."""
        for node in old.ordered:
            for keyword in ("anyOf", "oneOf"):
                cases = node.inner(keyword)
                if cases and old.nodes.isdisjoint(cases):
                    return cases
        names = [name for name, atoms in ATOMS.items() if atoms <= old.types]
        if "number" in names:
            names.remove("integer")
        elif "fraction" in old.types:
            names.append("number")
        split = len(names) > 1 and new.inner("anyOf", "oneOf", "if", "not")
        return [OF_TYPE[name] for name in names] if split else []

    def _values(self, old: Facts, new: Node) -> Iterator[Finding]:
        said = new.says("type")
        if said is not None and (lost := old.types - atoms_of(said)):
            names = sorted({"number" if name == "fraction" else name for name in lost})
            yield _finding(new, "type", f"no longer accepts {', '.join(names)}")
        for keyword, listed in (("const", [new.says("const")]), ("enum", new.says("enum"))):
            if keyword in new.schema:
                self.spend(len(listed) + len(old.values or ()))
                kept = {json_key(value) for value in listed}
                if old.values is None:
                    yield _finding(new, keyword, "other values were accepted")
                elif any(json_key(value) not in kept for value in old.values):
                    yield _finding(new, keyword, "a value that was accepted is not listed")

    def _numbers(self, old: Facts, new: Node) -> Iterator[Finding]:
        if not old.types & NUMBERS:
            return
        for keyword, bound, sign, excluded in (
            ("minimum", old.lower, 1, False),
            ("exclusiveMinimum", old.lower, 1, True),
            ("maximum", old.upper, -1, False),
            ("exclusiveMaximum", old.upper, -1, True),
        ):
            said = new.says(keyword)
            if said is not None and bound < (said * sign, excluded):
                yield _finding(new, keyword, "is stricter than it was")
        step = new.says("multipleOf")
        if step is not None and not (step == 1 and "fraction" not in old.types):
            known = [said for node in old.ordered if (said := node.says("multipleOf"))]
            # Whole numbers only: of fractions it is up to the validator what a multiple is.
            if not any(one == step or _divides(step, one) for one in known):
                yield _finding(new, "multipleOf", "numbers between were accepted")

    def _sizes(self, old: Facts, new: Node) -> Iterator[Finding]:
        for keyword, kind in AT_LEAST.items():
            if kind in old.types and old.least[keyword] < (new.says(keyword) or 0):
                yield _finding(new, keyword, "is stricter than it was")
        for keyword, kind in AT_MOST.items():
            said = new.says(keyword)
            if kind in old.types and said is not None and old.most[keyword] > said:
                yield _finding(new, keyword, "is stricter than it was")
        unique = any(node.says("uniqueItems") for node in old.ordered)
        repeatable = "array" in old.types and old.most["maxItems"] > 1 and not unique
        if repeatable and new.says("uniqueItems"):
            yield _finding(new, "uniqueItems", "repeated items were accepted")
        if "object" in old.types:
            for name in new.says("required") or ():
                if name not in old.required:
                    yield _finding(new, "required", f"{_shown(name)} was not required")

    def _text(self, old: Facts, new: Node) -> Iterator[Finding]:
        said = new.says("pattern")
        if said is None or "string" not in old.types:
            return
        if all(node.says("pattern") != said for node in old.ordered):
            yield _undecided(new, "pattern", "the pattern is another one")

    def _properties(self, old: Facts, new: Node) -> Iterator[Finding]:
        for name, inner in new.within.get("properties", {}).items():
            if "object" in old.types:
                olds = self.at(old, name)
                found = self.follows(olds, inner)
                if found and not olds and name not in _named(old):
                    found = [(inner.pointer, "was accepted with any value")]
                yield from found

    def _patterns(self, old: Facts, new: Node) -> Iterator[Finding]:
        patterns = new.within.get("patternProperties", {}) if "object" in old.types else {}
        names = _named(old) if patterns else []
        for pattern, inner in patterns.items():
            matched = (self.at(old, name) for name in names if self.matches(pattern, name))
            for olds in chain(matched, self.elsewhere(old, pattern)):
                yield from self.follows(olds, inner)

    def _others(self, old: Facts, new: Node) -> Iterator[Finding]:
        rest = new.one("additionalProperties")
        if rest is None or "object" not in old.types:
            return
        named = new.within.get("properties", ())
        patterns = new.within.get("patternProperties", ())
        for name in _named(old):
            matched = name in named or any(self.matches(pattern, name) for pattern in patterns)
            if not matched and self.follows(self.at(old, name), rest):
                yield rest.pointer, f"{_shown(name)} was accepted with other values"
        if any(self.follows(olds, rest) for olds in self.elsewhere(old, None, patterns)):
            yield rest.pointer, "properties that no schema names were accepted"

    def _names(self, old: Facts, new: Node) -> Iterator[Finding]:
        said = new.one("propertyNames")
        if said is None or "object" not in old.types:
            return
        olds = {OF_TYPE["string"]}
        for node in old.ordered:
            olds.update(node.inner("propertyNames"))
            rest = node.one("additionalProperties")
            if rest and rest.schema is False and not node.inner("patternProperties"):
                names = list(node.within.get("properties", {}))
                olds.add(self.synthetic({"enum": names}, "names", *names))
        yield from self.follows(frozenset(olds), said)

    def _dependents(self, old: Facts, new: Node) -> Iterator[Finding]:
        if "object" not in old.types:
            return
        for name, others in (new.says("dependentRequired") or {}).items():
            given = old.required | {name}
            for node in old.ordered:
                given.update((node.says("dependentRequired") or {}).get(name, ()))
            barred = not self.facts(self.at(old, name)).types
            if not barred and not given.issuperset(others):
                yield _finding(new, "dependentRequired", f"{_shown(name)} required less before")
        for name, inner in new.within.get("dependentSchemas", {}).items():
            there = self.synthetic({"type": "object", "required": [name]}, "there", name)
            olds = [node.within.get("dependentSchemas", {}).get(name) for node in old.ordered]
            yield from self.follows(old.nodes | {there} | {one for one in olds if one}, inner)

    def _arrays(self, old: Facts, new: Node) -> Iterator[Finding]:
        if "array" not in old.types:
            return
        first = new.inner("prefixItems")
        rest = new.one("items")
        longest = max((len(node.inner("prefixItems")) for node in old.ordered), default=0)
        # One place after all that are named stands for the rest of them.
        for index in range(max(longest, len(first)) + 1):
            inner = first[index] if index < len(first) else rest
            if index >= old.most["maxItems"] or inner is None:
                break
            self.spend(len(old.nodes))
            olds: set[Node] = set()
            for node in old.ordered:
                olds.update(node.inner("prefixItems")[index : index + 1] or node.inner("items"))
            yield from self.follows(frozenset(olds), inner)

    def _contains(self, old: Facts, new: Node) -> Iterator[Finding]:
        said = new.one("contains")
        if said is None or "array" not in old.types:
            return
        known = [(one, node) for node in old.ordered if (one := node.one("contains"))]
        least, most = new.schema.get("minContains", 1), new.says("maxContains")
        if least > 0 and not any(
            node.schema.get("minContains", 1) >= least and not self.follows(frozenset({one}), said)
            for one, node in known
        ):
            yield _finding(new, "contains", "arrays with fewer such items were accepted")
        if most is None or old.most["maxItems"] <= most:
            return
        if not any(
            node.schema.get("maxContains", math.inf) <= most and self.same(one, said)
            for one, node in known
        ):
            yield _undecided(new, "maxContains", "arrays with more such items may be refused")

    def _composed(self, old: Facts, new: Node) -> Iterator[Finding]:
        if new.target:
            yield from self.follows(old.nodes, new.target)
        elif "$ref" in new.schema:
            yield _undecided(new, "$ref", "it refers to nothing")
        for inner in new.inner("allOf"):
            yield from self.follows(old.nodes, inner)
        for keyword in ("anyOf", "oneOf"):
            inners = new.inner(keyword)
            if not inners or self.kept(old, new, keyword):
                continue
            one = any(not self.follows(old.nodes, inner) for inner in inners)
            if not one or (keyword == "oneOf" and not self._exclusive(inners)):
                yield _undecided(new, keyword, "the alternatives changed")

    def _exclusive(self, nodes: list[Node]) -> bool:
        sets = [frozenset({node}) for node in nodes]
        return all(self.disjoint(one, other) for one, other in combinations(sets, 2))

    def _excluded(self, old: Facts, new: Node) -> Iterator[Finding]:
        said = new.one("not")
        if said is None or self.kept(old, new, "not"):
            return
        if not self.disjoint(old.nodes, frozenset({said})):
            yield _undecided(new, "not", "it excludes something else")

    def _conditional(self, old: Facts, new: Node) -> Iterator[Finding]:
        said = new.one("if")
        if said is None:
            return
        known = [node for node in old.ordered if node.inner("if") and self._kept_if(node, said)]
        for keyword, known_too in (("then", [said]), ("else", [])):
            inner = new.one(keyword)
            olds = old.nodes.union(known_too, *(node.inner(keyword) for node in known))
            if inner and self.follows(olds, inner):
                yield _undecided(new, keyword, "the condition or what follows from it changed")

    def _kept_if(self, node: Node, said: Node) -> bool:
        return any(self.same(one, said) for one in node.inner("if"))

    def _unevaluated(self, old: Facts, new: Node) -> Iterator[Finding]:
        for keyword, kind in (("unevaluatedProperties", "object"), ("unevaluatedItems", "array")):
            inner = new.one(keyword)
            if inner and kind in old.types and self.follows(frozenset(), inner):
                yield _undecided(new, keyword, "the schema around it changed")


def _named(old: Facts) -> list[str]:
    return sorted({name for node in old.ordered for name in node.within.get("properties", ())})


def _divides(step: float, known: float) -> bool:
    whole = float(step).is_integer() and float(known).is_integer()
    return whole and known % step == 0


def _shown(name: str) -> str:
    return f"`{name}`"


def _finding(node: Node, keyword: str, why: str) -> Finding:
    return f"{node.pointer}/{escape(keyword)}", why


def _undecided(node: Node, keyword: str, why: str) -> Finding:
    return _finding(node, keyword, f"cannot be decided: {why}")
