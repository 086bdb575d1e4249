"""The search read model on a real PostgreSQL: what finds whom, in which order, page by page."""

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from registration.domain.errors import DomainError
from registration.domain.events import (
    DemographicsCorrected,
    Event,
    IdentifierAdded,
    IdentifierRetired,
    NameAdded,
    NameReplaced,
    NameRetired,
    NextOfKinAdded,
    PatientRegistered,
)
from registration.domain.names import confirm_name
from registration.domain.resources import Identifier, Name, NameInput, NextOfKin
from registration.eventstore.mapper import encode
from registration.eventstore.records import RecordedEvent
from registration.projections import search as model
from registration.projections.search_query import SearchPage, SearchQuery, search

pytestmark = pytest.mark.anyio
TENANT = "clinic"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def uuid(number: int) -> UUID:
    return UUID(int=(0x7000 << 64) | (1 << 63) | number)


def name(number: int, said: str | dict[str, Any]) -> Name:
    """Build a name from "Family, Given Given", or from its members."""
    if isinstance(said, str):
        family, _, given = said.partition(", ")
        said = {"family": family, "given": given.split()} if given else {"text": family}
    return confirm_name(NameInput.model_validate(said), uuid(number), "")


def identifier(number: int, value: str) -> Identifier:
    return Identifier(id=uuid(number), system="urn:mrn", value=value)


@dataclass
class Log:
    """Writes events as the store would record them."""

    events: list[RecordedEvent] = field(default_factory=list)
    versions: dict[tuple[str, UUID], int] = field(default_factory=dict)

    def add(self, patient: int, event: Event, tenant: str = TENANT) -> None:
        key = (tenant, uuid(patient))
        self.versions[key] = self.versions.get(key, 0) + 1
        self.events.append(
            RecordedEvent(
                tenant=tenant,
                position=len(self.events) + 1,
                stream_id=key[1],
                version=self.versions[key],
                topic=event.TOPIC,
                data=encode(event),
                metadata=b"{}",
                recorded_at=datetime(2026, 1, 1, tzinfo=UTC),
                hash=b"",
            )
        )

    def register(
        self, patient: int, *names: str | dict[str, Any], tenant: str = TENANT, **members: Any
    ) -> None:
        known = tuple(name(1000 * patient + at, said) for at, said in enumerate(names))
        registered = PatientRegistered(
            names=known, gender=members.pop("gender", "female"), **members
        )
        self.add(patient, registered, tenant)


@dataclass
class Search:
    """The read model in a database, and its queries by the numbers of the patients."""

    connection: AsyncConnection[Any]

    async def apply(self, events: Sequence[RecordedEvent], batch: int = 1000) -> None:
        for start in range(0, len(events), batch):
            async with self.connection.transaction():
                await self.connection.execute("SET LOCAL search_path = search")
                await model.apply(self.connection, events[start : start + batch])

    async def page(self, tenant: str = TENANT, **asked: Any) -> SearchPage:
        return await search(self.connection, tenant, SearchQuery(**asked))

    async def find(self, tenant: str = TENANT, **asked: Any) -> list[int]:
        page = await self.page(tenant, **asked)
        return [UUID(item["id"]).int & 0xFFFFFF for item in page.items]

    async def rows(self) -> dict[str, list[Any]]:
        found = {}
        for table in ("patient", "name_pair", "identifier", "spelling"):
            cursor = await self.connection.execute(f"SELECT * FROM search.{table}")
            found[table] = sorted(await cursor.fetchall(), key=repr)
        return found

    async def empty(self) -> None:
        await self.connection.execute("DROP SCHEMA IF EXISTS search CASCADE; CREATE SCHEMA search")
        await self.connection.execute(f"SET search_path = search; {model.DDL}; RESET search_path")


@pytest.fixture
async def found(module_database_url: str) -> AsyncIterator[Search]:
    async with await AsyncConnection.connect(module_database_url, autocommit=True) as connection:
        made = Search(connection)
        await made.empty()
        yield made


async def given(found: Search, *names: str | dict[str, Any]) -> None:
    """Register a patient for each name, numbered from 1."""
    log = Log()
    for number, said in enumerate(names, start=1):
        log.register(number, said)
    await found.apply(log.events)


