"""Search over HTTP, with patients written by COPY *straight into the read model's tables*.

The patients and their loader are those of ``benchmarks/search.py``; queries take the default page
of 50. Each class of query is asked on one connection, then on eight at once. Recall is the share of
queries for which a bearer of the very name that was meant is on the first page, and, where a name
is borne by more people than a page holds, cannot be said of one patient; with a birth date it is
the share of queries that find the very patient.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import orjson
from psycopg import AsyncConnection

from benchmarks import search
from benchmarks.bench import Bench
from benchmarks.load import Plan
from benchmarks.load import run as load
from benchmarks.results import at_least, at_most
from benchmarks.search import Known, mistype
from benchmarks.service import Service, serving
from benchmarks.workloads import Repeated, head_of

_PATIENCE = 60.0

Ask = Callable[[Known, random.Random], dict[str, str]]


@dataclass(frozen=True, slots=True)
class _Class:
    name: str
    ask: Ask
    p95: float
    recall: str = ""


def run(bench: Bench) -> None:
    """Load the read model of a service of its own, and search it."""
    count = bench.scaled(1_000_000, 50_000)
    bench.say(f"search over {count:,} patients")
    with (
        bench.database() as url,
        serving(bench.data_dir, search.TENANT, REGISTRATION_DATABASE_URL=url) as service,
    ):
        start = time.monotonic()
        known = asyncio.run(_load(url, count))
        seconds = time.monotonic() - start
        bench.add(
            "search",
            "patients, by COPY straight into the read model",
            count,
            "patients",
            note=f"loaded in {seconds:.0f} s; every name in the script it is written in",
        )
        bench.settle()
        random.Random(5).shuffle(known)
        for one in _CLASSES:
            _measure(bench, service, one, known[: bench.scaled(1000, 200)])
        bench.add("search", "memory of the worker afterwards", service.rss_mb(), "MB", at_most(200))


async def _load(url: str, count: int) -> list[Known]:
    """Fill the tables that the service's own runner made."""
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            cursor = await connection.execute("SELECT to_regclass('search.spelling') IS NOT NULL")
            if await cursor.fetchone() == (True,):
                return await search.load(connection, search.People(), count)
            await asyncio.sleep(0.1)
    raise RuntimeError("the service makes no search read model")


def _measure(bench: Bench, service: Service, one: _Class, known: Sequence[Known]) -> None:
    chance = random.Random(7)
    paths = [
        "/v1/patients?" + urlencode(one.ask(person, chance), quote_via=quote) for person in known
    ]
    requests = [head_of("GET", path, service.token) + b"\r\n" for path in paths]
    for connections in (1, 8):
        seconds = bench.scaled(8, 1)
        workload = Repeated(requests, keep=connections == 1)
        report = load(
            Plan(service.host, service.port, workload, connections, seconds, warm_up=seconds / 4)
        )
        alone = connections == 1
        bench.add(
            "search",
            f"{one.name}, {connections} connection(s), p95",
            report.ms(0.95),
            "ms",
            at_most(one.p95) if alone else None,
            note=f"p50 {report.ms(0.5):.1f}, p99 {report.ms(0.99):.1f} ms; {report.rate:,.0f}/s",
        )
        if alone:
            _recall(bench, one, known, report.workload.answers)


def _recall(bench: Bench, one: _Class, known: Sequence[Known], answers: dict[int, bytes]) -> None:
    patients = names = 0
    for number, body in answers.items():
        items = orjson.loads(body)["items"]
        person = known[number]
        patients += any(item["id"] == str(person.id) for item in items)
        names += any(
            name.get("family") == person.family and person.given in name.get("given", ())
            for item in items
            for name in item["names"]
        )
    of_name, of_patient = names / len(answers), patients / len(answers)
    target = at_least(0.98)
    note = f"{len(answers):,} queries"
    name = f"{one.name}, recall of the "
    bench.add(
        "search", name + "name", of_name, "", target if one.recall == "name" else None, note=note
    )
    bench.add(
        "search", name + "patient", of_patient, "", target if one.recall == "patient" else None
    )


def _half(text: str) -> str:
    return text[: max(2, (len(text) + 1) // 2)]


def _typo(chance: random.Random, text: str) -> str:
    return mistype(chance, text.lower())


_CLASSES = (
    _Class(
        "identifier", lambda k, _: {"identifier": f"{search.SYSTEM}|{k.identifier}"}, 8, "patient"
    ),
    _Class("family prefix + given", lambda k, _: {"family": _half(k.family), "given": k.given}, 8),
    _Class(
        "name + birth date",
        lambda k, _: {"name": f"{k.given} {k.family}", "birthDate": k.birth_date},
        8,
        "patient",
    ),
    _Class(
        "fuzzy, one typo in each name",
        lambda k, chance: {
            "family": _typo(chance, k.family),
            "given": _typo(chance, k.given),
            "fuzzy": "true",
        },
        15,
        "name",
    ),
    _Class(
        "fuzzy, one typo in each name + birth date",
        lambda k, chance: {
            "family": _typo(chance, k.family),
            "given": _typo(chance, k.given),
            "birthDate": k.birth_date,
            "fuzzy": "true",
        },
        15,
        "patient",
    ),
)
