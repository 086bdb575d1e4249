"""What a person says, made the payload of a mutation: strict JSON, and every id chosen here."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from registration.domain.commands import KEY, LONGEST_NAME
from registration.domain.contract import Operation
from registration.domain.errors import invalid, not_found
from registration.domain.handlers import HANDLERS
from registration.domain.resources import Model
from registration.domain.validation import validated

_WITH_ENTRIES = {Operation.REGISTER_PATIENT: ("names", "identifiers", "nextOfKin")}
_DATED = (Operation.OPEN_ENCOUNTER, Operation.TRANSITION_ENCOUNTER)


def plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return a payload as JSON values; ids and instants may come as such.

    Raises ``VALIDATION_FAILED`` for what no JSON document may hold.
    """
    try:
        text = json.dumps(dict(said), ensure_ascii=False, allow_nan=False, default=_as_json)
        text.encode()
    except (ValueError, TypeError, RecursionError):
        raise invalid("", "holds what JSON cannot say") from None
    if "\\u0000" in text and _holds_nul(said):
        raise invalid("", "holds a NUL character")
    made: dict[str, Any] = json.loads(text)
    return made


def confirmed(operation: Operation, payload: Mapping[str, Any]) -> Model:
    """Return a payload as the domain takes it. Raises ``VALIDATION_FAILED``."""
    return validated(HANDLERS[operation].payload, json.dumps(payload).encode())


def completed(
    operation: Operation, payload: Mapping[str, Any], new_id: Callable[[], UUID]
) -> dict[str, Any]:
    """Return the payload with an id for each entry, so that the service's are the same."""
    made = dict(payload)
    for member in _WITH_ENTRIES.get(operation, ()):
        if isinstance(entries := made.get(member), list):
            made[member] = [_named(entry, new_id) for entry in entries]
    return _named(made, new_id) if HANDLERS[operation].adds is not None else made


def dated(operation: Operation, payload: Mapping[str, Any], at: datetime) -> dict[str, Any] | None:
    """Return the payload with the instant that it leaves to the service; ``None`` without such."""
    if operation not in _DATED or payload.get("at") is not None:
        return None
    return {**payload, "at": instant(at)}


def entry_of(operation: Operation, entry: UUID | str | None) -> UUID | str | None:
    """Return the entry that a command is about as the domain takes it.

    Raises ``NOT_FOUND``: what has no such form names nothing.
    """
    handler = HANDLERS[operation]
    if not handler.entry:
        if entry is not None:
            raise invalid("", "is about no single entry")
        return None
    if handler.part is not None:
        if entry is None or len(str(entry)) > LONGEST_NAME or not KEY.fullmatch(str(entry)):
            raise not_found("entry")
        return str(entry)
    try:
        return UUID(str(entry))
    except ValueError:
        raise not_found("entry") from None


def instant(at: datetime) -> str:
    """Return an instant as the wire has it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _named(entry: Any, new_id: Callable[[], UUID]) -> Any:
    if not isinstance(entry, dict) or entry.get("id") is not None:
        return entry
    return {"id": str(new_id()), **{name: value for name, value in entry.items() if name != "id"}}


def _as_json(value: object) -> object:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return instant(value)
    if isinstance(value, Model):
        return value.plain()
    raise TypeError


def _holds_nul(value: object) -> bool:
    if isinstance(value, Mapping):
        return any("\0" in str(name) or _holds_nul(member) for name, member in value.items())
    if isinstance(value, list | tuple):
        return any(map(_holds_nul, value))
    return isinstance(value, str) and "\0" in value