async def test_a_patient_registered_in_two_scripts_is_found_by_either(found: Search) -> None:
    log = Log()
    log.register(1, "Hassan, Mohammed", "حسن, محمد")
    log.register(2, "Meyer, Anna")
    await found.apply(log.events)

    for asked in ("محمد", "Mohammed", "mohammed hassan", "حسن محمد", "hass", "محم"):
        assert await found.find(name=asked) == [1], asked
    assert await found.find(family="حسن", given="محمد") == [1]
    assert await found.find(family="hassan", given="mohammed") == [1]


async def test_an_item_shows_the_patient_as_the_contract_says(found: Search) -> None:
    log = Log()
    log.register(
        1,
        "Meyer, Anna",
        birth_date="1980-05-17",
        identifiers=(identifier(9, "A-7"),),
        facility="north",
    )
    await found.apply(log.events)

    (item,) = (await found.page(name="Anna Meyer")).items

    shown = {
        "id": str(uuid(1000)),
        "use": "official",
        "family": "Meyer",
        "given": ["Anna"],
        "prefix": [],
        "suffix": [],
        "script": "Latn",
    }
    line = {"nameId": str(uuid(1000)), "text": "Anna Meyer"}
    assert item == {
        "id": str(uuid(1)),
        "version": 1,
        "active": True,
        "score": 1.0,
        "display": {"default": {**line, "script": "Latn"}, "byScript": {"Latn": line}},
        "names": [shown],
        "gender": "female",
        "birthDate": "1980-05-17",
        "identifiers": [{"id": str(uuid(9)), "system": "urn:mrn", "value": "A-7"}],
        "facility": "north",
    }


@pytest.mark.parametrize(
    ("registered", "asked"),
    [
        ("Müller, José", "muller jose"),
        ("Muller, Jose", "Müller José"),
        ("Strauß, Ilse", "STRAUSS"),
        ("Ørsted, Søren", "orsted soren"),
        ("Đỗ, Ánh", "do anh"),
        ("Işık, İlker", "isik ilker"),
        ("O'Brien, Pat", "obrien"),
        ("O'Brien, Pat", "O’Brien"),
        ("Meyer-Schmidt, Eva", "Schmidt Meyer"),
        ("Łukasz, Żaneta", "lukasz zaneta"),
        ("أحمد, مُحَمَّد", "احمد محمد"),
        ("رضایی, علی", "رضايي علي"),
        ("حسن, فاطمة", "فاطمه"),
        ("حسن, محـمد", "محمد"),
        ("כהן, דָּוִד", "דוד כהן"),
        ("やまだ, はなこ", "ヤマダ ハナコ"),
        ("ヤマダ, ハナコ", "ﾔﾏﾀﾞ"),
        ("Wang, Li", "Ｗａｎｇ"),
        ("Ёлкин, Андрей", "елкин андреи"),
        ("Παπαδόπουλος, Γιώργος", "ΠΑΠΑΔΟΠΟΥΛΟΣ γιωργος"),
        ("王, 小明", "王小明"),
        ("王小明", "王"),
        ("王小明", "小明"),
        ("김, 민수", "김민수"),
        ("عبد الله, علي", "عبدالله"),
        ("Garcia Lopez, Maria", "lopez garcia"),
        ("Garcia Lopez, Maria Jose", "jose maria"),
        ("Garcia Lopez, Maria Jose", "garcia maria lopez"),
        ("John Smith", "smith john"),
        ({"family": "Smith", "given": ["Jo"], "text": "Smithy the Great"}, "great"),
    ],
)
async def test_spellings_of_one_name_find_each_other(
    found: Search, registered: str | dict[str, Any], asked: str
) -> None:
    await given(found, registered, "Zzz, Qqq")

    assert (await found.page(name=asked)).items[0]["score"] == 1.0
    assert await found.find(name=asked) == [1]


