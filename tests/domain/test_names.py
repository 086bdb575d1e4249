"""Names: what is accepted, in which script, and how it is shown."""

import unicodedata
from typing import Any
from uuid import UUID

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from registration.domain import names
from registration.domain.errors import DomainError
from registration.domain.names import clean_text, confirm_name, display, script_of, written
from registration.domain.resources import Name, NameInput

ID = UUID("01890000-0000-7000-8000-000000000001")
OTHER = UUID("01890000-0000-7000-8000-000000000002")
THIRD = UUID("01890000-0000-7000-8000-000000000003")


def confirmed(**members: object) -> Name:
    return confirm_name(NameInput.model_validate(members), ID, "/names/0")


def refused(**members: object) -> tuple[str, str]:
    """Return the code and the path of the refusal."""
    with pytest.raises(DomainError) as caught:
        confirmed(**members)
    (error,) = caught.value.extra["errors"]
    said = [v for k, v in members.items() if k != "use" and isinstance(v, str) and len(v) > 8]
    assert not any(value in error["message"] for value in said)
    return caught.value.code, error["path"]


@pytest.mark.parametrize(
    ("family", "given_names", "script"),
    [
        ("Smith", ["John"], "Latn"),
        ("Müller", ["José"], "Latn"),
        ("Nguyễn", ["Văn", "Ánh"], "Latn"),
        ("الحسيني", ["محمد"], "Arab"),
        ("رضایی", ["علی"], "Arab"),
        ("Иванова", ["Анна"], "Cyrl"),
        ("Παπαδόπουλος", ["Γιώργος"], "Grek"),
        ("כהן", ["דָּוִד"], "Hebr"),
        ("王", ["小明"], "Hani"),
        ("山田", ["花子"], "Hani"),
        ("やまだ", ["はなこ"], "Jpan"),
        ("山田", ["はなこ"], "Jpan"),
        ("スミス", ["ジョン"], "Jpan"),
        ("김", ["민수"], "Kore"),
        ("शर्मा", ["अनीता"], "Deva"),
        ("রহমান", ["করিম"], "Beng"),
        ("สมิธ", ["สมชาย"], "Thai"),
        ("ተስፋዬ", ["አበበ"], "Ethi"),
        ("Պետրոսյան", ["Արամ"], "Armn"),
        ("ბერიძე", ["გიორგი"], "Geor"),
        ("குமார்", ["ரவி"], "Taml"),
        ("සිල්වා", ["නිමල්"], "Sinh"),
        ("ᏎᏉᏯ", [], "Cher"),
        ("ⴰⵎⴰⵣⵉⵖ", [], "Tfng"),
        ("ཚེ་རིང", [], "Tibt"),
        ("မြင့်", [], "Mymr"),
        ("𞤀𞤣𞤤𞤢𞤥", [], "Adlm"),
        ("007", [], "Zyyy"),
    ],
)
def test_the_script_of_a_name_is_detected(family: str, given_names: list[str], script: str) -> None:
    name = confirmed(family=family, given=given_names)

    assert (name.script, name.family, list(name.given)) == (script, family, given_names)


def test_a_name_is_kept_in_nfc_with_single_spaces() -> None:
    name = confirmed(family="  Mu\u0308ller \t Lu\u0308denscheidt\u3000", given=["Jose\u0301"])

    assert (name.family, name.given) == ("Müller Lüdenscheidt", ("José",))


@pytest.mark.parametrize(
    "character",
    [
        "\u202e",  # right-to-left override
        "\u2066",  # left-to-right isolate
        "\u200f",  # right-to-left mark
        "\u061c",  # Arabic letter mark
        "\u200b",  # zero width space
        "\u2060",  # word joiner
        "\ufeff",  # byte order mark
        "\u00ad",  # soft hyphen
        "\u034f",  # combining grapheme joiner
        "\u115f",  # Hangul filler
        "\u3164",  # Hangul filler
        "\uffa0",  # halfwidth Hangul filler
        "\u2800",  # blank braille
        "\ufe0f",  # variation selector on a letter
        "\U000e0041",  # tag
        "\x00",
        "\x07",
        "\x1f",
        "\x7f",
        "\x85",
        "\u2028",
        "\ue000",  # private use
        "\u0378",  # unassigned
        "\uffff",  # never a character
    ],
)
@pytest.mark.parametrize("text", ["An{}na", "مح{}مد", "{}Anna", "Anna{}"])
def test_controls_and_invisibles_are_refused(character: str, text: str) -> None:
    problem = refused(family="Meyer", given=["Ok", text.format(character)])

    assert problem == ("VALIDATION_FAILED", "/names/0/given/1")


