"""What a name is found by: folded words, and looser keys of a word.

Folding makes one spelling of what people take for the same word in one script: case, accents, ß, ø,
đ, ı, Arabic vowel signs, tatweel and the forms of alef, yeh, kaf and heh, Hebrew points and final
letters, hiragana and katakana, half and full width, apostrophes inside a word.

Looser keys, each found in the table ``spelling``:

``=word`` and each word with one character left out
    Two words within one typo (insertion, deletion, substitution, transposition) share such a key
    (Garbe's SymSpell).
``~code``
    Lawrence Philips' Metaphone of the transliteration: a phonetic spelling.
``^skeleton`` (of words in other scripts than Latin), ``_skeleton`` (of Latin ones)
    The consonants of the transliteration (``anyascii``, pinned: a new version changes keys, so it
    needs a new VERSION of the read model). It joins words of different scripts: Mohammed, محمد
    and Мухаммед are all ``md``.

Limits of the skeleton, on purpose simple: short names share one (Ali, Eli), so callers rank by
:func:`likeness`; Han characters are read as Mandarin, so a Japanese name in kanji is not found by
its Japanese reading (its kana are); letters with no counterpart, and spellings by another
language's habits (Wladimir), may be missed.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import regex
from anyascii import anyascii
from jellyfish import metaphone
from rapidfuzz.distance import OSA, JaroWinkler, Levenshtein

from registration.domain.names import script_of
from registration.domain.resources import Name

LONGEST_WORD = 40
MOST_WORDS = 24
FULLY_PAIRED = 8
"""The first words of a name are paired with each other, later ones with the first alone."""

FAMILY, GIVEN = "f", "g"

_ASCII_WORDS = re.compile(r"[a-z0-9]+")
_WORDS = regex.compile(r"[\p{L}\p{N}\p{M}]+")
_DROPPED = regex.compile(
    r"[\u0640\u200c\u200d'’ʼ`´‘′]"
    r"|[\p{Mn}&&[\p{Inherited}\p{Latin}\p{Greek}\p{Cyrillic}\p{Hebrew}\p{Arabic}\p{Syriac}]"
    r"--[\u3099\u309a]]",
    regex.V1,
)
_FOLDED = {
    "ø": "o",
    "đ": "d",
    "ł": "l",
    "ħ": "h",
    "ŧ": "t",
    "ı": "i",
    "ð": "d",
    "ŋ": "n",
    "ĸ": "k",
    "æ": "ae",
    "œ": "oe",
    "þ": "th",
    "ə": "a",
    "ٱ": "ا",
    "ى": "ي",
    "ی": "ي",
    "ې": "ي",
    "ے": "ي",
    "ک": "ك",
    "ء": "",
    "ة": "ه",
    "ھ": "ه",
    "ہ": "ه",
    "ە": "ه",
    "ך": "כ",
    "ם": "מ",
    "ן": "נ",
    "ף": "פ",
    "ץ": "צ",
    **{chr(code): chr(code - 0x60) for code in range(0x30A1, 0x30F7)},
}
_FOLD = str.maketrans(_FOLDED)
_DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.V1)

# Names that are one in many spellings and two in others: عبد الله, Abdul Rahman.
_JOINING = frozenset({"عبد", "abd", "abdul", "abdel", "abdal"})
# A query may say the article where the name has it inside a word, or not at all.
OPTIONAL = frozenset({"al", "el", "ال", "de", "la", "van", "von", "bin", "ibn", "bint"})
OPTIONAL |= {"بن", "ابن", "بنت"}


@lru_cache(maxsize=60_000)
def fold(text: str) -> tuple[str, ...]:
    """Return the folded words of ``text`` in their order; empty for punctuation alone."""
    if text.isascii():
        text = text.lower()
        if "'" in text or "`" in text:
            text = text.replace("'", "").replace("`", "")
        words = _ASCII_WORDS.findall(text)
    else:
        text = unicodedata.normalize("NFKD", text).casefold()
        text = _DROPPED.sub("", unicodedata.normalize("NFKD", text))
        text = unicodedata.normalize("NFC", text).translate(_FOLD)
        text = _DIGIT.sub(lambda match: str(unicodedata.digit(match[0], 0)), text)
        words = _WORDS.findall(text)
    return tuple([word[:LONGEST_WORD] for word in words])


class Shown(NamedTuple):
    """What of a name it is found by; a cheap stand-in for a ``Name`` that is stored as JSON."""

    family: str | None
    given: tuple[str, ...]
    text: str | None
    script: str


def words_of(name: Name | Shown) -> tuple[tuple[str, str], ...]:
    """Return the folded words of a name, each with the roles it is found in (``f``, ``g``, ``fg``).

    Words of ``text`` that are in no other part may be either. Prefixes and suffixes are no names.
    """
    return _words(name.family, name.given, name.text, name.script)


def pairs_of(name: Name | Shown) -> tuple[tuple[str, str, str], ...]:
    """Return the rows a name is found by: (word, its role, another word of the name).

    Any two words of a name find it, in any order; a name of one word is paired with nothing.
    """
    return _pairs(_words(name.family, name.given, name.text, name.script))


@lru_cache(maxsize=10_000)
def _words(
    family: str | None, given: tuple[str, ...], text: str | None, script: str
) -> tuple[tuple[str, str], ...]:
    roles: dict[str, str] = {}
    if family is not None:
        _add(roles, fold(family), FAMILY)
    if given:
        _add(roles, [word for part in given for word in fold(part)], GIVEN)
    if text is not None:
        for word in fold(text):
            if word not in roles:
                _add(roles, (word,), FAMILY + GIVEN)
                if family is None:
                    _add(roles, _split_han(word), FAMILY + GIVEN)
    if script in _UNSPACED and family is not None and given:
        _add(roles, fold(family + "".join(given)), FAMILY + GIVEN)
    return tuple(list(roles.items())[:MOST_WORDS])


_UNSPACED = frozenset({"Hani", "Hans", "Hant", "Jpan", "Kore", "Hang"})


def _split_han(word: str) -> tuple[str, ...]:
    """Split a Chinese or Korean full name, written without a space, after the family name."""
    if 2 <= len(word) <= 4 and script_of(word) in {"Hani", "Kore"}:
        return word[:1], word[1:]
    return ()


def _add(roles: dict[str, str], words: Iterable[str], role: str) -> None:
    before = ""
    for word in words:
        _note(roles, word, role)
        if before in _JOINING:
            _note(roles, before + word, role)
        before = word


def _note(roles: dict[str, str], word: str, role: str) -> None:
    known = roles.get(word)
    if known is None:
        roles[word] = role
    elif known != role:
        roles[word] = FAMILY + GIVEN


@lru_cache(maxsize=10_000)
def _pairs(words: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str, str], ...]:
    if len(words) == 1:
        ((word, roles),) = words
        return tuple([(word, role, "") for role in roles])
    return tuple(
        [
            (word, role, other)
            for at, (word, roles) in enumerate(words)
            for other_at, (other, _) in enumerate(words)
            if at != other_at and (max(at, other_at) < FULLY_PAIRED or 0 in {at, other_at})
            for role in roles
        ]
    )


def asked_words(text: str) -> list[str]:
    """Return the folded words of a query, with those joined that :func:`words_of` joins."""
    words: list[str] = []
    for word in fold(text):
        if words and words[-1] in _JOINING:
            words[-1] += word
        else:
            words.append(word)
    return words


def typo_keys(word: str) -> set[str]:
    """Return the keys that a word shares with every word one typo away."""
    if len(word) < 2 or not _spelled(word):
        return {"=" + word}
    keys = {"=" + word[:at] + word[at + 1 :] for at in range(len(word))}
    keys.add("=" + word)
    return keys


def sound_key(word: str) -> str | None:
    """Return the phonetic key of a word, if its transliteration sounds at all."""
    if not _spelled(word):
        return None
    code = metaphone(latin(word))
    return "~" + code if code else None


def skeletons(word: str) -> set[str]:
    """Return what a word has in common with its like in other scripts."""
    found = set()
    for variant in _variants(word, latin(word)):
        loose = _loose(variant)
        found.add(loose)
        if variant[0] == "j":
            found.add("a" + loose[1:])
    return found


def skeleton_keys(word: str) -> set[str]:
    """Return the keys under which the dictionary lists a word for queries in other scripts."""
    kind = "_" if word.isascii() else "^"
    return {kind + skeleton for skeleton in skeletons(word)}


def foreign_keys(word: str) -> set[str]:
    """Return the keys under which a query's word finds its like in other scripts."""
    kinds = "^" if word.isascii() else "^_"
    return {kind + skeleton for skeleton in skeletons(word) for kind in kinds}


