"""Opaque cursors: where a list goes on, as the client hands it back unread."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg.rows import TupleRow

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


Place = tuple[datetime, UUID]
"""Where a page ended that is ordered by an instant and an id."""


def next_place(rows: Sequence[TupleRow], limit: int) -> str | None:
    """Return where the next page begins; ``rows`` hold one more than fits, if there is more."""
    if len(rows) <= limit:
        return None
    moment, its_id, *_ = rows[limit - 1]
    return encode_cursor([moment.isoformat(), str(its_id)])


def place_of(cursor: str | None) -> Place | None:
    """Return where a page begins. Raises ``VALIDATION_FAILED`` for what is no such cursor."""
    if cursor is None:
        return None
    try:
        moment, its_id = decode_cursor(cursor)
        return datetime.fromisoformat(moment).astimezone(UTC), UUID(its_id)
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise invalid("/cursor", "is no cursor of this list") from None
