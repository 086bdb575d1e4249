"""A running service for the tests: real HTTP on a real port, over the tests' PostgreSQL.

One service serves many tests; each takes a tenant of its own, and so none sees another's records.
"""

import asyncio
import io
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import httpx
import jwt
import orjson
import uuid_utils.compat as uuids
import uvicorn
import uvloop
from PIL import Image

from registration.api.app import create_app
from registration.api.keys import AUDIENCE, ISSUER, ROLES, SigningKey, signing_key
from registration.eventstore.grants import APP_ROLE
from registration.projections.runner import run_forever
from registration.settings import Settings

LUHN = "https://ids.example/luhn"
VERHOEFF = "https://ids.example/verhoeff"
MOD_97 = "https://ids.example/mod97"
SYSTEMS = {LUHN: "luhn", VERHOEFF: "verhoeff", MOD_97: "iso7064.mod_97_10"}
CARD = "https://ids.example/card"
"""A system without a check."""

ADA: dict[str, Any] = {
    "names": [{"use": "official", "family": "Okoro", "given": ["Ada"]}],
    "gender": "female",
    "birthDate": "1984-03-02",
}
"""The least that most tests need of a patient."""


class Clock:
    """The service's time, which a test may move."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Service:
    """Where a service runs, what it logged, and who may speak to it."""

    url: str
    database_url: str
    settings: Settings
    http: httpx.Client
    clock: Clock = field(default_factory=Clock)
    lines: list[bytes] = field(default_factory=list)

    @property
    def key(self) -> SigningKey:
        """What signs the tokens that the service takes."""
        return signing_key(self.settings.data_dir)

    def logged(self, request_id: str) -> list[dict[str, Any]]:
        """Return the log lines of one request; the last one may come just after its answer."""
        deadline = time.monotonic() + 2
        while True:
            found = [orjson.loads(line) for line in list(self.lines)]
            found = [line for line in found if line["requestId"] == request_id]
            if any("status" in line for line in found) or time.monotonic() > deadline:
                return found
            time.sleep(0.01)

    def token(self, **claims: Any) -> str:
        """Return a signed token; ``None`` leaves a claim out."""
        made: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "desk-1",
            "tenant": "default",
            "scope": " ".join(ROLES["desk"]),
            "exp": int(time.time()) + 3600,
        }
        made |= claims
        present = {name: value for name, value in made.items() if value is not None}
        return jwt.encode(
            present, self.key.private, algorithm="EdDSA", headers={"kid": self.key.kid}
        )

    def desk(self, tenant: str | None = None, *, role: str = "desk", **claims: Any) -> "Desk":
        """Return somebody with a token, in a tenant of their own unless one is named."""
        tenant = tenant or new_tenant()
        claims = {"scope": " ".join(ROLES[role])} | claims
        return Desk(self, tenant, self.token(tenant=tenant, **claims))


@dataclass
class Desk:
    """Somebody who speaks to the service with one token."""

    service: Service
    tenant: str
    bearer: str

    def __call__(self, method: str, path: str, *, said: Any = None, **more: Any) -> httpx.Response:
        """Send a request; ``said`` becomes its JSON body, other keywords in snake case headers."""
        headers = {
            "Authorization": f"Bearer {self.bearer}",
            **{
                name.replace("_", "-"): more.pop(name)
                for name in list(more)
                if name not in ("params", "content", "timeout", "headers")
            },
            **more.pop("headers", {}),
        }
        if said is not None:
            more["content"] = orjson.dumps(said)
            headers.setdefault("content-type", "application/json")
        return self.service.http.request(method, path, headers=headers, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """GET a path."""
        return self("GET", path, **more)

    def post(self, path: str, said: Any, **more: Any) -> httpx.Response:
        """POST a JSON body."""
        return self("POST", path, said=said, **more)

    def put(self, path: str, said: Any, **more: Any) -> httpx.Response:
        """PUT a JSON body."""
        return self("PUT", path, said=said, **more)

    def patch(self, path: str, said: Any, **more: Any) -> httpx.Response:
        """PATCH with a JSON body."""
        return self("PATCH", path, said=said, **more)

    def register(self, **members: Any) -> httpx.Response:
        """Register Ada, with other members where given; ``Idempotency_Key`` goes to the header."""
        headers = {name: members.pop(name) for name in ("Idempotency_Key",) if name in members}
        return self.post("/v1/patients", ADA | members, **headers)

    def given_patient(self, **members: Any) -> dict[str, Any]:
        """Return a registered patient, as the answer shows it."""
        answer = self.register(**members)
        assert answer.status_code == 201, answer.text
        patient: dict[str, Any] = answer.json()
        return patient

    def given_events(self, patient: dict[str, Any], count: int) -> dict[str, Any]:
        """Return the patient after ``count`` more next of kin."""
        for number in range(count):
            said = {"name": f"Kin {number}", "relationship": "cousin"}
            patient = succeeded(self.post(f"{place(patient)}/next-of-kin", said))
        return patient

    def history(self, patient: dict[str, Any]) -> list[dict[str, Any]]:
        """Return every event of a patient."""
        found: list[dict[str, Any]] = succeeded(self.get(f"{place(patient)}/history"))["items"]
        return found

    def topics(self, patient: dict[str, Any]) -> list[str]:
        """Return what happened to a patient, in order."""
        return [event["type"] for event in self.history(patient)]


def place(patient: dict[str, Any]) -> str:
    """Return the path of a patient."""
    return f"/v1/patients/{patient['id']}"


def etag(patient: dict[str, Any]) -> str:
    """Return the entity tag of a patient as shown."""
    return f'"{patient["version"]}"'


def succeeded(answer: httpx.Response) -> dict[str, Any]:
    """Return the body of an answer that must be a success."""
    assert answer.is_success, answer.text
    body: dict[str, Any] = answer.json()
    return body


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem's members beyond those that every problem has; insist on those."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), answer.text
    assert body.pop("status") == status
    assert body.pop("type") == f"/problems/{body.pop('code')}"
    assert isinstance(body.pop("title"), str)
    assert isinstance(body.pop("detail"), str)
    assert body.pop("instance") == answer.request.url.raw_path.decode().partition("?")[0]
    assert answer.headers["x-request-id"]
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) > 0
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
    return body


def picture(size: tuple[int, int] = (40, 60), form: str = "PNG") -> bytes:
    """Return a small image."""
    image = Image.new("RGB", size, (180, 140, 120))
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


_tenants = itertools.count()
_RUN = uuid4().hex[:8]


def new_tenant() -> str:
    """Return a tenant that nobody else uses."""
    return f"clinic-{_RUN}-{next(_tenants)}"


def new_id() -> UUID:
    """Return a UUIDv7."""
    return uuids.uuid7()


@contextmanager
def running(database_url: str, data_dir: Path, **settings: Any) -> Iterator[Service]:
    """Run the service and its read models in a thread of this process.

    They connect as the role that may not change events; ``database_url`` is the tests' own.
    """
    settings = {"identifier_systems": SYSTEMS} | settings
    restricted = as_service(database_url)
    made = Settings(database_url=restricted, data_dir=data_dir, **settings)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    with httpx.Client(base_url=url, timeout=20, limits=limits) as http:
        service = Service(url, database_url, made, http)
        server = _server(service)
        thread = threading.Thread(target=_serve, args=(server, listener, restricted))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the service did not start"
                time.sleep(0.01)
            yield service
        finally:
            server.should_exit = True
            thread.join()


def as_service(database_url: str) -> str:
    """Return the URL of the same database as the role that the service has."""
    parts = urlsplit(database_url)
    user, at, host = parts.netloc.rpartition("@")
    _, colon, password = user.partition(":")
    return urlunsplit(parts._replace(netloc=f"{APP_ROLE}{colon}{password}{at or '@'}{host}"))


def _server(service: Service) -> uvicorn.Server:
    app = create_app(service.settings, clock=service.clock, log=service.lines.append)
    config = uvicorn.Config(
        app,
        http="httptools",
        lifespan="on",
        access_log=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)


def _serve(server: uvicorn.Server, listener: socket.socket, database_url: str) -> None:
    async def serve() -> None:
        stop = asyncio.Event()
        projector = asyncio.create_task(run_forever(database_url, stop=stop))
        await server.serve(sockets=[listener])
        stop.set()
        await projector

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