def keys_of(word: str) -> set[str]:
    """Return every key under which the dictionary lists a word."""
    keys = typo_keys(word) | skeleton_keys(word)
    sound = sound_key(word)
    if sound is not None:
        keys.add(sound)
    return keys


@lru_cache(maxsize=60_000)
def script(word: str) -> str:
    """Return the script of a folded word, kana and kanji as one."""
    found = script_of(word)
    return "Hani" if found == "Jpan" and script_of(word[0]) == "Hani" else found


_VOWELLED = str.maketrans({"ا": "a", "ع": "a", "א": "a", "ע": "a"})


@lru_cache(maxsize=60_000)
def latin(word: str) -> str:
    """Return a word in plain Latin letters, in lower case."""
    if word.isascii():
        return word
    return re.sub(r"[^a-z0-9]", "", anyascii(word.translate(_VOWELLED)).lower())


# Scripts that leave vowels unwritten: there the consonants alone are compared.
_ABJADS = frozenset({"Arab", "Hebr", "Syrc", "Thaa", "Deva", "Beng", "Thai", "Taml", "Mlym"})


def likeness(asked: str, word: str) -> float:
    """Return how alike two words of different scripts sound, from 0 to 1."""
    left, right = latin(asked), latin(word)
    if script(asked) in _ABJADS or script(word) in _ABJADS:
        return max(
            Levenshtein.normalized_similarity(_fine(one), _fine(other))
            for one in _variants(asked, left)
            for other in _variants(word, right)
        )
    return float(Levenshtein.normalized_similarity(left, right))


