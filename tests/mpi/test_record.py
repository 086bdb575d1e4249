"""What of a patient goes into a record, and in which form."""

import pytest
from tests.mpi.given import MRN, NATIONAL, NOT_ESTIMATED, name, patient

from registration.domain.resources import Address, ContactPoint, IdentifierInput, NameInput
from registration.mpi.record import MatchRecord, decode, encode, record_of


def test_a_record_holds_what_can_be_compared_folded() -> None:
    record = record_of(
        [NameInput(family="Müller-Lüdenscheidt", given=("Jörg", "Ægir"))],
        "male",
        "1956-04-09",
        NOT_ESTIMATED,
        [
            IdentifierInput(system=NATIONAL, value="AB 12-34"),
            IdentifierInput(system="urn:x", value="7", type="MR"),
            IdentifierInput(system=MRN, value="N0000012"),
        ],
        [
            ContactPoint(system="phone", value="+49 (0)170 123-4567"),
            ContactPoint(system="phone", value="112"),
            ContactPoint(system="email", value="Jorg@Example.org"),
            ContactPoint(system="url", value="example.org"),
        ],
        [
            Address(
                line=("12 High Street", "Flat 3"), city="Köln", postal_code="AB1 2CD", state="NW"
            )
        ],
    )
    assert record == MatchRecord(
        unnamed="",
        names=[["muller ludenscheidt", "jorg aegir"]],
        birth_date="19560409",
        gender="male",
        identifiers={NATIONAL: ["ab1234"]},
        record_numbers={"urn:x": ["7"], MRN: ["n0000012"]},
        telecom=["701234567", "jorg@example.org"],
        addresses=[["12", "high street", "flat 3", "koln", "ab12cd", "nw"]],
    )
    assert decode(encode(record)) == record


@pytest.mark.parametrize(
    ("said", "estimated", "held"),
    [
        ("1956-04-09", False, "19560409"),
        ("1956-04", False, "195604"),
        ("1956", False, "1956"),
        ("1956-01-01", True, "~1956"),
        ("1956-13-45", False, "19561345"),  # no day, yet a typing error away from one
        ("soon", False, ""),
        (None, False, ""),
    ],
)
def test_birth_dates_are_held_as_far_as_they_are_known(
    said: str | None, estimated: bool, held: str
) -> None:
    assert patient("Doe, Ann", born=said, estimated=estimated).birth_date == held


@pytest.mark.parametrize(
    ("said", "held"),
    [
        ("Al-Khatib, Fatima", ["alkhatib", "fatima"]),
        ("الخطيب, فاطمة", ["الخطيب", "فاطمه"]),
        ("Smith, Abdul Rahman", ["smith", "abdulrahman"]),
        ("de la Cruz, Ana María", ["delacruz", "ana maria"]),
        ("Ann Mary Smith", ["smith", "ann mary"]),
        ("王小明", ["王", "小明"]),
        ("김민준", ["김", "민준"]),
        (", Sukarno", ["", "sukarno"]),
    ],
)
def test_names_are_one_spelling_of_what_people_take_for_the_same(
    said: str, held: list[str]
) -> None:
    assert patient(said).names == [held]


def test_a_part_that_only_the_text_has_is_not_lost() -> None:
    assert patient(NameInput(family="Smith", text="Ann Smith")).names == [["smith", "ann"]]
    assert patient(NameInput(given=("Ann",), text="Ann Smith")).names == [["smith", "ann"]]


def test_a_gender_that_tells_nobody_apart_is_absent() -> None:
    assert [patient("A, B", gender=g).gender for g in ("female", "other", "unknown")] == [
        "female",
        "",
        "",
    ]


@pytest.mark.parametrize(
    "said",
    [
        *("Baby of Fatima Haddad", "Haddad, Baby Girl", "Baby 1 of Ann Smith", "BB Smith"),
        *("B/O Ann Smith", "Newborn Smith", "New born Smith", "Smith, Twin A", "Smith, Boy 2"),
        *("Okoro BabyGirl", "NB Okoro", "Okoro Twin A", "Okoro Girl A", "Ребёнок Окоро"),
        *("Smith Baby Boy", "Infant Smith", "Smith, BabyGirl"),
        *("Recién nacido García", "RN García", "Hijo de Ana García", "RN de Ana Souza"),
        *("Recém-nascida de Ana Souza", "Nouveau-né Martin", "Bébé Martin", "Neonato Rossi"),
        *("Neugeborenes Müller", "Säugling Müller", "Kind von Anna Müller", "Pasgeborene de Vries"),
        *("Новорождённый Иванов", "Новонароджена Шевченко", "Noworodek Kowalska"),
        *("Yenidoğan Demir", "Bayi Ny. Sari", "By. Ny. Sari", "Mtoto wa Amina", "Con bà Nguyễn"),
        *("مولود حديث الولادة", "رضيع فاطمة", "طفلة ابن حداد", "نوزاد احمدی", "תינוקת כהן"),
        *("王小红之子", "新生児 佐藤", "佐藤ベビー", "नवजात शिशु", "신생아 김"),
    ],
)
def test_newborns_are_not_named_after_their_mother(said: str) -> None:
    record = patient(said)
    assert (record.unnamed, record.names) == ("newborn", [])


@pytest.mark.parametrize(
    "said",
    [
        *("Kindermann, Anna", "Babel, Ann", "Newbold, Ann", "Sohn, Peter", "Twin, Mark"),
        *("Boyd, Ann", "Anu Baby", "Bibi, Gul", "Infantino, Gianni", "Bui, Con", "Levi, Ben"),
        *("Child, Julia", "Ny, Bo", "García, Hijo"),
    ],
)
def test_people_with_such_names_are_named(said: str) -> None:
    assert patient(said).unnamed == ""


def test_the_unknown_are_anonymous_unless_a_name_is_known() -> None:
    unknown = name("Unknown Male 3", use="anonymous")
    assert patient(unknown).unnamed == "anonymous"
    assert patient("Unknown Unknown").unnamed == "anonymous"
    assert patient("Doe, John").unnamed == "anonymous"
    known = patient(unknown, "Smith, Ann")
    assert (known.unnamed, known.names) == ("", [["smith", "ann"]])
    assert patient("Baby of Smith", "Smith, Ann").names == [["smith", "ann"]]
