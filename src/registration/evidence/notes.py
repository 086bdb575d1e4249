"""Checkpoints as signed notes: https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note.

```text
registration/default                             the log: a tenant
4                                                how many events
NN5e9ae7bqhFpSf7xSlzGDDf9YZ2kQnB5Y2X0V+vW1c=     the root of the tree over them, base64
head 2e85590e08fd1db91f4c…                       the hash of the last of them, hexadecimal
at 2026-11-22T14:46:56.519993Z                   when it was signed, by that machine's clock

— registration/default 1VxMzR5n…                 Ed25519 over the five lines, base64
```

Other lines than the first three are extensions of that format, and signed with the rest. Tools that
read such notes check the signature and the tree without knowing of them.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote, unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

ORIGIN = "registration/"
LONGEST = 16_384
"""Bytes that a note may have, with the signatures that others add to it."""

_ED25519 = b"\1"
_DASH = "— ".encode()
_TEXT = re.compile(
    r"registration/(?P<tenant>[^\s+/]+)\n"
    r"(?P<size>[1-9]\d{0,17})\n"
    r"(?P<root>[A-Za-z0-9+/]{43}=)\n"
    r"head (?P<head>[0-9a-f]{64})\n"
    r"at (?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)\n",
    re.ASCII,
)
_SIGNATURE = re.compile(
    r"— (?P<name>[^\s+]+) "
    r"(?P<signature>(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)"
)


class NoteError(ValueError):
    """This is no checkpoint of ours. The message says what is wrong with it, without its text."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is signed: a log had so many events, and this is what they come to."""

    tenant: str
    size: int
    root: bytes
    head: bytes
    at: datetime

    @property
    def origin(self) -> str:
        """The name of the log, which is the name of the key that signs it too."""
        return ORIGIN + quote(self.tenant, safe="")

    def text(self) -> str:
        """Return the lines that are signed."""
        at = self.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        root = b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\nhead {self.head.hex()}\nat {at}\n"


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint with its signatures, as it was read. What it says counts once it is verified."""

    checkpoint: Checkpoint
    note: str
    signatures: tuple[tuple[bytes, bytes], ...]
    """Key id (4 bytes) and signature of each line that is signed by the log itself."""

    @property
    def key_id(self) -> bytes:
        """The id of the key that signed it first."""
        return self.signatures[0][0]

    def verified(self, keys: Iterable[Ed25519PublicKey]) -> bool:
        """Whether one of these keys signed it; what others signed is not looked at."""
        text = self.checkpoint.text().encode()
        known = {key_id(self.checkpoint.origin, key): key for key in keys}
        return any(
            found in known and _holds(known[found], signature, text)
            for found, signature in self.signatures
        )


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> Signed:
    """Return the checkpoint as a note that this key signed."""
    text = checkpoint.text()
    signature = key.sign(text.encode())
    its_id = key_id(checkpoint.origin, key.public_key())
    line = f"— {checkpoint.origin} {b64encode(its_id + signature).decode()}\n"
    return Signed(checkpoint, f"{text}\n{line}", ((its_id, signature),))


def parse(note: bytes) -> Signed:
    """Read one note; nothing is verified. Raises :class:`NoteError`."""
    try:
        text, _, rest = note.decode().rstrip("\n").rpartition("\n\n")
        said = _TEXT.fullmatch(text + "\n")
        if said is None or len(note) > LONGEST:
            raise NoteError("is no checkpoint of this program")
        checkpoint = Checkpoint(
            unquote(said["tenant"], errors="strict"),
            int(said["size"]),
            b64decode(said["root"]),
            bytes.fromhex(said["head"]),
            datetime.fromisoformat(said["at"]),
        )
    except ValueError as error:
        raise NoteError("is no checkpoint of this program") from error
    if checkpoint.text() != text + "\n":
        raise NoteError("is not written as this program writes it")
    signatures = tuple(_signatures(checkpoint.origin, rest))
    if not signatures:
        raise NoteError("has no signature of the log's own")
    return Signed(checkpoint, f"{text}\n\n{rest}\n", signatures)


def split(content: bytes) -> Iterator[bytes]:
    """Yield the notes of a file, which stand one after the other, and whatever else is in it."""
    text = b""
    for block in content.split(b"\n\n"):
        if text and block.startswith(_DASH):
            yield text + b"\n\n" + block.rstrip(b"\n") + b"\n"
            text = b""
            continue
        if text.strip():
            yield text
        text = block.lstrip(b"\n")
    if text.strip():
        yield text


def whole_length(content: bytes) -> int:
    """Return where the last whole note of a file ends: after the last line of a signature."""
    start = len(content)
    while (start := content.rfind(b"\n" + _DASH, 0, start)) != -1:
        end = content.find(b"\n", start + 1)
        if end != -1:
            return end + 1
    return 0


def is_beginning(content: bytes, tenant: str) -> bool:
    """Whether this is a note of that log of which something at the end was never written."""
    lines, whole = content.split(b"\n"), _example(tenant).encode().split(b"\n")
    cut = len(lines) - 1
    if not content or cut > len(whole) - 2:
        return False
    # made whole from the example, whose lines are as long as those of any note, save for the size
    rest = [whole[cut][len(lines[cut]) :], *whole[cut + 1 :]]
    try:
        text, _, signature = (content + b"\n".join(rest)).decode().partition("\n\n")
    except UnicodeDecodeError:
        return False
    said, signed = _TEXT.fullmatch(text + "\n"), _SIGNATURE.fullmatch(signature.rstrip("\n"))
    name = quote(tenant, safe="")
    return bool(said and signed and said["tenant"] == name and signed["name"] == ORIGIN + name)


def _example(tenant: str) -> str:
    origin = ORIGIN + quote(tenant, safe="")
    return (
        f"{origin}\n1\n{'A' * 43}=\nhead {'0' * 64}\nat 2001-01-01T00:00:00.000000Z\n\n"
        f"— {origin} {'A' * 91}=\n"
    )


def key_id(name: str, key: Ed25519PublicKey) -> bytes:
    """Return the id by which a note names a key of this name."""
    return sha256(name.encode() + b"\n" + _ED25519 + raw(key)).digest()[:4]


def verifier_key(tenant: str, key: Ed25519PublicKey) -> str:
    """Return the key in the form in which tools for signed notes take it."""
    name = ORIGIN + quote(tenant, safe="")
    return f"{name}+{key_id(name, key).hex()}+{b64encode(_ED25519 + raw(key)).decode()}"


def raw(key: Ed25519PublicKey) -> bytes:
    """Return the 32 bytes of a public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def pem(key: Ed25519PublicKey) -> bytes:
    """Return a public key as a PEM file."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_keys(content: bytes) -> list[Ed25519PublicKey]:
    """Return the keys of a PEM file, which may hold several. Raises :class:`NoteError`."""
    found = []
    for block in content.split(b"-----BEGIN ")[1:]:
        try:
            key = load_pem_public_key(b"-----BEGIN " + block)
        except ValueError as error:
            raise NoteError("holds something that is no public key") from error
        if not isinstance(key, Ed25519PublicKey):
            raise NoteError("holds a key that is not Ed25519")
        found.append(key)
    if not found:
        raise NoteError("holds no public key")
    return found


def _signatures(name: str, lines: str) -> Iterator[tuple[bytes, bytes]]:
    for line in lines.splitlines():
        match = _SIGNATURE.fullmatch(line)
        if match is None:
            raise NoteError("has a line among its signatures that is none")
        decoded = b64decode(match["signature"])
        if match["name"] == name and len(decoded) == 4 + 64:
            yield decoded[:4], decoded[4:]


def _holds(key: Ed25519PublicKey, signature: bytes, text: bytes) -> bool:
    try:
        key.verify(signature, text)
    except InvalidSignature:
        return False
    return True
