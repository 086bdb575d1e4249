"""What is refused before it is understood: bodies, limits, methods; and what every refusal is."""

import gzip
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import orjson
import psutil
import pytest
from tests.service import ADA, Desk, Service, new_id, place, problem, succeeded

from registration.api.problems import PROBLEMS

CANARY = "Zebedee-Quux"
NOBODY = "0192f0c1-2345-7abc-8def-0123456789ab"


def send(desk: Desk, body: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    headers = {"content_type": "application/json"} | headers
    return desk("POST", "/v1/patients", content=body, **headers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 300,
        b'{"gender":' * 250 + b"1" + b"}" * 250,
        b'{"gender": "male", "gender": "female"}',
        b'{"names": [{"family": "A", "family": "B"}]}',
        b"{'gender': 'male'}",
        b'{"gender": "male",}',
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b'{"gender": "\xed\xa0\x80"}',
        b'{"gender": "\xff"}',
        b'{"gender": ' + b"9" * 5000 + b"}",
        b"null null",
    ],
)
def test_what_is_no_json_in_utf_8_is_malformed(desk: Desk, body) -> None:
    problem(send(desk, body), 400, "MALFORMED_REQUEST")


@pytest.mark.parametrize(
    "body",
    [
        b'{"gender": NaN}',
        b'{"gender": -Infinity}',
        b'{"gender": "\\ud800"}',
        b'{"\\udc00": 1}',
        b'{"gender": "a\\u0000b"}',
        b'{"\\u0000": 1}',
        b"null",
        b"[]",
        b'"x"',
        b"12345678901234567890123",
        b"1e999",
    ],
)
def test_what_json_can_say_and_nobody_can_store_is_invalid(desk: Desk, body) -> None:
    errors = problem(send(desk, body), 422, "VALIDATION_FAILED")["errors"]
    assert [error["path"] for error in errors] == [""]


def test_what_was_sent_is_never_repeated(desk: Desk) -> None:
    patient = desk.given_patient()
    hostile = {
        "id": CANARY,
        "clientMutationId": CANARY,
        "names": [{"use": CANARY, "family": f"{CANARY}\u202e", "id": CANARY, "script": CANARY}],
        "gender": CANARY,
        "birthDate": CANARY,
        "birthDateEstimated": CANARY,
        "identifiers": [{"system": f"{CANARY} x", "value": f"{CANARY}\u202e"}],
        "telecom": CANARY,
        "addresses": [CANARY],
        "nextOfKin": {CANARY: 1},
        "facility": f"{CANARY} x",
        "maritalStatus": f"{CANARY} x",
        "preferredLanguage": f"{CANARY} x",
    }
    answers = [desk.post("/v1/patients", hostile)]
    answers += [desk.post("/v1/patients", ADA | {name: hostile[name]}) for name in hostile]
    answers += [
        send(desk, b'{"gender": "' + CANARY.encode()),
        send(desk, b'{"gender": "' + CANARY.encode() + b'\\ud800"}'),
        desk.register(Idempotency_Key=f"{CANARY} {CANARY}"),
        desk.patch(f"{place(patient)}/demographics", {"gender": CANARY}, If_Match=CANARY),
        desk.get("/v1/patients", params={"gender": CANARY, "limit": CANARY, "cursor": CANARY}),
        desk.get("/v1/patients", params={"birthDate": CANARY}),
        desk.get("/v1/patients", params={"identifier": f"{CANARY}|\0"}),
        desk.get(place(patient), params={"asOf": CANARY, "version": CANARY}),
        desk.get(f"{place(patient)}/history", params={"cursor": CANARY}),
    ]
    for answer in answers:
        assert answer.status_code in (400, 422), answer.text
        told = answer.text
        if b'{"nextOfKin":' in answer.request.content or answer is answers[0]:
            told = told.replace(f"/nextOfKin/{CANARY}", "")
        assert CANARY not in told
    assert succeeded(desk.get("/v1/patients", params={"minPosition": 1}))["items"]


