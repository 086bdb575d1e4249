"""Personal names in any script: what is accepted, how it is kept, and how it is shown.

Sources: FHIR R4 HumanName; Unicode 17 (UAX #15 normalisation, UAX #24 script property, UAX #29,
UTS #39 "Unicode Security Mechanisms"); RFC 5892 appendix A for the joiners; ISO 15924 for the
codes. The script property comes from the ``regex`` library, since the standard library has none.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import regex

from registration.domain.errors import DomainError, invalid
from registration.domain.resources import Name, NameInput

COMMON = "Zyyy"
"""ISO 15924 for text without a script of its own, such as digits alone."""

_CODES = (  # noqa: SIM905 (a table of 172 quoted codes would fill a page)
    "Latn Arab Cyrl Grek Hebr Hani Hira Kana Hang Bopo Deva Beng Guru Gujr Orya Taml Telu Knda"
    " Mlym Sinh Thai Laoo Tibt Mymr Khmr Ethi Armn Geor Mong Thaa Syrc Nkoo Adlm Cher Cans Tfng"
    " Vaii Yiii Lisu Copt Goth Aghb Ahom Armi Avst Bali Bamu Bass Batk Berf Bhks Brah Brai Bugi"
    " Buhd Cakm Cari Cham Chrs Cpmn Cprt Diak Dogr Dsrt Dupl Egyp Elba Elym Gara Glag Gong Gonm"
    " Gran Gukh Hano Hatr Hluw Hmng Hmnp Hung Ital Java Kali Kawi Khar Khoj Kits Krai Kthi Lana"
    " Lepc Limb Lina Linb Lyci Lydi Mahj Maka Mand Mani Marc Medf Mend Merc Mero Modi Mroo Mtei"
    " Mult Nagm Nand Narb Nbat Newa Nshu Ogam Olck Onao Orkh Osge Osma Ougr Palm Pauc Perm Phag"
    " Phli Phlp Phnx Plrd Prti Rjng Rohg Runr Samr Sarb Saur Sgnw Shaw Shrd Sidd Sidt Sind Sogd"
    " Sogo Sora Soyo Sund Sunu Sylo Tagb Takr Tale Talu Tang Tavt Tayo Tglg Tirh Tnsa Todr Tols"
    " Toto Tutg Ugar Vith Wara Wcho Xpeo Xsux Yezi Zanb"
).split()
_SCRIPT = regex.compile("|".join(rf"(?P<{code}>\p{{Script={code}}})" for code in _CODES))

# A name written with these is Japanese or Korean, whatever Han characters stand next to them.
_JAPANESE = frozenset({"Hira", "Kana"})
_EAST_ASIAN = {"Hira": "Jpan", "Kana": "Jpan", "Hang": "Kore", "Bopo": "Hani"}

# UTS #39, section 5.2, "Highly Restrictive": the only scripts that share a word.
_SHARED_WORDS = (
    frozenset({"Latn", "Hani", "Hira", "Kana"}),
    frozenset({"Latn", "Hani", "Bopo"}),
    frozenset({"Latn", "Hani", "Hang"}),
)
# Codes of ISO 15924 that say more than the Unicode property can: a stated one is kept.
_NARROWER = {
    "Hani": frozenset({"Hans", "Hant", "Hanb", "Jpan", "Kore"}),
    "Latn": frozenset({"Latf", "Latg"}),
    "Arab": frozenset({"Aran"}),
    "Cyrl": frozenset({"Cyrs"}),
    "Geor": frozenset({"Geok"}),
    "Syrc": frozenset({"Syre", "Syrj", "Syrn"}),
}

# Codes for one part of the Japanese or Korean script: kept where the text needs no other part.
_PARTS = {
    "Hira": {"Hira"},
    "Kana": {"Kana"},
    "Hrkt": {"Hira", "Kana"},
    "Hang": {"Hang"},
    "Bopo": {"Bopo"},
}

_SPACES = regex.compile(r"[\t\n\r\p{Zs}]+")
_JOINED = (
    r"[[\p{L}\p{M}]&&[\p{Arab}\p{Syrc}\p{Mand}\p{Mong}\p{Nkoo}\p{Phag}\p{Adlm}\p{Rohg}\p{Thaa}"
    r"\p{Deva}\p{Beng}\p{Guru}\p{Gujr}\p{Orya}\p{Taml}\p{Telu}\p{Knda}\p{Mlym}\p{Sinh}\p{Newa}"
    r"\p{Tibt}\p{Mymr}\p{Khmr}\p{Bali}\p{Java}\p{Cakm}\p{Sund}\u0640\u064B-\u065F\u0670]]"
)
# What stays although it is invisible: joiners inside words of joining and Indic scripts, and the
# variation selectors that Han and Mongolian names are told apart by.
_REFUSED = regex.compile(
    r"[\u200C\u200D](?!" + _JOINED + r")|(?<!" + _JOINED + r")[\u200C\u200D]"
    r"|(?<!\p{Han})[\uFE00-\uFE0F\U000E0100-\U000E01EF]"
    r"|(?<!\p{Mong})[\u180B-\u180F]"
    r"|[[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]"
    r"--[\u200C\u200D\uFE00-\uFE0F\U000E0100-\U000E01EF\u180B-\u180F]]",
    regex.V1,
)
# Invisible, yet printable to ``str.isprintable``: with that method, a quick proof of clean text.
_HIDDEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
# The spelling of Malayalam's final consonants before Unicode 5.1, which ends words in a joiner.
_CHILLU = regex.compile(r"([ണനരലളക])\u0D4D\u200D")
_CHILLUS = {"ണ": "ൺ", "ന": "ൻ", "ര": "ർ", "ല": "ൽ", "ള": "ൾ", "ക": "ൿ"}

_WORD = regex.compile(r"[\p{L}\p{M}\u200C\u200D]+")
_TIDY_ASCII = re.compile(r"[!-~]+(?:[ \n][!-~]+)*")
_LATIN_LETTER = re.compile(r"[A-Za-z]")
_FIELDS = set(Name.model_fields)


def confirm_name(said: NameInput, name_id: UUID, path: str) -> Name:
    """Return the name as the server holds it: NFC, single spaces, ``script`` in ISO 15924.

    ``path`` is the JSON Pointer of the name in the request; messages never hold the input.
    Confirming a confirmed name gives the same name again.

    Raises ``VALIDATION_FAILED`` for a name without family, given and text (``anonymous``: without
    text), without any letter or digit, with a character that is invisible, a control, unassigned
    or private, or with a word that mixes scripts as homoglyph forgeries do (``UTS #39``: Latin may
    share a word with Chinese, Japanese or Korean, nothing else may; *words* of one name may differ
    in script, as in "Anna-Μαρία"). Raises ``NAME_SCRIPT_MISMATCH`` where a stated script is not
    the one that most of the name is written in.
    """
    core = _core(said)
    if not core or (said.use == "anonymous" and not said.text):
        raise invalid(*_what_is_missing(said, path))
    parts = [*core, *said.prefix, *said.suffix]
    joined = "\n".join(parts)
    # One match proves a plain ASCII name clean; a line feed inside a part shows in the count.
    if (
        _TIDY_ASCII.fullmatch(joined)
        and joined.count("\n") == len(parts) - 1
        and _LATIN_LETTER.search(joined if len(core) == len(parts) else "\n".join(core))
    ):
        return _named(said, name_id, _confirm_script(said.script, "Latn", "", path))
    return _confirm_any(said, name_id, path)


def _confirm_any(said: NameInput, name_id: UUID, path: str) -> Name:
    """Do what :func:`confirm_name` promises for any text; the ASCII path only shortens this."""
    held = _named(
        said,
        name_id,
        COMMON,
        family=None if said.family is None else clean_text(said.family, f"{path}/family"),
        given=_clean_list(said.given, path, "given"),
        prefix=_clean_list(said.prefix, path, "prefix"),
        suffix=_clean_list(said.suffix, path, "suffix"),
        text=None if said.text is None else clean_text(said.text, f"{path}/text"),
    )
    core = "".join(_core(held))
    if not any(map(str.isalnum, core)):
        raise invalid(path, "The name holds neither a letter nor a digit.")
    if len(_scripts("".join((core, *held.prefix, *held.suffix)))) > 1:
        _refuse_mixed_words(held, path)
    held.__dict__["script"] = _confirm_script(said.script, script_of(core), core, path)
    return held


def clean_text(text: str, path: str) -> str:
    """Return ``text`` in NFC, stripped, with single spaces.

    Raises ``VALIDATION_FAILED`` where nothing is left, or where a character is a control (bidi
    controls too), invisible, unassigned or private.
    """
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    if (
        text.isprintable()
        and "  " not in text
        and text[0] != " " != text[-1]
        and not _HIDDEN.search(text)
    ):
        return text
    text = _SPACES.sub(" ", text).strip(" ")
    if not text:
        raise invalid(path, "The text is blank.")
    if "\u200d" in text:
        text = _CHILLU.sub(lambda match: _CHILLUS[match[1]], text)
    if _REFUSED.search(text):
        raise invalid(path, "The text holds a control, invisible or unassigned character.")
    return text


def script_of(text: str) -> str:
    """Return the ISO 15924 code of the script that most of ``text`` is in, ``Zyyy`` if in none.

    Han with kana counts as ``Jpan``, Han with Hangul as ``Kore``, as ISO 15924 defines them.
    """
    found = _scripts(text)
    if len(found) == 1:
        (only,) = found
        return _EAST_ASIAN.get(only, only)
    if not found:
        return COMMON
    counts: Counter[str] = Counter()
    for code in map(_character_script, text):
        if code:
            counts[_EAST_ASIAN.get(code, code)] += 1
    for whole in ("Jpan", "Kore"):
        if whole in counts:
            counts[whole] += counts.pop("Hani", 0)
    # Equal counts go by the code, so that the answer depends on the text alone.
    return max(sorted(counts), key=counts.__getitem__)


def display(names: Sequence[Name]) -> dict[str, Any]:
    """Return the name to show for each script, and the one to show where nothing is asked for.

    Shape: ``{"default": {"nameId", "script", "text"}, "byScript": {script: {"nameId", "text"}}}``;
    ``default`` is ``None`` for no names. Among several names the use decides (usual, official,
    temp, nickname, maiden, old, anonymous: what a person is called now, then what they were called,
    then a stand-in), and of equal ones the first.
    """
    if len(names) == 1:
        chosen = [names[0]]
    else:
        best: dict[str, Name] = {}
        for name in sorted(names, key=_rank):
            best.setdefault(name.script, name)
        chosen = list(best.values())
    by_script = {name.script: {"nameId": str(name.id), "text": written(name)} for name in chosen}
    if not chosen:
        return {"default": None, "byScript": by_script}
    first = chosen[0].script
    shown = by_script[first]
    return {
        "default": {"nameId": shown["nameId"], "script": first, "text": shown["text"]},
        "byScript": by_script,
    }


_USES = ("usual", "official", "temp", "nickname", "maiden", "old", "anonymous")
_RANKS = {use: rank for rank, use in enumerate(_USES)}
_FAMILY_FIRST_SCRIPTS = frozenset({"Khmr"})
_UNSPACED_SCRIPTS = frozenset({"Hani", "Hans", "Hant", "Hanb", "Jpan", "Hrkt", "Hira", "Kana"})
_UNSPACED_SCRIPTS |= {"Kore", "Hang"}
_FAMILY_FIRST_LANGUAGES = frozenset({"hu", "vi"})


def written(name: Name) -> str:
    """Return a name as one line: its ``text``, or its parts in the order its culture writes them.

    Chinese, Japanese and Korean script: family then given, without a space (with one where both
    are kana, as Japanese forms write readings). Khmer script, and the languages Hungarian and
    Vietnamese: family first. All others: given first.
    """
    if name.text is not None:
        return name.text
    family = () if name.family is None else (name.family,)
    script = name.script
    if script in _UNSPACED_SCRIPTS:
        parts = (*family, *name.given)
        kana = all("\u3041" <= part[0] <= "\u30ff" for part in parts)
        core: Iterable[str] = ((" " if kana else "").join(parts),)
    elif script in _FAMILY_FIRST_SCRIPTS or (
        name.language is not None
        and name.language.partition("-")[0].lower() in _FAMILY_FIRST_LANGUAGES
    ):
        core = (*family, *name.given)
    else:
        core = (*name.given, *family)
    return " ".join((*name.prefix, *core, *name.suffix))


def _rank(name: Name) -> int:
    return _RANKS[name.use]


def _core(said: NameInput) -> list[str]:
    """Return the parts that a name cannot do without, in a fixed order."""
    core = [*said.given]
    if said.family:
        core.append(said.family)
    if said.text:
        core.append(said.text)
    return core


def _what_is_missing(said: NameInput, path: str) -> tuple[str, str]:
    if said.use == "anonymous":
        return f"{path}/text", "An anonymous name needs a text."
    return path, "A name needs a family name, a given name or a text."


def _clean_list(texts: tuple[str, ...], path: str, member: str) -> tuple[str, ...]:
    if not texts:
        return texts
    return tuple([clean_text(text, f"{path}/{member}/{index}") for index, text in enumerate(texts)])


def _refuse_mixed_words(name: Name, path: str) -> None:
    parts = [(name.family, "family"), (name.text, "text")]
    for member in ("given", "prefix", "suffix"):
        parts += [(text, f"{member}/{at}") for at, text in enumerate(getattr(name, member))]
    for text, member in parts:
        for word in _WORD.findall(text or ""):
            scripts = _scripts(word)
            if len(scripts) > 1 and not any(scripts <= shared for shared in _SHARED_WORDS):
                raise invalid(f"{path}/{member}", "A word mixes letters of different scripts.")


def _scripts(text: str) -> set[str]:
    """Return the Unicode scripts of the characters that have one."""
    found = set(map(_character_script, text))
    found.discard("")
    return found


@lru_cache(maxsize=50_000)
def _character_script(character: str) -> str:
    match = _SCRIPT.match(character)
    return match.lastgroup or "" if match else ""


def _confirm_script(stated: str | None, detected: str, text: str, path: str) -> str:
    """Return the script to keep: a stated one may say more than the text shows, not otherwise."""
    if stated is None or stated == detected or stated in _NARROWER.get(detected, ()):
        return stated or detected
    if stated in _PARTS and _scripts(text) <= _PARTS[stated]:
        return stated
    raise DomainError(
        "NAME_SCRIPT_MISMATCH",
        "The name is not written in the script that was stated.",
        {"errors": [{"path": f"{path}/script", "message": f"The text is written in {detected}."}]},
    )


def _named(said: NameInput, name_id: UUID, script: str, **cleaned: Any) -> Name:
    """Build a ``Name`` from parts that are valid already.

    pydantic's constructor would check every part again, for more than all the rest costs here.
    """
    name = Name.__new__(Name)
    _set(name, "__dict__", {**said.__dict__, "id": name_id, "script": script, **cleaned})
    _set(name, "__pydantic_fields_set__", _FIELDS)
    _set(name, "__pydantic_extra__", None)
    _set(name, "__pydantic_private__", None)
    return name


_set = object.__setattr__
