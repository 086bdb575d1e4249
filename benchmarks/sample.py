"""Patients as clients send them, about 1 KB each, and the events that they become."""

import os
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Any
from uuid import UUID

import orjson
import uuid_utils.compat as uuids
from faker import Faker

from registration.domain.commands import RegisterPatient
from registration.domain.context import Context
from registration.domain.events import PatientRegistered
from registration.domain.patient import decide_register
from registration.eventstore.mapper import decode, encode
from registration.eventstore.records import AppendRequest, Claim
from registration.eventstore.sealing import KEYRING, NEVER_SEALED, Place
from registration.sealer import new_event

SYSTEM = "https://registration.example/mrn"
MARK = "@@identifier@@"
"""Stands for the value of the identifier, which is another one in each request."""

_LOCALES = ("en_GB", "de_DE", "nl_NL", "pl_PL", "tr_TR", "es_ES")
_SECOND = (
    ("محمد", "الأحمد"),
    ("राम", "शर्मा"),
    ("Иван", "Петров"),
    ("伟", "王"),
    ("Γιώργος", "Νικολάου"),
)
_METADATA = orjson.dumps(
    {
        "actor": "desk",
        "operation": "patient.register",
        "idempotencyKey": "0190c7a8-6f6e-7b3e-9a55-2f1f0a7a9d10",
    }
)


def patients(n: int, seed: int = 1) -> list[dict[str, Any]]:
    """Return ``n`` bodies of ``POST /v1/patients``, with ``MARK`` for the identifier's value."""
    pick = random.Random(seed)
    fakers = [Faker(locale) for locale in _LOCALES]
    for i, faker in enumerate(fakers):
        faker.seed_instance(seed * 1000 + i)
    return [_patient(pick, fakers[i % len(fakers)]) for i in range(n)]


def _patient(pick: random.Random, faker: Faker) -> dict[str, Any]:
    family, given = faker.last_name(), faker.first_name()
    middle = [faker.first_name()] if pick.random() < 0.4 else []
    names: list[dict[str, Any]] = [{"use": "official", "family": family, "given": [given, *middle]}]
    if pick.random() < 0.3:
        second = pick.choice(_SECOND)
        names.append({"use": "usual", "family": second[1], "given": [second[0]]})
    born = f"{pick.randint(1930, 2024)}-{pick.randint(1, 12):02}-{pick.randint(1, 28):02}"
    return {
        "names": names,
        "gender": pick.choice(("male", "female", "other", "unknown")),
        "birthDate": born,
        "identifiers": [{"system": SYSTEM, "value": MARK, "type": "MR", "use": "official"}],
        "telecom": [
            {"system": "phone", "value": faker.phone_number(), "use": "mobile"},
            {"system": "phone", "value": faker.phone_number(), "use": "home"},
            {"system": "email", "value": f"{pick.getrandbits(40):x}@mail.example", "use": "home"},
        ],
        "addresses": [
            {
                "use": "home",
                "line": [faker.street_address().replace("\n", ", "), "Third floor, second door"],
                "city": faker.city(),
                "district": faker.city(),
                "state": "North Holland",
                "postalCode": faker.postcode(),
                "country": "NL",
            }
        ],
        "nextOfKin": [
            {
                "name": f"{faker.first_name()} {family}",
                "relationship": pick.choice(("mother", "father", "spouse", "sibling")),
                "telecom": [{"system": "phone", "value": faker.phone_number(), "use": "mobile"}],
            }
        ],
        "maritalStatus": pick.choice(("S", "M", "D", "W")),
        "preferredLanguage": pick.choice(("en", "de", "nl", "pl", "tr", "es")),
        "facility": f"clinic-{pick.randint(1, 20):02}",
    }


def registrations(n: int, seed: int = 1) -> list[bytes]:
    """Return the JSON of ``n`` ``PatientRegistered`` events, as the domain makes them."""
    context = Context(datetime.now(UTC), uuids.uuid7, "default", "desk", frozenset())
    stored = []
    for i, body in enumerate(patients(n, seed)):
        body["identifiers"][0]["value"] = f"{i:012}"
        payload = RegisterPatient.model_validate_json(orjson.dumps(body))
        (event,) = decide_register(None, payload, context)
        stored.append(encode(event))
    return stored


class Requests:
    """Requests to append one registration each, every one with a stream, key and claim of its own.

    The bodies are those of ``registrations``, over and over: the store looks at none of them. Each
    is sealed with a key of its patient's own, as the service's are, unless it is said not to be.
    """

    def __init__(
        self, bodies: Sequence[bytes], tenant: str = "default", *, sealed: bool = True
    ) -> None:
        self.tenant = tenant
        self._sealed = sealed
        self._requests = self._endless(bodies)

    def take(self, n: int) -> list[AppendRequest]:
        """Return the next ``n``."""
        return list(islice(self._requests, n))

    def _endless(self, bodies: Sequence[bytes]) -> Iterator[AppendRequest]:
        events = [decode(PatientRegistered.TOPIC, body) for body in bodies]
        for number, event in enumerate(cycle(events), 1):
            stream = uuids.uuid7()
            random_bytes = os.urandom(32)
            place = Place(self.tenant, stream, 1, event.TOPIC)
            key = KEYRING.new(self.tenant, stream) if self._sealed else NEVER_SEALED
            yield AppendRequest(
                stream_id=stream,
                version=1,
                status=201,
                events=(new_event(place, event, _METADATA, (stream,), {stream: key}),),
                claims=(Claim(SYSTEM, f"{number:012}", stream, take=True),),
                key=UUID(bytes=random_bytes[:16]),
                fingerprint=UUID(bytes=random_bytes[16:]),
                new_key=key or None,
            )
