"""Taking JSON as a payload of the domain, strictly, with every place named that does not fit."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from registration.domain.errors import DomainError
from registration.domain.resources import Model

Payload = TypeVar("Payload", bound=Model)

MOST_ERRORS = 50
"""Places that one refusal names; a body may have thousands."""


def validated(model: type[Payload], body: bytes) -> Payload:
    """Return the body as a model of the wire.

    Raises ``VALIDATION_FAILED`` with every place that does not fit, and nothing of what was sent.
    """
    try:
        payload: Payload = model.__pydantic_validator__.validate_json(
            body, strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        raise validation_failed(error.errors(include_input=False, include_url=False)) from None
    return payload


def validation_failed(errors: Sequence[Mapping[str, Any]], skip: int = 0) -> DomainError:
    """Build ``VALIDATION_FAILED`` from pydantic's errors, without ``skip`` leading path parts."""
    return DomainError(
        "VALIDATION_FAILED",
        "The request is not valid.",
        {
            "errors": [
                {"path": _pointer(e["loc"][skip:]), "message": _message(e)}
                for e in errors[:MOST_ERRORS]
            ]
        },
    )


def _pointer(location: Sequence[Any]) -> str:
    """Return a JSON Pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


_QUOTES_INPUT = {
    "uuid_parsing": "is not a UUID",
    "datetime_from_date_parsing": "is not an RFC 3339 instant",
    "datetime_parsing": "is not an RFC 3339 instant",
    "int_parsing": "is not a whole number",
    "json_invalid": "is not JSON",
}
"""Errors whose message repeats a part of the input, with what to say instead."""


def _message(error: Mapping[str, Any]) -> str:
    return _QUOTES_INPUT.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
