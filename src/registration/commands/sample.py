"""`registration sample`: made-up patients as FHIR NDJSON, in many scripts, with near-duplicates.

The names come from Faker's locales (it has no Amharic); Arabic, Persian and Hebrew leave out most
vowels, so their names with a Latin spelling come from the short lists below.
"""

import os
import sys
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property, lru_cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Annotated, Any, TypeVar
from uuid import UUID

import orjson
import typer
from anyascii import anyascii

from registration.commands import CommandError, app

TRUTH = "urn:example:sample-truth"
"""System of the ``meta.tag`` whose code is the person: near-duplicates share it."""
FAULT = "urn:example:sample-fault"
"""System of the ``meta.tag``s that say what was done to a near-duplicate."""
AS_OF = datetime(2026, 1, 1)  # noqa: DTZ001  (a day of the calendar, as typer has it)

Resource = dict[str, Any]
Item = TypeVar("Item")
Pair = tuple[str, str]
"""A name in its own script, and its Latin spelling (empty: none)."""

_FACILITIES = ("north", "south", "east", "west")
_PRIME = 999_999_937
_RECENT = 2000
_MARITAL = "http://terminology.hl7.org/CodeSystem/v3-MaritalStatus"
_ROLE = "http://terminology.hl7.org/CodeSystem/v3-RoleCode"
_REPRESENTATION = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"
_ACCURACY = "urn:example:birth-date-accuracy"