@pytest.mark.parametrize(
    "media", ["text/plain", "application/xml", "", "application/merge-patch+json", "a" * 999]
)
def test_another_media_type_is_unsupported(desk: Desk, media) -> None:
    answer = send(desk, orjson.dumps(ADA), content_type=media)
    problem(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("media", ["application/json; charset=utf-8", "Application/JSON"])
def test_parameters_and_case_of_the_media_type_do_not_matter(desk: Desk, media) -> None:
    assert send(desk, orjson.dumps(ADA), content_type=media).status_code == 201


def test_an_encoded_body_is_unsupported(desk: Desk) -> None:
    body = gzip.compress(orjson.dumps(ADA))
    answer = send(desk, body, content_encoding="gzip")
    problem(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_past_the_limit_is_too_large(desk: Desk, chunked) -> None:
    limit = desk.service.settings.body_limit
    body = b" " * (limit + 1)
    answer = send(desk, iter([body]) if chunked else body)
    assert problem(answer, 413, "PAYLOAD_TOO_LARGE") == {"limit": limit}
    padded = orjson.dumps(ADA).ljust(limit)
    assert send(desk, iter([padded]) if chunked else padded).status_code == 201


def test_a_flood_is_refused_without_being_kept(desk: Desk) -> None:
    """200 MB in chunks, sent whatever comes back; the memory of this process shows both ends."""
    service = desk.service
    host, port = service.url.removeprefix("http://").split(":")
    before = psutil.Process().memory_info().rss
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, psutil.Process().memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    chunk = b"%x\r\n" % (1 << 20) + b" " * (1 << 20) + b"\r\n"
    answer = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/patients HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nAuthorization: Bearer "
            + desk.bearer.encode()
            + b"\r\n\r\n"
        )
        try:
            for _ in range(200):
                connection.sendall(chunk)
            connection.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # it may hang up
        answer = connection.recv(65536)
    done.set()
    watcher.join()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert most - before < 30_000_000


def test_a_body_that_breaks_off_is_the_clients_fault(desk: Desk) -> None:
    service, request_id = desk.service, str(new_id())
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/patients HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\nX-Request-Id: " + request_id.encode() + b"\r\n"
            b"Authorization: Bearer " + desk.bearer.encode() + b"\r\n\r\n{"
        )
        time.sleep(0.1)
    (line,) = service.logged(request_id)
    assert (line["status"], line["code"]) == (400, "MALFORMED_REQUEST")


class TestEveryProblem:
    def test_its_type_leads_to_a_page(self, service: Service) -> None:
        for code, known in PROBLEMS.items():
            page = service.http.get(f"/problems/{code}")
            assert page.status_code == 200
            assert page.headers["content-type"].startswith("text/html")
            assert known.title in page.text

    def test_an_unknown_page_is_a_problem(self, service: Service) -> None:
        problem(service.http.get("/problems/NO_SUCH_CODE"), 404, "NOT_FOUND")

    @pytest.mark.parametrize(
        "path", ["/", "/v1/patients/", "/v1", "/v1/patients//names", "/nope/%22%3C%20%C3%A9?q=1"]
    )
    def test_a_path_that_leads_nowhere(self, desk: Desk, path) -> None:
        answer = desk.get(path)
        if path == "/":
            assert "text/html" in answer.headers["content-type"]
        else:
            problem(answer, 404, "NOT_FOUND")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("DELETE", "/v1/patients", "GET, POST"),
            ("PUT", f"/v1/patients/{NOBODY}", "GET, HEAD"),
            ("PATCH", f"/v1/patients/{NOBODY}/names/{NOBODY}", "GET, PUT"),
            ("GET", f"/v1/patients/{NOBODY}/demographics", "PATCH"),
            ("POST", "/livez", "GET"),
            ("OPTIONS", "/v1/patients", "GET, POST"),
        ],
    )
    def test_a_method_that_is_not_taken(self, desk: Desk, method, path, allowed) -> None:
        answer = desk(method, path)
        problem(answer, 405, "METHOD_NOT_ALLOWED")
        assert answer.headers["allow"] == allowed

    @pytest.mark.parametrize("host", ["[", "a/b?c", "", "x" * 3000])
    def test_an_odd_host_header_does_no_harm(self, desk: Desk, host) -> None:
        problem(desk.get("/nope", host=host), 404, "NOT_FOUND")


class TestRequestIds:
    @pytest.mark.parametrize("said", ["abc", "01-A_b.c:d", "x" * 128])
    def test_a_sane_one_comes_back(self, desk: Desk, said) -> None:
        for path in ("/livez", "/v1/patients", "/nope"):
            assert desk.get(path, X_Request_Id=said).headers.get_list("x-request-id") == [said]

    @pytest.mark.parametrize("said", ["", "a b", "x" * 129, '"', "<b>", "é".encode()])
    def test_another_is_replaced(self, desk: Desk, said) -> None:
        (made,) = desk.get("/livez", X_Request_Id=said).headers.get_list("x-request-id")
        assert made.encode() != said
        assert len(made) == 36
