"""Sealing: what an event says of a person is readable only while there is that person's key.

A stored text about people is ``NUL count subjects public NUL nonce sealed``: how many people it is
about (one byte), their ids (16 bytes each), its public JSON, and AES-256-GCM over the JSON of its
other members, bound to all before it and to the place where it stands (stream, version, topic). A
text about two people is sealed to both, and ends with either. JSON holds no NUL, so a text that
does not begin with one is not sealed at all, and whoever asks whom a long text is about has the
answer in its first bytes.

Each person has a random key of their own; the database keeps it wrapped by the master key, which it
never sees. Whoever deletes the wrapped key has shredded everything that was sealed with it: in the
log, whose bytes and hashes stay as they are, in every backup of it, in every copy.

Sources: NIST SP 800-38D (GCM with random 96-bit nonces: a person has thousands of events, not
billions), docs/decisions/0016.
"""

import os
from base64 import b64decode
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_SIZE = 32
WRAPPED_SIZE = 64
"""Of a wrapped key: 4 bytes that name the master key, a nonce of 12, the key, a tag of 16."""
MOST_SUBJECTS = 255
"""People that one text can be sealed to."""
NEVER_SEALED = b""
"""Stands for the key of a person who was registered before events were sealed."""

_NUL = b"\0"
_IDS_AT = 2
_NONCE = 12
_ID = 4
_MOST_OPEN = 4096
"""Keys that a process holds unwrapped: to unwrap one again costs some microseconds."""


class MasterKeyError(RuntimeError):
    """The master key is missing, is none, or is not the one that the database was sealed with."""


class SealBrokenError(RuntimeError):
    """A sealed text is not what was written there: it was changed, or moved to another place."""


class Place(NamedTuple):
    """Where a text stands; it can be opened nowhere else."""

    tenant: str
    stream_id: UUID
    version: int
    topic: str

    @property
    def bound(self) -> bytes:
        """What the seal covers beside the text. The tenant is bound by the wrapping of the key."""
        return b"%b%b%b" % (
            self.stream_id.bytes,
            self.version.to_bytes(8, "big", signed=True),
            self.topic.encode(),
        )


class Keyring:
    """The master keys of this process, and the last of the people's keys that it unwrapped.

    One for the process: an event is opened wherever it is read, and which master key wrapped a
    person's key is said by the wrapped key itself.
    """

    def __init__(self) -> None:
        self._masters: dict[bytes, AESGCM] = {}
        self._current = b""
        self._open: dict[tuple[str, bytes, bytes], AESGCM] = {}

    def use(self, master: bytes, former: Sequence[bytes] = ()) -> None:
        """Wrap new keys with ``master``; unwrap what it or a former one wrapped."""
        for each in (*former, master):
            self._masters[master_id(each)] = AESGCM(each)
        self._current = master_id(master)

    @property
    def current(self) -> bytes:
        """The name of the master key that wraps new keys."""
        return self._current

    @property
    def names(self) -> frozenset[bytes]:
        """The names of all master keys here."""
        return frozenset(self._masters)

    def new(self, tenant: str, subject: UUID) -> bytes:
        """Return a person's new key, wrapped."""
        key = os.urandom(KEY_SIZE)
        wrapped = self._wrapped(tenant, subject.bytes, key)
        self._hold((tenant, subject.bytes, wrapped), AESGCM(key))  # the first event comes next
        return wrapped

    def rewrapped(self, tenant: str, subject: UUID, wrapped: bytes) -> bytes:
        """Return a person's key, wrapped by the master key of now."""
        return self._wrapped(tenant, subject.bytes, self.unwrapped(tenant, subject, wrapped))

    def unwrapped(self, tenant: str, subject: UUID, wrapped: bytes) -> bytes:
        """Return a key itself."""
        return self._unwrapped(tenant, subject.bytes, wrapped)

    def seal(
        self,
        place: Place,
        public: bytes,
        personal: bytes,
        subjects: Sequence[UUID],
        wrapped: bytes,
    ) -> bytes:
        """Return a JSON object in two parts, which share no member, with the second one sealed.

        ``wrapped`` holds the wrapped key of each subject, one after the other.
        """
        ids = b"".join([subject.bytes for subject in subjects])
        head = b"\0%c%b%b\0" % (len(subjects), ids, public)
        nonce = os.urandom(_NONCE)
        cipher = self._cipher(place.tenant, ids, wrapped)
        return head + nonce + cipher.encrypt(nonce, personal, place.bound + head)

    def opened(self, place: Place, data: bytes, wrapped: bytes | None) -> bytes | None:
        """Return the whole JSON object; ``None`` where a key to it is gone for good.

        Raises :class:`SealBrokenError` where it is not what was written there, and
        :class:`MasterKeyError` where the key is there and this process cannot unwrap it.
        """
        if not is_sealed(data):
            return data
        if wrapped is None:
            return None
        public_at, nonce_at = _cuts(data)
        text_at = nonce_at + _NONCE
        try:
            cipher = self._cipher(place.tenant, data[_IDS_AT:public_at], wrapped)
            personal = cipher.decrypt(
                data[nonce_at:text_at], data[text_at:], place.bound + data[:nonce_at]
            )
        except (InvalidTag, ValueError):  # of which the second is about lengths
            raise SealBrokenError(f"version {place.version} of {place.stream_id}") from None
        public = data[public_at : nonce_at - 1]
        if personal == b"{}":
            return public
        return personal if public == b"{}" else public[:-1] + b"," + personal[1:]

    def forget(self) -> None:
        """Hold no person's key any longer: somebody was erased."""
        self._open.clear()

    def _cipher(self, tenant: str, ids: bytes, wrapped: bytes) -> AESGCM:
        asked = (tenant, ids, wrapped)
        found = self._open.get(asked)
        if found is None:
            found = self._made(*asked)
            self._hold(asked, found)
        return found

    def _hold(self, asked: tuple[str, bytes, bytes], cipher: AESGCM) -> None:
        if len(self._open) >= _MOST_OPEN:
            self._open.clear()  # that costs some microseconds a key, and once in a long time
        self._open[asked] = cipher

    def _made(self, tenant: str, ids: bytes, wrapped: bytes) -> AESGCM:
        if not ids or len(wrapped) * 16 != len(ids) * WRAPPED_SIZE:
            raise ValueError("there is not one key for each subject")
        keys = [
            self._unwrapped(tenant, ids[16 * n : 16 * n + 16], wrapped[at : at + WRAPPED_SIZE])
            for n, at in enumerate(range(0, len(wrapped), WRAPPED_SIZE))
        ]
        return AESGCM(keys[0] if len(keys) == 1 else sha256(b"".join(keys)).digest())

    def _wrapped(self, tenant: str, subject: bytes, key: bytes) -> bytes:
        if not self._current:
            raise MasterKeyError("this process was given no master key")
        nonce = os.urandom(_NONCE)
        sealed = self._masters[self._current].encrypt(nonce, key, _whose(tenant, subject))
        return self._current + nonce + sealed

    def _unwrapped(self, tenant: str, subject: bytes, wrapped: bytes) -> bytes:
        master = self._masters.get(wrapped[:_ID])
        if master is None:
            raise MasterKeyError(
                "a key was wrapped by a master key that this process was not given"
            )
        nonce, sealed = wrapped[_ID : _ID + _NONCE], wrapped[_ID + _NONCE :]
        try:
            return master.decrypt(nonce, sealed, _whose(tenant, subject))
        except InvalidTag:
            raise SealBrokenError(f"the key of {UUID(bytes=subject)}") from None


