"""In which facilities' scopes a record of the feed is: the rows of ``scope`` in ``changes``.

A patient is in the scope of its facility and of each facility where it has an encounter, and of all
that a record is in which was merged into it; an encounter of no facility in that of its patient's
facility, as it was then; what else is of no facility in everybody's, and then in no other.

What was about a person who was erased is told to be gone in everybody's scope. Which facilities had
it is known no more: a correction that moved a patient is sealed. That is why a record which once
held such a patient, and does not any longer, begins anew then: gone for everybody, and there for
those who see it now. So the rows are those that a rebuild makes of what is left.
"""

from collections.abc import Iterable, Sequence
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.events import (
    EncounterOpened,
    Event,
    PatientAbsorbed,
    PatientErased,
    PatientReleased,
)
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
       r.absorbed,
       array(SELECT t.id FROM tie AS t
              WHERE t.tenant = r.tenant AND t.patient_id = r.id AND t.kind = 'patient')
  FROM unnest(%s::uuid[]) AS asked (id)
 CROSS JOIN LATERAL (
    SELECT * FROM record WHERE record.tenant = %s AND record.id = asked.id OFFSET 0
 ) AS r
"""


class Place:
    """Where a record is seen from: its own facility, those of its encounters, and of what it holds.

    ``absorbed`` are the ids of the records that were merged into it, ``holders`` those of all
    records that it ever was merged into, by itself or with another one. ``anew``: ``rows`` are all
    that there are, and not what changed.
    """

    def __init__(
        self,
        own: str | None = None,
        visited: Iterable[str] = (),
        present: Iterable[str] = (),
        absorbed: Iterable[UUID] = (),
        holders: Iterable[UUID] = (),
    ) -> None:
        self.own = own
        self.visited = set(visited)
        self.present = set(present)
        self.absorbed = set(absorbed)
        self.holders = set(holders)
        self.rows: dict[str, tuple[int, bool]] = {}
        self.anew = False

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

    def link(self, its_id: UUID, event: Event, places: "Places") -> None:
        """Take in what was merged into the record ``its_id``, or belongs to it no more."""
        if isinstance(event, PatientAbsorbed):
            self.absorbed.add(event.patient_id)
            places.setdefault(event.patient_id, Place()).holders.add(its_id)
        elif isinstance(event, PatientReleased):
            self.absorbed.difference_update(event.patient_ids)

    def erased(self, position: int, places: "Places") -> None:
        """Take in that the patient was erased, and begin anew what held it once."""
        self.gone(position)
        for holder in self.holders & places.keys():
            if places[holder].present:  # it was not erased itself
                places[holder].begin_anew(position)

    def gone(self, position: int) -> None:
        """Take in that the record is no more, for everybody."""
        self.own = EVERYBODY
        self.visited, self.present, self.absorbed = set(), set(), set()
        self.begin_anew(position)

    def begin_anew(self, position: int) -> None:
        """Forget where the record was seen from before; who sees it now gets it again."""
        self.anew = True
        self.rows = {EVERYBODY: (position, False)}
        self.rows.update(dict.fromkeys(self.present, (position, True)))

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
    """Return where the records are seen from that the events are about, and all that those hold.

    Of a patient who is erased what held it once comes as well.
    """
    asked = {recorded.stream_id for recorded in events}
    for recorded in events:
        if isinstance(recorded.event, EncounterOpened | PatientAbsorbed):
            asked.add(recorded.event.patient_id)
    erased = {each.stream_id for each in events if isinstance(each.event, PatientErased)}
    found: Places = {}
    while asked:
        # planned each time: a plan from when the tables were empty would be kept for good
        cursor = await connection.execute(_PLACES, (list(asked), events[0].tenant), prepare=False)
        new = {its_id: Place(*place) for its_id, *place in await cursor.fetchall()}
        found |= new
        # what a record holds is listed there whole, so this ends after the third round
        near = {held for place in new.values() for held in place.absorbed}
        near |= {holder for its_id in erased & new.keys() for holder in new[its_id].holders}
        asked = near - found.keys() - asked
    return found
