"""How candidates are read: filters, and one walk through ``name_pair`` for each tier.

Any two words of a name are a row of ``name_pair``, so a walk along its primary key meets the rows
of a tier in the order of the results, and stops when the page is full.
"""

# ruff: noqa: S608  (statements are put together from constants of this module alone)

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.errors import invalid
from registration.domain.search_keys import FAMILY, GIVEN
from registration.projections.search_ranking import (
    ALIKE,
    EXACT,
    LONGEST_TEXT,
    MISSPELT,
    TIERS,
    Asked,
    Place,
    Word,
)

_MOST_PAIRS = 1_200
_LAST = "\U0010ffff"

COLUMNS = "p.id, p.version, p.active, p.document"
"""What is read of a patient (alias ``p``); see :class:`Candidate`."""


class Candidate(NamedTuple):
    id: UUID
    version: int
    active: bool
    shown: dict[str, Any]

    @classmethod
    def of(cls, row: Sequence[Any]) -> "Candidate":
        return cls(row[0], row[1], row[2], orjson.loads(row[3]))

    @property
    def names(self) -> list[dict[str, Any]]:
        """The names that find the patient: its own, and those that only merged records had."""
        return [*self.shown["names"], *self.shown.get("formerNames", ())]


_BIRTH_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Filters:
    """What is asked for besides the name."""

    tenant: str
    equal: dict[str, str]
    inactive: bool
    born: str
    identifier: tuple[str, list[str]] | None

    @classmethod
    def of(
        cls,
        tenant: str,
        *,
        gender: str | None,
        facility: str | None,
        birth_date: str | None,
        identifier: str | None,
        inactive: bool,
    ) -> "Filters":
        """Read the criteria as they came; raises ``VALIDATION_FAILED`` for what makes no sense."""
        equal = {
            column: _storable(value, column)[:LONGEST_TEXT]
            for column, value in (("gender", gender), ("facility", facility))
            if value
        }
        born = birth_date or ""
        if born and not _BIRTH_DATE.fullmatch(born):
            raise invalid("/birthDate", "A birth date is YYYY, YYYY-MM or YYYY-MM-DD.")
        return cls(tenant, equal, inactive, born, _identifier(identifier) if identifier else None)

    def admit(self, patient: "Candidate") -> bool:
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


def _storable(text: str, member: str) -> str:
    """Return the text; refuse what PostgreSQL takes for no text, such as NUL."""
    if not text.isprintable():
        raise invalid(f"/{member}", "The text holds a control or invisible character.")
    return text


def _identifier(text: str) -> tuple[str, list[str]]:
    system, bar, value = text[:1000].partition("|")
    value = " ".join(unicodedata.normalize("NFC", value).split())
    _storable(system + value, "identifier")
    if not (bar and system and value):
        raise invalid("/identifier", "An identifier is asked for as system|value.")
    # Systems with a check keep the compact form; people type the printed one.
    return system, [value, re.sub(r"[ ./-]", "", value)]


_PATIENT_OF_PAIR = """
 CROSS JOIN LATERAL (
    SELECT * FROM search.patient WHERE tenant = %(tenant)s AND id = k.patient_id OFFSET 0
 ) AS p"""
_PAIR = "k.word, k.role, k.other, k.patient_id"


@dataclass(frozen=True, slots=True)
class Walk:
    """One tier's way through ``name_pair``: its leading words, and what stands beside them.

    ``leads`` are (word, other word or none, cost); with ``until`` there is one, the first word of
    a range. ``others`` is the range of the other word where there is one.
    """

    tier: int
    leads: list[tuple[str, str | None, int]]
    role: str
    until: str | None = None
    others: tuple[str, str] | None = None

    def statement(
        self, parameters: dict[str, Any], filters: Filters, begin: Place | None, step: int
    ) -> str:
        """Return the query for up to ``step`` rows after ``begin``; it adds its parameters."""
        own: dict[str, Any] = {"roles": [self.role] if self.role else [FAMILY, GIVEN]}
        conditions = filters.condition_on_birth("k")
        if self.others is not None:
            conditions += " AND k.other BETWEEN %(low)s AND %(high)s"
            own["low"], own["high"] = self.others
        if begin is not None:
            own.update({f"begin_{name}": value for name, value in begin._asdict().items()})
        along = self._along if len(self.leads) == 1 else self._through
        statement = along(own, conditions, filters.conditions, begin is not None, step)
        # Each tier of a statement has parameters of its own name.
        for name, value in own.items():
            statement = statement.replace(f"%({name})s", f"%({name}_{self.tier})s")
            parameters[f"{name}_{self.tier}"] = value
        return statement

    def _along(
        self, own: dict[str, Any], conditions: str, of_patient: str, goes_on: bool, step: int
    ) -> str:
        """Walk along one word, or a range of words."""
        ((word, other, cost),) = self.leads
        own.update(first=word, cost=cost)
        if other is not None:
            conditions += " AND k.other = %(beside)s"
            own["beside"] = other
        if self.until is not None:
            lead = "k.word BETWEEN %(first)s AND %(until)s"
            own["until"] = self.until
            after = "(k.word, k.role, k.other, k.patient_id)"
            after += " > (%(begin_word)s, %(begin_role)s, %(begin_other)s, %(begin_id)s)"
        else:
            lead = "k.word = %(first)s"
            after = "(k.role, k.other, k.patient_id)"
            after += " > (%(begin_role)s, %(begin_other)s, %(begin_id)s)"
        if self.role:
            lead += " AND k.role = %(role)s"
            own["role"] = self.role
        elif self.until is None and (other is not None or self.others is not None):
            # Elsewhere the walk is in order without naming roles.
            lead += " AND k.role = ANY(%(roles)s)"
        if goes_on:
            conditions += f" AND {after}"
        return f"""
SELECT {self.tier} AS tier, %(cost)s::int AS cost, {_PAIR}
  FROM search.name_pair AS k {_PATIENT_OF_PAIR if of_patient else ""}
 WHERE k.tenant = %(tenant)s AND {lead}{conditions}{of_patient}
 ORDER BY {_PAIR} LIMIT {step}"""

    def _through(
        self, own: dict[str, Any], conditions: str, of_patient: str, goes_on: bool, step: int
    ) -> str:
        """Walk through a list of words, cheapest first."""
        words, others, costs = map(list, zip(*self.leads, strict=True))
        own.update(words=words, besides=others, costs=costs)
        if others[0] is not None:
            conditions += " AND k.other = x.other"
        skipped = ""
        if goes_on:
            skipped = """ WHERE (x.cost, x.word COLLATE "C") >= (%(begin_cost)s, %(begin_word)s)"""
            conditions += """
   AND ((x.cost, x.word COLLATE "C") > (%(begin_cost)s, %(begin_word)s)
        OR (k.role, k.other, k.patient_id) > (%(begin_role)s, %(begin_other)s, %(begin_id)s))"""
        return f"""
SELECT {self.tier} AS tier, x.cost, {_PAIR}
  FROM unnest(%(words)s::text[], %(besides)s::text[], %(costs)s::int[]) AS x (word, other, cost)
 CROSS JOIN LATERAL (
    SELECT {_PAIR} FROM search.name_pair AS k {_PATIENT_OF_PAIR if of_patient else ""}
     WHERE k.tenant = %(tenant)s AND k.word = x.word AND k.role = ANY(%(roles)s)
           {conditions}{of_patient}
     ORDER BY k.role, k.other, k.patient_id LIMIT {step}
 ) AS k
 {skipped}
 ORDER BY x.cost, {_PAIR} LIMIT {step}"""


