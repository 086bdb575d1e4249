"""Erasing somebody while others work on the record: they are in time, or told that it is over."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from tests.api.given_merges import proposal
from tests.faults.load import caught_up
from tests.service import (
    Service,
    as_service,
    etag,
    new_tenant,
    picture,
    place,
    problem,
    running,
    succeeded,
)
from tests.sync.given import kin, push

from registration.retention import sweep

Record = dict[str, Any]
Work = Callable[[], list[tuple[int, str]]]
REASON = {"reason": "asked for it"}
ROUNDS = 8
TOO_LATE = {
    (410, "ERASED"),
    (409, "OPTIMISTIC_LOCK_CONFLICT"),
    (412, "OPTIMISTIC_LOCK_CONFLICT"),
    (409, "ERASURE_NOT_ALLOWED"),
}


@pytest.fixture(scope="module")
def alone(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service in whose database there is nobody else."""
    with running(module_database_url, tmp_path_factory.mktemp("races")) as service:
        yield service


class Race:
    """A patient with an encounter and another record, and those who work on them."""

    def __init__(self, service: Service, tenant: str) -> None:
        self.desk = service.desk(tenant, role="admin", sub="admin-1")
        self.other = service.desk(tenant, role="admin", sub="admin-2")
        self.patient = self.desk.given_patient()
        self.twin = self.desk.given_patient()
        consent = {"decision": "granted", "evidence": {"kind": "signature"}}
        path = f"{place(self.patient)}/consents/portrait"
        succeeded(self.desk.put(path, consent, If_Match='"0"'))
        about = {"patientId": self.patient["id"], "class": "AMB", "status": "arrived"}
        self.encounter = succeeded(self.desk.post("/v1/encounters", about))
        self.patient = succeeded(self.desk.get(place(self.patient)))
        asked = REASON | {"patientId": self.patient["id"], "basis": "gdpr-17-1-b"}
        self.erasure = succeeded(self.desk.post("/v1/erasures", asked))

    def erases(self) -> list[tuple[int, str]]:
        return [told(self.other.post(f"/v1/erasures/{self.erasure['id']}/approval", {}))]

    def adds_kin(self) -> list[tuple[int, str]]:
        said = {"name": "Obi", "relationship": "brother"}
        path = f"{place(self.patient)}/next-of-kin"
        return [told(self.desk.post(path, said)) for _ in range(4)]

    def opens_encounters(self) -> list[tuple[int, str]]:
        said = {"patientId": self.patient["id"], "class": "AMB", "reason": "cough"}
        return [told(self.desk.post("/v1/encounters", said)) for _ in range(4)]

    def moves_the_encounter(self) -> list[tuple[int, str]]:
        path = f"/v1/encounters/{self.encounter['id']}/transitions"
        steps = ("triaged", "in-progress", "onleave", "in-progress")
        version = self.encounter["version"]
        return [
            told(self.desk.post(path, REASON | {"to": to}, If_Match=f'"{version + n}"'))
            for n, to in enumerate(steps)
        ]

    def proposes_merges(self) -> list[tuple[int, str]]:
        said = proposal(self.twin, self.patient)
        return [told(self.desk.post("/v1/mpi/merges", said)) for _ in range(2)]

    def pushes(self) -> list[tuple[int, str]]:
        results = push(self.desk, *(kin(self.patient["id"]) for _ in range(3)))
        return [
            (200, "") if each["status"] == "applied" else (410, each["code"]) for each in results
        ]

    def sends_portraits(self) -> list[tuple[int, str]]:
        path = f"{place(self.patient)}/portrait"
        return [
            told(self.desk("PUT", path, content=picture(), headers={"content-type": "image/png"}))
            for _ in range(2)
        ]

    def run(self) -> set[tuple[int, str]]:
        """Let all begin at once; return how the others were answered."""
        start = threading.Barrier(7)

        def begun(work: Work) -> list[tuple[int, str]]:
            start.wait()
            return work()

        others: list[Work] = [
            *(self.adds_kin, self.opens_encounters, self.moves_the_encounter),
            *(self.proposes_merges, self.pushes, self.sends_portraits),
        ]
        with ThreadPoolExecutor(7) as pool:
            erased, *answers = pool.map(begun, [self.erases, *others])
        while erased != [(200, "")]:
            assert set(erased) <= TOO_LATE | {(503, "UNAVAILABLE")}, erased
            erased = self.erases()
        return {each for told in answers for each in told}


