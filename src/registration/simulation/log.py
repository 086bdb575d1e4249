"""A tenant's log, read from the database past the service."""

from collections.abc import Sequence
from uuid import UUID

from registration.eventstore.records import RecordedEvent
from registration.simulation.world import World

_LOG = """
SELECT * FROM registration.readable_event
 WHERE tenant = %s ORDER BY position
"""
_OUTCOMES = "SELECT key, body IS NULL FROM registration.outcome WHERE tenant = %s"


class Log:
    """The events in their order, by stream, by device's mutation, and by decision of the index.

    ``applied`` are the keys of what was acknowledged as done.
    """

    def __init__(self, world: World, tenant: str) -> None:
        """Read it."""
        rows = world.database.execute(_LOG, (tenant,)).fetchall()
        self.events = [RecordedEvent(*row) for row in rows]
        outcomes = world.database.execute(_OUTCOMES, (tenant,)).fetchall()
        self.applied = {key for key, is_applied in outcomes if is_applied}
        self._streams: dict[UUID, list[RecordedEvent]] = {}
        self.by_mutation: dict[str, list[RecordedEvent]] = {}
        self.by_decision: dict[str, list[RecordedEvent]] = {}
        for event in self.events:
            self._streams.setdefault(event.stream_id, []).append(event)
            key = event.meta.get("clientMutationId") or event.meta.get("idempotencyKey")
            if key is not None:
                of_index = event.meta["operation"].startswith("mpi.")
                kept = self.by_decision if of_index else self.by_mutation
                kept.setdefault(key, []).append(event)

    def of(self, stream_id: UUID) -> Sequence[RecordedEvent]:
        """Return the events of a stream."""
        return self._streams.get(stream_id, ())
