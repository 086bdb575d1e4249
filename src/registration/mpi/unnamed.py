"""Names that name nobody: newborns called after their mother, and stand-ins for the unknown.

A word that is also a given name somewhere (Baby, Bebe) counts as the first word of a name only. Two
persons called so then need an identifier to match, which is the safer mistake.
"""

import re

from registration.domain.search_keys import fold

# What a newborn's name begins with. The mother's name follows, or a number, or nothing.
_NEWBORN_STARTS = (
    "baby babyboy babygirl bb bbg bg nb newborn neonate infant",  # English, and labels of hospitals
    "bebé neonato neonata nourrisson rn",  # Spanish, Portuguese, Italian, French
    "Neugeborenes Neugeborener Neugeborene Säugling",  # German
    "pasgeborene pasgeboren nyfødt nyfödd spädbarn",  # Dutch, Danish, Norwegian, Swedish
    "новорожденный новорожденная новорождённый новорождённая младенец ребёнок",  # Russian
    "новонароджений новонароджена новородено noworodek novorozenec",  # Ukrainian to Czech
    "bebek yenidoğan bayi kichanga",  # Turkish, Indonesian and Malay, Swahili
    "رضيع رضيعة نوزاد",  # Arabic, Persian
    "תינוק תינוקת יילוד νεογέννητο νεογνό նորածին ახალშობილი",  # Hebrew, Greek, Armenian, Georgian
    "नवजात शिशु बेबी নবজাতক বেবি ทารก",  # Hindi, Bengali, Thai
    "ベビー 赤ちゃん 新生児 아기 신생아 新生儿 新生兒 婴儿 嬰兒",  # Japanese, Korean, Chinese
)
# What a newborn's name is, as folded words: "Boy 1 of X", "Twin A", "X, Baby Girl", "B/O X".
_NEWBORN_PHRASES = (
    r"(boy|girl|twin|triplet|child|male|female) ([0-9ab]|one|two|i|ii|iii)( .*)?",
    r"(twin|triplet|child|boy|girl|male|female) (baby|infant|newborn|of)( .*)?",
    r".* (baby|newborn) (boy|girl|male|female|[0-9ab])( of .*)?",
    r".+ (babyboy|babygirl|newborn)",
    r".+ (twin|boy|girl) [0-9ab]",
    r"new born( .*)?",
    r"b o( .*)?",
    # Spanish, Portuguese, Italian, French, German, Dutch
    r"(recien nacid|recem nascid)[oa]( .*)?",
    r"(hij[oa]|filh[oa]|figli[oa]|fils|fille|enfant) (1 |2 )?(de|d|da|di|du)( .*)?",
    r"nouveaux? ?nee?s?( .*)?",
    r"(kind|sohn|tochter|zoon|dochter) (von|van)( .*)?",
    # Swahili "child of", Indonesian and Vietnamese "baby of Mrs"
    r"mtoto (mchanga|wa)( .*)?",
    r"by ny( .*)?",
    r"con ba( .*)?",
    # Arabic "newly born", "child of"
    r"(مولود|مولوده|طفل|طفله) (حديث|حديثه|ابن|بنت)( .*)?",
    r"حديثه? الولاده( .*)?",
    # Chinese "son, daughter of X", Japanese "X's baby": after the mother's name
    r".*之[子女]",
    r".*(べびー|の児)",
)
_STAND_INS = (
    "unknown unidentified unbekannt inconnu inconnue desconocido desconocida desconhecido",
    "desconhecida sconosciuto sconosciuta onbekend неизвестный неизвестная невідомий невідома",
    "bilinmeyen مجهول مجهولة ناشناس אלמוני אלמונית",
)

_STARTING = frozenset(word for words in _NEWBORN_STARTS for word in fold(words))
_PHRASES = re.compile("|".join(f"(?:{phrase})" for phrase in _NEWBORN_PHRASES))
_STANDING_IN = frozenset(word for words in _STAND_INS for word in fold(words))
_DOES = frozenset({("john", "doe"), ("jane", "doe"), ("doe", "john"), ("doe", "jane")})


def is_newborn(family: tuple[str, ...], given: tuple[str, ...]) -> bool:
    """Whether folded words are what a newborn without a name is called, such as "Baby of X"."""
    words = (*given, *family)
    if not words:
        return False
    return words[0] in _STARTING or _PHRASES.fullmatch(" ".join(words)) is not None


def is_stand_in(family: tuple[str, ...], given: tuple[str, ...]) -> bool:
    """Whether folded words stand for a person whose name nobody knows, such as "Unknown"."""
    words = (*given, *family)
    return bool(words) and (words in _DOES or all(word in _STANDING_IN for word in words))
