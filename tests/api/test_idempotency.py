"""The same request twice has one effect and one answer (contract, section 4)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from tests.service import (
    CARD,
    Clock,
    Desk,
    Service,
    etag,
    new_id,
    place,
    problem,
    succeeded,
)

KIN = {"name": "Obi", "relationship": "brother"}


def patients_of(desk: Desk) -> int:
    """Return how many patients the tenant's log has registered."""
    with psycopg.connect(desk.service.database_url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM registration.event WHERE tenant = %s AND version = 1",
            (desk.tenant,),
        ).fetchone()
    assert row is not None
    return int(row[0])


def assert_replayed(again: httpx.Response, first: httpx.Response) -> None:
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    for name in ("etag", "location", "x-log-position"):
        assert again.headers.get(name) == first.headers.get(name)


@pytest.mark.parametrize(
    ("first_key", "second_key"),
    [
        ("bare-key", "bare-key"),
        ('"quoted key"', '"quoted key"'),
        ("either", '"either"'),
        ('"a\\"b\\\\c"', '"a\\"b\\\\c"'),
        ("018F0C1E-2345-7ABC-8DEF-0123456789AB", "018f0c1e-2345-7abc-8def-0123456789ab"),
        ("k" * 255, "k" * 255),
    ],
)
def test_the_key_in_the_header_gives_the_first_answer_again(desk, first_key, second_key) -> None:
    first = desk.register(Idempotency_Key=first_key)
    assert "idempotency-replayed" not in first.headers
    assert_replayed(desk.register(Idempotency_Key=second_key), first)
    assert patients_of(desk) == 1


@pytest.mark.parametrize(
    "key", ["", '""', "k" * 256, "ключ".encode(), '"open', "two words", '"a";p=1', "a, b"]
)
def test_a_key_that_cannot_be_read_is_refused(desk: Desk, key) -> None:
    answer = desk.register(Idempotency_Key=key)
    problem(answer, 400, "MALFORMED_REQUEST")


def test_two_lines_of_keys_are_no_key(desk: Desk) -> None:
    patient = desk.given_patient()
    headers = httpx.Headers(
        [("Authorization", f"Bearer {desk.bearer}"), ("Content-Type", "application/json")]
        + [("Idempotency-Key", key) for key in ("a", "b")]
    )
    url = f"{place(patient)}/next-of-kin"
    answer = desk.service.http.post(url, headers=headers, json=KIN)
    problem(answer, 400, "MALFORMED_REQUEST")


class TestClientMutationIds:
    def test_it_is_a_key(self, desk: Desk) -> None:
        said = {"clientMutationId": str(new_id())}
        first = desk.register(**said)
        assert_replayed(desk.register(**said), first)
        assert desk.history(first.json())[0]["clientMutationId"] == said["clientMutationId"]

    def test_the_same_key_in_the_header_is_the_same_key(self, desk: Desk) -> None:
        mutation = str(new_id())
        first = desk.register(clientMutationId=mutation)
        header = desk.register(Idempotency_Key=mutation.upper())
        both = desk.register(clientMutationId=mutation, Idempotency_Key=f'"{mutation}"')
        assert_replayed(header, first)
        assert_replayed(both, first)

    def test_another_key_in_the_header_is_refused(self, desk: Desk) -> None:
        answer = desk.register(clientMutationId=str(new_id()), Idempotency_Key=str(new_id()))
        problem(answer, 400, "MALFORMED_REQUEST")

    def test_it_must_be_a_uuid_of_version_7(self, desk: Desk) -> None:
        answer = desk.register(clientMutationId=str(uuid4()))
        problem(answer, 422, "MUTATION_ID_INVALID")

    def test_it_must_not_lie_far_in_the_future(self, desk: Desk, clock: Clock) -> None:
        mutation = str(new_id())
        clock.ahead = timedelta(hours=-24, seconds=-30)
        problem(desk.register(clientMutationId=mutation), 422, "MUTATION_ID_INVALID")
        clock.ahead = timedelta(hours=-23, minutes=-59)
        assert desk.register(clientMutationId=mutation).status_code == 201


