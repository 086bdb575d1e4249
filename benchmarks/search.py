"""Search at a million patients: how long a query takes, and what it finds.

``python -m benchmarks.search --patients 1000000`` makes patients from the name lists of several
Faker locales (the same ones every time), writes them by COPY *straight into the read model's
tables*, through the row builder that the projection uses, and measures the queries in this
process, without HTTP. It also takes registration events into the full tables, as the runner does.

Figures: milliseconds unless they say otherwise. Recall is the share of queries whose patient is
on the first page (50); for names that more people share than a page holds, the share of queries
whose first page holds bearers of that very name.
"""

import argparse
import asyncio
import gc
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from registration.domain import search_keys
from registration.domain.events import PatientRegistered
from registration.domain.names import confirm_name
from registration.domain.resources import Identifier, NameInput
from registration.eventstore.embedded import EmbeddedPostgres
from registration.eventstore.records import RecordedEvent
from registration.eventstore.sealing import KEY_SIZE, KEYRING, Place
from registration.projections import search as model
from registration.projections.search_patient import Patient
from registration.projections.search_query import SearchPage, SearchQuery, search
from registration.sealer import new_event

TENANT = "bench"
PAGE = 50
LOCALES = {
    "en_US": 34, "en_GB": 8, "de_DE": 10, "fr_FR": 8, "es_ES": 8, "pl_PL": 5, "nl_NL": 4,
    "it_IT": 5, "ar_SA": 6, "ru_RU": 4, "zh_CN": 3, "ja_JP": 2, "hi_IN": 2, "el_GR": 1,
}  # fmt: skip
SYSTEM = "urn:example:mrn"


class Figure(NamedTuple):
    """One line of the table of results; ``target`` is empty where none is promised."""

    name: str
    figure: float
    unit: str
    target: str = ""


@dataclass
class Names:
    """Weighted name lists of one locale."""

    first: list[str]
    first_weights: list[float]
    last: list[str]
    last_weights: list[float]

    @classmethod
    def of(cls, locale: str) -> "Names":
        """Read the lists from Faker; where it has no weights, the first names are the commonest."""
        provider = import_module(f"faker.providers.person.{locale}").Provider
        first = _weighted(provider, ("first_names", "first_names_female", "first_names_male"))
        last = _weighted(provider, ("last_names", "last_names_female"))
        return cls(list(first), list(first.values()), list(last), list(last.values()))


