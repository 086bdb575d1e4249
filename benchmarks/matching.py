"""Matching over HTTP, with patients written by COPY *straight into the read model's tables*.

The people are those of ``benchmarks/search.py``, each with a telephone number and an address in one
of some 3,000 streets besides; nobody is compared while they are loaded. A query is what a desk
knows of somebody who stands before it. Recall is the share of queries whose very patient is among
the ten answers.

Registrations then go into the full tables, one after the other: each is a near-duplicate of
somebody there, and counted is the time from its answer until its candidate is in the queue.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import orjson
from psycopg import AsyncConnection

from benchmarks.bench import Bench
from benchmarks.load import Plan
from benchmarks.load import run as load
from benchmarks.results import at_least, at_most
from benchmarks.search import SYSTEM, TENANT, People, mistype
from benchmarks.service import Service, serving
from benchmarks.workloads import Repeated, head_of
from registration.domain.events import PatientRegistered
from registration.domain.patient_state import PatientState, fold
from registration.domain.resources import Address, ContactPoint
from registration.mpi.blocking import block_keys
from registration.mpi.record import encode
from registration.projections.matching import match_record
from registration.projections.matching_tables import patient_row
from registration.projections.search import copy_rows

_PATIENCE = 60.0
_LOADED = datetime(2026, 1, 1, tzinfo=UTC)
_COLUMNS = "tenant, id, version, current_id, changed_at, display, birth_date, gender, facility"
_KINDS = ("street", "road", "lane")


class Known(NamedTuple):
    """A patient that queries are made from."""

    id: UUID
    state: PatientState

    def said(self, *members: str) -> dict[str, Any]:
        """Return members of the patient as a registration says them."""
        name = self.state.names[0]
        whole = {
            "names": [{"family": name.family, "given": list(name.given)}],
            "gender": self.state.gender,
            "birthDate": self.state.birth_date,
            "telecom": [each.plain() for each in self.state.telecom],
            "addresses": [each.plain() for each in self.state.addresses],
            "identifiers": [{"system": SYSTEM, "value": self.state.identifiers[0].value}],
        }
        return {member: whole[member] for member in members}

    def misspelt(self, chance: random.Random, *members: str) -> dict[str, Any]:
        """Return the same with a typing error in the family name."""
        said = self.said("names", *members)
        said["names"][0]["family"] = mistype(chance, said["names"][0]["family"])
        return said


Ask = Callable[[Known, random.Random], dict[str, Any]]
_CLASSES: tuple[tuple[str, Ask], ...] = (
    (
        "a whole registration, a typing error in the family name",
        lambda k, chance: k.misspelt(chance, "gender", "birthDate", "telecom", "addresses"),
    ),
    (
        "name with a typing error, gender, birth date",
        lambda k, chance: k.misspelt(chance, "gender", "birthDate"),
    ),
    ("name, gender, birth date", lambda k, _: k.said("names", "gender", "birthDate")),
    ("identifier", lambda k, _: k.said("identifiers")),
)


def run(bench: Bench) -> None:
    """Load the read model of a service of its own, and ask it who may be meant."""
    count = bench.scaled(1_000_000, 20_000)
    bench.say(f"matching over {count:,} patients")
    with (
        bench.database() as url,
        serving(bench.data_dir, TENANT, REGISTRATION_DATABASE_URL=url) as service,
    ):
        start = time.monotonic()
        known = asyncio.run(_load(url, count))
        seconds = time.monotonic() - start
        bench.add(
            "matching",
            "patients, by COPY straight into the read model",
            count,
            "patients",
            note=f"loaded in {seconds:.0f} s",
        )
        bench.settle()
        random.Random(5).shuffle(known)
        for name, ask in _CLASSES:
            _measure(bench, service, name, ask, known[: bench.scaled(1000, 200)])
        _register(bench, service, known[-bench.scaled(300, 50) :])


async def _load(url: str, count: int) -> list[Known]:
    """Fill the tables that the service's own runner made; returns a sample of the patients."""
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            cursor = await connection.execute("SELECT to_regclass('matching.block') IS NOT NULL")
            if await cursor.fetchone() == (True,):
                break
            await asyncio.sleep(0.1)
        await connection.execute("SET search_path = matching; SET synchronous_commit = off")
        people, chance = People(), random.Random(11)
        known: list[Known] = []
        for begin in range(0, count, 20_000):
            batch = [_person(people, chance) for _ in range(min(20_000, count - begin))]
            known += [one for one in batch[:: max(1, count // 20_000)] if _is_latin(one)]
            await _copy(connection, batch)
        for table in ("patient", "block"):
            await connection.execute(f"VACUUM (ANALYZE) matching.{table}")
        return known


def _person(people: People, chance: random.Random) -> Known:
    patient_id, registered = people.next()
    number = chance.randrange(10**8)
    street = f"{chance.choice(people.lists[0].last)} {chance.choice(_KINDS)}"
    registered = registered.model_copy(
        update={
            "telecom": (ContactPoint(system="phone", value=f"+44 20 {number:08d}"),),
            "addresses": (
                Address(
                    line=(f"{number % 120 + 1} {street}",),
                    city=f"Town {number % 700}",
                    postal_code=f"{number % 9000 + 1000}",
                ),
            ),
        }
    )
    return Known(patient_id, _folded(registered))


def _folded(registered: PatientRegistered) -> PatientState:
    state = fold([registered])
    if state is None:
        raise ValueError("nobody was registered")
    return state


def _is_latin(one: Known) -> bool:
    return one.state.names[0].script == "Latn"


async def _copy(connection: AsyncConnection[Any], batch: Sequence[Known]) -> None:
    patients, blocks = [], []
    for its_id, state in batch:
        record = match_record(state)
        row = patient_row(TENANT, its_id, 1, _LOADED, state, encode(record))
        row |= {"current_id": its_id, "changed_at": _LOADED}
        row["record"] = "\\x" + row["record"].hex()
        patients.append([row[name] for name in (*_COLUMNS.split(", "), "record")])
        blocks += [(TENANT, key, its_id) for key in block_keys(record)]
    async with connection.transaction():
        await copy_rows(connection, f"patient ({_COLUMNS}, record)", map(tuple, patients))
        await copy_rows(connection, "block", sorted(blocks, key=lambda row: row[1]))


def _measure(bench: Bench, service: Service, name: str, ask: Ask, known: Sequence[Known]) -> None:
    chance = random.Random(7)
    bodies = [orjson.dumps(ask(one, chance)) for one in known]
    heads = [head_of("POST", "/v1/mpi/match", service.token, len(body)) for body in bodies]
    requests = [head + b"\r\n" + body for head, body in zip(heads, bodies, strict=True)]
    for connections in (1, 8):
        seconds = bench.scaled(8, 1)
        alone = connections == 1
        workload = Repeated(requests, keep=alone)
        report = load(
            Plan(service.host, service.port, workload, connections, seconds, warm_up=seconds / 4)
        )
        bench.add(
            "matching",
            f"{name}, {connections} connection(s), p95",
            report.ms(0.95),
            "ms",
            at_most(25) if alone else None,
            note=f"p50 {report.ms(0.5):.1f}, p99 {report.ms(0.99):.1f} ms; {report.rate:,.0f}/s",
        )
        if alone:
            answers = report.workload.answers
            found = sum(
                any(each["patientId"] == str(known[n].id) for each in orjson.loads(body)["items"])
                for n, body in answers.items()
            )
            bench.add(
                "matching",
                f"{name}, recall of the patient",
                found / len(answers),
                "",
                at_least(0.95),
                note=f"{len(answers):,} queries",
            )


def _register(bench: Bench, service: Service, known: Sequence[Known]) -> None:
    """Register near-duplicates; tell how long each candidate takes to be in the queue."""
    chance = random.Random(9)
    times, raised = [], 0
    with httpx.Client(
        base_url=f"http://{service.host}:{service.port}",
        headers={"Authorization": f"Bearer {service.token}"},
        timeout=30,
    ) as http:
        for one in known:
            said = one.misspelt(chance, "gender", "birthDate", "telecom", "addresses")
            answer = http.post("/v1/patients", json=said).raise_for_status()
            start = time.perf_counter()
            asked = {
                "patientId": answer.json()["id"],
                "minPosition": answer.headers["x-log-position"],
            }
            found = http.get("/v1/mpi/candidates", params=asked).raise_for_status()
            times.append(1000 * (time.perf_counter() - start))
            raised += any(
                str(one.id) in [each["patientId"] for each in item["patients"]]
                for item in found.json()["items"]
            )
    times.sort()
    bench.add(
        "matching",
        "from a registration's answer to its candidate in the queue, p95",
        times[int(0.95 * len(times))],
        "ms",
        at_most(1000),
        note=f"p50 {times[len(times) // 2]:.0f} ms; {raised} of {len(times)} were raised",
    )
