"""Queries over the search read model: ranked, in any script, page by page.

**Ranking.** A query is some words; each may be met by a word of the patient exactly, by a prefix,
by a word of another script that sounds like it, or (``fuzzy``) by a misspelling. The worst of them
decides the *tier* (``_TIERS``), within it the cost of the resemblance, then the words in code point
order, then the id: so the order is total, and a page goes on exactly where the last one ended.

**How a tier is read.** Of several words the two longest lead: any two words of a name are a row of
``name_pair``, so each tier is one walk along its primary key that stops when the page is full.
Loose resemblances are first resolved to words through ``spelling``. A patient met by several rows
is given at the best of them, which :meth:`_Asked.best` computes from the patient alone: nothing is
remembered from page to page. All words have to be met within one name.
"""

# ruff: noqa: S608  (statements are put together from constants of this module alone)

import re
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.errors import invalid
from registration.domain.resources import Name
from registration.projections import search_keys
from registration.projections.search_keys import FAMILY, GIVEN

Connection = AsyncConnection[TupleRow]

LONGEST_TEXT = 200
"""Of a longer query text the rest is not looked at."""
MOST_WORDS = 8
MOST_LIMIT = 200
_FEW = 200
"""Up to so many patients of one birth date are ranked by themselves, without ``name_pair``."""
_MOST_SCANNED = 5_000
"""After so many rows that came to nothing a page is given as it is, with where to go on."""
_MOST_ALIKE = 40
_MOST_PAIRS = 1_200
_LEAST_LIKENESS = 0.6
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What ``GET /v1/patients`` asks, as it came.

    ``identifier`` is ``system|value``; ``birth_date`` ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD``, a
    shorter one meaning all in it. Without any criterion all patients are listed by their ids.
    """

    name: str | None = None
    family: str | None = None
    given: str | None = None
    birth_date: str | None = None
    identifier: str | None = None
    gender: str | None = None
    facility: str | None = None
    fuzzy: bool = False
    include_inactive: bool = False
    limit: int = 20
    cursor: str | None = None


class SearchPage(NamedTuple):
    """A page of results, and the cursor of the next one, ``None`` after the last.

    A page may hold fewer items than asked for (a rare filter on a common name) and yet not be the
    last.
    """

    items: list[dict[str, Any]]
    next: str | None


async def search(connection: Connection, tenant: str, query: SearchQuery) -> SearchPage:
    """Return one page of the tenant's patients that meet the query, best first.

    Raises ``VALIDATION_FAILED`` for a birth date, identifier, limit or cursor that is none.
    """
    if not 1 <= query.limit <= MOST_LIMIT:
        raise invalid("/limit", f"The limit is from 1 to {MOST_LIMIT}.")
    asked = _Asked.of(query)
    if asked is None:
        return SearchPage([], None)
    filters = _Filters.of(tenant, query)
    after = _read_cursor(query)
    if asked.words:
        asked = await _with_likes(connection, tenant, asked, query)
    few = await _few(connection, filters, asked)
    if few is not None:
        found = _rank(asked, few, after, query.limit)
    elif asked.words:
        found = await _walk(connection, filters, asked, after, query.limit)
    else:
        found = await _list(connection, filters, after, query.limit)
    items = [_item(place, patient) for place, patient in found.placed]
    return SearchPage(items, _write_cursor(query, found.end) if found.end else None)


# --- places -----------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a row stands in the results; compared member by member."""

    tier: int
    cost: int
    word: str
    role: str
    other: str
    id: UUID


class _Tier(NamedTuple):
    score: float
    second_leads: bool = False


_EXACT, _PREFIX, _ALIKE, _MISSPELT = range(4)