def _weighted(provider: Any, attributes: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for attribute in attributes:
        names = getattr(provider, attribute, None) or {}
        if isinstance(names, dict):
            found.update({str(name): float(weight) for name, weight in names.items()})
        else:
            for rank, name in enumerate(names):
                text = name[0] if isinstance(name, tuple) else name
                found.setdefault(str(text), 1 / (rank + 10))
        if attribute == "first_names" and found:
            break
    whole = sum(found.values())
    return {name: weight / whole for name, weight in found.items()}


@dataclass
class People:
    """Deterministic patients, one after the other."""

    chance: random.Random = field(default_factory=lambda: random.Random(20260101))
    lists: list[Names] = field(default_factory=list)
    made: int = 0

    def __post_init__(self) -> None:
        self.lists = [Names.of(locale) for locale in LOCALES]
        self._locales = list(accumulate(LOCALES.values()))
        self._first = [list(accumulate(names.first_weights)) for names in self.lists]
        self._last = [list(accumulate(names.last_weights)) for names in self.lists]

    def next(self) -> tuple[UUID, PatientRegistered]:
        """Return the next patient's id and registration."""
        chance = self.chance
        (which,) = chance.choices(range(len(self.lists)), cum_weights=self._locales)
        names = self.lists[which]
        given = chance.choices(
            names.first, cum_weights=self._first[which], k=2 if chance.random() < 0.15 else 1
        )
        (family,) = chance.choices(names.last, cum_weights=self._last[which])
        self.made += 1
        number = self.made
        # As UUIDv7 are: in the order of time, and random behind it.
        patient = UUID(
            int=(number << 80) | (7 << 76) | (2 << 62) | chance.getrandbits(62), version=None
        )
        born = date(1930, 1, 1) + timedelta(days=int(chance.random() * 34_000))
        name = confirm_name(NameInput(family=family, given=tuple(given)), _entry(number, 1), "")
        return patient, PatientRegistered(
            names=(name,),
            gender=chance.choice(("female", "male")),
            birth_date=born.isoformat(),
            identifiers=(Identifier(id=_entry(number, 2), system=SYSTEM, value=f"{number:09d}"),),
            facility=f"facility-{number % 40}",
        )


def _entry(number: int, which: int) -> UUID:
    return UUID(int=(number << 80) | (7 << 76) | (2 << 62) | which)


class Known(NamedTuple):
    """What the queries are made from."""

    id: UUID
    family: str
    given: str
    birth_date: str
    identifier: str


async def load(connection: AsyncConnection[Any], people: People, count: int) -> list[Known]:
    """Write patients into the tables; return a sample of those with Latin names."""
    words: set[str] = set()
    sample: list[Known] = []
    every = max(1, count // 20_000)
    for start in range(0, count, 20_000):
        patients = []
        for number in range(start, min(start + 20_000, count)):
            patient_id, event = people.next()
            patient = Patient(TENANT, patient_id, version=1)
            patient.evolve(event)
            patients.append(patient)
            name = event.names[0]
            if number % every == 0 and name.script == "Latn":
                sample.append(
                    Known(
                        patient_id,
                        name.family or "",
                        name.given[0],
                        event.birth_date or "",
                        event.identifiers[0].value,
                    )
                )
        pairs = [row for patient in patients for row in patient.pair_rows()]
        identifiers = [row for patient in patients for row in patient.identifier_rows()]
        words.update(row[1] for row in pairs)
        async with connection.transaction():
            await connection.execute("SET LOCAL search_path = search")
            await model.copy_rows(connection, "patient", [patient.row() for patient in patients])
            await model.copy_rows(connection, "name_pair", sorted(pairs, key=lambda row: row[:5]))
            await model.copy_rows(connection, "identifier", identifiers)
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = search")
        rows = model.spelling_rows(TENANT, sorted(words))
        await model.copy_rows(connection, "spelling", rows)
    for table in ("patient", "name_pair", "identifier", "spelling"):
        await connection.execute(f"VACUUM (ANALYZE) search.{table}")
    return sample


def mistype(chance: random.Random, text: str) -> str:
    """Return the text with one typo: a letter left out, added, changed, or two exchanged."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    while True:
        at = chance.randrange(len(text))
        kind = chance.choice("dics") if len(text) > 2 else chance.choice("ic")
        letter = chance.choice(letters)
        if kind == "d":
            typed = text[:at] + text[at + 1 :]
        elif kind == "i":
            typed = text[:at] + letter + text[at:]
        elif kind == "c":
            typed = text[:at] + letter + text[at + 1 :]
        else:
            typed = text[:at] + text[at : at + 2][::-1] + text[at + 2 :]
        if typed != text:
            return typed


Ask = Callable[[Known], SearchQuery]


async def measure(
    connection: AsyncConnection[Any], known: Sequence[Known], ask: Ask
) -> tuple[list[float], float, float]:
    """Return the sorted times, the recall of patients, and that of names."""
    times = []
    found = named = 0
    for one in known:
        query = ask(one)
        begun = time.perf_counter()
        page = await search(connection, TENANT, query)
        times.append(1000 * (time.perf_counter() - begun))
        found += any(item["id"] == str(one.id) for item in page.items)
        named += _names(page, one)
    return sorted(times), found / len(known), named / len(known)


def _names(page: SearchPage, one: Known) -> bool:
    return any(
        name["family"] == one.family and one.given in name["given"]
        for item in page.items
        for name in item["names"]
    )


def _at(times: list[float], share: float) -> float:
    return round(times[min(len(times) - 1, int(share * len(times)))], 2)


async def queries(connection: AsyncConnection[Any], known: list[Known], count: int) -> list[Figure]:
    """Measure every class of query."""
    chance = random.Random(5)
    chance.shuffle(known)
    sample = known[:count]
    shared: dict[tuple[str, str], int] = {}
    for one in known:
        shared[one.family, one.given] = shared.get((one.family, one.given), 0) + 1
    common = sorted(known, key=lambda one: -shared[one.family, one.given])[:count]

    def half(text: str) -> str:
        return text[: max(2, (len(text) + 1) // 2)]

    def typo(text: str) -> str:
        return mistype(chance, text.lower())

    def fuzzy(one: Known) -> SearchQuery:
        return SearchQuery(family=typo(one.family), given=typo(one.given), fuzzy=True, limit=PAGE)

    classes: list[tuple[str, Sequence[Known], Ask, int]] = [
        ("identifier", sample, lambda k: SearchQuery(identifier=f"{SYSTEM}|{k.identifier}"), 8),
        (
            "family prefix + given",
            sample,
            lambda k: SearchQuery(family=half(k.family), given=k.given, limit=PAGE),
            8,
        ),
        (
            "family prefix + given, commonest names",
            common,
            lambda k: SearchQuery(family=half(k.family), given=k.given, limit=PAGE),
            8,
        ),
        (
            "family prefix + given prefix",
            sample,
            lambda k: SearchQuery(family=half(k.family), given=half(k.given), limit=PAGE),
            8,
        ),
        (
            "name + birth date",
            sample,
            lambda k: SearchQuery(
                name=f"{k.given} {k.family}", birth_date=k.birth_date, limit=PAGE
            ),
            8,
        ),
        (
            "name + year of birth",
            sample,
            lambda k: SearchQuery(
                name=f"{k.given} {k.family}", birth_date=k.birth_date[:4], limit=PAGE
            ),
            8,
        ),
        ("name, two words", sample, lambda k: SearchQuery(name=f"{k.given} {k.family}"), 8),
        ("name, one word", sample, lambda k: SearchQuery(name=k.family), 8),
        (
            "name, one letter each",
            sample,
            lambda k: SearchQuery(name=f"{k.given[0]} {k.family[0]}"),
            8,
        ),
        ("fuzzy, one typo in each name", sample, fuzzy, 15),
        ("fuzzy, one typo in each name, commonest names", common, fuzzy, 15),
        (
            "fuzzy, one typo in each name + birth date",
            sample,
            lambda k: SearchQuery(
                family=typo(k.family),
                given=typo(k.given),
                birth_date=k.birth_date,
                fuzzy=True,
                limit=PAGE,
            ),
            15,
        ),
        (
            "fuzzy, one typo in each name, free order",
            sample,
            lambda k: SearchQuery(name=f"{typo(k.given)} {typo(k.family)}", fuzzy=True, limit=PAGE),
            15,
        ),
        (
            "fuzzy, one typo, family alone",
            sample,
            lambda k: SearchQuery(family=typo(k.family), fuzzy=True),
            15,
        ),
    ]
    figures = []
    for name, asked, ask, target in classes:
        await measure(connection, asked[:50], ask)
        times, recall, names = await measure(connection, asked, ask)
        figures += [
            Figure(f"search: {name}, p50", _at(times, 0.50), "ms"),
            Figure(f"search: {name}, p95", _at(times, 0.95), "ms", f"< {target}"),
            Figure(f"search: {name}, p99", _at(times, 0.99), "ms"),
            Figure(f"search: {name}, recall of the patient", round(recall, 3), "share"),
            Figure(
                f"search: {name}, recall of the name",
                round(names, 3),
                "share",
                ">= 0.98" if "typo" in name else "",
            ),
        ]
    return figures


async def project(
    connection: AsyncConnection[Any], people: People, count: int, name: str
) -> list[Figure]:
    """Take registrations into the tables as the runner does, opening and decoding included."""
    events = [_recorded(position, *people.next()) for position in range(1, count + 1)]
    search_keys.fold.cache_clear()
    await connection.execute("SET synchronous_commit = off")  # as the runner does
    begun, busy = time.perf_counter(), time.process_time()
    for start in range(0, count, 1000):
        async with connection.transaction():
            await connection.execute("SET LOCAL search_path = search")
            await model.apply(connection, events[start : start + 1000])
    spent, busy = time.perf_counter() - begun, time.process_time() - busy
    return [
        Figure(f"search projection, {name}", round(count / spent), "events/s", ">= 8000"),
        Figure(f"search projection, {name}, Python alone", round(1e6 * busy / count), "us/event"),
    ]


def _recorded(position: int, patient: UUID, event: PatientRegistered) -> RecordedEvent:
    """Return a registration as the log tells it: sealed, with the key to it."""
    place, key = Place(TENANT, patient, 1, event.TOPIC), KEYRING.new(TENANT, patient)
    made = new_event(place, event, b"{}", (patient,), {patient: key})
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return RecordedEvent(
        TENANT, position, patient, 1, made.topic, made.data, made.metadata, at, made.digest, key
    )


async def on_schema(connection: AsyncConnection[Any]) -> None:
    """Make the empty tables."""
    await connection.execute("DROP SCHEMA IF EXISTS search CASCADE; CREATE SCHEMA search")
    await connection.execute(f"SET search_path = search; {model.DDL}; RESET search_path")


async def run(url: str, patients: int, asked: int, tell: Callable[[str], None]) -> list[Figure]:
    """Do everything on the database at ``url`` and return the figures."""
    figures: list[Figure] = []
    KEYRING.use(bytes(KEY_SIZE))
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        await on_schema(connection)
        figures += await project(connection, People(), 30_000, "from nothing, batches of 1,000")
        await on_schema(connection)
        people = People()
        begun = time.perf_counter()
        known = await load(connection, people, patients)
        spent = time.perf_counter() - begun
        tell(f"{patients:,} patients by COPY straight into the read model in {spent:.0f} s")
        figures.append(Figure("search: patients loaded", patients, "patients"))
        for table in ("patient", "name_pair", "identifier", "spelling"):
            cursor = await connection.execute(
                "SELECT pg_table_size(%s::regclass), pg_indexes_size(%s::regclass), count(*)"
                f" FROM search.{table}",
                [f"search.{table}"] * 2,
            )
            row = await cursor.fetchone()
            assert row is not None
            tell(f"  {table}: {row[2]:,} rows, {row[0] >> 20} MB, indexes {row[1] >> 20} MB")
        gc.collect()
        gc.freeze()
        async with await AsyncConnection.connect(url, autocommit=True) as reader:
            await reader.execute("SET jit = off; SET random_page_cost = 1.1")
            figures += await queries(reader, known, asked)
        figures += await project(connection, people, 30_000, f"into {patients:,} patients")
    return figures


async def main(
    patients: int = 1_000_000,
    asked: int = 1_000,
    url: str | None = None,
    tell: Callable[[str], None] = print,
) -> list[Figure]:
    """Run against ``url``, or an embedded PostgreSQL in a temporary folder."""
    if url is not None:
        return await run(url, patients, asked, tell)
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as server:
        return await run(server.url, patients, asked, tell)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--database-url")
    given = parser.parse_args()
    for figure in asyncio.run(main(given.patients, given.queries, given.database_url)):
        print(f"{figure.name:75} {figure.figure:>12} {figure.unit:10} {figure.target}")
