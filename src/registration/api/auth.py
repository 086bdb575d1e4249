"""Who asks: bearer tokens (RFC 6750, RFC 7519), checked against one issuer's keys.

Claims: ``sub``, ``tenant``, ``facility?``, ``client?``, ``scope`` (space separated), and the
registered ``iss``, ``aud``, ``exp``.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jwt

from registration.domain.errors import DomainError

ALGORITHMS = ["RS256", "ES256", "EdDSA"]
LONGEST_TOKEN = 8192
_REMEMBERED = 4096
_REMEMBERED_SECONDS = 60.0
_LEEWAY = 5
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_FACILITY = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated subject and what it may do, until ``expires`` (Unix seconds)."""

    subject: str
    tenant: str
    facility: str | None
    client: str | None
    scopes: frozenset[str]
    expires: float


class Authenticator:
    """Turns an ``Authorization`` header into a :class:`Caller`.

    ``signing_key`` returns the key for a token (it may block: a JWKS is fetched over HTTP); a
    token that was checked once is remembered for a minute, if it does not expire before.
    """

    def __init__(self, signing_key: Callable[[str], Any], *, issuer: str, audience: str) -> None:
        self._signing_key = signing_key
        self._issuer = issuer
        self._audience = audience
        self._known: OrderedDict[str, Caller] = OrderedDict()

    async def caller(self, authorization: str | None) -> Caller:
        """Return who the header speaks for. Raises ``UNAUTHENTICATED``."""
        known = self._known.get(authorization or "")
        if known is not None and known.expires > time.time():
            return known
        token = _bearer(authorization)
        try:
            key = await asyncio.to_thread(self._signing_key, token)
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"], "strict_aud": True},
            )
        except jwt.PyJWKClientConnectionError:
            raise DomainError("UNAVAILABLE", "The issuer's keys cannot be reached.") from None
        # the others: a key of another kind than the algorithm's, an exp beyond all bounds
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise unauthenticated("The token is not valid here.") from None
        caller = _caller(claims)
        trusted = min(caller.expires, time.time() + _REMEMBERED_SECONDS)
        self._known[authorization or ""] = replace(caller, expires=trusted)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return caller


def unauthenticated(detail: str) -> DomainError:
    """Build the refusal of a request that nobody stands for."""
    return DomainError("UNAUTHENTICATED", detail)


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise unauthenticated("Send a bearer token.")
    if len(token) > LONGEST_TOKEN:
        raise unauthenticated("The token is too long.")
    return token


def _caller(claims: dict[str, Any]) -> Caller:
    subject, tenant, expires = claims["sub"], claims.get("tenant"), claims["exp"]
    if not isinstance(expires, int | float) or isinstance(expires, bool):
        raise unauthenticated("The token's exp is not a number.")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or "\0" in subject:
        raise unauthenticated("The token's sub is not a short text.")
    if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
        raise unauthenticated("The token's tenant is missing, or no short plain text.")
    scope = claims.get("scope", "")
    if not isinstance(scope, str):
        raise unauthenticated("The token's scope is not a space-separated text.")
    return Caller(
        subject,
        tenant,
        _optional(claims, "facility"),
        _optional(claims, "client"),
        frozenset(scope.split()),
        float(expires),
    )


def _optional(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not _FACILITY.fullmatch(value):
        raise unauthenticated(f"The token's {name} is not a short plain text.")
    return value