_TIER_OF_ONE = {_EXACT: 0, _PREFIX: 3, _ALIKE: 4, _MISSPELT: 7}
# By how the first and the second leading word are met. Where only one is met by a prefix, the
# other leads, so that the walk is short; where both are, the longer one does (``_Asked.of``).
_TIER_OF = {
    (_EXACT, _EXACT): 0,
    (_EXACT, _PREFIX): 1,
    (_PREFIX, _EXACT): 2,
    (_PREFIX, _PREFIX): 3,
    (_EXACT, _ALIKE): 4,
    (_ALIKE, _EXACT): 4,
    (_ALIKE, _ALIKE): 4,
    (_ALIKE, _PREFIX): 5,
    (_PREFIX, _ALIKE): 6,
    (_EXACT, _MISSPELT): 7,
    (_MISSPELT, _EXACT): 7,
    (_ALIKE, _MISSPELT): 7,
    (_MISSPELT, _ALIKE): 7,
    (_MISSPELT, _MISSPELT): 7,
    (_MISSPELT, _PREFIX): 8,
    (_PREFIX, _MISSPELT): 9,
}
_TIERS = (
    _Tier(1.0),
    _Tier(0.95),
    _Tier(0.95, second_leads=True),
    _Tier(0.9),
    _Tier(0.8),
    _Tier(0.75),
    _Tier(0.7, second_leads=True),
    _Tier(0.6),
    _Tier(0.5),
    _Tier(0.4, second_leads=True),
)
_SCORE_OF_COST = 0.1 / 4_000
"""Costs of two words stay under 4,000, so a dearer place never scores above the next tier."""


def _score(place: _Place) -> float:
    return round(_TIERS[place.tier].score - place.cost * _SCORE_OF_COST, 3)


# --- what is asked ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Word:
    """One folded word of a query; ``role`` is empty where any will do."""

    text: str
    role: str
    likes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Words taken for it: (_ALIKE or _MISSPELT, cost in thousandths)."""

    def meets(self, word: str, roles: str) -> tuple[int, int] | None:
        """Return how a name's word meets this one, and at what cost."""
        if self.role and self.role not in roles:
            return None
        if word == self.text:
            return _EXACT, 0
        if word.startswith(self.text):
            return _PREFIX, 0
        return self.likes.get(word)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The words of a query: the first two lead, the longer one first."""

    words: tuple[_Word, ...]

    @classmethod
    def of(cls, query: SearchQuery) -> "_Asked | None":
        """Return what is asked; ``None`` where a name is asked for that has no word at all."""
        words: dict[tuple[str, str], None] = {}
        for text, role in ((query.name, ""), (query.family, FAMILY), (query.given, GIVEN)):
            if text is None or not text.strip():
                continue
            folded = search_keys.asked_words(text[:LONGEST_TEXT])
            if not folded:
                return None
            needed = [word for word in folded if word not in search_keys.OPTIONAL] or folded
            words.update(dict.fromkeys((word, role) for word in needed[:MOST_WORDS]))
        ordered = sorted(words, key=lambda word: -len(word[0]))[:MOST_WORDS]
        return cls(tuple(_Word(text, role) for text, role in ordered))

    def best(self, names: Iterable[dict[str, Any]], patient_id: UUID) -> _Place | None:
        """Return the best place of a patient with these names, ``None`` if they do not meet."""
        if not self.words:
            return _Place(0, 0, "", "", "", patient_id)
        return min(
            (
                place
                for name in names
                for place in self._places(
                    search_keys.words_of(Name.model_validate(name)), patient_id
                )
            ),
            default=None,
        )

    def _places(self, words: list[tuple[str, str]], patient_id: UUID) -> Iterator[_Place]:
        """Yield the places at which one name's rows of ``name_pair`` are met."""
        roles = dict(words)
        if not all(any(asked.meets(*word) for word in words) for asked in self.words[2:]):
            return
        for lead, role, other in search_keys.pairs(words):
            for second_leads in (False, True)[: len(self.words)]:
                met = self._met(lead, role, other, roles.get(other, ""), second_leads)
                if met is None:
                    continue
                tier, cost = met
                if _TIERS[tier].second_leads == second_leads:
                    yield _Place(tier, cost, lead, role, other, patient_id)

    def _met(
        self, lead: str, role: str, other: str, other_roles: str, second_leads: bool
    ) -> tuple[int, int] | None:
        """Return the tier and the cost at which a row meets the two words that lead."""
        if len(self.words) == 1:
            met = self.words[0].meets(lead, role)
            return met and (_TIER_OF_ONE[met[0]], met[1])
        first, second = self.words[:2]
        if second_leads:
            first_met, second_met = first.meets(other, other_roles), second.meets(lead, role)
        else:
            first_met, second_met = first.meets(lead, role), second.meets(other, other_roles)
        if first_met is None or second_met is None:
            return None
        return _TIER_OF[first_met[0], second_met[0]], first_met[1] + second_met[1]


_SPELLINGS = "SELECT key, word FROM search.spelling WHERE tenant = %s AND key = ANY(%s)"


