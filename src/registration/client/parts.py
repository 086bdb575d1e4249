"""The versions that changes are made on: of a record, or of a part that counts its own."""

from collections.abc import Mapping
from typing import Any

from registration.client.cache import Record
from registration.domain.contract import Operation
from registration.domain.handlers import HANDLERS

_PLACES = {
    Operation.SET_CONSENT: ("consents", "flag"),
    Operation.SET_EXTENSION: ("extensions", "schema"),
    Operation.REMOVE_EXTENSION: ("extensions", "schema"),
}
"""Where the wire shows a part: the member, and what tells one from another."""


def subject_of(operation: Operation, entry: str | None, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an operation is about as it is shown: the record, or its part; empty if none."""
    if HANDLERS[operation].part is None:
        return dict(body)
    member, name = _PLACES[operation]
    return dict(next((part for part in body[member] if part[name] == entry), {}))


def version_of(operation: Operation, entry: str | None, record: Record) -> int:
    """Return the version of what an operation is about; 0 where that is not there."""
    if HANDLERS[operation].part is None:
        return record.version
    return int(subject_of(operation, entry, record.body).get("version", 0))
