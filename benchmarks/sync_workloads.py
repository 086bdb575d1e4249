"""What devices send and fetch: batches of documents, single ones, pages; ours and the peers'.

The documents are the same for all: patients of about 0.4 KB, each with an id of its own.
"""

import gzip
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from benchmarks.sample import patients

_MEMBERS = ("names", "gender", "birthDate", "telecom", "addresses", "facility")

Page = tuple[int, str | None]
"""How many documents a page holds, and the path of the next one."""


def documents(n: int) -> list[bytes]:
    """Return patients as devices keep them, without identifiers."""
    found = []
    for patient in patients(n):
        patient["telecom"] = patient["telecom"][:1]
        found.append(orjson.dumps({name: patient[name] for name in _MEMBERS}))
    return found


def ids() -> Iterator[bytes]:
    """Yield UUIDv7s in ascending order, none of which anybody else yields."""
    millis, salt = time.time_ns() // 1_000_000, secrets.randbits(48)
    for n in range(1 << 24):
        yield b"%08x-%04x-7%03x-8%03x-%012x" % (
            millis >> 16,
            millis & 0xFFFF,
            n >> 12,
            n & 0xFFF,
            salt,
        )


def filled(text: bytes, made: Iterator[bytes]) -> bytes:
    """Return a text with an id wherever it says ``@0@``, the next one for ``@1@``, and so on."""
    number = 0
    while (place := b"@%d@" % number) in text:
        text = text.replace(place, next(made))
        number += 1
    return text


def head(method: str, path: str, authorization: str = "", more: str = "") -> bytes:
    """Return a request's head but for its length and its end."""
    said = f"authorization: {authorization}\r\n" if authorization else ""
    lines = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n"
    return (lines + said + more).encode()


@dataclass
class Send:
    """Sends documents, so many in a request.

    Each of ``texts`` holds as many documents as ``each`` says, with ``@0@`` and so on for ids that
    ascend. ``mark`` stands in an answer of ``status`` once for each document that was taken in;
    one of ``later`` asks to send it again, and counts as nothing done.
    """

    start: bytes
    texts: Sequence[bytes]
    size: int
    status: int
    mark: bytes
    around: tuple[bytes, bytes] = (b"", b"")
    each: int = 1
    later: int | None = None
    documents: int = 0
    _sent: int = 0
    _ids: Iterator[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the ids here."""
        return self.__dict__ | {"_ids": None}

    def request(self, connection: int) -> bytes:
        """Return a request with the next documents."""
        texts = [self._next() for _ in range(self.size // self.each)]
        before, after = self.around
        body = b"".join((before, b",".join(texts), after))
        return b"%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
            self.start,
            len(body),
            body,
        )

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Check that all of them were taken in."""
        if status == self.later:
            return True
        self.documents += self.size
        return status == self.status and body.count(self.mark) == self.size

    def _next(self) -> bytes:
        text = self.texts[self._sent % len(self.texts)]
        self._sent += 1
        if self._ids is None:  # only here: an iterator goes to no other process
            self._ids = ids()
        return filled(text, self._ids)


@dataclass
class Follow:
    """Fetches everything page by page, and again from the start; one connection.

    ``read`` tells of a page how much it holds and where the next one is.
    """

    authorization: str
    first: str
    read: Callable[[bytes], Page]
    gzip: bool = False
    documents: int = 0
    received: int = 0
    _next: str | None = None

    def request(self, connection: int) -> bytes:
        """Return the request for the next page."""
        more = "accept-encoding: gzip\r\n" if self.gzip else ""
        return head("GET", self._next or self.first, self.authorization, more) + b"\r\n"

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Count what came, and note where to go on."""
        self.received += len(body)
        if status != 200 or self.gzip != (b"\r\ncontent-encoding: gzip\r\n" in head):
            return False
        held, self._next = self.read(gzip.decompress(body) if self.gzip else body)
        self.documents += held
        return True


def push(token: str, texts: Sequence[bytes], size: int, *, each: int = 1) -> Send:
    """Return the push of so many mutations at once; see ``creates`` and ``visits`` for texts."""
    return Send(
        head("POST", "/v1/sync/push", f"Bearer {token}"),
        texts,
        size,
        200,
        b'"status":"applied"',
        (b'{"clientId":"bench","mutations":[', b"]}"),
        each,
    )


def creates(bodies: Sequence[bytes]) -> list[bytes]:
    """Return the registration of each patient."""
    return [_mutation(0, b"patient.register", b"@1@", body) for body in bodies]


def visits(bodies: Sequence[bytes]) -> list[bytes]:
    """Return four mutations a patient: registration, next of kin, consent, encounter."""
    kin = b'{"name":"Chidi Okoro","relationship":"brother"}'
    consent = b'{"decision":"granted","evidence":{"kind":"signature"}}'
    built_on = b',"afterMutation":"@0@"'
    return [
        b",".join(
            (
                _mutation(0, b"patient.register", b"@4@", body),
                _mutation(1, b"patient.add_next_of_kin", b"@4@", kin, built_on),
                _mutation(
                    2, b"patient.set_consent", b"@4@", consent, built_on + b',"entry":"research"'
                ),
                _mutation(
                    3, b"encounter.open", b"@5@", b'{"patientId":"@4@","class":"AMB"}', built_on
                ),
            )
        )
        for body in bodies
    ]


def _mutation(
    number: int, operation: bytes, record: bytes, body: bytes, more: bytes = b""
) -> bytes:
    return b'{"clientMutationId":"@%d@","operation":"%s","aggregateId":"%s","payload":%s%s}' % (
        number,
        operation,
        record,
        body,
        more,
    )


PULL = "/v1/sync/pull?limit=1000&facility=*"


def pulled(body: bytes) -> Page:
    """Read a page of ``GET /v1/sync/pull``."""
    said = orjson.loads(body)
    return len(said["items"]), f"{PULL}&cursor={said['cursor']}" if said["more"] else None