def told(answer: httpx.Response) -> tuple[int, str]:
    """Return the status of an answer, and the code of a refusal."""
    return (200, "") if answer.is_success else (answer.status_code, answer.json()["code"])


@pytest.fixture(scope="module")
def races(alone: Service) -> list[tuple[Race, set[tuple[int, str]]]]:
    """Races that were run, each with the answers that there were."""
    tenant = new_tenant()
    made = [Race(alone, tenant) for _ in range(ROUNDS)]
    return [(race, race.run()) for race in made]


def test_the_others_were_in_time_or_are_told_that_it_is_over(
    races: list[tuple[Race, set[tuple[int, str]]]],
) -> None:
    answers = set().union(*(answers for _, answers in races))
    assert answers <= TOO_LATE | {(200, "")}
    assert (410, "ERASED") in answers


def test_nothing_can_be_read_afterwards(races: list[tuple[Race, set[tuple[int, str]]]]) -> None:
    for race, _ in races:
        for path in (place(race.patient), f"/v1/encounters/{race.encounter['id']}"):
            problem(race.desk.get(path), 410, "ERASED")
            problem(race.desk.get(f"{path}/history"), 410, "ERASED")
        assert succeeded(race.desk.get(place(race.twin)))["names"]
        said = {"to": "finished"}
        path = f"/v1/encounters/{race.encounter['id']}/transitions"
        problem(race.desk.post(path, said, If_Match=etag(race.encounter)), 410, "ERASED")


def test_nothing_is_said_of_them_after_they_were_erased(
    alone: Service, races: list[tuple[Race, set[tuple[int, str]]]]
) -> None:
    with psycopg.connect(alone.database_url, options="-c search_path=registration") as connection:
        later = connection.execute(
            "SELECT e.topic, e.position FROM event gone"
            " JOIN event e ON e.tenant = gone.tenant AND e.position > gone.position"
            " AND gone.stream_id IN (e.stream_id, sealed_to(e.data, 1), sealed_to(e.data, 2))"
            " WHERE gone.topic = 'patient.erased'"
        ).fetchall()
        left = connection.execute(
            "SELECT count(*) FROM event e JOIN personal_key k ON k.tenant = e.tenant"
            " AND k.id = e.stream_id WHERE e.topic = 'patient.erased'"
        ).fetchone()
    assert (later, left) == ([], (0,))


def test_no_picture_comes_in_between(
    alone: Service, races: list[tuple[Race, set[tuple[int, str]]]]
) -> None:
    erased = [race.patient["id"] for race, _ in races]
    with psycopg.connect(alone.database_url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM registration.portrait_image WHERE patient_id = ANY(%s::uuid[])",
            (erased,),
        )
        assert found.fetchone() == (0,)


def test_pictures_that_were_left_behind_are_swept(
    alone: Service, races: list[tuple[Race, set[tuple[int, str]]]]
) -> None:
    erased = [race.patient["id"] for race, _ in races]
    assert asyncio.run(caught_up(alone.database_url))
    with psycopg.connect(alone.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO registration.portrait_image (tenant, id, patient_id, bytes)"
            " SELECT %s, gen_random_uuid(), each, 'a picture' FROM unnest(%s::uuid[]) AS each",
            (races[0][0].desk.tenant, erased),
        )
        connection.execute(
            "UPDATE registration.portrait_image SET stored_at = stored_at - interval '1 hour'"
        )
        asyncio.run(sweep(as_service(alone.database_url)))
        found = connection.execute(
            "SELECT patient_id::text FROM registration.portrait_image"
        ).fetchall()
    assert {row[0] for row in found} & set(erased) == set()


def test_no_read_model_stumbled(
    alone: Service, races: list[tuple[Race, set[tuple[int, str]]]]
) -> None:
    assert races
    assert asyncio.run(caught_up(alone.database_url))
    with psycopg.connect(alone.database_url) as connection:
        found = connection.execute("SELECT name, topic, error FROM registration.dead_letter")
        assert found.fetchall() == []
