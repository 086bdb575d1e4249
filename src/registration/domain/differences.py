"""What differs between two plain resources: by member, or down to the field."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_KEYS = ("id", "flag", "schema", "patientId")
"""What tells the entries of a list apart, by the kind of entry."""
ABOUT_AN_ENTRY = frozenset({"version", "recordedAt", "recordedBy"})
"""Members of an entry that say nothing of their own: when and how often it was recorded."""


class Difference(NamedTuple):
    """A field with its value in two resources; ``None``: it is not there."""

    path: str
    before: Any
    after: Any


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Return the members in which two plain resources differ."""
    return {name for name in one.keys() | other.keys() if not _same(one.get(name), other.get(name))}


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], ignoring: frozenset[str] = frozenset()
) -> Iterator[Difference]:
    """Yield the fields in which two plain resources differ, by path; ``ignoring`` some members.

    A path is a JSON Pointer (RFC 6901), in which an entry of a list stands under what identifies
    it (its id, flag or schema): so it names the same entry before and after. An entry that came or
    went is one difference, and so is a list whose entries have no identity. An empty list and an
    absent one are the same.
    """
    for name in sorted(differing(before, after) - ignoring):
        yield from _within(f"/{_escaped(name)}", before.get(name), after.get(name))


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are one; true is not 1, whatever Python says."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _within(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(differing(before, after)):
            yield from _within(f"{path}/{_escaped(name)}", before.get(name), after.get(name))
        return
    entries = _by_identity(before), _by_identity(after)
    was, has = entries
    if was is None or has is None:
        yield Difference(path, before, after)
        return
    for key in dict.fromkeys((*was, *has)):
        yield from _entry(f"{path}/{_escaped(key)}", was.get(key), has.get(key))


def _entry(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if _same(before, after):
        return
    if before is None or after is None:
        yield Difference(path, before, after)
        return
    for name in sorted(differing(before, after) - ABOUT_AN_ENTRY):
        yield from _within(f"{path}/{_escaped(name)}", before.get(name), after.get(name))


def _by_identity(value: Any) -> dict[str, Any] | None:
    """Return the entries of a list by what identifies them; ``None`` where nothing does."""
    if value is None:
        return {}
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    for key in _KEYS:
        if all(isinstance(entry, dict) and isinstance(entry.get(key), str) for entry in value):
            found = {entry[key]: entry for entry in value}
            return found if len(found) == len(value) else None
    return None


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