async def _with_likes(
    connection: Connection, tenant: str, asked: _Asked, query: SearchQuery
) -> _Asked:
    """Look up the words that may be meant by each word: of other scripts, and misspellings."""
    foreign = [search_keys.foreign_keys(word.text) for word in asked.words]
    close: list[set[str]] = [set() for _ in asked.words]
    if query.fuzzy:
        for keys, word in zip(close, asked.words, strict=True):
            keys.update(search_keys.typo_keys(word.text))
            sound = search_keys.sound_key(word.text)
            if sound is not None:
                keys.add(sound)
    every = sorted(set().union(*foreign, *close))
    cursor = await connection.execute(_SPELLINGS, [tenant, every])
    listed: dict[str, list[str]] = {}
    for key, word in await cursor.fetchall():
        listed.setdefault(key, []).append(word)
    words = []
    for word, foreign_keys, close_keys in zip(asked.words, foreign, close, strict=True):
        likes = _misspelt(word.text, {one for key in close_keys for one in listed.get(key, ())})
        likes.update(
            _alike(word.text, {one for key in foreign_keys for one in listed.get(key, ())})
        )
        words.append(replace(word, likes=likes))
    return _Asked(tuple(words))


def _alike(asked: str, words: set[str]) -> dict[str, tuple[int, int]]:
    own = search_keys.script(asked)
    costs = [
        (round(1000 * (1 - search_keys.likeness(asked, word))), word)
        for word in words
        if search_keys.script(word) != own
    ]
    near = sorted(one for one in costs if one[0] <= 1000 * (1 - _LEAST_LIKENESS))
    return {word: (_ALIKE, cost) for cost, word in near[:_MOST_ALIKE]}


def _misspelt(asked: str, words: set[str]) -> dict[str, tuple[int, int]]:
    costs = [
        (round(1000 * cost), word)
        for word in words
        if not word.startswith(asked)
        if (cost := search_keys.misspelling(asked, word)) is not None
    ]
    return {word: (_MISSPELT, cost) for cost, word in sorted(costs)[:_MOST_ALIKE]}


# --- filters ----------------------------------------------------------------------------------

_BIRTH_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Filters:
    """What is asked for besides the name."""

    tenant: str
    equal: dict[str, str]
    inactive: bool
    born: str
    identifier: tuple[str, list[str]] | None

    @classmethod
    def of(cls, tenant: str, query: SearchQuery) -> "_Filters":
        equal = {
            column: value[:LONGEST_TEXT]
            for column, value in (("gender", query.gender), ("facility", query.facility))
            if value
        }
        born = query.birth_date or ""
        if born and not _BIRTH_DATE.fullmatch(born):
            raise invalid("/birthDate", "A birth date is YYYY, YYYY-MM or YYYY-MM-DD.")
        identifier = _identifier(query.identifier) if query.identifier else None
        return cls(tenant, equal, query.include_inactive, born, identifier)

    def admit(self, patient: "_Patient") -> bool:
        """Whether a patient meets them all, the identifier aside."""
        return (
            (patient.active or self.inactive)
            and all(patient.shown[column] == value for column, value in self.equal.items())
            and (patient.shown["birthDate"] or "").startswith(self.born)
        )

    @property
    def conditions(self) -> str:
        """The conditions on ``patient`` (alias ``p``) that SQL has to check before it counts."""
        return "".join(f" AND p.{column} = %({column})s" for column in self.equal)

    def condition_on_birth(self, alias: str) -> str:
        """The condition on the birth date; a partial one is the beginning of all dates in it."""
        if not self.born:
            return ""
        return f" AND {alias}.birth_date BETWEEN %(born)s AND %(born_until)s"

    @property
    def parameters(self) -> dict[str, Any]:
        until = self.born if len(self.born) == 10 else self.born + "-99"
        return {"tenant": self.tenant, "born": self.born, "born_until": until, **self.equal}


def _identifier(text: str) -> tuple[str, list[str]]:
    system, bar, value = text[:1000].partition("|")
    value = " ".join(unicodedata.normalize("NFC", value).split())
    if not (bar and system and value):
        raise invalid("/identifier", "An identifier is asked for as system|value.")
    # Systems with a check keep the compact form; people type the printed one.
    return system, [value, re.sub(r"[ ./-]", "", value)]


# --- candidates -------------------------------------------------------------------------------


class _Patient(NamedTuple):
    id: UUID
    version: int
    active: bool
    shown: dict[str, Any]

    @classmethod
    def of(cls, row: Sequence[Any]) -> "_Patient":
        return cls(row[0], row[1], row[2], orjson.loads(row[3]))


