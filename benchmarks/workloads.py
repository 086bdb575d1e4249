"""What is sent over HTTP: registrations, updates, reads, next of kin."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from benchmarks.sample import MARK, patients

_LOCATION = b"\r\nlocation: /v1/patients/"
_ETAG = b'\r\netag: "'
_POSITION = b"\r\nx-log-position: "
_UUID_LENGTH = 36


@dataclass
class Register:
    """Registers patients, each with an Idempotency-Key and an identifier of its own.

    ``prefix`` sets the keys of one run apart from those of others. ``made`` has the ids of the
    patients; ``acknowledged``, where asked for, when each position of the log was answered.
    """

    token: str
    prefix: str
    note_positions: bool = False
    made: list[bytes] = field(default_factory=list)
    acknowledged: list[tuple[float, int]] = field(default_factory=list)
    _sent: int = 0
    _templates: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the requests but for the key and the identifier."""
        width = len(self._number(0))
        for patient in patients(2000):
            before, after = orjson.dumps(patient).split(MARK.encode())
            head = head_of("POST", "/v1/patients", self.token, len(before) + width + len(after))
            self._templates.append((head + b"idempotency-key: ", b"\r\n\r\n" + before, after))

    def request(self, connection: int) -> bytes:
        """Return the next registration."""
        number = self._number(self._sent)
        head, before, after = self._templates[self._sent % len(self._templates)]
        self._sent += 1
        return b"".join((head, number, before, number, after))

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Note the patient's id."""
        if status != 201:
            return False
        at = head.index(_LOCATION) + len(_LOCATION)
        self.made.append(head[at : at + _UUID_LENGTH])
        if self.note_positions:
            self.acknowledged.append((time.monotonic(), position_in(head)))
        return True

    def _number(self, n: int) -> bytes:
        return b"%s-%09d" % (self.prefix.encode(), n)


@dataclass
class Update:
    """Corrects demographics; each connection has patients of its own and knows their versions."""

    token: str
    prefix: str
    connections: int
    patients: Sequence[bytes]
    _versions: dict[bytes, int] = field(default_factory=dict)
    _sent: list[int] = field(default_factory=list)
    _asked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start every connection at its first patient."""
        self._sent = list(range(self.connections))
        self._asked = [b""] * self.connections

    def request(self, connection: int) -> bytes:
        """Return a patch of the connection's next patient, with the version it was last seen at."""
        number = self._sent[connection]
        self._sent[connection] += self.connections
        patient = self._asked[connection] = self.patients[number % len(self.patients)]
        body = b'{"maritalStatus":"%s","telecom":[{"system":"phone","value":"+31 6 %09d"}]}' % (
            (b"M", b"S")[number & 1],
            number,
        )
        version = self._versions.get(patient, 1)
        head = head_of(
            "PATCH", f"/v1/patients/{patient.decode()}/demographics", self.token, len(body)
        )
        return b'%sidempotency-key: %s-%09d\r\nif-match: "%d"\r\n\r\n%s' % (
            head,
            self.prefix.encode(),
            number,
            version,
            body,
        )

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Note the patient's new version."""
        if status != 200:
            return False
        at = head.index(_ETAG) + len(_ETAG)
        self._versions[self._asked[connection]] = int(head[at : head.index(b'"', at)])
        return True


@dataclass
class Read:
    """Reads patients by id, one after the other."""

    token: str
    patients: Sequence[bytes]
    _sent: int = 0

    def request(self, connection: int) -> bytes:
        """Return a read of the next patient; neighbours are far apart in the log."""
        self._sent += 1
        patient = self.patients[self._sent * 7919 % len(self.patients)]
        return head_of("GET", f"/v1/patients/{patient.decode()}", self.token) + b"\r\n"

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Check that it is a patient."""
        return status == 200 and body.startswith(b'{"id":"')


@dataclass
class AddNextOfKin:
    """Adds a next of kin to one patient after the other."""

    token: str
    prefix: str
    patients: Sequence[bytes]
    _sent: int = 0

    def request(self, connection: int) -> bytes:
        """Return an addition to the next patient."""
        self._sent += 1
        patient = self.patients[self._sent * 7919 % len(self.patients)]
        body = (
            b'{"name":"Kin %09d","relationship":"sibling",'
            b'"telecom":[{"system":"phone","value":"+31 6 %09d"}]}' % (self._sent, self._sent)
        )
        head = head_of(
            "POST", f"/v1/patients/{patient.decode()}/next-of-kin", self.token, len(body)
        )
        return keyed(head, self.prefix, self._sent, body)

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Check that it was added."""
        return status == 201


_LOCATION_OF_ENCOUNTER = b"\r\nlocation: /v1/encounters/"