async def read(
    connection: AsyncConnection[TupleRow],
    filters: Filters,
    walks: Sequence[Walk],
    begin: Place | None,
    step: int,
) -> list[tuple[Place, Candidate]]:
    """Return up to ``step`` candidates of the walks' tiers after ``begin``, in order.

    One round trip. PostgreSQL runs the parts of a UNION ALL one after the other, and none once the
    limit is met: parts with a LIMIT of their own are never run in parallel.
    """
    parameters = filters.parameters
    parts = [
        walk.statement(
            parameters,
            filters,
            begin if begin is not None and begin.tier == walk.tier else None,
            step,
        )
        for walk in walks
    ]
    pairs = ") UNION ALL (".join(parts)
    statement = f"""
SELECT k.tier, k.cost, {_PAIR}, p.version, p.active, p.document
  FROM (SELECT * FROM (({pairs})) AS k LIMIT {step}) AS k {_PATIENT_OF_PAIR}"""
    cursor = await connection.execute(statement, parameters)
    found = [(Place(*row[:6]), Candidate.of(row[5:])) for row in await cursor.fetchall()]
    found.sort(key=lambda one: one[0])
    return found


def walk_of(asked: Asked, tier: int) -> Walk | None:
    """Return the walk of a tier, ``None`` where nothing can be in it."""
    if len(asked.words) == 1:
        return _walk_of_one(asked.words[0], tier)
    first, second = asked.words[:2]
    lead, beside = (second, first) if TIERS[tier].second_leads else (first, second)
    if tier == 0:
        return Walk(tier, [(lead.text, beside.text, 0)], lead.role)
    if tier in {1, 2}:
        return Walk(tier, [(lead.text, None, 0)], lead.role, others=_longer(beside.text))
    if tier == 3:
        low, high = _longer(lead.text)
        return Walk(tier, [(low, None, 0)], lead.role, until=high, others=_longer(beside.text))
    if tier in {4, 7}:
        leads = _likely_pairs(first, second, ALIKE if tier == 4 else MISSPELT)
        return Walk(tier, leads, lead.role) if leads else None
    likes = _liked(lead, ALIKE if tier in {5, 6} else MISSPELT)
    return Walk(tier, likes, lead.role, others=_longer(beside.text)) if likes else None


def _walk_of_one(word: Word, tier: int) -> Walk | None:
    if tier == 0:
        return Walk(tier, [(word.text, None, 0)], word.role)
    if tier == 3:
        low, high = _longer(word.text)
        return Walk(tier, [(low, None, 0)], word.role, until=high)
    likes = _liked(word, ALIKE if tier == 4 else MISSPELT) if tier in {4, 7} else []
    return Walk(tier, likes, word.role) if likes else None


def _longer(word: str) -> tuple[str, str]:
    """Return the first and the last word that begin with ``word`` and go on."""
    return word + "0", word + _LAST


def _liked(word: Word, how: int) -> list[tuple[str, str | None, int]]:
    """Return the words taken for one; a search by prefix takes ``text`` itself, not its like."""
    return [(like, None, cost) for like, (met, cost) in word.likes.items() if met == how]


def _likely_pairs(first: Word, second: Word, how: int) -> list[tuple[str, str | None, int]]:
    """Return the pairs of words that are met no better and no worse than ``how``, best first."""
    ways = [
        [(word.text, EXACT, 0), *((like, met, cost) for like, (met, cost) in word.likes.items())]
        for word in (first, second)
    ]
    likely = [
        (cost + other_cost, word, other)
        for word, met, cost in ways[0]
        for other, other_met, other_cost in ways[1]
        if max(met, other_met) == how and word != other
    ]
    return [(word, other, cost) for cost, word, other in sorted(likely)[:_MOST_PAIRS]]
