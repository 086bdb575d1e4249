"""What there is to say about somebody who was erased: that, and no more."""

from collections.abc import Sequence
from typing import Any

from registration.domain.aggregate import Aggregate
from registration.domain.errors import DomainError
from registration.eventstore.records import RecordedEvent


def refuse_erased(
    kind: type[Aggregate[Any]], history: Sequence[RecordedEvent], *, past: bool = False
) -> None:
    """Raise ``ERASED`` for a record about somebody who was erased.

    The first event of each record is sealed to all whom the record is about. ``past``: the record
    is asked for as it stood, which nobody knows any more of what outlives them either.
    """
    if history and (past or not kind.OUTLIVES_ERASURE) and history[0].is_about_the_erased:
        raise DomainError("ERASED", "What this was about has been erased, for good.")