@pytest.mark.parametrize(
    ("registered", "asked"),
    [
        ("حسن, محمد", "Mohammed"),
        ("حسن, محمد", "Muhammad Hassan"),
        ("حسن, محمد", "mohamed"),
        ("Hassan, Mohammed", "محمد"),
        ("Hassan, Mohammed", "محمد حسن"),
        ("حسن, محمد", "Мухаммед"),
        ("الحسين, فاطمة", "Fatima Hussein"),
        ("الحسين, فاطمة", "Fatima Al-Hussein"),
        ("حسن, يوسف", "Youssef"),
        ("حسن, عبد الله", "Abdullah"),
        ("Иванов, Владимир", "Ivanov"),
        ("Иванова, Юлия", "Yulia Ivanova"),
        ("Хрущёв, Никита", "Nikita Khrushchev"),
        ("Παπαδόπουλος, Γιώργος", "Papadopoulos Giorgos"),
        ("כהן, דוד", "David Cohen"),
        ("王, 小明", "Wang Xiaoming"),
        ("やまだ, はなこ", "Yamada Hanako"),
        ("김, 민수", "Minsu Kim"),
        ("शर्मा, अनीता", "Anita Sharma"),
        ("สมิธ, สมชาย", "Somchai"),
        ("Պետրոսյան, Արամ", "Aram Petrosyan"),
        ("ბერიძე, გიორგი", "Giorgi Beridze"),
    ],
)
async def test_a_name_in_another_script_is_found_by_its_sound(
    found: Search, registered: str, asked: str
) -> None:
    await given(found, registered, "Zzz, Qqq")

    assert await found.find(name=asked) == [1]
    assert (await found.page(name=asked)).items[0]["score"] < 0.9


async def test_prefixes_find_in_any_order(found: Search) -> None:
    await given(found, "Schmidt, Katharina", "Schulz, Karl", "Meyer, Karin")

    assert await found.find(name="sch ka") == [1, 2]
    assert await found.find(name="kath schm") == [1]
    assert await found.find(family="sch", given="kar") == [2]
    assert await found.find(given="ka") == [3, 2, 1]
    assert await found.find(family="ka") == []


async def test_results_are_ranked_exact_prefix_transliterated_fuzzy(found: Search) -> None:
    await given(found, "Алина, Х", "Alinah, X", "Alima, X", "Alina, X")

    page = await found.page(name="alina", fuzzy=True)
    numbers = [UUID(item["id"]).int & 0xFF for item in page.items]
    scores = [item["score"] for item in page.items]

    assert numbers == [4, 2, 1, 3]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


@pytest.mark.parametrize(
    "asked",
    ["Katarina Schmidt", "Katharnia Schmidt", "Katharinaa Schmitd", "Xatharina Schmdt",
     "Katherina Shmidt", "Catharina Schmitt"],
)  # fmt: skip
async def test_a_typo_or_a_phonetic_spelling_is_forgiven_when_asked_for(
    found: Search, asked: str
) -> None:
    await given(found, "Schmidt, Katharina", "Meyer, Karl")

    assert await found.find(name=asked, fuzzy=True) == [1]
    assert await found.find(name=asked) == []


async def test_fuzzy_also_takes_a_beginning_with_a_misspelt_word(found: Search) -> None:
    await given(found, "Schmidt, Katharina", "Schmidt, Otto")

    assert await found.find(family="Shmidt", given="Kat", fuzzy=True) == [1]
    assert await found.find(family="Sch", given="Kathrina", fuzzy=True) == [1]


async def test_retired_and_replaced_names_no_longer_match(found: Search) -> None:
    log = Log()
    log.register(1, "Meyer, Anna", "Schulz, Anna")
    await found.apply(log.events)
    later = Log(versions=log.versions)
    later.add(1, NameRetired(name_id=uuid(1000), reason="wrong"))
    later.add(1, NameReplaced(name=name(1001, "Weber, Anne")))
    later.add(1, NameAdded(name=name(7, "Вебер, Анна")))

    await found.apply(later.events)

    assert [await found.find(name=one) for one in ("Meyer", "Schulz")] == [[], []]
    assert [await found.find(name=one) for one in ("Weber Anne", "вебер")] == [[1], [1]]
    (item,) = (await found.page(name="Weber")).items
    assert item["version"] == 4
    assert item["display"]["default"]["text"] == "Anne Weber"


