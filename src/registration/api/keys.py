"""The embedded token issuer: one signing key in the data folder, and tokens for six roles.

For an installation without an identity provider. With `jwks_url` set nothing here is used.
"""

import json
from base64 import urlsafe_b64encode
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from registration.key_files import private_key

ISSUER: Final = "registration-embedded"
AUDIENCE: Final = "registration"
ALGORITHM: Final = "EdDSA"
DEFAULT_TTL: Final = timedelta(hours=12)
KEY_FILE: Final = "signing-key.pem"

SCOPES: Final = (
    "patient:read",
    "patient:write",
    "encounter:read",
    "encounter:write",
    "consent:write",
    "mpi:read",
    "mpi:propose",
    "mpi:approve",
    "erasure:read",
    "erasure:request",
    "erasure:approve",
    "schema:write",
    "audit:read",
    "report:read",
    "sync",
)

ROLES: Final[dict[str, tuple[str, ...]]] = {
    "desk": (
        "patient:read",
        "patient:write",
        "encounter:read",
        "encounter:write",
        "consent:write",
        "mpi:read",
        "mpi:propose",
        "sync",
    ),
    "analyst": ("report:read",),
    "auditor": ("audit:read", "patient:read"),
    "mpi": ("patient:read", "encounter:read", "mpi:read", "mpi:propose", "mpi:approve"),
    "privacy": ("patient:read", "erasure:read", "erasure:request", "erasure:approve"),
    "admin": SCOPES,
}


class SigningKey(NamedTuple):
    """An Ed25519 key; `kid` is its RFC 7638 thumbprint."""

    private: Ed25519PrivateKey
    kid: str

    @property
    def public(self) -> Ed25519PublicKey:
        """What verifies this key's tokens."""
        return self.private.public_key()


def signing_key(data_dir: Path) -> SigningKey:
    """The key of this data folder, made on first use; every process gets the same.

    Raises `KeyFileError` when it can be neither read nor made.
    """
    private = private_key(data_dir / KEY_FILE)
    return SigningKey(private, _thumbprint(private.public_key()))


def issue_token(
    key: SigningKey,
    *,
    role: str,
    token_id: UUID,
    now: datetime,
    ttl: timedelta = DEFAULT_TTL,
    subject: str | None = None,
    tenant: str = "default",
    facility: str | None = None,
) -> str:
    """A signed bearer token with the scopes of `role`, one of `ROLES`.

    `subject` defaults to the role's name. Times are whole seconds, as JWT's NumericDate is used.
    """
    issued = int(now.timestamp())
    claims: dict[str, str | int] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject or role,
        "tenant": tenant,
        "scope": " ".join(ROLES[role]),
        "iat": issued,
        "exp": issued + int(ttl.total_seconds()),
        "jti": str(token_id),
    }
    if facility is not None:
        claims["facility"] = facility
    return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.kid})


def _thumbprint(public: Ed25519PublicKey) -> str:
    x = _base64url(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
    members = {"crv": "Ed25519", "kty": "OKP", "x": x}  # in the order that RFC 7638 wants
    return _base64url(sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