@pytest.mark.parametrize(
    "text",
    [
        "علی\u200cرضا",  # Persian: a non-joiner inside the word
        "क्\u200dष",  # Devanagari half form
        "ශ්\u200dරී",  # Sinhala conjunct
        "র\u200d্যাব",  # Bengali ra-yaphala
        "葛\U000e0100城",  # an ideograph and its registered variant
        "ᠪᠠ\u180eᠠ",  # Mongolian vowel separator
    ],
)
def test_joiners_and_selectors_stay_where_a_script_is_spelled_with_them(text: str) -> None:
    assert confirmed(family=text).family == text


@pytest.mark.parametrize(
    "text",
    [
        "An\u200dna",
        "An\u200cna",
        "علی\u200c",
        "\u200cعلی",
        "علی\u200c\u200cرضا",
        "علی\u200c رضا",
        "👩\u200d🔬",
    ],
)
def test_joiners_are_refused_elsewhere(text: str) -> None:
    assert refused(family=text) == ("VALIDATION_FAILED", "/names/0/family")


def test_malayalam_names_in_the_old_spelling_get_the_letters_that_replaced_it() -> None:
    assert confirmed(family="അനില്\u200d").family == "അനിൽ"


@pytest.mark.parametrize("text", ["Аnna", "pаypal", "Ηelen", "Sмith"])
def test_a_word_of_look_alike_letters_is_refused(text: str) -> None:
    assert refused(family="Ok", given=[text]) == ("VALIDATION_FAILED", "/names/0/given/0")


@pytest.mark.parametrize(
    ("text", "script"),
    [("Anna-Μαρία Schmidt", "Latn"), ("Иван Johansson Петрович", "Cyrl"), ("Jリーグ", "Jpan")],
)
def test_words_of_one_name_may_differ_in_script_and_most_letters_decide(
    text: str, script: str
) -> None:
    assert confirmed(text=text).script == script


def test_a_title_does_not_decide_the_script() -> None:
    assert confirmed(family="علي", prefix=["Professor"], suffix=["MD"]).script == "Arab"


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("王小明", "Hani"),
        ("王小明", "Hans"),
        ("王小明", "Hant"),
        ("山田花子", "Jpan"),
        ("はなこ", "Jpan"),
        ("김민수", "Kore"),
        ("Anna", "Latn"),
        ("علي", "Arab"),
        ("علی", "Aran"),
    ],
)
def test_a_stated_script_that_fits_is_kept(text: str, stated: str) -> None:
    assert confirmed(text=text, script=stated).script == stated


@pytest.mark.parametrize(
    ("text", "stated", "kept"),
    [
        ("はなこ", "Hira", "Hira"),
        ("ハナコ", "Kana", "Kana"),
        ("ハなコ", "Hrkt", "Hrkt"),
        ("김", "Hang", "Hang"),
    ],
)
def test_a_stated_kana_or_hangul_is_kept(text: str, stated: str, kept: str) -> None:
    assert confirmed(text=text, script=stated).script == kept


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("Anna", "Cyrl"),
        ("Анна", "Latn"),
        ("Anna", "Arab"),
        ("王", "Latn"),
        ("Anna", "Xxxx"),
        ("山田はな", "Hira"),
        ("ハナコ", "Hira"),
        ("123", "Latn"),
    ],
)
def test_a_stated_script_that_the_text_is_not_in_is_refused(text: str, stated: str) -> None:
    assert refused(text=text, script=stated) == ("NAME_SCRIPT_MISMATCH", "/names/0/script")


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({}, "/names/0"),
        ({"prefix": ["Dr"]}, "/names/0"),
        ({"use": "anonymous"}, "/names/0/text"),
        ({"use": "anonymous", "family": "Meyer"}, "/names/0/text"),
        ({"family": "   "}, "/names/0/family"),
        ({"family": "Meyer", "given": ["Ann", "\u3000"]}, "/names/0/given/1"),
        ({"family": "-", "given": ["?"]}, "/names/0"),
    ],
)
def test_a_name_that_names_nobody_is_refused(members: dict[str, object], path: str) -> None:
    assert refused(**members) == ("VALIDATION_FAILED", path)


def test_a_person_nobody_can_name_yet_has_a_text() -> None:
    name = confirmed(use="anonymous", text="Unknown man, bed 3")

    assert (name.text, name.script) == ("Unknown man, bed 3", "Latn")


def name_of(name_id: UUID = ID, **members: object) -> Name:
    return confirm_name(NameInput.model_validate(members), name_id, "")


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ({"family": "Meyer", "given": ["Anna", "Maria"]}, "Anna Maria Meyer"),
        (
            {"family": "Meyer", "given": ["Anna"], "prefix": ["Dr"], "suffix": ["MD"]},
            "Dr Anna Meyer MD",
        ),
        ({"family": "Meyer"}, "Meyer"),
        ({"family": "Meyer", "text": "The Meyers"}, "The Meyers"),
        ({"family": "王", "given": ["小", "明"]}, "王小明"),
        ({"family": "山田", "given": ["はなこ"]}, "山田はなこ"),
        ({"family": "ヤマダ", "given": ["ハナコ"]}, "ヤマダ ハナコ"),
        ({"family": "김", "given": ["민수"]}, "김민수"),
        (
            {"family": "Nagy", "given": ["János"], "prefix": ["dr."], "language": "hu"},
            "dr. Nagy János",
        ),
        ({"family": "Nguyễn", "given": ["Văn", "An"], "language": "vi-VN"}, "Nguyễn Văn An"),
        ({"family": "សុខ", "given": ["ដារា"]}, "សុខ ដារា"),
        ({"family": "الحسيني", "given": ["محمد"]}, "محمد الحسيني"),
    ],
)
def test_a_name_is_written_as_its_culture_writes_it(members: dict[str, Any], line: str) -> None:
    assert written(name_of(**members)) == line