async def test_identifiers_match_exactly_and_only_while_live(found: Search) -> None:
    log = Log()
    log.register(1, "Meyer, Anna", identifiers=(identifier(8, "123"), identifier(9, "AB 1")))
    await found.apply(log.events)
    assert await found.find(identifier="urn:mrn|123") == [1]
    assert await found.find(identifier="urn:mrn|1-2.3") == [1]
    assert await found.find(identifier="urn:mrn|AB 1") == [1]
    assert await found.find(identifier="urn:mrn|12") == []
    assert await found.find(identifier="urn:other|123") == []
    assert await found.find(identifier="urn:mrn|123", name="schulz") == []
    assert await found.find(identifier="urn:mrn|123", name="anna") == [1]

    later = Log(versions=log.versions)
    later.add(1, IdentifierRetired(identifier_id=uuid(8), reason="card lost"))
    later.add(2, PatientRegistered(names=(name(5, "Weber, Ida"),), gender="female"))
    later.add(2, IdentifierAdded(identifier=identifier(6, "123")))
    await found.apply(later.events)

    assert await found.find(identifier="urn:mrn|123") == [2]


async def test_a_partial_birth_date_matches_all_in_it(found: Search) -> None:
    log = Log()
    for number, date in enumerate(
        ["1980", "1980-05", "1980-05-17", "1980-11-01", "1981-01-01", None]
    ):
        log.register(number, "Meyer, Anna", birth_date=date)
    await found.apply(log.events)

    for asked in ({}, {"name": "meyer"}, {"name": "meyr", "fuzzy": True}):
        assert await found.find(birth_date="1980", **asked) == [0, 1, 2, 3]
        assert await found.find(birth_date="1980-05", **asked) == [1, 2]
        assert await found.find(birth_date="1980-05-17", **asked) == [2]
        assert await found.find(birth_date="1982-05-17", **asked) == []