@dataclass
class OpenEncounter:
    """Opens an encounter of one patient after the other; ``made`` has their ids."""

    token: str
    prefix: str
    patients: Sequence[bytes]
    made: list[bytes] = field(default_factory=list)
    _sent: int = 0

    def request(self, connection: int) -> bytes:
        """Return the opening of the next patient's encounter."""
        self._sent += 1
        patient = self.patients[self._sent % len(self.patients)]
        body = b'{"patientId":"%s","class":"AMB"}' % patient
        head = head_of("POST", "/v1/encounters", self.token, len(body))
        return keyed(head, self.prefix, self._sent, body)

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Note the encounter's id."""
        if status != 201:
            return False
        at = head.index(_LOCATION_OF_ENCOUNTER) + len(_LOCATION_OF_ENCOUNTER)
        self.made.append(head[at : at + _UUID_LENGTH])
        return True


@dataclass
class MoveEncounter:
    """Moves encounters on, round by round; each connection has encounters of its own."""

    token: str
    prefix: str
    connections: int
    encounters: Sequence[bytes]
    _sent: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Share the encounters out; what is left over is not moved."""
        self._each = len(self.encounters) // self.connections
        self._sent = [0] * self.connections

    def request(self, connection: int) -> bytes:
        """Return the next move of the connection's next encounter."""
        number = self._sent[connection]
        self._sent[connection] += 1
        version, which = divmod(number, self._each)
        encounter = self.encounters[connection * self._each + which]
        to = b"arrived" if version == 0 else (b"onleave", b"in-progress")[version & 1]
        body = b'{"to":"%s"}' % to
        path = f"/v1/encounters/{encounter.decode()}/transitions"
        head = head_of("POST", path, self.token, len(body)) + b'if-match: "%d"\r\n' % (version + 1)
        return keyed(head, f"{self.prefix}-{connection}", number, body)

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Check that it moved."""
        return status == 200


@dataclass
class SetConsent:
    """Records what patients say to a flag, round by round; each connection has its own patients."""

    token: str
    prefix: str
    connections: int
    flag: str
    patients: Sequence[bytes]
    _sent: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Share the patients out; who is left over is not asked."""
        self._each = len(self.patients) // self.connections
        self._sent = [0] * self.connections

    def request(self, connection: int) -> bytes:
        """Return what the connection's next patient says."""
        number = self._sent[connection]
        self._sent[connection] += 1
        version, which = divmod(number, self._each)
        patient = self.patients[connection * self._each + which]
        body = (
            b'{"decision":"%s","policy":"https://clinic.example/policies/2",'
            b'"evidence":{"kind":"signature","reference":"form %d"}}'
            % ((b"granted", b"withdrawn")[version & 1], number)
        )
        path = f"/v1/patients/{patient.decode()}/consents/{self.flag}"
        head = head_of("PUT", path, self.token, len(body)) + b'if-match: "%d"\r\n' % version
        return keyed(head, f"{self.prefix}-{connection}", number, body)

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Check that it was recorded."""
        return status == 200


@dataclass
class SetPortrait:
    """Uploads portraits, each time another one than the patient has."""

    token: str
    prefix: str
    patients: Sequence[bytes]
    pictures: Sequence[bytes]
    _sent: int = 0

    def request(self, connection: int) -> bytes:
        """Return the next patient's next portrait."""
        visit, which = divmod(self._sent, len(self.patients))
        self._sent += 1
        picture = self.pictures[visit % len(self.pictures)]
        path = f"/v1/patients/{self.patients[which].decode()}/portrait"
        head = head_of("PUT", path, self.token, len(picture), "image/jpeg")
        return keyed(head, self.prefix, self._sent, picture)

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Check that it was taken in."""
        return status == 200


def keyed(head: bytes, prefix: str, number: int, body: bytes) -> bytes:
    """Return a request with an Idempotency-Key of its own."""
    return b"%sidempotency-key: %s-%09d\r\n\r\n%s" % (head, prefix.encode(), number, body)


@dataclass
class Repeated:
    """Sends the same requests over and over; ``answers`` has the first answer to each."""

    requests: Sequence[bytes]
    keep: bool
    answers: dict[int, bytes] = field(default_factory=dict)
    _sent: int = 0
    _asked: dict[int, int] = field(default_factory=dict)

    def request(self, connection: int) -> bytes:
        """Return the next request."""
        number = self._asked[connection] = self._sent % len(self.requests)
        self._sent += 1
        return self.requests[number]

    def answered(self, connection: int, status: int, head: bytes, body: bytes) -> bool:
        """Keep the answer, if that is wanted."""
        if self.keep:
            self.answers.setdefault(self._asked[connection], body)
        return status == 200


def head_of(
    method: str,
    path: str,
    token: str,
    length: int | None = None,
    media_type: str = "application/json",
) -> bytes:
    """Return the head of a request up to where further headers, or the empty line, go."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: benchmarks\r\n"
        f"accept: application/json\r\nauthorization: Bearer {token}\r\n"
    )
    if length is not None:
        head += f"content-type: {media_type}\r\ncontent-length: {length}\r\n"
    return head.encode()


def position_in(head: bytes) -> int:
    """Return what ``X-Log-Position`` says."""
    at = head.index(_POSITION) + len(_POSITION)
    return int(head[at : head.index(b"\r\n", at)])
