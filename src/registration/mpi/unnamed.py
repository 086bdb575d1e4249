"""Names that name nobody: newborns called after their mother, and stand-ins for the unknown.

Words are compared as :func:`registration.domain.search_keys.fold` leaves them: lower case, without
accents. A word that is also a real given name somewhere (Baby, Bebe, Infante) counts here only as
the first word of a name: two persons called so then need an identifier to match, which is the safer
mistake.
"""

import re

# The first words of a newborn's name. What follows is mostly the mother's name, or a number.
_NEWBORN_STARTS = (
    # English: Baby of X, Baby Boy X, Baby 1 of X, BB X, B/O X, S/O and D/O do not count (adults)
    "baby babyboy babygirl bb bbg bby newborn neonate infant",
    # Spanish, Portuguese, Italian, French
    "bebe neonato neonata nouveaune nouveaunee nourrisson rn",
    # German, Dutch, Scandinavian
    "neugeborenes neugeborener neugeborene saugling pasgeborene pasgeboren nyfodt nyfodd spadbarn",
    # Slavic
    "новорожденный новорожденная младенец новонароджений новонароджена новородено noworodek"
    " novorozenec",
    # Turkish, Indonesian and Malay, Swahili
    "bebek yenidogan bayi kichanga",
    # Arabic, Persian, Urdu
    "بيبي رضيع رضيعه نوزاد",
    # Hebrew, Greek, Armenian, Georgian
    "תינוק תינוקת יילוד νεογεννητο νεογνο նորածին ახალშობილი",
    # Hindi, Bengali, Thai
    "नवजात शिशु बेबी নবজাতক বেবি ทารก",
    # Japanese, Korean, Chinese
    "べびー 赤ちゃん 新生児 아기 신생아 新生儿 新生兒 婴儿 嬰兒",
)
_NEWBORN_PHRASES = (
    # English: "Boy 1 of X" and "Twin A"
    r"(boy|girl|twin|triplet|child|male|female) ([0-9ab]|one|two|i|ii|iii)( of .*)?",
    r"(twin|triplet|child|boy|girl|male|female) (baby|infant|newborn|of)( .*)?",
    r"new born( .*)?",
    r"b o( .*)?",
    # Spanish, Portuguese, French, Italian, German, Dutch
    r"recien nacid[oa]( .*)?",
    r"recem nascid[oa]( .*)?",
    r"(hij[oa]|filh[oa]|figli[oa]|fils|fille|enfant) (1 |2 )?(de|d|da|di|du)( .*)?",
    r"nouveau nee?( .*)?",
    r"(kind|sohn|tochter|zoon|dochter) (von|van)( .*)?",
    # Swahili "child of", Indonesian "baby of Mrs", Vietnamese "child of Mrs"
    r"mtoto (mchanga|wa)( .*)?",
    r"by ny( .*)?",
    r"con ba( .*)?",
    # Arabic "newly born"
    r"(مولود|مولوده|طفل|طفله) (حديث|حديثه|ل|ابن|بنت)( .*)?",
    r"حديثه? الولاده( .*)?",
    # Chinese "son/daughter of X", Japanese "X's baby", written after the mother's name
    r".*之[子女]",
    r".*(べびー|の児|児1|児2)",
)
_STARTS = frozenset(" ".join(_NEWBORN_STARTS).split())
_PHRASES = re.compile("|".join(f"(?:{phrase})" for phrase in _NEWBORN_PHRASES))

_STAND_INS = frozenset(
    "unknown unidentified unbekannt inconnu inconnue desconocido desconocida desconhecido"
    " desconhecida sconosciuto sconosciuta onbekend неизвестный неизвестная невідомий невідома"
    " bilinmeyen مجهول مجهوله ناشناس אלמוני אלמונית".split()
)
_DOES = frozenset({("john", "doe"), ("jane", "doe"), ("doe", "john"), ("doe", "jane")})


def is_newborn(family: tuple[str, ...], given: tuple[str, ...]) -> bool:
    """Whether folded words are what a newborn without a name is called, such as "Baby of X"."""
    words = (*given, *family)
    if not words:
        return False
    if words[0] in _STARTS or (given and family and family[0] in _STARTS):
        return True
    return _PHRASES.fullmatch(" ".join(words)) is not None


def is_stand_in(family: tuple[str, ...], given: tuple[str, ...]) -> bool:
    """Whether folded words stand for a person whose name nobody knows, such as "Unknown"."""
    words = (*given, *family)
    return words in _DOES or any(words) and all(word in _STAND_INS for word in words)