def misspelling(asked: str, word: str) -> float | None:
    """Return the cost of taking ``word`` for ``asked``, or none where they are not alike at all.

    0.5 to 1 within one typo, by how much the words share; 1 to 1.4 for a word that sounds alike.
    """
    close = JaroWinkler.similarity(asked, word)
    if OSA.distance(asked, word, score_cutoff=1) <= 1:
        return 1.0 - close / 2
    if close >= 0.6:
        return 2.0 - close
    return None


def _spelled(word: str) -> bool:
    """Whether a word is spelled with letters for sounds; ideographs are not, syllables hardly."""
    return word.isascii() or len(word) > 2 or script(word) not in {"Hani", "Jpan", "Kore"}


def _variants(word: str, plain: str) -> list[str]:
    """Return the transliteration, and what else the same letters stand for."""
    variants = [plain] if plain else []
    if len(word) > 4 and word[:2] in {"ال", "al", "el"}:
        variants.append(plain[2:])  # the Arabic article
    elif "\u05d0" <= word[0] <= "\u05ea" and "v" in plain:
        variants.append(plain.replace("v", "w"))  # vav, a consonant or a vowel
    elif "\u0400" <= word[0] <= "\u04ff" and "kh" in plain:
        variants.append(plain.replace("kh", "h"))  # Cyrillic kha for a foreign h
    return variants


_SOUND = {
    "ph": "f",
    "ck": "k",
    "ch": "k",
    "kh": "k",
    "gh": "k",
    "sh": "s",
    "zh": "s",
    "ts": "s",
    "th": "t",
    "dh": "d",
    "dj": "j",
    "tch": "k",
    "x": "ks",
}
_SOUNDS = re.compile("|".join(sorted(_SOUND, key=len, reverse=True)))
_LETTERS = str.maketrans("gqczvbp", "kkksfff")
_AFTER_FIRST = re.compile(r"[aeiouywh]")
_DOUBLED = re.compile(r"(.)\1+")
_SOFT_C = re.compile(r"c(?=[eiy])")


@lru_cache(maxsize=60_000)
def _loose(plain: str) -> str:
    """Return the consonants, alike ones as one, with a mark for a vowel at the beginning."""
    text = _SOFT_C.sub("s", plain)
    text = _SOUNDS.sub(lambda match: _SOUND[match[0]], text).translate(_LETTERS)
    first = "a" if text[:1] in {"a", "e", "i", "o", "u", "y"} else text[:1]
    return _DOUBLED.sub(r"\1", first + _AFTER_FIRST.sub("", text[1:]))


@lru_cache(maxsize=60_000)
def _fine(plain: str) -> str:
    """Return the consonants as they are, for ranking what shares the loose ones."""
    first = "a" if plain[:1] in {"a", "e", "i", "o", "u", "y"} else plain[:1]
    return _DOUBLED.sub(r"\1", first + re.sub(r"[aeiouyw]", "", plain[1:]))