class TestOtherRequests:
    @pytest.mark.parametrize(
        "members", [{"gender": "male"}, {"id": str(UUID(int=7))}, {"facility": "x"}]
    )
    def test_the_same_key_with_another_body_is_refused(self, desk: Desk, members) -> None:
        desk.given_patient(Idempotency_Key="k")
        answer = desk.register(Idempotency_Key="k", **members)
        problem(answer, 422, "IDEMPOTENCY_KEY_REUSED")
        assert patients_of(desk) == 1

    def test_the_order_of_members_and_blanks_does_not_make_another_request(
        self, desk: Desk
    ) -> None:
        one = b'{"gender": "other", "names": [{"family": "A", "use": "usual"}]}'
        same = b'{ "names":[{"use":"usual","family":"\\u0041"}],"gender":"other" }'
        answers = [
            desk(
                "POST",
                "/v1/patients",
                content=body,
                content_type="application/json",
                Idempotency_Key="k",
            )
            for body in (one, same)
        ]
        assert_replayed(answers[1], answers[0])

    def test_another_target_version_or_command_is_another_request(self, desk: Desk) -> None:
        patients = [desk.given_patient() for _ in range(2)]
        path = f"{place(patients[0])}/demographics"
        first = desk.patch(path, {"gender": "male"}, If_Match='"1"', Idempotency_Key="k")
        assert first.status_code == 200
        others: list[Callable[[], httpx.Response]] = [
            lambda: desk.patch(path, {"gender": "male"}, If_Match='"2"', Idempotency_Key="k"),
            lambda: desk.patch(
                f"{place(patients[1])}/demographics",
                {"gender": "male"},
                If_Match='"1"',
                Idempotency_Key="k",
            ),
            lambda: desk.post(f"{place(patients[0])}/next-of-kin", KIN, Idempotency_Key="k"),
            lambda: desk.register(Idempotency_Key="k"),
        ]
        for other in others:
            problem(other(), 422, "IDEMPOTENCY_KEY_REUSED")
        again = desk.patch(path, {"gender": "male"}, If_Match='"1"', Idempotency_Key="k")
        assert_replayed(again, first)

    def test_a_key_of_another_subject_or_tenant_is_another_key(self, service: Service) -> None:
        desk = service.desk()
        strangers = [service.desk(desk.tenant, sub="desk-2"), service.desk()]
        mine = desk.given_patient(Idempotency_Key="k")
        for stranger in strangers:
            theirs = stranger.register(Idempotency_Key="k", gender="male")
            assert theirs.status_code == 201
            assert theirs.json()["id"] != mine["id"]

    def test_a_key_that_reads_like_a_chosen_id_is_another_key(self, desk: Desk) -> None:
        chosen = str(new_id())
        desk.given_patient(Idempotency_Key=f'"create {chosen}"')
        assert desk.given_patient(id=chosen)["id"] == chosen


