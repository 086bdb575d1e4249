"""Who works at the device: what their token says of them. The service verifies it, not we."""

import base64
import binascii
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from registration.client.errors import InvalidToken


@dataclass(frozen=True, slots=True)
class Session:
    """A person at the device, until ``expires``; offline work goes on after that."""

    token: str = field(repr=False)
    subject: str
    tenant: str
    facility: str | None
    client: str | None
    scopes: frozenset[str]
    expires: datetime

    @classmethod
    def of(cls, token: str) -> "Session":
        """Return what a token says. Raises :class:`InvalidToken`."""
        claims = _claims(token)
        try:
            return cls(
                token=token,
                subject=_text(claims["sub"]),
                tenant=_text(claims["tenant"]),
                facility=None if claims.get("facility") is None else _text(claims["facility"]),
                client=None if claims.get("client") is None else _text(claims["client"]),
                scopes=frozenset(str(claims.get("scope", "")).split()),
                expires=datetime.fromtimestamp(claims["exp"], UTC),
            )
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            raise InvalidToken("the token lacks sub, tenant or exp") from None

    def scope(self, facility: str | None) -> str:
        """Return what the cache of this person's records goes by: what may they see of it all.

        ``facility`` is what pulls ask for instead of the token's.
        """
        reads = sorted(self.scopes & {"patient:read", "encounter:read"})
        return f"{facility or self.facility or '*'} {' '.join(reads)}"


def _claims(token: str) -> dict[str, Any]:
    try:
        _, payload, _ = token.split(".")
        claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, binascii.Error):
        raise InvalidToken("the token is no JWT") from None
    if not isinstance(claims, dict):
        raise InvalidToken("the token is no JWT")
    return claims


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value