async def test_many_patients_of_one_birth_date_are_found_by_name_too(
    found: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    for number in range(250):
        log.register(number, f"Meyer{number % 5}, Anna", birth_date="1980-01-01")
    log.register(250, "Meyer3, Anna", birth_date="1980-01-02")
    await found.apply(log.events)

    first = await found.find(name="anna meyer3", birth_date="1980-01-01", limit=200)

    assert first == list(range(3, 250, 5))


async def test_corrected_demographics_are_searched_by(found: Search) -> None:
    log = Log()
    log.register(1, "Meyer, Anna", birth_date="1980-05-17", gender="female", facility="north")
    log.register(2, "Meyer, Anna", birth_date="1980-05-17", gender="female", facility="north")
    await found.apply(log.events)
    later = Log(versions=log.versions)
    later.add(
        1,
        DemographicsCorrected(
            changes={"birthDate": "1981-05-17", "gender": "male", "facility": None}
        ),
    )
    await found.apply(later.events)

    for asked in ({}, {"name": "Meyer"}, {"family": "Meyer", "given": "An"}):
        assert await found.find(gender="male", **asked) == [1]
        assert await found.find(facility="north", **asked) == [2]
        assert await found.find(birth_date="1981-05-17", **asked) == [1]
        assert await found.find(birth_date="1980-05-17", **asked) == [2]
        assert await found.find(birth_date="1981", gender="female", **asked) == []


async def test_events_that_search_shows_nothing_of_raise_the_version(found: Search) -> None:
    log = Log()
    log.register(1, "Meyer, Anna")
    await found.apply(log.events)
    later = Log(versions=log.versions)
    kin = NextOfKin(id=uuid(5), name="Otto Meyer", relationship="father")
    later.add(1, NextOfKinAdded(next_of_kin=kin))
    await found.apply(later.events)

    assert [item["version"] for item in (await found.page(name="meyer")).items] == [2]
    assert await found.find(name="Otto") == []


async def test_inactive_patients_come_only_when_asked_for(found: Search) -> None:
    await given(found, "Meyer, Anna", "Meyer, Anna")
    await found.connection.execute(
        "UPDATE search.patient SET active = false WHERE id = %s", [uuid(1)]
    )

    for asked in ({}, {"name": "meyer"}):
        assert await found.find(**asked) == [2]
        assert await found.find(include_inactive=True, **asked) == [1, 2]


async def test_another_tenant_s_patients_never_appear(found: Search) -> None:
    log = Log()
    log.register(1, "Meyer, Anna", identifiers=(identifier(1, "1"),), birth_date="1980-01-01")
    log.register(
        1, "Meyer, Anja", identifiers=(identifier(1, "1"),), birth_date="1980-01-01", tenant="other"
    )
    await found.apply(log.events)

    for asked in (
        {},
        {"name": "Meyer"},
        {"name": "Anna", "fuzzy": True},
        {"identifier": "urn:mrn|1"},
        {"birth_date": "1980-01-01", "name": "Meyer"},
    ):
        for tenant, text in ((TENANT, "Anna Meyer"), ("other", "Anja Meyer"), ("third", None)):
            page = await found.page(tenant, **asked)
            texts = [item["display"]["default"]["text"] for item in page.items]
            assert texts == ([text] if text else [])


def people(seed: int, count: int) -> Log:
    """Make patients whose names meet each other in many ways, with corrections."""
    chance = random.Random(seed)
    families = ["Meyer", "Meier", "Maier", "Mayer", "Meyers", "Meyer Schmidt", "Мейер", "ماير"]
    given_names = ["Anna", "Anne", "Ann", "Hanna", "Anna Maria", "Анна", "آنا", "Maria", "Meyer"]
    log = Log()
    alive: list[int] = []
    for number in range(count):
        log.register(
            number,
            *[
                f"{chance.choice(families)}, {chance.choice(given_names)}"
                for _ in range(chance.choice([1, 1, 2]))
            ],
            tenant=chance.choice([TENANT, TENANT, "other"]),
            birth_date=chance.choice([None, "1980", "1980-05-17"]),
            gender=chance.choice(["male", "female"]),
            identifiers=(identifier(9_000_000 + number, str(number)),),
        )
        alive.append(number)
        tenant = log.events[-1].tenant
        names = (
            NameAdded(name=name(5_000_000 + number, f"{chance.choice(families)}, Ida")),
            NameReplaced(name=name(1000 * number, f"{chance.choice(families)}, Eva")),
            NameRetired(name_id=uuid(1000 * number), reason="wrong"),
            DemographicsCorrected(changes={"birthDate": "1981", "gender": "other"}),
            IdentifierRetired(identifier_id=uuid(9_000_000 + number), reason="wrong"),
        )
        for event in chance.sample(names, chance.choice([0, 0, 1, 3])):
            log.add(number, event, tenant)
    return log


async def test_the_rows_do_not_depend_on_how_the_log_was_cut(found: Search) -> None:
    log = people(seed=7, count=60)
    await found.apply(log.events)
    whole = await found.rows()
    assert all(whole.values())

    for batch in (1, 2, 7, 31):
        await found.empty()
        await found.apply(log.events, batch)
        assert await found.rows() == whole, batch


async def test_pages_hold_everything_once_in_order(found: Search) -> None:
    await found.apply(people(seed=3, count=400).events)
    asked: list[dict[str, Any]] = [
        {},
        {"gender": "male"},
        {"name": "Anna"},
        {"name": "An"},
        {"name": "Anna Meyer", "fuzzy": True},
        {"name": "m a", "fuzzy": True},
        {"family": "Mey", "given": "An"},
        {"family": "Meyer", "fuzzy": True},
        {"name": "Мейер"},
        {"name": "meyer", "birth_date": "1980"},
        {"name": "meyer", "birth_date": "1980-05-17", "fuzzy": True},
        {"name": "anna maria meyer", "fuzzy": True},
        {"name": "anna", "gender": "male", "fuzzy": True},
    ]
    for query in asked:
        whole = await found.page(limit=200, **query)
        everything = list(whole.items)
        while whole.next:
            whole = await found.page(limit=200, cursor=whole.next, **query)
            everything += whole.items
        pieces: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = await found.page(limit=7, cursor=cursor, **query)
            pieces += page.items
            assert len(page.items) <= 7
            if page.next is None:
                break
            cursor = page.next
        ids = [item["id"] for item in everything]
        assert len(ids) == len(set(ids)) > 7, query
        assert pieces == everything, query
        scores = [item["score"] for item in everything]
        assert scores == sorted(scores, reverse=True), query


async def test_walks_find_what_a_look_at_every_patient_finds(
    found: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two ways to answer agree: through ``name_pair``, and by ranking all of a birth date."""
    log = Log()
    known = people(seed=11, count=400)
    for event in known.events:
        if isinstance(event.event, PatientRegistered):
            number = event.stream_id.int & 0xFFFFFF
            log.add(number, event.event.model_copy(update={"birth_date": "1980-05-17"}))
    await found.apply(log.events)

    for query in ("anna", "an", "meyer anna", "mey an", "mayer annaa", "мейер", "anna m maria"):
        ways = []
        for few in (0, 1_000):
            monkeypatch.setattr("registration.projections.search_query._FEW", few)
            monkeypatch.setattr(
                "registration.projections.search_query._BY_BIRTH_DATE",
                "SELECT p.id, p.version, p.active, p.document FROM search.patient AS p"
                " WHERE p.tenant = %s AND p.birth_date = %s",
            )
            first = await found.page(name=query, birth_date="1980-05-17", fuzzy=True, limit=200)
            items = first.items
            if first.next:
                second = await found.page(
                    name=query, birth_date="1980-05-17", fuzzy=True, limit=200, cursor=first.next
                )
                items = items + second.items
            ways.append([(item["id"], item["score"]) for item in items])
        assert ways[0] == ways[1], query
        assert ways[0], query


@pytest.mark.parametrize(
    "text",
    ["%", "_", "---", "'; DROP TABLE search.patient; --", "\\", "\x00", "\udc80", "{0}", "%s"],
)
async def test_odd_texts_find_nobody_and_harm_nothing(found: Search, text: str) -> None:
    await given(found, "Meyer, Anna")

    for member in ("name", "family", "given"):
        assert await found.find(**{member: text}, fuzzy=True) == []
    for member in ("gender", "facility", "identifier"):
        try:
            assert (
                await found.find(**{member: text if member != "identifier" else f"a|{text}"}) == []
            )
        except DomainError as error:
            assert not text.isprintable(), error  # noqa: PT017
    assert await found.find(name="Meyer") == [1]


async def test_a_very_long_query_is_answered(found: Search) -> None:
    await given(found, "Meyer, Anna")

    assert await found.find(name="a" * 10_000, fuzzy=True) == []
    assert await found.find(name="Anna " * 2_000) == [1]
    assert await found.find(name=" ".join(f"w{n}" for n in range(2_000)), fuzzy=True) == []


async def test_a_very_long_name_is_found_by_its_words(found: Search) -> None:
    words = [f"word{chr(97 + n)}" for n in range(12)]
    await given(found, {"text": " ".join(words)})

    assert await found.find(name="worda wordl") == [1]
    assert await found.find(name="wordc wordb") == [1]
    assert await found.find(name="wordl") == [1]


async def test_blank_criteria_are_none(found: Search) -> None:
    await given(found, "Meyer, Anna", "Weber, Ida")

    assert await found.find(name="  ", gender="", birth_date="") == [1, 2]


@pytest.mark.parametrize(
    "asked",
    [
        {"birth_date": "80"},
        {"birth_date": "1980-5"},
        {"birth_date": "1980%"},
        {"identifier": "123"},
        {"identifier": "|123"},
        {"identifier": "urn:mrn|"},
        {"limit": 0},
        {"limit": 201},
        {"cursor": "nonsense"},
        {"cursor": ""},
        {"cursor": "é"},
        {"cursor": "W10"},
    ],
)
async def test_what_makes_no_sense_is_refused(found: Search, asked: dict[str, Any]) -> None:
    with pytest.raises(DomainError) as caught:
        await found.page(**asked)

    assert caught.value.code == "VALIDATION_FAILED"


async def test_a_cursor_of_another_query_is_refused(found: Search) -> None:
    await given(found, "Meyer, Anna", "Meyer, Anna")
    page = await found.page(name="meyer", limit=1)

    with pytest.raises(DomainError):
        await found.page(name="anna", limit=1, cursor=page.next)