KEYRING = Keyring()
"""The keyring of this process."""


def parted(text: bytes, public: frozenset[str]) -> tuple[bytes, bytes]:
    """Return a JSON object as two: of its ``public`` members, and of the others."""
    personal = orjson.loads(text)
    shown = {name: personal.pop(name) for name in public & personal.keys()}
    return orjson.dumps(shown), orjson.dumps(personal)


def is_sealed(data: bytes) -> bool:
    """Return whether a text is sealed, to whomever."""
    return data[:1] == _NUL


def public_part(data: bytes) -> bytes:
    """Return the public JSON of a text, sealed or not."""
    if not is_sealed(data):
        return data
    public_at, nonce_at = _cuts(data)
    return data[public_at : nonce_at - 1]


def subjects_of(data: bytes) -> tuple[UUID, ...]:
    """Return whom a text is sealed to; empty where it is not sealed."""
    if not is_sealed(data) or len(data) == 1:
        return ()
    ends = range(_IDS_AT + 16, min(_IDS_AT + 16 * data[1], len(data)) + 1, 16)
    return tuple([UUID(bytes=data[end - 16 : end]) for end in ends])


def _cuts(data: bytes) -> tuple[int, int]:
    """Return where the public part of a sealed text begins, and where what is sealed does."""
    public_at = _IDS_AT + 16 * data[1] if len(data) > 1 else 0
    nonce_at = data.find(_NUL, public_at) + 1
    if not public_at or not nonce_at:
        raise SealBrokenError("a text was cut off")
    return public_at, nonce_at


def master_id(master: bytes) -> bytes:
    """Return the name of a master key: 4 bytes that say nothing of it."""
    return sha256(b"registration master key" + master).digest()[:_ID]


def master_of(text: str) -> bytes:
    """Return the master key that a text holds: 32 bytes in base64. Raises ``ValueError``."""
    key = b64decode(text.strip(), validate=True)
    if len(key) != KEY_SIZE:
        raise ValueError(f"a master key has {KEY_SIZE} bytes, in base64")
    return key


def _whose(tenant: str, subject: bytes) -> bytes:
    return tenant.encode() + b"\0" + subject