@app.command()
def sample(
    count: Annotated[int, typer.Argument(metavar="N", min=0, help="How many patients.")],
    seed: Annotated[int, typer.Option(help="Another number gives other patients.")] = 1,
    duplicates: Annotated[
        float,
        typer.Option(
            min=0, max=0.9, help="Share of lines that are a near-duplicate of an earlier one."
        ),
    ] = 0.1,
    as_of: Annotated[
        datetime,
        typer.Option(formats=["%Y-%m-%d"], help="The day that ages are counted from."),
    ] = AS_OF,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="[default: standard output]", show_default=False),
    ] = None,
) -> None:
    """Write made-up patients as FHIR R4 Patient resources, one a line, for `registration import`.

    The same N, seed and options give the same bytes, and a larger N starts with the same lines.
    Names are in some 20 languages and 14 scripts, many with a Latin spelling as a second name.

    Near-duplicates have a typing error, day and month swapped, names transposed, members missing,
    or the name in the other script only. Which lines are the same person is in their meta.tag of
    the system urn:example:sample-truth; the import leaves tags out. No two lines share an
    identifier, so all can be imported. The last digit of a urn:example:national-id is a Luhn
    check digit.
    """
    try:
        with ExitStack() as stack:
            file = stack.enter_context(output.open("wb")) if output else sys.stdout.buffer
            for resource in patients(count, seed, duplicates, as_of.date()):
                file.write(orjson.dumps(resource, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
    except BrokenPipeError:
        # whoever read had enough; what is left in the buffer goes nowhere on the way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None
    except OSError as error:
        raise CommandError(f"cannot write {output or 'the output'}: {error.strerror}") from error


def patients(count: int, seed: int, duplicates: float, as_of: date) -> Iterator[Resource]:
    """Yield ``count`` Patient resources, the share ``duplicates`` of them near-duplicates."""
    maker = _Maker(seed, as_of)
    recent: deque[Resource] = deque(maxlen=_RECENT)
    for _ in range(count):
        if recent and maker.chance(duplicates):
            yield maker.near_duplicate(maker.pick(recent))
        else:
            recent.append(maker.patient())
            yield recent[-1]


@lru_cache(maxsize=100_000)
def romanized(text: str) -> str:
    """Return a Latin spelling; Indic consonants get the vowel ``a`` that their script implies."""
    letters = []
    for at, letter in enumerate(text):
        latin = "ri" if letter == "\u0943" else anyascii(letter)
        letters.append(latin)
        bare = unicodedata.category(letter) == "Lo" and latin[-1:] not in tuple("aeiou")
        following = text[at + 1 : at + 2]
        if bare and "\u0900" <= letter <= "\u0dff" and following:
            letters.append("a" if unicodedata.category(following) == "Lo" else "")
    return "".join(letters).replace("'", "").title()


def _not_romanized(_text: str) -> str:
    return ""


@dataclass(frozen=True)
class Culture:
    """How people of one language are called, and where they live.

    ``latin`` gives the second, Latin spelling of a name; ``listed`` are names with a spelling of
    their own: male, female, family.
    """

    locale: str
    language: str
    country: str
    dialling: str
    cities: str
    weight: int
    latin: Callable[[str], str] | None = None
    listed: tuple[str, str, str] | None = None

    @cached_property
    def faker(self) -> Any:
        """Faker's lists for the locale."""
        return import_module(f"faker.providers.person.{self.locale}").Provider

    @cached_property
    def given(self) -> dict[str, list[Pair]]:
        """Given names by gender."""
        return {
            gender: self._names(f"first_names_{gender}", f"first_{gender}_names")
            for gender in ("male", "female")
        }

    @cached_property
    def family(self) -> dict[str, list[Pair]]:
        """Family names by gender, where the language has such."""
        return {
            gender: self._names(f"last_names_{gender}", "last_names")
            for gender in ("male", "female")
        }

    @cached_property
    def with_spelling(self) -> dict[str, list[Pair]]:
        """The listed names: ``male``, ``female`` and ``family``."""
        kinds = ("male", "female", "family")
        return {
            kind: [(native, latin) for native, _, latin in (p.partition("=") for p in text.split())]
            for kind, text in zip(kinds, self.listed or ("", "", ""), strict=True)
        }

    @cached_property
    def towns(self) -> list[str]:
        """Cities, as addresses there write them."""
        return self.cities.split(", ")

    def _names(self, *attributes: str) -> list[Pair]:
        names = next(filter(None, (getattr(self.faker, name, None) for name in attributes)))
        spell = self.latin or _not_romanized
        return [(name, spell(name)) for name in names if _plain(name)]


def _plain(name: str) -> bool:
    """Whether it is one word of one script: some of Faker's hold a stray space or Latin letter."""
    letters = all(c.isalpha() or unicodedata.category(c) in {"Mn", "Mc"} for c in name)
    return letters and len({unicodedata.name(c).partition(" ")[0] for c in name}) == 1


_ARABIC = (
    (
        "محمد=Mohammed أحمد=Ahmed علي=Ali حسن=Hassan حسين=Hussein عمر=Omar خالد=Khaled يوسف=Youssef"
        " إبراهيم=Ibrahim مصطفى=Mustafa عبدالله=Abdullah سعيد=Said طارق=Tariq كريم=Karim"
        " ياسر=Yasser"
    ),
    (
        "فاطمة=Fatima عائشة=Aisha مريم=Maryam زينب=Zainab خديجة=Khadija سارة=Sara نور=Nour"
        " ليلى=Layla"
        " هدى=Huda أمينة=Amina سلمى=Salma رانيا=Rania ياسمين=Yasmin دينا=Dina سعاد=Souad"
    ),
    (
        "العلي=Al-Ali الخطيب=Al-Khatib حداد=Haddad النجار=Al-Najjar منصور=Mansour"
        " الحسيني=Al-Husseini"
        " سليمان=Suleiman الشامي=Al-Shami درويش=Darwish قاسم=Qasim الزهراني=Al-Zahrani عباس=Abbas"
        " صالح=Saleh حمدان=Hamdan التميمي=Al-Tamimi"
    ),
)
_PERSIAN = (
    (
        "علی=Ali محمد=Mohammad رضا=Reza حسین=Hossein مهدی=Mahdi امیر=Amir سعید=Saeed بهرام=Bahram"
        " داریوش=Dariush کوروش=Kourosh"
    ),
    (
        "زهرا=Zahra مریم=Maryam فاطمه=Fatemeh نرگس=Narges شیرین=Shirin پروین=Parvin لیلا=Leila"
        " مینا=Mina سارا=Sara نازنین=Nazanin"
    ),
    (
        "احمدی=Ahmadi محمدی=Mohammadi حسینی=Hosseini رضایی=Rezaei کریمی=Karimi موسوی=Mousavi"
        " صادقی=Sadeghi جعفری=Jafari رحیمی=Rahimi هاشمی=Hashemi"
    ),
)
_HEBREW = (
    (
        "יוסף=Yosef דוד=David משה=Moshe אברהם=Avraham יעקב=Yaakov דניאל=Daniel אורי=Uri איתן=Eitan"
        " נועם=Noam אלון=Alon"
    ),
    (
        "שרה=Sarah רחל=Rachel מרים=Miriam נועה=Noa תמר=Tamar יעל=Yael אסתר=Esther מיכל=Michal"
        " רבקה=Rivka הדס=Hadas"
    ),
    (
        "כהן=Cohen לוי=Levi מזרחי=Mizrahi פרץ=Peretz ביטון=Biton דהן=Dahan פרידמן=Friedman"
        " אברהם=Avraham גולן=Golan שפירא=Shapira"
    ),
)

CULTURES = (
    Culture("en_GB", "en", "GB", "44", "Leeds, Bristol, York, Derby", 12),
    Culture("fr_FR", "fr", "FR", "33", "Lyon, Nantes, Lille, Montréal", 7),
    Culture("de_DE", "de", "DE", "49", "Köln, Leipzig, Würzburg, Bremen", 7),
    Culture("es_ES", "es", "ES", "34", "Málaga, Bilbao, Córdoba, León", 7),
    Culture("pt_BR", "pt", "BR", "55", "Recife, São Paulo, Belém", 4),
    Culture("cs_CZ", "cs", "CZ", "420", "Brno, Plzeň, Zlín", 3),
    Culture("hu_HU", "hu", "HU", "36", "Győr, Pécs, Szeged", 2),
    Culture("tr_TR", "tr", "TR", "90", "İzmir, Bursa, Şanlıurfa", 4),
    Culture("vi_VN", "vi", "VN", "84", "Huế, Đà Nẵng, Cần Thơ", 3),
    Culture("sw", "sw", "KE", "254", "Mombasa, Kisumu, Nakuru", 5),
    Culture("yo_NG", "yo", "NG", "234", "Ibadan, Ilorin, Abeokuta", 3),
    Culture("id_ID", "id", "ID", "62", "Bandung, Medan, Makassar", 3),
    Culture("ar_PS", "ar", "JO", "962", "عمّان, إربد, الزرقاء", 12, listed=_ARABIC),
    Culture("fa_IR", "fa", "IR", "98", "تهران, شیراز, اصفهان", 4, listed=_PERSIAN),
    Culture("he_IL", "he", "IL", "972", "חיפה, באר שבע, ירושלים", 3, listed=_HEBREW),
    Culture("ru_RU", "ru", "RU", "7", "Тверь, Казань, Омск", 4, romanized),
    Culture("uk_UA", "uk", "UA", "380", "Львів, Полтава, Чернівці", 4, romanized),
    Culture("bg_BG", "bg", "BG", "359", "Варна, Пловдив, Русе", 2, romanized),
    Culture("el_GR", "el", "GR", "30", "Πάτρα, Βόλος, Χανιά", 3, romanized),
    Culture("zh_CN", "zh", "CN", "86", "成都市, 武汉市, 西安市", 5, romanized),
    Culture("zh_TW", "zh", "TW", "886", "臺中市, 高雄市, 臺南市", 2, romanized),
    Culture("ja_JP", "ja", "JP", "81", "仙台市, 金沢市, 福岡市", 4),
    Culture("ko_KR", "ko", "KR", "82", "대구, 인천, 광주", 3, romanized),
    Culture("hi_IN", "hi", "IN", "91", "पुणे, जयपुर, वाराणसी", 5, romanized),
    Culture("bn_BD", "bn", "BD", "880", "খুলনা, সিলেট, রাজশাহী", 3, romanized),
    Culture("th_TH", "th", "TH", "66", "เชียงใหม่, ขอนแก่น, สงขลา", 2),
    Culture("hy_AM", "hy", "AM", "374", "Գյումրի, Վանաձոր, Երևան", 2, romanized),
    Culture("ka_GE", "ka", "GE", "995", "ქუთაისი, ბათუმი, თბილისი", 2, romanized),
)
_BY_WEIGHT = [culture for culture in CULTURES for _ in range(culture.weight)]


class _Maker:
    """Draws from one stream of random numbers.

    Only `Random.random` is used: its numbers stay the same from one Python to the next.
    """

    def __init__(self, seed: int, as_of: date) -> None:
        self._random = Random(seed).random  # noqa: S311  (no secret)
        self._as_of = as_of
        self._patients = 0
        self._persons = 0

    def chance(self, share: float) -> bool:
        return self._random() < share

    def pick(self, items: Sequence[Item]) -> Item:
        return items[int(self._random() * len(items))]

    def common(self, items: Sequence[Item]) -> Item:
        """Pick the first items more often, as some names are common and most are rare."""
        return items[int(self._random() ** 2 * len(items))]

    def digits(self, count: int) -> str:
        return f"{int(self._random() * 10**count):0{count}d}"

    def patient(self) -> Resource:
        """Make a person that was not there before."""
        self._persons += 1
        culture = self.pick(_BY_WEIGHT)
        gender = "female" if self.chance(0.52) else "male"
        newborn = self.chance(0.015)
        days = self._random() * 10 if newborn else (self._random() + self._random()) * 17500
        born = self._as_of - timedelta(days=int(days))
        resource = self._record(f"person-{self._persons:07d}")
        names = self._names(culture, gender)
        resource["name"] = [self._baby_of(names)] if newborn else names
        resource["gender"] = "unknown" if self.chance(0.02) else gender
        self._birth_date(resource, born, exact=newborn)
        if not newborn and self.chance(0.7):
            resource["identifier"].append(self._national_id())
        self._reachable(resource, culture)
        adult = days > 18 * 365
        if adult and self.chance(0.5):
            status = self.pick("MMSSWD")
            resource["maritalStatus"] = {"coding": [{"system": _MARITAL, "code": status}]}
        if not adult or self.chance(0.3):
            resource["contact"] = [self._contact(culture, names, adult)]
        if self.chance(0.5):
            language = {"coding": [{"system": "urn:ietf:bcp:47", "code": culture.language}]}
            resource["communication"] = [{"language": language, "preferred": True}]
        return resource

    def near_duplicate(self, original: Resource) -> Resource:
        """Make another record of the same person, as another desk might have typed it."""
        person = original["meta"]["tag"][0]["code"]
        resource = self._record(person)
        resource |= {
            name: value
            for name, value in deepcopy(original).items()
            if name not in {"id", "meta", "identifier", "managingOrganization"}
        }
        for _ in range(1 + self.chance(0.4)):
            fault = self.pick(_FAULTS)
            # where it does not apply there is always something that can be left out
            done = fault if _APPLY[fault](self, resource) else "missing"
            if done != fault:
                _APPLY[done](self, resource)
            resource["meta"]["tag"].append({"system": FAULT, "code": done})
        return resource

    def _record(self, person: str) -> Resource:
        self._patients += 1
        facility = self.pick(_FACILITIES)
        high, low, rest = (int(self._random() * 2**bits) for bits in (53, 53, 22))
        return {
            "resourceType": "Patient",
            "id": str(UUID(int=high << 75 | low << 22 | rest, version=4)),
            "meta": {"tag": [{"system": TRUTH, "code": person}]},
            "identifier": [
                {
                    "use": "usual",
                    "type": {"coding": [{"system": _V2_0203, "code": "MR"}]},
                    "system": f"urn:example:mrn:{facility}",
                    "value": f"{facility[0].upper()}{self._patients:07d}",
                }
            ],
            "active": True,
            "managingOrganization": {"reference": f"Organization/{facility}"},
        }

    def _national_id(self) -> Resource:
        # multiplying modulo a prime scatters the numbers without ever giving one twice
        number = f"{self._persons * 7_368_787 % _PRIME:09d}"
        value = number + _luhn(number)
        return {"use": "official", "system": "urn:example:national-id", "value": value}

    def _names(self, culture: Culture, gender: str) -> list[Resource]:
        if culture.locale == "ja_JP":
            return self._japanese(culture, gender)
        if culture.listed and self.chance(0.6):
            lists = culture.with_spelling
            family, given = self.common(lists["family"]), self.common(lists[gender])
        else:
            family = self.common(culture.family[gender])
            given = self.common(culture.given[gender])
        names = [_name(family[0], given[0])]
        if family[1] and given[1] and self.chance(0.65):
            names.append(_name(family[1], given[1]))
        return names

    def _japanese(self, culture: Culture, gender: str) -> list[Resource]:
        """Return a name with its reading in kana, as Japanese registries hold it."""
        family = self.common(list(culture.faker.last_name_pairs))
        given = self.common(getattr(culture.faker, f"first_name_{gender}_pairs"))
        names = []
        for form, code in enumerate(("IDE", "SYL", "ABC")):
            if form < 2 or self.chance(0.5):
                representation = [{"url": _REPRESENTATION, "valueCode": code}]
                names.append(_name(family[form], given[form]) | {"extension": representation})
        return names

    def _baby_of(self, mother: list[Resource]) -> Resource:
        name = mother[-1]
        return {"use": "anonymous", "text": f"Baby of {name['given'][0]} {name['family']}"}

    def _birth_date(self, resource: Resource, born: date, *, exact: bool) -> None:
        kind = 1.0 if exact else self._random()
        text = born.isoformat()
        if kind < 0.02:
            return
        if kind < 0.06:
            text = text[:4]
        elif kind < 0.08:
            text = text[:7]
        elif kind < 0.16:
            text = f"{text[:4]}-01-01"
            estimated = {"url": _ACCURACY, "valueCode": "estimated"}
            resource["_birthDate"] = {"extension": [estimated]}
        resource["birthDate"] = text

    def _reachable(self, resource: Resource, culture: Culture) -> None:
        if self.chance(0.8):
            resource["telecom"] = [self._phone(culture)]
            if self.chance(0.25):
                number = self.digits(6)
                mail = {"system": "email", "value": f"p{number}@example.org"}
                resource["telecom"].append(mail)
        if self.chance(0.85):
            resource["address"] = [
                {
                    "use": "home",
                    "line": [f"{self.pick(culture.towns)} {1 + int(self._random() * 200)}"],
                    "city": self.pick(culture.towns),
                    "postalCode": self.digits(5),
                    "country": culture.country,
                }
            ]

    def _phone(self, culture: Culture) -> Resource:
        value = f"+{culture.dialling} {self.digits(3)} {self.digits(6)}"
        return {"system": "phone", "value": value, "use": "mobile"}

    def _contact(self, culture: Culture, names: list[Resource], adult: bool) -> Resource:
        code, display = self.pick(_ADULT_KIN if adult else _CHILD_KIN)
        gender = "male" if code in {"FTH", "BRO", "HUSB"} else "female"
        kin = self._names(culture, gender)[0]
        if self.chance(0.5):
            kin = kin | {"family": names[0]["family"]}
        coding = {"system": _ROLE, "code": code, "display": display}
        contact = {"relationship": [{"coding": [coding]}], "name": kin}
        return contact | ({"telecom": [self._phone(culture)]} if self.chance(0.8) else {})

    # What can go wrong at a second desk. Each says whether it could be done.

    def typo(self, resource: Resource) -> bool:
        """Swap, drop or double a letter of one name."""
        name = self.pick(resource["name"])
        members = [member for member in ("family", "given") if member in name]
        if not members:
            return False
        member = self.pick(members)
        text = name[member] if member == "family" else name[member][0]
        if len(text) < 3 or not text.isalpha():
            return False
        at = int(self._random() * (len(text) - 1))
        changed = self.pick(
            (
                text[:at] + text[at + 1] + text[at] + text[at + 2 :],
                text[: at + 1] + text[at + 2 :],
                text[: at + 1] + text[at:],
            )
        )
        name[member] = changed if member == "family" else [changed, *name[member][1:]]
        return bool(changed != text)

    def swap_day_and_month(self, resource: Resource) -> bool:
        """Read the birth date the other way round."""
        year, _, rest = resource.get("birthDate", "").partition("-")
        month, _, day = rest.partition("-")
        if not day or month == day or int(day) > 12:
            return False
        swapped = f"{year}-{day}-{month}"
        if swapped > self._as_of.isoformat():
            return False
        resource["birthDate"] = swapped
        return True

    def transpose(self, resource: Resource) -> bool:
        """Put the family name where the given one belongs."""
        done = False
        for name in resource["name"]:
            if "family" in name and name["given"]:
                name["family"], name["given"] = name["given"][0], [name["family"]]
                done = True
        return done

    def leave_out(self, resource: Resource) -> bool:
        """Leave out some of what is not needed."""
        present = [m for m in ("birthDate", "telecom", "address", "contact") if m in resource]
        for member in present[: 1 + int(self._random() * len(present))]:
            del resource[member]
            resource.pop(f"_{member}", None)
        return True

    def other_script(self, resource: Resource) -> bool:
        """Keep the name in one script only: mostly the other one, the Latin."""
        if len(resource["name"]) < 2:
            return False
        resource["name"] = [resource["name"][-1 if self.chance(0.7) else 0]]
        return True


_V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"
_CHILD_KIN = (("MTH", "mother"), ("MTH", "mother"), ("FTH", "father"))
_ADULT_KIN = (("HUSB", "husband"), ("WIFE", "wife"), ("BRO", "brother"), ("SIS", "sister"))
_APPLY: dict[str, Callable[[_Maker, Resource], bool]] = {
    "typo": _Maker.typo,
    "day-and-month": _Maker.swap_day_and_month,
    "transposed": _Maker.transpose,
    "missing": _Maker.leave_out,
    "one-script": _Maker.other_script,
}
_FAULTS = ("typo", "typo", "day-and-month", "transposed", "missing", "one-script", "one-script")


def _name(family: str, given: str) -> Resource:
    return {"use": "official", "family": family, "given": [given]}


def _luhn(number: str) -> str:
    total = 0
    for at, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if at % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)