class _Found(NamedTuple):
    placed: list[tuple[_Place, _Patient]]
    end: _Place | None
    """Where the next page goes on; ``None`` when there is none."""


_COLUMNS = "p.id, p.version, p.active, p.document"
_BY_IDENTIFIER = f"""
SELECT {_COLUMNS}
  FROM (SELECT DISTINCT patient_id FROM search.identifier
         WHERE tenant = %s AND system = %s AND value = ANY(%s)) AS i
 CROSS JOIN LATERAL (
    SELECT * FROM search.patient WHERE tenant = %s AND id = i.patient_id OFFSET 0
 ) AS p
"""
_BY_BIRTH_DATE = f"""
SELECT {_COLUMNS} FROM search.patient AS p
 WHERE p.tenant = %s AND p.birth_date = %s ORDER BY p.tenant, p.birth_date, p.id LIMIT {_FEW + 1}
"""


async def _few(connection: Connection, filters: _Filters, asked: _Asked) -> list[_Patient] | None:
    """Return all candidates where an identifier or a birth date leaves few, else ``None``."""
    if filters.identifier:
        system, values = filters.identifier
        parameters = [filters.tenant, system, values, filters.tenant]
        cursor = await connection.execute(_BY_IDENTIFIER, parameters)
    elif asked.words and len(filters.born) == 10:
        cursor = await connection.execute(_BY_BIRTH_DATE, [filters.tenant, filters.born])
    else:
        return None
    rows = await cursor.fetchall()
    if len(rows) > _FEW and not filters.identifier:
        return None
    return [patient for patient in map(_Patient.of, rows) if filters.admit(patient)]


def _rank(asked: _Asked, few: list[_Patient], after: _Place | None, limit: int) -> _Found:
    placed = [
        (place, patient)
        for patient in few
        if (place := asked.best(patient.shown["names"], patient.id)) is not None
        and (after is None or place > after)
    ]
    placed.sort(key=lambda one: one[0])
    return _cut(placed, limit)


def _cut(placed: list[tuple[_Place, _Patient]], limit: int) -> _Found:
    """Keep a page of what was read for one more than a page."""
    page = placed[:limit]
    return _Found(page, page[-1][0] if len(placed) > limit else None)


async def _list(
    connection: Connection, filters: _Filters, after: _Place | None, limit: int
) -> _Found:
    """List patients by their ids, no name being asked for."""
    parameters = filters.parameters
    statement = f"SELECT {_COLUMNS} FROM search.patient p WHERE p.tenant = %(tenant)s"
    statement += filters.conditions + filters.condition_on_birth("p")
    if not filters.inactive:
        statement += " AND p.active"
    if after is not None:
        statement += " AND p.id > %(after)s"
        parameters["after"] = after.id
    statement += f" ORDER BY p.id LIMIT {_step(limit + 1)}"
    cursor = await connection.execute(statement, parameters)
    patients = map(_Patient.of, await cursor.fetchall())
    return _cut([(_Place(0, 0, "", "", "", one.id), one) for one in patients], limit)


async def _walk(
    connection: Connection, filters: _Filters, asked: _Asked, after: _Place | None, limit: int
) -> _Found:
    """Read tier after tier until the page is full."""
    placed: list[tuple[_Place, _Patient]] = []
    scanned = 0
    for tier in range(after.tier if after else 0, len(_TIERS)):
        walk = _walk_of(asked, tier)
        begin = after if after is not None and after.tier == tier else None
        while walk is not None:
            step = _step(limit + 1 - len(placed))
            rows = await walk.read(connection, filters, begin, step)
            for cost, word, role, other, *row in rows:
                patient = _Patient.of(row)
                begin = _Place(tier, cost, word, role, other, patient.id)
                # Met by several rows, a patient is given at the best one.
                if (
                    filters.admit(patient)
                    and asked.best(patient.shown["names"], patient.id) == begin
                ):
                    placed.append((begin, patient))
                    if len(placed) > limit:
                        return _cut(placed, limit)
            scanned += len(rows)
            if len(rows) < step:
                break
            if scanned >= _MOST_SCANNED:
                return _Found(placed, begin)
    return _cut(placed, limit)


def _step(wanted: int) -> int:
    """Round up, so that few statements differ and PostgreSQL keeps their plans."""
    return next(step for step in (25, 100, MOST_LIMIT + 1) if wanted <= step)