class TestRefusals:
    def test_a_refusal_is_given_again_though_it_would_work_now(self, desk: Desk) -> None:
        number = {"system": CARD, "value": "1"}
        holder = desk.given_patient(identifiers=[number])
        first = desk.register(identifiers=[number], Idempotency_Key="k")
        problem(first, 409, "IDENTIFIER_CONFLICT")
        retire = f"{place(holder)}/identifiers/{holder['identifiers'][0]['id']}/retirement"
        succeeded(desk.post(retire, {"reason": "mistake"}))
        again = desk.register(identifiers=[number], Idempotency_Key="k")
        assert again.content == first.content
        assert again.headers["idempotency-replayed"] == "true"
        assert desk.register(identifiers=[number], Idempotency_Key="k2").status_code == 201

    def test_a_conflict_is_given_again_to_the_byte(self, desk: Desk) -> None:
        patient = desk.given_patient()
        path = f"{place(patient)}/demographics"
        succeeded(desk.patch(path, {"gender": "male"}, If_Match='"1"'))
        first = desk.patch(path, {"gender": "other"}, If_Match='"1"', Idempotency_Key="k")
        problem(first, 412, "OPTIMISTIC_LOCK_CONFLICT")
        succeeded(desk.patch(path, {"facility": "x"}, If_Match='"2"'))
        again = desk.patch(path, {"gender": "other"}, If_Match='"1"', Idempotency_Key="k")
        assert again.content == first.content
        assert again.headers["idempotency-replayed"] == "true"

    def test_a_stored_refusal_is_forgotten_after_its_time(self, desk: Desk, clock: Clock) -> None:
        number = {"system": CARD, "value": "1"}
        holder = desk.given_patient(identifiers=[number])
        refused = desk.register(identifiers=[number], Idempotency_Key="k")
        problem(refused, 409, "IDENTIFIER_CONFLICT")
        retire = f"{place(holder)}/identifiers/{holder['identifiers'][0]['id']}/retirement"
        succeeded(desk.post(retire, {"reason": "mistake"}))
        clock.ahead = timedelta(hours=25)
        answer = desk.register(identifiers=[number], Idempotency_Key="k")
        assert answer.status_code == 201
        assert "idempotency-replayed" not in answer.headers

    @pytest.mark.parametrize(
        ("send", "status"),
        [
            (lambda desk: desk.register(gender="f", Idempotency_Key="k"), 422),
            (lambda desk: desk.register(birthDate="2999", Idempotency_Key="k"), 422),
            (
                lambda desk: desk(
                    "POST",
                    "/v1/patients",
                    content=b"{",
                    content_type="application/json",
                    Idempotency_Key="k",
                ),
                400,
            ),
            (
                lambda desk: desk.service.desk(desk.tenant, scope="patient:read").register(
                    Idempotency_Key="k"
                ),
                403,
            ),
            (
                lambda desk: desk(
                    "POST",
                    "/v1/patients",
                    content=b"x" * 2_000_000,
                    content_type="application/json",
                    Idempotency_Key="k",
                ),
                413,
            ),
        ],
    )
    def test_what_was_refused_before_it_was_understood_leaves_the_key_free(
        self, desk: Desk, send, status
    ) -> None:
        assert send(desk).status_code == status
        answer = desk.register(Idempotency_Key="k")
        assert answer.status_code == 201
        assert "idempotency-replayed" not in answer.headers


