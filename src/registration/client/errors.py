"""What can go wrong beside a refusal of the domain. No text holds patient data or a token."""

from registration.domain.errors import DomainError

__all__ = [
    "CannotOpen",
    "ClientError",
    "DomainError",
    "InvalidToken",
    "NotConfirmed",
    "ReviewError",
    "ServiceAway",
    "ServiceRefused",
    "StoreBusy",
    "Unauthorised",
    "WrongTenant",
]


class ClientError(Exception):
    """The base of what this package raises by itself."""


class StoreBusy(ClientError):
    """Another process has the file open."""


class CannotOpen(ClientError):
    """The file cannot be used: wrong passphrase, no cipher, a newer version, another device."""


class InvalidToken(ClientError):
    """The token is no JWT with a subject, a tenant and an expiry."""


class WrongTenant(ClientError):
    """The file belongs to another tenant than the token."""


class ServiceAway(ClientError):
    """The service does not answer, or takes nothing now; what was asked can be asked again."""


class ServiceRefused(ClientError):
    """The service answered what it should not: ``status``, ``code`` and ``request_id`` say what."""

    def __init__(self, status: int, code: str, request_id: str | None) -> None:
        super().__init__(
            f"the service answered {status} {code} (request {request_id or 'unknown'})"
        )
        self.status = status
        self.code = code
        self.request_id = request_id


class Unauthorised(ServiceRefused):
    """401 or 403: a fresh token, or one with other scopes, is needed. Nothing is lost."""


class NotConfirmed(ServiceRefused):
    """The service refused what a person confirmed; the item is still under review, with why."""


class ReviewError(ClientError):
    """This cannot be done to that item of the review; the message says why."""
