"""The one list of read models, and what a read model is."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.events import Event
from registration.eventstore.records import RecordedEvent
from registration.projections import (
    analytics,
    audit,
    changes,
    encounters,
    erasures,
    extension_schemas,
    matching,
    merges,
    past,
    portraits,
    search,
)


class ReadModel(Protocol):
    """One file of this room: its tables, how events change them, and (its own affair) queries.

    The tables live in a PostgreSQL schema named ``NAME``. ``DDL`` and ``apply`` name them
    unqualified: the runner sets the search path, which is another schema during a rebuild.
    """

    @property
    def NAME(self) -> str:  # noqa: N802  (a constant of the module)
        """The read model and its schema; never changes."""

    @property
    def VERSION(self) -> int:  # noqa: N802
        """To be raised with every change that the rows depend on: the runner then rebuilds."""

    @property
    def EVENTS(self) -> tuple[type[Event], ...]:  # noqa: N802
        """What it is told of; known events of other kinds are not even read."""

    @property
    def DDL(self) -> str:  # noqa: N802
        """The statements that create the empty tables and their indexes."""

    async def apply(
        self, connection: AsyncConnection[TupleRow], events: Sequence[RecordedEvent]
    ) -> None:
        """Take in events of one tenant, in the order of the log; each comes exactly once.

        Runs in the transaction that also records how far the read model is, and neither commits
        nor rolls back itself.
        """


READ_MODELS: tuple[ReadModel, ...] = (
    search,
    encounters,
    extension_schemas,
    portraits,
    merges,
    erasures,
    changes,
    matching,
    analytics,
    audit,
    past,
)

OWN_PACE: Mapping[str, int] = MappingProxyType({matching.NAME: 50})
"""Read models that are not fed together with the others, with the most events in a batch."""