class TestLater:
    def test_the_first_answer_comes_again_though_the_patient_has_changed(
        self, desk: Desk, clock: Clock
    ) -> None:
        first = desk.register(
            Idempotency_Key="k",
            telecom=[{"system": "phone", "value": "1"}],
            addresses=[{"city": "Lagos"}],
            nextOfKin=[KIN],
        )
        patient = first.json()
        succeeded(
            desk.patch(
                f"{place(patient)}/demographics",
                {"gender": "male", "telecom": None},
                If_Match='"1"',
            )
        )
        name = f"{place(patient)}/names/{patient['names'][0]['id']}"
        succeeded(desk.put(name, {"family": "Smith"}))
        clock.ahead = timedelta(hours=23)
        again = desk.register(
            Idempotency_Key="k",
            telecom=[{"system": "phone", "value": "1"}],
            addresses=[{"city": "Lagos"}],
            nextOfKin=[KIN],
        )
        assert_replayed(again, first)

    def test_every_command_gives_its_first_answer_again(self, desk: Desk) -> None:
        patient = desk.given_patient(
            identifiers=[{"system": CARD, "value": "1"}],
            names=[{"family": "A"}, {"family": "B"}],
            nextOfKin=[KIN],
        )
        at = place(patient)
        names, number = patient["names"], patient["identifiers"][0]
        kin = patient["nextOfKin"][0]
        reason = {"reason": "a mistake"}
        commands: list[tuple[str, str, dict[str, Any], int]] = [
            ("PATCH", f"{at}/demographics", {"telecom": [{"system": "url", "value": "x"}]}, 200),
            ("PATCH", f"{at}/demographics", {"telecom": None, "addresses": [{"city": "X"}]}, 200),
            ("PATCH", f"{at}/demographics", {}, 200),
            ("POST", f"{at}/names", {"family": "C", "use": "maiden"}, 201),
            ("PUT", f"{at}/names/{names[0]['id']}", {"text": "All of it"}, 200),
            ("POST", f"{at}/names/{names[1]['id']}/retirement", reason, 200),
            ("POST", f"{at}/identifiers", {"system": CARD, "value": "2"}, 201),
            ("POST", f"{at}/identifiers/{number['id']}/retirement", reason, 200),
            ("POST", f"{at}/next-of-kin", KIN | {"address": {"text": "there"}}, 201),
            ("POST", f"{at}/next-of-kin/{kin['id']}/removal", reason, 200),
        ]
        answers = []
        for number_of, (method, path, said, status) in enumerate(commands):
            version = succeeded(desk.get(at))["version"]
            headers = {"If-Match": f'"{version}"', "Idempotency-Key": f"k{number_of}"}
            answer = desk(method, path, said=said, headers=headers)
            assert answer.status_code == status, answer.text
            answers.append((method, path, said, headers, answer))
        count = len(desk.history(patient))
        for method, path, said, headers, first in answers:
            assert_replayed(desk(method, path, said=said, headers=headers), first)
        assert len(desk.history(patient)) == count

    def test_after_a_day_it_is_not_done_again_either(self, desk: Desk, clock: Clock) -> None:
        first = desk.register(Idempotency_Key="k")
        patient = desk.given_events(first.json(), 2)
        clock.ahead = timedelta(days=400)
        answer = desk.register(Idempotency_Key="k")
        assert answer.status_code == 201
        assert answer.headers["idempotency-replayed"] == "true"
        assert answer.headers["etag"] == '"3"'
        assert answer.json() == patient
        assert patients_of(desk) == 1

    def test_a_late_entry_keeps_its_place(self, desk: Desk, clock: Clock) -> None:
        patient = desk.given_patient()
        path = f"{place(patient)}/next-of-kin"
        first = desk.post(path, KIN, Idempotency_Key="k")
        desk.given_events(patient, 1)
        clock.ahead = timedelta(days=2)
        late = desk.post(path, KIN, Idempotency_Key="k")
        assert (late.status_code, late.headers["location"]) == (201, first.headers["location"])
        assert late.headers["etag"] == '"3"'

    def test_a_late_key_still_belongs_to_its_request(self, desk: Desk, clock: Clock) -> None:
        patient = desk.given_patient(Idempotency_Key="k")
        clock.ahead = timedelta(days=2)
        problem(desk.register(Idempotency_Key="k", gender="male"), 422, "IDEMPOTENCY_KEY_REUSED")
        answer = desk.post(f"{place(patient)}/next-of-kin", KIN, Idempotency_Key="k")
        problem(answer, 422, "IDEMPOTENCY_KEY_REUSED")

    def test_a_late_edit_that_was_made_is_no_conflict(self, desk: Desk, clock: Clock) -> None:
        patient = desk.given_patient()
        path = f"{place(patient)}/demographics"

        def edit() -> httpx.Response:
            return desk.patch(path, {"gender": "other"}, If_Match='"1"', Idempotency_Key="k")

        succeeded(edit())
        now = succeeded(desk.patch(path, {"gender": "male"}, If_Match='"2"'))
        clock.ahead = timedelta(days=2)
        late = edit()
        assert (late.status_code, late.json()) == (200, now)
        assert late.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    "how", ["Idempotency_Key", "clientMutationId", "id"], ids=["header", "member", "chosen-id"]
)
def test_eight_at_once_make_one_patient(desk: Desk, how) -> None:
    said = {how: str(new_id())}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: desk.register(**said), range(8)))
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (201, answers[0].content)
    }
    replayed = [a for a in answers if a.headers.get("idempotency-replayed") == "true"]
    assert len(replayed) == 7
    assert patients_of(desk) == 1


def test_eight_at_once_add_one_next_of_kin(desk: Desk) -> None:
    patient = desk.given_patient()
    path = f"{place(patient)}/next-of-kin"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: desk.post(path, KIN, Idempotency_Key="k"), range(8)))
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (201, answers[0].content)
    }
    assert len(desk.history(patient)) == 2


def test_eight_refused_at_once_are_refused_alike(desk: Desk) -> None:
    patient = desk.given_patient()
    path = f"{place(patient)}/demographics"
    succeeded(desk.patch(path, {"gender": "male"}, If_Match=etag(patient)))
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: desk.patch(
                    path, {"gender": "other"}, If_Match='"1"', Idempotency_Key="k"
                ),
                range(8),
            )
        )
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (412, answers[0].content)
    }
