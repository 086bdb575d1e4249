"""Opaque cursors: where a list goes on, as the client hands it back unread."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import orjson

from registration.domain.errors import invalid


def encode_cursor(value: Any) -> str:
    """Return a cursor that stands for a JSON value."""
    return urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


def decode_cursor(cursor: str) -> Any:
    """Return what a cursor stands for. Raises ``VALIDATION_FAILED`` for what we did not make."""
    try:
        return orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        raise invalid("/cursor", "is no cursor of this list") from None
