"""The read model behind ``GET /v1/patients?asOf=``: who ever bore a word or held an identifier.

The search knows what is so now. Whoever was found by a name or a number at an earlier instant is
among those who ever bore it: ``ever`` tells who those are, and what each was at that instant is
folded from their own events. So nobody is missing, and nobody is shown for what came later.

``borne_by`` is whose record the word or the number is of: the patient's own, or one that was merged
into it. Who is erased takes both along: what they are found by, and what others were found by for
having held their record for a while.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain import events, search_keys
from registration.domain.events import EVENTS as ALL
from registration.domain.events import Event, PatientAbsorbed, PatientErased
from registration.domain.patient_resource import Patient
from registration.domain.patient_state import PatientState
from registration.domain.resources import Identifier, Name
from registration.eventstore.records import RecordedEvent
from registration.projections.search_ranking import Asked
from registration.projections.search_walk import Filters

NAME = "past"
VERSION = 3
EVENTS: tuple[type[Event], ...] = tuple(
    kind for kind in ALL if issubclass(kind, events.PatientEvent)
)
DDL = """
CREATE TABLE ever (
    tenant     text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    patient_id uuid NOT NULL,
    borne_by   uuid NOT NULL,
    PRIMARY KEY (tenant, key, patient_id, borne_by)
);
CREATE INDEX ever_patient ON ever (tenant, patient_id);
CREATE INDEX ever_borne_by ON ever (tenant, borne_by) WHERE borne_by <> patient_id;
"""
_WRITE = """
INSERT INTO ever (tenant, key, patient_id, borne_by)
SELECT * FROM unnest(%s::text[], %s::text[], %s::uuid[], %s::uuid[]) ON CONFLICT DO NOTHING
"""
_ERASE = "DELETE FROM ever WHERE tenant = %s AND patient_id = %s"
_ERASE_FROM_OTHERS = """
DELETE FROM ever WHERE tenant = %s AND borne_by = %s AND borne_by <> patient_id
"""
_FIND = """
SELECT patient_id FROM past.ever
 WHERE tenant = %s AND key = ANY(%s)
 GROUP BY patient_id HAVING count(DISTINCT key) = %s ORDER BY patient_id LIMIT %s
"""

Connection = AsyncConnection[TupleRow]


async def apply(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Take in what names and identifiers came; what goes was there, but for who is erased.

    Nothing that is about them comes after that: so it is taken in last.
    """
    rows = {
        (recorded.tenant, key, recorded.stream_id, _whose(recorded))
        for recorded in events
        if not recorded.is_about_the_erased
        for key in _keys(recorded.event)
    }
    if rows:
        columns = [list(column) for column in zip(*sorted(rows), strict=True)]
        await connection.execute(_WRITE, columns)
    for recorded in events:
        if isinstance(recorded.event, PatientErased):
            # planned each time: a plan from when the table was empty would be kept for good
            whom = (recorded.tenant, recorded.stream_id)
            await connection.execute(_ERASE, whom, prepare=False)
            await connection.execute(_ERASE_FROM_OTHERS, whom, prepare=False)


def _whose(recorded: RecordedEvent) -> UUID:
    """Return whose names and identifiers an event brings."""
    event = recorded.event
    return event.patient_id if isinstance(event, PatientAbsorbed) else recorded.stream_id


def _keys(event: Event) -> Iterator[str]:
    match event:
        case events.PatientRegistered():
            yield from _keys_of(event.names, event.identifiers)
        case events.NameAdded() | events.NameReplaced():
            yield from _keys_of([event.name], ())
        case events.IdentifierAdded():
            yield from _keys_of((), [event.identifier])
        case PatientAbsorbed():
            yield from _keys_of(event.names, event.identifiers)


def _keys_of(names: Iterable[Name], identifiers: Iterable[Identifier]) -> Iterator[str]:
    for name in names:
        for word, _ in search_keys.words_of(name):
            yield _word(word)
    for held in identifiers:
        yield _number(held.system, held.value)


def _word(word: str) -> str:
    return f"word {word}"


def _number(system: str, value: str) -> str:
    """Return an identifier's key; a system holds no blank."""
    return f"number {system} {value}"


class PastQuery(NamedTuple):
    """What to search by, as it stood then. Words are whole words of one name."""

    asked: Asked
    filters: Filters

    @property
    def says_who(self) -> bool:
        """Whether it names somebody: by a word of a name, or by an identifier."""
        return bool(self.asked.words) or self.filters.identifier is not None

    def meets(self, patient: Patient) -> bool:
        """Whether a patient, as it stood then, is one of those who are searched."""
        state = patient.state
        if state is None or (state.merged_into is not None and not self.filters.inactive):
            return False
        said = {"gender": state.gender, "facility": state.facility}
        return (
            all(said[member] == value for member, value in self.filters.equal.items())
            and (state.birth_date or "").startswith(self.filters.born)
            and self._is_called(state)
            and self._holds(state)
        )

    def _is_called(self, state: PatientState) -> bool:
        absorbed = (name for retired in state.absorbed.values() for name in retired.names)
        return not self.asked.words or any(self._fits(name) for name in (*state.names, *absorbed))

    def _fits(self, name: Name) -> bool:
        words = dict(search_keys.words_of(name))
        return all(
            asked.text in words and asked.role in words[asked.text] for asked in self.asked.words
        )

    def _holds(self, state: PatientState) -> bool:
        if self.filters.identifier is None:
            return True
        system, values = self.filters.identifier
        absorbed = (held for retired in state.absorbed.values() for held in retired.identifiers)
        return any(
            held.system == system and held.value in values
            for held in (*state.identifiers, *absorbed)
        )


async def ever_called(
    connection: Connection, tenant: str, query: PastQuery, limit: int
) -> list[UUID]:
    """Return who ever bore all the words and held the identifier, up to ``limit`` of them."""
    words = {_word(asked.text) for asked in query.asked.words}
    found: set[UUID] = set()
    system, values = query.filters.identifier or ("", [])
    for numbers in [{_number(system, value)} for value in dict.fromkeys(values)] or [set()]:
        keys = words | numbers
        cursor = await connection.execute(
            _FIND, (tenant, list(keys), len(keys), limit), prepare=False
        )
        found.update(row[0] for row in await cursor.fetchall())
    return sorted(found)
