"""Reading a JSON body strictly: RFC 8259 without the leniencies that lose or smuggle data."""

import json
from typing import Any

import jiter

from registration.domain.errors import DomainError, invalid


def parse(body: bytes) -> Any:
    """Return the JSON value of a body.

    Raises ``MALFORMED_REQUEST`` for what is no JSON in UTF-8, names a member twice or nests deeper
    than 200, and ``VALIDATION_FAILED`` for NaN, infinities, NUL and lone surrogates. A number
    beyond all bounds (1e999) is left to the models, none of which has a place for one.
    """
    try:
        value = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError:
        raise _why(body) from None
    if b"\\u0000" in body and _holds_nul(value):
        raise invalid("", "holds a NUL character")
    return value


def _why(body: bytes) -> DomainError:
    """Tell what no JSON can be (400) from what JSON can say but nobody may store (422)."""
    malformed = DomainError("MALFORMED_REQUEST", "The body is not JSON with each member once.")
    try:
        json.loads(body.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return malformed
    # Python's reader took it: then it is NaN, an infinity or a lone surrogate, or too deep
    if body.count(b"[") + body.count(b"{") > 150:
        return malformed
    return invalid("", "holds NaN, an infinity or a lone surrogate")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in name or _holds_nul(member) for name, member in value.items())
    return isinstance(value, list) and any(map(_holds_nul, value))
