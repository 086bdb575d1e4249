"""The queue as it should be, told from a log without a database: everybody is compared with all."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from registration.domain import events
from registration.domain.aggregate import Stamp
from registration.domain.candidate import candidate_id, ordered
from registration.domain.patient_state import PatientState, evolve
from registration.eventstore.records import RecordedEvent
from registration.mpi.blocking import block_keys
from registration.mpi.model import Comparison, Model
from registration.projections.matching import _CHANGES, evidence_of, match_record

Pair = tuple[UUID, UUID]


@dataclass
class Row:
    """A pair that is, or was, in the queue."""

    made: Comparison
    raised_at: datetime
    status: str = "open"


@dataclass
class Queue:
    """The pairs of one tenant."""

    states: dict[UUID, PatientState] = field(default_factory=dict)
    merged_into: dict[UUID, UUID] = field(default_factory=dict)
    rows: dict[Pair, Row] = field(default_factory=dict)
    dismissed: dict[Pair, str] = field(default_factory=dict)

    @classmethod
    def after(cls, log: list[RecordedEvent], tenant: str) -> "Queue":
        queue = cls()
        for recorded in log:
            if recorded.tenant == tenant:
                queue._take(recorded)
                queue._settle(recorded.recorded_at)
        return queue

    def current(self, its_id: UUID) -> UUID:
        while its_id in self.merged_into:
            its_id = self.merged_into[its_id]
        return its_id

    def candidates(self) -> list[tuple[Any, ...]]:
        """Return (id, pair, current pair, status, raised_at, score, grade, evidence), by id."""
        return sorted(
            (
                candidate_id(*pair),
                *pair,
                *ordered(*map(self.current, pair)),
                row.status,
                row.raised_at,
                row.made.score,
                row.made.grade,
                evidence_of(row.made),
            )
            for pair, row in self.rows.items()
        )

    def blocks(self) -> list[tuple[int, UUID]]:
        """Return each patient's keys, by key."""
        return sorted(
            (key, its_id)
            for its_id, state in self.states.items()
            for key in block_keys(match_record(state))
        )

    def dismissals(self) -> list[tuple[UUID, str]]:
        """Return on what evidence pairs were dismissed last, by id."""
        return sorted((candidate_id(*pair), on) for pair, on in self.dismissed.items())

    def _take(self, recorded: RecordedEvent) -> None:
        event, its_id = recorded.event, recorded.stream_id
        if isinstance(event, _CHANGES):
            before = self.states.get(its_id)
            self.states[its_id] = evolve(before, event, Stamp.of(recorded))
            self._compare(its_id, before, recorded.recorded_at)
        elif isinstance(event, events.PatientMergedAway):
            self.merged_into[its_id] = event.survivor_id
        elif isinstance(event, events.PatientRestored):
            del self.merged_into[its_id]
        elif isinstance(event, events.CandidateDismissed):
            self.dismissed[event.patient_ids] = event.evidence
        elif isinstance(event, events.MergeReversed):
            self._separate(event.survivor_id, event.retired_id)

    def _compare(self, its_id: UUID, before: PatientState | None, at: datetime) -> None:
        record = match_record(self.states[its_id])
        if before is not None and match_record(before) == record:
            return
        for other in self.states.keys() - {its_id}:
            pair = ordered(its_id, other)
            made = self._made(pair)
            near = set(block_keys(record)) & set(block_keys(match_record(self.states[other])))
            is_new = near and self.current(its_id) != self.current(other)
            if made.grade is None:
                self.rows.pop(pair, None)
            elif pair in self.rows:
                self.rows[pair].made = made
            elif is_new:
                self.rows[pair] = Row(made, at)

    def _made(self, pair: Pair) -> Comparison:
        one, other = (match_record(self.states[each]) for each in pair)
        return Model.default().score(one, other)

    def _separate(self, survivor: UUID, retired: UUID) -> None:
        persons = {self.current(survivor), self.current(retired)}
        pairs = {pair for pair in self.rows if {*map(self.current, pair)} == persons}
        for pair in pairs | {ordered(survivor, retired)}:
            self.dismissed[pair] = evidence_of(self._made(pair))

    def _settle(self, at: datetime) -> None:
        for pair, row in self.rows.items():
            before, row.status = row.status, "open"
            if len({*map(self.current, pair)}) == 1:
                row.status = "merged"
            elif self.dismissed.get(pair) == evidence_of(row.made):
                row.status = "dismissed"
            elif before == "dismissed":
                row.raised_at = at
