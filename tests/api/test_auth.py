"""Who may do what (contract, section 7): tokens, tenants, scopes."""

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import httpx
import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.routing import Match, Route
from tests.api.given_merges import proposal
from tests.service import (
    ADA,
    CARD,
    Desk,
    Service,
    new_id,
    new_tenant,
    picture,
    place,
    problem,
    running,
    succeeded,
)

from registration.api import auth
from registration.api.app import application
from registration.api.keys import AUDIENCE, ISSUER, ROLES, issue_token
from registration.settings import Settings


def b64(value: Any) -> str:
    raw = value if isinstance(value, bytes) else orjson.dumps(value)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def ask(service: Service, authorization: str | bytes | None) -> httpx.Response:
    value = authorization.encode() if isinstance(authorization, str) else authorization
    headers = {} if value is None else {b"Authorization": value}
    return service.http.get(f"/v1/patients/{new_id()}", headers=headers)


class TestTokens:
    @pytest.mark.parametrize(
        "authorization",
        [
            None,
            "",
            "Bearer",
            "Basic dTpw",
            "Bearer x",
            "Bearer a.b.c",
            "Bearer ..",
            b"Bearer \xff\xfe.a.b",
            "Bearer " + "a" * 1_000_000,
            f"Bearer {'a' * 3000}.{'b' * 3000}.c",
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_what_is_no_token_is_refused(self, service: Service, authorization) -> None:
        problem(ask(service, authorization), 401, "UNAUTHENTICATED")

    @pytest.mark.parametrize(
        "claims",
        [
            {"exp": 1},
            {"exp": None},
            {"exp": "9999999999"},
            {"exp": True},
            {"exp": [9999999999]},
            {"exp": float("inf")},
            {"exp": {}},
            {"nbf": 2**33},
            {"iat": 2**33},
            {"iss": "somebody else"},
            {"iss": None},
            {"iss": [ISSUER]},
            {"aud": "another service"},
            {"aud": None},
            {"aud": [AUDIENCE]},
            {"aud": [AUDIENCE, "another service"]},
            {"aud": {}},
            {"sub": None},
            {"sub": ""},
            {"sub": 7},
            {"sub": "a\0b"},
            {"sub": "x" * 256},
            {"tenant": None},
            {"tenant": ""},
            {"tenant": "a b"},
            {"tenant": "../x"},
            {"tenant": "x" * 64},
            {"tenant": 7},
            {"tenant": "café"},
            {"facility": "a b"},
            {"facility": 7},
            {"client": ["x"]},
            {"scope": ["patient:read"]},
            {"scope": 7},
        ],
        ids=str,
    )
    def test_claims_that_do_not_fit_are_refused(self, service: Service, claims) -> None:
        try:
            token = service.token(**claims)
        except TypeError:  # what PyJWT itself will not write
            body = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "tenant": "t", "exp": 2**33}
            signed = f"{b64({'alg': 'EdDSA'})}.{b64(body | claims)}"
            token = f"{signed}.{b64(service.key.private.sign(signed.encode()))}"
        problem(ask(service, f"Bearer {token}"), 401, "UNAUTHENTICATED")

    def test_nobody_is_taken_at_their_word(self, service: Service) -> None:
        """Unsigned, signed with what is public, or with a key of another kind."""
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "tenant": "t", "exp": 2**33}
        public = service.key.public
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        forged = [
            f"{b64({'alg': alg, 'typ': 'JWT'})}.{b64(claims)}." for alg in ("none", "None", "")
        ]
        for secret in (pem, raw, b""):
            for alg, size in (("HS256", "sha256"), ("HS512", "sha512")):
                signed = f"{b64({'alg': alg, 'typ': 'JWT'})}.{b64(claims)}"
                forged.append(f"{signed}.{b64(_hmac(secret, signed, size))}")
        rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        forged.append(jwt.encode(claims, rsa_key, algorithm="RS256"))
        forged.append(
            jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256")
        )
        good = service.token()
        head, body, signature = good.split(".")
        forged += [
            f"{head}.{b64(claims)}.{signature}",
            f"{head}.{body}.",
            f"{head}.{body}.{signature[:-4]}AAAA",
            f"{good}.{signature}",
        ]
        for token in forged:
            problem(ask(service, f"Bearer {token}"), 401, "UNAUTHENTICATED")
        problem(ask(service, f"Bearer {good}"), 404, "NOT_FOUND")

    def test_a_remembered_token_expires_all_the_same(self, service: Service) -> None:
        token = service.token(exp=int(time.time()) - 3)  # within the leeway
        deadline = time.time() + 8
        problem(ask(service, f"Bearer {token}"), 404, "NOT_FOUND")
        while ask(service, f"Bearer {token}").status_code == 404:
            assert time.time() < deadline
            time.sleep(0.2)

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_the_scheme_has_no_case(self, service: Service, scheme) -> None:
        problem(ask(service, f"{scheme} {service.token()}"), 404, "NOT_FOUND")

    @pytest.mark.parametrize("role", list(ROLES))
    def test_a_token_of_the_program_works(self, service: Service, role) -> None:
        token = issue_token(
            service.key, role=role, token_id=new_id(), now=datetime.now(UTC), tenant=new_tenant()
        )
        answer = service.http.get("/v1/sync/contract", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200


def _hmac(secret: bytes, signed: str, size: str) -> bytes:
    return hmac.digest(secret, signed.encode(), size)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    scope: str | None
    said: Any = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def send(self, desk: Desk, patient: dict[str, Any] | None = None) -> httpx.Response:
        known = patient or {}
        path = self.path.format(
            id=known.get("id", new_id()),
            nameId=_first(known, "names"),
            identifierId=_first(known, "identifiers"),
            nokId=_first(known, "nextOfKin"),
            flag="research",
            schema=SCHEMA,
            version=1,
            name="registrations",
        )
        headers: dict[str, Any] = {}
        if self.method != "GET" and "{id}" in self.path:
            of_a_part = "{flag}" in self.path or "{schema}" in self.path
            headers["If_Match"] = '"1"' if of_a_part else f'"{known.get("version", 1)}"'
        if self.method == "DELETE":
            headers["params"] = {"reason": "a mistake"}
        if isinstance(self.said, bytes):
            return desk(self.method, path, content=self.said, Content_Type="image/png", **headers)
        return desk(self.method, path, said=self.said, **headers)


def _first(patient: dict[str, Any], member: str) -> Any:
    entries = patient.get(member)
    return entries[0]["id"] if entries else new_id()


_BODIES: dict[str, Any] = {
    "patient.register": ADA,
    "patient.update_demographics": {"gender": "other"},
    "patient.add_name": {"family": "X"},
    "patient.replace_name": {"family": "X"},
    "patient.add_identifier": {"system": CARD, "value": "2"},
    "patient.add_next_of_kin": {"name": "X", "relationship": "x"},
    "patient.set_consent": {"decision": "refused", "evidence": {"kind": "verbal"}},
    "patient.set_portrait": picture(),
    "patient.set_extension": {"schemaVersion": 1, "data": {}},
    "patient.record_death": {"deceasedAt": "2026-01-01T00:00:00Z"},
    "encounter.open": {"patientId": str(new_id()), "class": "AMB"},
    "encounter.transition": {"to": "arrived"},
    "extension_schema.publish": {"schema": {"type": "object"}},
    "mpi.propose_merge": {
        "survivorId": str(new_id()),
        "retiredId": str(new_id()),
        "survivorVersion": 1,
        "retiredVersion": 1,
        "reason": "the same person",
    },
    "mpi.approve_merge": {},
    "erasure.request": {"patientId": str(new_id()), "basis": "gdpr-17", "reason": "asked to"},
    "erasure.approve": {},
}
SCHEMA = "housing"


def owned(desk: Desk, request: Request) -> dict[str, Any]:
    """Return a patient, or an encounter, of which the request makes sense."""
    patient = desk.given_patient(
        names=[{"family": "A"}, {"family": "B"}],
        identifiers=[{"system": CARD, "value": "1"}],
        nextOfKin=[{"name": "Obi", "relationship": "brother"}],
    )
    if request.path.startswith("/v1/encounters"):
        said = {"patientId": patient["id"], "class": "AMB"}
        return succeeded(desk.post("/v1/encounters", said))
    if request.path.startswith("/v1/mpi/merges"):
        return a_merge(desk, patient, request)
    if request.path.startswith("/v1/mpi/candidates"):
        return a_candidate(desk)
    if request.path.startswith("/v1/erasures"):
        said = {"patientId": patient["id"], "basis": "gdpr-17", "reason": "asked to"}
        somebody_else = desk.service.desk(desk.tenant, role="privacy", sub="officer-2")
        return succeeded(somebody_else.post("/v1/erasures", said))
    here = place(patient)
    for flag in ("research", "portrait"):
        said = {"decision": "granted", "evidence": {"kind": "verbal"}}
        succeeded(desk.put(f"{here}/consents/{flag}", said, If_Match='"0"'))
    if "portrait" in request.path:
        sent = desk("PUT", f"{here}/portrait", content=picture(), Content_Type="image/png")
        assert sent.is_success
    if "extensions" in request.path:
        desk.post(f"/v1/extension-schemas/{SCHEMA}/versions", {"schema": {"type": "object"}})
        said = {"schemaVersion": 1, "data": {}}
        succeeded(desk.put(f"{here}/extensions/{SCHEMA}", said, If_Match='"0"'))
    if "reversal" in request.path:
        said = {"deceasedAt": "2026-01-01T00:00:00Z"}
        succeeded(desk.post(f"{here}/death", said, If_Match='"1"'))
    return succeeded(desk.get(here))


def a_merge(desk: Desk, survivor: dict[str, Any], request: Request) -> dict[str, Any]:
    """Return a merge that waits for approval, or was carried out where that is to be undone."""
    somebody_else = desk.service.desk(desk.tenant, role="admin", sub="clerk-2")
    said = proposal(survivor, desk.given_patient())
    merge = succeeded(somebody_else.post("/v1/mpi/merges", said))
    if request.path.endswith("/unmerge"):
        merge = succeeded(desk("POST", f"/v1/mpi/merges/{merge['id']}/approval"))
    return merge


def a_candidate(desk: Desk) -> dict[str, Any]:
    """Return two records that may be one person's; its version stands for one that it has not."""
    desk.given_patient()
    position = desk.register().headers["x-log-position"]
    asked = {"minPosition": position, "limit": 1}
    found = succeeded(desk.get("/v1/mpi/candidates", params=asked))
    candidate: dict[str, Any] = found["items"][0]
    return candidate | {"version": 0}


def requests() -> Iterator[Request]:
    """Return one request for each operation of the OpenAPI document that needs a token."""
    document = application(Settings.model_construct()).openapi()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if "security" not in operation:
                continue
            scope = operation["x-required-scope"]
            said = None
            if "requestBody" in operation:
                said = _BODIES.get(operation["operationId"], {"reason": "a mistake"})
            yield Request(method.upper(), path, scope, said)


REQUESTS = list(requests())
OF_A_PATIENT = [request for request in REQUESTS if "{id}" in request.path]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
class TestEveryOperation:
    def test_nobody_without_a_token(self, service: Service, request_: Request) -> None:
        desk = Desk(service, "", "no token")
        problem(request_.send(desk), 401, "UNAUTHENTICATED")

    def test_nobody_without_the_scope_which_is_named(
        self, service: Service, request_: Request
    ) -> None:
        others = set(ROLES["admin"]) - {request_.scope}
        desk = service.desk(scope=" ".join(others))
        answer = request_.send(desk)
        none = request_.send(service.desk(scope=None))
        if request_.scope is None:
            assert {answer.status_code, none.status_code} <= {200, 404}
        else:
            assert problem(answer, 403, "FORBIDDEN") == {"scope": request_.scope}
            assert none.status_code == 403


@pytest.mark.parametrize("request_", OF_A_PATIENT, ids=str)
def test_another_tenants_patient_is_the_same_as_none(service: Service, request_: Request) -> None:
    owner, stranger = service.desk(role="admin"), service.desk(role="admin")
    patient = owned(owner, request_)
    before = owner.get(place(patient)).content
    theirs, none = request_.send(stranger, patient), request_.send(stranger)
    for answer in (theirs, none):
        problem(answer, 404, "NOT_FOUND")

    def told(answer: httpx.Response) -> Any:
        return {k: v for k, v in answer.json().items() if k != "instance"}

    assert told(theirs) == told(none)
    assert owner.get(place(patient)).content == before
    assert request_.send(owner, patient).is_success


def test_every_route_under_v1_is_in_the_document() -> None:
    """So that the lists above leave none out."""
    app = application(Settings.model_construct())
    documented = {(request.method, request.path) for request in REQUESTS}
    shape = str(new_id())
    for method, path in documented:
        scope = {
            "type": "http",
            "method": method,
            "path": path.replace("{id}", shape),
            "root_path": "",
            "headers": [],
        }
        found = [r for r in app.router.routes if r.matches(scope)[0] is Match.FULL]
        assert found, path
    plain = {
        (method, route.path)
        for route in app.router.routes
        if isinstance(route, Route) and route.path.startswith("/v1")
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert plain <= documented


def test_the_facility_is_stamped_and_is_no_wall(service: Service) -> None:
    north = service.desk(facility="north")
    south = service.desk(north.tenant, facility="south")
    patient = north.given_patient()
    assert succeeded(south.get(place(patient))) == patient


@dataclass
class Issuer:
    """An identity provider as far as it matters here: keys, published as a JWKS."""

    url: str
    keys: dict[str, tuple[str, Any]] = field(default_factory=dict)
    asked: int = 0
    broken: bool = False

    def add(self, kid: str, alg: str) -> None:
        self.keys[kid] = (
            alg,
            rsa.generate_private_key(public_exponent=65537, key_size=2048)
            if alg == "RS256"
            else ec.generate_private_key(ec.SECP256R1()),
        )

    def published(self) -> bytes:
        if self.broken:
            return b"<html>"
        made = []
        for kid, (alg, key) in self.keys.items():
            kind: Any = RSAAlgorithm if alg == "RS256" else ECAlgorithm
            jwk = json.loads(kind.to_jwk(key.public_key()))
            made.append(jwk | {"kid": kid, "alg": alg, "use": "sig"})
        return orjson.dumps({"keys": made})

    def token(self, kid: str, *, alg: str | None = None, key: Any = None, **claims: Any) -> str:
        known = self.keys.get(kid, (alg, key))
        body = {
            "iss": "https://idp.example",
            "aud": "clinic",
            "sub": "ann",
            "tenant": new_tenant(),
            "scope": "patient:read patient:write",
            "exp": int(time.time()) + 600,
        } | claims
        return jwt.encode(body, key or known[1], algorithm=alg or known[0], headers={"kid": kid})


@contextmanager
def publishing() -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked += 1
            body = found.published()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Issuer(f"http://127.0.0.1:{server.server_port}/jwks.json")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """An issuer with a key of each common kind."""
    with publishing() as found:
        found.add("rsa-1", "RS256")
        found.add("ec-1", "ES256")
        yield found


@pytest.fixture(scope="module")
def federated(
    service: Service, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A second service on the same database, which takes that issuer's tokens."""
    with running(
        service.database_url,
        tmp_path_factory.mktemp("federated"),
        jwks_url=issuer.url,
        jwt_issuer="https://idp.example",
        jwt_audience="clinic",
    ) as found:
        yield found


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let time pass for what is remembered of keys and tokens."""
    later = SimpleNamespace(
        monotonic=lambda: time.monotonic() + seconds, time=lambda: time.time() + seconds
    )
    for module in (jwt.jwks_client, jwt.jwk_set_cache, auth):
        monkeypatch.setattr(module, "time", later)


class TestPublishedKeys:
    @pytest.mark.parametrize("kid", ["rsa-1", "ec-1"])
    def test_a_token_of_the_issuer_is_taken(self, federated, issuer, kid) -> None:
        desk = Desk(federated, "", issuer.token(kid))
        patient = desk.given_patient()
        assert desk.history(patient)[0]["actor"] == "ann"

    @pytest.mark.parametrize(
        "forge",
        [
            lambda issuer: issuer.token("rsa-1", exp=1),
            lambda issuer: issuer.token("rsa-1", iss="https://idp.example/other"),
            lambda issuer: issuer.token("rsa-1", aud="registration"),
            lambda issuer: issuer.token("ec-1", aud=["clinic"]),
            lambda issuer: issuer.token("rsa-1", alg="ES256", key=issuer.keys["ec-1"][1]),
            lambda issuer: issuer.token("ec-1", alg="RS256", key=issuer.keys["rsa-1"][1]),
            lambda issuer: issuer.token("rsa-1", alg="HS256", key="x" * 32),
            lambda issuer: issuer.token("rsa-1", alg="PS256"),
            lambda issuer: issuer.token(
                "rsa-1", key=rsa.generate_private_key(public_exponent=65537, key_size=2048)
            ),
            lambda issuer: issuer.token("unheard-of", alg="HS256", key="x" * 32),
        ],
    )
    def test_another_token_is_not(self, federated, issuer, forge: Callable[[Issuer], str]) -> None:
        problem(ask(federated, f"Bearer {forge(issuer)}"), 401, "UNAUTHENTICATED")

    def test_a_token_of_the_installations_own_key_is_not(self, federated) -> None:
        problem(ask(federated, f"Bearer {federated.token()}"), 401, "UNAUTHENTICATED")

    def test_a_new_key_is_found_in_half_a_minute(self, federated, issuer, monkeypatch) -> None:
        issuer.add("rsa-2", "RS256")
        pass_time(monkeypatch, 31)
        problem(ask(federated, f"Bearer {issuer.token('rsa-2')}"), 404, "NOT_FOUND")

    def test_a_withdrawn_key_is_not_trusted_for_long(self, federated, issuer, monkeypatch) -> None:
        issuer.add("lost", "ES256")
        tokens = [issuer.token("lost"), issuer.token("lost")]
        pass_time(monkeypatch, 100)
        problem(ask(federated, f"Bearer {tokens[0]}"), 404, "NOT_FOUND")
        del issuer.keys["lost"]
        pass_time(monkeypatch, 500)
        for token in tokens:
            problem(ask(federated, f"Bearer {token}"), 401, "UNAUTHENTICATED")

    def test_unheard_of_keys_do_not_make_it_ask_the_issuer_each_time(
        self, federated, issuer
    ) -> None:
        before = issuer.asked
        for _ in range(20):
            token = issuer.token("unheard-of", alg="HS256", key="x" * 32)
            problem(ask(federated, f"Bearer {token}"), 401, "UNAUTHENTICATED")
        assert issuer.asked - before <= 2

    def test_without_the_issuer_new_tokens_have_to_wait(self, service: Service, tmp_path) -> None:
        with (
            running(
                service.database_url,
                tmp_path,
                jwks_url="http://127.0.0.1:1/jwks.json",
                jwt_issuer="https://idp.example",
                jwt_audience="clinic",
            ) as alone,
            publishing() as issuer,
        ):
            issuer.add("rsa-1", "RS256")
            problem(ask(alone, f"Bearer {issuer.token('rsa-1')}"), 503, "UNAVAILABLE")