def test_the_display_block_has_a_name_for_each_script_and_a_default() -> None:
    latin = name_of(ID, family="Hassan", given=["Mohammed"])
    arabic = name_of(OTHER, family="حسن", given=["محمد"])
    maiden = name_of(THIRD, use="maiden", family="Old")

    assert display([maiden, latin, arabic]) == {
        "default": {"nameId": str(ID), "script": "Latn", "text": "Mohammed Hassan"},
        "byScript": {
            "Latn": {"nameId": str(ID), "text": "Mohammed Hassan"},
            "Arab": {"nameId": str(OTHER), "text": "محمد حسن"},
        },
    }


def test_the_use_decides_which_name_is_shown() -> None:
    uses = ["anonymous", "old", "maiden", "nickname", "temp", "official", "usual"]
    known = [name_of(use=use, text=f"Name {use}") for use in uses]

    shown = [display(known[: count + 1])["default"]["text"] for count in range(len(known))]

    assert shown == [f"Name {use}" for use in uses]


def test_one_name_is_shown_as_it_is_among_others() -> None:
    name = name_of(family="Meyer", given=["Anna"])

    assert display([name]) == {
        "default": {"nameId": str(ID), "script": "Latn", "text": "Anna Meyer"},
        "byScript": {"Latn": {"nameId": str(ID), "text": "Anna Meyer"}},
    }


def test_no_names_show_nothing() -> None:
    assert display([]) == {"default": None, "byScript": {}}


# Laws, over any text at all.

texts = st.text(min_size=1, max_size=12) | st.text(
    st.sampled_from("aZ éßА́аΑ王山はハ김حم\u064b\u200c\u200d\u200b -'1क्\u0d32\u0d4d\u3000\ufe0f"),
    min_size=1,
    max_size=12,
)
ascii_texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12)


def inputs(part: st.SearchStrategy[str]) -> st.SearchStrategy[NameInput]:
    parts = st.lists(part, max_size=2).map(tuple)
    return st.builds(
        NameInput,
        id=st.none(),
        use=st.sampled_from(["official", "anonymous"]),
        family=st.none() | part,
        given=parts,
        prefix=parts,
        suffix=parts,
        text=st.none() | part,
        script=st.none() | st.sampled_from(["Latn", "Jpan"]),
        language=st.none(),
    )


def outcome(confirm: object, said: NameInput) -> object:
    try:
        return confirm(said, ID, "/names/0")  # type: ignore[operator]
    except DomainError as error:
        return error.code, error.extra


@given(inputs(texts))
def test_confirming_a_confirmed_name_changes_nothing(said: NameInput) -> None:
    once = outcome(confirm_name, said)

    if isinstance(once, Name):
        assert confirm_name(once, ID, "") == once
        assert Name.model_validate_json(once.model_dump_json(by_alias=True)) == once


@given(inputs(ascii_texts | texts))
def test_the_short_path_for_ascii_agrees_with_the_long_one(said: NameInput) -> None:
    if not names._core(said) or (said.use == "anonymous" and not said.text):
        return  # refused before the paths part

    assert outcome(confirm_name, said) == outcome(names._confirm_any, said)


INVISIBLE = regex.compile(r"[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]")


@given(texts)
def test_what_is_kept_is_nfc_and_visible(text: str) -> None:
    try:
        kept = clean_text(text, "/x")
    except DomainError:
        return

    assert unicodedata.is_normalized("NFC", kept)
    assert kept == kept.strip()
    for match in INVISIBLE.finditer(kept):
        at = match.start()
        assert match[0] in "\u200c\u200d\u180b\u180c\u180d\u180e\u180f" or match[0] >= "\ufe00"
        assert script_of(kept[:at][-1:]) not in {"Latn", "Cyrl", "Grek", "Zyyy"} or (
            unicodedata.category(kept[at - 1]) == "Mn"
        )


def test_every_invisible_character_of_unicode_is_refused_between_latin_letters() -> None:
    kept = []
    for match in INVISIBLE.finditer("".join(map(chr, range(0x110000)))):
        if match[0] in "\t\n\r":
            continue
        try:
            clean_text(f"A{match[0]}b", "/x")
        except DomainError:
            continue
        kept.append(match[0])

    assert kept == []