# --- walks ------------------------------------------------------------------------------------

_PATIENT_OF_PAIR = """
 CROSS JOIN LATERAL (
    SELECT * FROM search.patient WHERE tenant = %(tenant)s AND id = k.patient_id OFFSET 0
 ) AS p"""
_ORDER = "k.word, k.role, k.other, k.patient_id"


@dataclass(frozen=True, slots=True)
class _Walk:
    """One tier's way through ``name_pair``: its leading words, and what stands beside them.

    ``leads`` are (word, other word or none, cost); with ``until`` there is one, the first word of
    a range. ``others`` is the range of the other word where there is one.
    """

    leads: list[tuple[str, str | None, int]]
    role: str
    until: str | None = None
    others: tuple[str, str] | None = None

    async def read(
        self, connection: Connection, filters: _Filters, begin: _Place | None, step: int
    ) -> list[TupleRow]:
        """Return up to ``step`` rows after ``begin``: cost, word, role, other, patient."""
        parameters = filters.parameters
        if begin is not None:
            for name in ("cost", "word", "role", "other", "id"):
                parameters[f"begin_{name}"] = getattr(begin, name)
        conditions = filters.condition_on_birth("k")
        if self.others is not None:
            conditions += " AND k.other BETWEEN %(low)s AND %(high)s"
            parameters["low"], parameters["high"] = self.others
        parameters["roles"] = [self.role] if self.role else [FAMILY, GIVEN]
        along = self._along if len(self.leads) == 1 else self._through
        pairs = along(parameters, conditions, filters.conditions, begin is not None, step)
        statement = f"""
SELECT k.cost, k.word, k.role, k.other, {_COLUMNS} FROM ({pairs}) AS k {_PATIENT_OF_PAIR}
 ORDER BY k.cost, {_ORDER}"""
        cursor = await connection.execute(statement, parameters)
        return await cursor.fetchall()

    def _along(
        self, parameters: dict[str, Any], conditions: str, of_patient: str, goes_on: bool, step: int
    ) -> str:
        """Walk along one word, or a range of words."""
        ((word, other, cost),) = self.leads
        parameters.update(word=word, beside=other, until=self.until, cost=cost)
        if other is not None:
            conditions += " AND k.other = %(beside)s"
        if self.until is not None:
            lead = "k.word BETWEEN %(word)s AND %(until)s"
            after = "(k.word, k.role, k.other, k.patient_id)"
            after += " > (%(begin_word)s, %(begin_role)s, %(begin_other)s, %(begin_id)s)"
        else:
            lead = "k.word = %(word)s"
            after = "(k.role, k.other, k.patient_id)"
            after += " > (%(begin_role)s, %(begin_other)s, %(begin_id)s)"
        # Any role, and no other word to look for: the walk is in order without naming roles.
        if self.role:
            lead += " AND k.role = %(role)s"
            parameters["role"] = self.role
        elif self.until is None and (other is not None or self.others is not None):
            lead += " AND k.role = ANY(%(roles)s)"
        if goes_on:
            conditions += f" AND {after}"
        return f"""
SELECT %(cost)s::int AS cost, {_ORDER}
  FROM search.name_pair AS k {_PATIENT_OF_PAIR if of_patient else ""}
 WHERE k.tenant = %(tenant)s AND {lead}{conditions}{of_patient}
 ORDER BY {_ORDER} LIMIT {step}"""

    def _through(
        self, parameters: dict[str, Any], conditions: str, of_patient: str, goes_on: bool, step: int
    ) -> str:
        """Walk through a list of words, cheapest first."""
        words, others, costs = map(list, zip(*self.leads, strict=True))
        parameters.update(words=words, besides=others, costs=costs)
        if others[0] is not None:
            conditions += " AND k.other = x.other"
        skipped = ""
        if goes_on:
            skipped = """ WHERE (x.cost, x.word COLLATE "C") >= (%(begin_cost)s, %(begin_word)s)"""
            conditions += """
   AND ((x.cost, x.word COLLATE "C") > (%(begin_cost)s, %(begin_word)s)
        OR (k.role, k.other, k.patient_id) > (%(begin_role)s, %(begin_other)s, %(begin_id)s))"""
        return f"""
SELECT x.cost, {_ORDER}
  FROM unnest(%(words)s::text[], %(besides)s::text[], %(costs)s::int[]) AS x (word, other, cost)
 CROSS JOIN LATERAL (
    SELECT {_ORDER} FROM search.name_pair AS k {_PATIENT_OF_PAIR if of_patient else ""}
     WHERE k.tenant = %(tenant)s AND k.word = x.word AND k.role = ANY(%(roles)s)
           {conditions}{of_patient}
     ORDER BY k.role, k.other, k.patient_id LIMIT {step}
 ) AS k
 {skipped}
 ORDER BY x.cost, {_ORDER} LIMIT {step}"""


