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
    if b"\\u0000" in body and holds_nul(value):
        raise invalid("", "holds a NUL character")
    return value


def parse_each(body: bytes) -> Any:
    """Return the JSON value of a body whose parts are judged one by one.

    As :func:`parse`, but NaN, infinities, NUL and lone surrogates are let through, each for the
    part that holds it to be refused.
    """
    try:
        return parse(body)
    except DomainError as error:
        if error.code != "VALIDATION_FAILED":
            raise
        return json.loads(body.decode(), object_pairs_hook=_once)


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


def holds_nul(value: Any) -> bool:
    """Whether a NUL character stands anywhere in a JSON value."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in name or holds_nul(member) for name, member in value.items())
    return isinstance(value, list) and any(map(holds_nul, value))
