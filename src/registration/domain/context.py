"""What a decision may know of the world: all that the pure domain must not fetch for itself."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID


class Context(NamedTuple):
    """Who asks, when, and where new ids come from.

    ``now`` is an aware instant in UTC. ``identifier_systems`` names the check of each identifier
    system that has one (see :mod:`registration.domain.identifiers`), ``consent_flags`` the flags
    that there are with their titles, ``portrait_retention`` how long the tenant keeps a portrait.
    ``plural_systems`` are the identifier systems of which a person may well have several values.
    ``four_eyes``: who proposed a merge cannot approve it.
    """

    now: datetime
    new_id: Callable[[], UUID]
    tenant: str
    actor: str
    scopes: frozenset[str]
    facility: str | None = None
    client: str | None = None
    identifier_systems: Mapping[str, str] = MappingProxyType({})
    consent_flags: Mapping[str, str] = MappingProxyType({})
    portrait_retention: timedelta | None = None
    plural_systems: frozenset[str] = frozenset()
    four_eyes: bool = True