def _walk_of(asked: _Asked, tier: int) -> _Walk | None:
    """Return the walk of a tier, ``None`` where nothing can be in it."""
    if len(asked.words) == 1:
        return _walk_of_one(asked.words[0], tier)
    first, second = asked.words[:2]
    lead, beside = (second, first) if _TIERS[tier].second_leads else (first, second)
    if tier == 0:
        return _Walk([(lead.text, beside.text, 0)], lead.role)
    if tier in {1, 2}:
        return _Walk([(lead.text, None, 0)], lead.role, others=_longer(beside.text))
    if tier == 3:
        low, high = _longer(lead.text)
        return _Walk([(low, None, 0)], lead.role, until=high, others=_longer(beside.text))
    if tier in {4, 7}:
        leads = _likely_pairs(first, second, _ALIKE if tier == 4 else _MISSPELT)
        return _Walk(leads, lead.role) if leads else None
    likes = _liked(lead, _ALIKE if tier in {5, 6} else _MISSPELT)
    return _Walk(likes, lead.role, others=_longer(beside.text)) if likes else None


def _walk_of_one(word: _Word, tier: int) -> _Walk | None:
    if tier == 0:
        return _Walk([(word.text, None, 0)], word.role)
    if tier == 3:
        low, high = _longer(word.text)
        return _Walk([(low, None, 0)], word.role, until=high)
    likes = _liked(word, _ALIKE if tier == 4 else _MISSPELT) if tier in {4, 7} else []
    return _Walk(likes, word.role) if likes else None


def _longer(word: str) -> tuple[str, str]:
    """Return the first and the last word that begin with ``word`` and go on."""
    return word + "0", word + _LAST


def _liked(word: _Word, how: int) -> list[tuple[str, str | None, int]]:
    """Return the words taken for one; a search by prefix takes ``text`` itself, not its like."""
    return [(like, None, cost) for like, (met, cost) in word.likes.items() if met == how]


def _likely_pairs(first: _Word, second: _Word, how: int) -> list[tuple[str, str | None, int]]:
    """Return the pairs of words that are met no better and no worse than ``how``, best first."""
    ways = [
        [(word.text, _EXACT, 0), *((like, met, cost) for like, (met, cost) in word.likes.items())]
        for word in (first, second)
    ]
    likely = [
        (cost + other_cost, word, other)
        for word, met, cost in ways[0]
        for other, other_met, other_cost in ways[1]
        if max(met, other_met) == how and word != other
    ]
    return [(word, other, cost) for cost, word, other in sorted(likely)[:_MOST_PAIRS]]


# --- items and cursors ------------------------------------------------------------------------


def _item(place: _Place, patient: _Patient) -> dict[str, Any]:
    return {
        "id": str(patient.id),
        "version": patient.version,
        "active": patient.active,
        "score": _score(place),
        **patient.shown,
    }


def _fingerprint(query: SearchQuery) -> str:
    """Return what tells one query's cursors from another's; the limit may change on the way."""
    said = repr(replace(query, limit=0, cursor=None)).encode("utf-8", "surrogatepass")
    return blake2b(said, digest_size=6).hexdigest()


def _write_cursor(query: SearchQuery, place: _Place) -> str:
    said = orjson.dumps([_fingerprint(query), *place])
    return urlsafe_b64encode(said).rstrip(b"=").decode()


def _read_cursor(query: SearchQuery) -> _Place | None:
    if query.cursor is None:
        return None
    try:
        said = urlsafe_b64decode(query.cursor[:2000] + "==")
        fingerprint, tier, cost, word, role, other, patient_id = orjson.loads(said)
        place = _Place(int(tier), int(cost), str(word), str(role), str(other), UUID(patient_id))
    except (ValueError, TypeError, AttributeError):
        fingerprint, place = "", None
    if place is None or fingerprint != _fingerprint(query) or not 0 <= place.tier < len(_TIERS):
        raise invalid("/cursor", "The cursor is not one that this search gave.")
    return place
