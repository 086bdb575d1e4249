"""One base class for every refusal, with a stable code and no HTTP number.

The codes are those of the wire contract, section 1. ``extra`` holds the problem's further members
as the contract names them; it may hold patient data, so it goes to the caller and never to a log.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class DomainError(Exception):
    """A refusal with a code of the contract, a sentence for a human, and the extra members."""

    code: str
    detail: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the code alone: the detail may name what a log must not."""
        return self.code


def invalid(path: str, message: str) -> DomainError:
    """Build a ``VALIDATION_FAILED`` for one member; ``path`` is a JSON Pointer (RFC 6901)."""
    return DomainError(
        "VALIDATION_FAILED",
        "The request is not valid.",
        {"errors": [{"path": path, "message": message}]},
    )


def not_found(what: str) -> DomainError:
    """Build a ``NOT_FOUND``; ``what`` is a kind of thing, never a value that somebody sent."""
    return DomainError("NOT_FOUND", f"There is no such {what}.")
