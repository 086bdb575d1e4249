"""In which facilities' scopes a record of the feed is: the rows of ``scope`` in ``changes``.

A patient is in the scope of its facility and of each facility where it has an encounter, and of all
that a record is in which was merged into it; an encounter of no facility in that of its patient's
facility, as it was then; what else is of no facility in everybody's, and then in no other.
"""

from collections.abc import Iterable, Sequence
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.events import EncounterOpened, Event, PatientAbsorbed, PatientReleased
from registration.eventstore.records import RecordedEvent

Connection = AsyncConnection[TupleRow]

EVERYBODY = ""
"""The scope of what belongs to no facility."""

_PLACES = """
SELECT r.id, r.facility,
       array(SELECT DISTINCT e.facility FROM record AS e
              WHERE e.tenant = r.tenant AND e.patient_id = r.id),
       array(SELECT s.facility FROM scope AS s
              WHERE s.tenant = r.tenant AND s.id = r.id AND s.present),
       r.absorbed
  FROM unnest(%s::uuid[]) AS asked (id)
 CROSS JOIN LATERAL (
    SELECT * FROM record WHERE record.tenant = %s AND record.id = asked.id OFFSET 0
 ) AS r
"""


class Place:
    """Where a record is seen from: its own facility, those of its encounters, and of what it holds.

    ``absorbed`` are the ids of the records that were merged into it.
    """

    def __init__(
        self,
        own: str | None = None,
        visited: Iterable[str] = (),
        present: Iterable[str] = (),
        absorbed: Iterable[UUID] = (),
    ) -> None:
        self.own = own
        self.visited = set(visited)
        self.present = set(present)
        self.absorbed = set(absorbed)
        self.rows: dict[str, tuple[int, bool]] = {}

    @property
    def by_itself(self) -> set[str]:
        """Where the record would be seen from if nothing had been merged into it."""
        return {*self.visited} if self.own is None else {self.own, *self.visited}

    def changed(self, position: int, facility: str, places: "Places") -> None:
        """Take in that the record itself changed."""
        self.own = facility
        self._settle(position, places)
        self.rows.update(dict.fromkeys(self.present, (position, True)))

    def visit(self, position: int, facility: str, places: "Places") -> None:
        """Take in an encounter at a facility."""
        self.visited.add(facility)
        if self.own is not None:
            self._settle(position, places)

    def link(self, event: Event) -> None:
        """Take in what was merged into the record, or belongs to it no more."""
        if isinstance(event, PatientAbsorbed):
            self.absorbed.add(event.patient_id)
        elif isinstance(event, PatientReleased):
            self.absorbed.difference_update(event.patient_ids)

    def _settle(self, position: int, places: "Places") -> None:
        held = (places[its_id].by_itself for its_id in self.absorbed if its_id in places)
        seen = self.by_itself.union(*held)
        if EVERYBODY in seen:
            seen = {EVERYBODY}
        self.rows.update(dict.fromkeys(self.present - seen, (position, False)))
        self.rows.update(dict.fromkeys(seen - self.present, (position, True)))
        self.present = seen


Places = dict[UUID, Place]


async def places_of(connection: Connection, events: Sequence[RecordedEvent]) -> Places:
    """Return where the records are seen from that the events are about, and all that those hold."""
    asked = {recorded.stream_id for recorded in events}
    for recorded in events:
        if isinstance(recorded.event, EncounterOpened | PatientAbsorbed):
            asked.add(recorded.event.patient_id)
    found: Places = {}
    while asked:
        # planned each time: a plan from when the tables were empty would be kept for good
        cursor = await connection.execute(_PLACES, (list(asked), events[0].tenant), prepare=False)
        rows = await cursor.fetchall()
        found |= {its_id: Place(*place) for its_id, *place in rows}
        # what a record holds is listed there whole, so this ends after the second round
        asked = {held for *_, absorbed in rows for held in absorbed} - found.keys() - asked
    return found
