"""The offline-first client of the service: works without it, and synchronises when it is there.

:class:`Client` is all of it; ``docs/client.md`` tells how to use it.
"""

from registration.client.client import Client
from registration.client.errors import (
    CannotOpen,
    ClientError,
    DomainError,
    InvalidToken,
    NotConfirmed,
    ReviewError,
    ServiceAway,
    ServiceRefused,
    StoreBusy,
    Unauthorised,
    WrongTenant,
)
from registration.client.mutation import Mutation, State
from registration.client.report import Status, SyncReport
from registration.client.review import Difference, ReviewItem
from registration.client.session import Session
from registration.client.views import View

__all__ = [
    "CannotOpen",
    "Client",
    "ClientError",
    "Difference",
    "DomainError",
    "InvalidToken",
    "Mutation",
    "NotConfirmed",
    "ReviewError",
    "ReviewItem",
    "ServiceAway",
    "ServiceRefused",
    "Session",
    "State",
    "Status",
    "StoreBusy",
    "SyncReport",
    "Unauthorised",
    "View",
    "WrongTenant",
]
