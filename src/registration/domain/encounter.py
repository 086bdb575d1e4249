"""An encounter: the state machine as one table, the state, and the decisions about it.

Source of the statuses: FHIR R4 EncounterStatus. Which may follow which is the wire contract's,
section 5. The gate, the 409 answer, ``GET /v1/encounters/state-machine``, the documentation page
with its diagram, and the tests all read :data:`TRANSITIONS`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, NamedTuple, get_args
from uuid import UUID

from pydantic import Field

from registration.domain import commands, events
from registration.domain.aggregate import Aggregate, Stamp
from registration.domain.context import Context
from registration.domain.dates import confirm_past, is_before_birth, utc
from registration.domain.errors import DomainError, invalid, not_found
from registration.domain.names import clean_text
from registration.domain.patient_state import PatientState
from registration.domain.resources import EncounterStatus, Model

STATUSES: tuple[EncounterStatus, ...] = get_args(EncounterStatus)
INITIAL: tuple[EncounterStatus, ...] = ("planned", "arrived", "in-progress")
"""What an encounter may be opened as."""
TERMINAL: frozenset[EncounterStatus] = frozenset({"finished", "cancelled", "entered-in-error"})
MOST_STEPS = 500
"""Changes of status of one encounter; more is a mistake of some program."""

ARRIVAL = "planned→arrived"
BETWEEN = "between other non-terminal states"
FINISH = "in-progress→finished"
OTHER_END = "to any other terminal state, and reopen"


class Transition(NamedTuple):
    """A legal move: which event it stores, whether it needs a reason, and its row of the table."""

    source: EncounterStatus
    target: EncounterStatus
    event: type[events.EncounterEvent]
    needs_reason: bool
    case: str


def _move(
    source: EncounterStatus,
    target: EncounterStatus,
    event: type[events.EncounterEvent],
    *,
    needs_reason: bool = False,
) -> Transition:
    return Transition(source, target, event, needs_reason, case_of(source, target))


def case_of(source: EncounterStatus, target: EncounterStatus) -> str:
    """Return which row of the conflict table a change of status falls under, legal or not."""
    if (source, target) == ("planned", "arrived"):
        return ARRIVAL
    if (source, target) == ("in-progress", "finished"):
        return FINISH
    if target in TERMINAL or source in TERMINAL:
        return OTHER_END
    return BETWEEN


TRANSITIONS: dict[tuple[EncounterStatus, EncounterStatus], Transition] = {
    (move.source, move.target): move
    for move in (
        _move("planned", "arrived", events.EncounterArrived),
        _move("planned", "cancelled", events.EncounterCancelled),
        _move("arrived", "triaged", events.EncounterTriaged),
        _move("arrived", "in-progress", events.EncounterStarted),
        _move("arrived", "cancelled", events.EncounterCancelled),
        _move("triaged", "in-progress", events.EncounterStarted),
        _move("triaged", "cancelled", events.EncounterCancelled),
        _move("in-progress", "onleave", events.EncounterLeaveStarted),
        _move("in-progress", "finished", events.EncounterFinished),
        _move("onleave", "in-progress", events.EncounterLeaveEnded),
        _move("onleave", "finished", events.EncounterFinished),
        _move("finished", "in-progress", events.EncounterReopened, needs_reason=True),
        *(
            _move(status, "entered-in-error", events.EncounterEnteredInError, needs_reason=True)
            for status in STATUSES
            if status != "entered-in-error"
        ),
    )
}

_STATUS_OF: dict[type[events.EncounterEvent], EncounterStatus] = {
    move.event: move.target for move in TRANSITIONS.values()
}


def allowed(status: EncounterStatus) -> list[EncounterStatus]:
    """Return what may follow a status, in FHIR's order."""
    return [target for target in STATUSES if (status, target) in TRANSITIONS]


class StatusChange(Model):
    """One entry of an encounter's status history: since when, and who recorded it when."""

    status: EncounterStatus
    at: datetime
    reason: str | None = None
    recorded_at: datetime
    recorded_by: str


class EncounterState(NamedTuple):
    """All that is known of an encounter at one version."""

    patient_id: UUID
    encounter_class: str
    planned_start: datetime | None
    facility: str | None
    post_mortem: bool
    history: tuple[StatusChange, ...]

    @property
    def status(self) -> EncounterStatus:
        """The status now."""
        return self.history[-1].status


class Period(Model):
    """When care took place (FHIR Encounter.period): from arrival to the end, as far as known."""

    start: datetime | None = None
    end: datetime | None = None


class EncounterResource(Model):
    """An encounter at one version (FHIR Encounter)."""

    id: UUID
    version: Annotated[int, Field(ge=1)]
    patient_id: UUID
    encounter_class: Annotated[str, Field(alias="class")]
    status: EncounterStatus
    status_history: tuple[StatusChange, ...]
    planned_start: datetime | None = None
    period: Period
    facility: str | None = None
    post_mortem: bool
    allowed: tuple[EncounterStatus, ...]
    opened_at: datetime
    last_updated: datetime


class Encounter(Aggregate[EncounterState]):
    """An encounter folded from its history."""

    KIND = "encounter"
    EVENTS = events.EncounterEvent
    READ_SCOPE = "encounter:read"
    HAS_VALIDITY = True
    ABOUT: ClassVar[frozenset[str]] = frozenset(
        {"version", "openedAt", "lastUpdated", "allowed", "statusHistory"}
    )

    @staticmethod
    def evolve(
        state: EncounterState | None, event: events.EncounterEvent, stamp: Stamp
    ) -> EncounterState:
        """Return the state after one more event."""
        if isinstance(event, events.EncounterOpened):
            return EncounterState(
                patient_id=event.patient_id,
                encounter_class=event.encounter_class,
                planned_start=event.planned_start,
                facility=event.facility,
                post_mortem=event.post_mortem,
                history=(_step(event.status, event, stamp),),
            )
        if state is None:
            raise ValueError(f"an encounter's history starts with its opening, not {event.TOPIC}")
        step = _step(_STATUS_OF[type(event)], event, stamp)
        return state._replace(history=(*state.history, step))

    @classmethod
    def from_shown(cls, shown: EncounterResource) -> "Encounter":
        """Return the encounter that the wire shows; nothing of it is lost."""
        encounter = cls(shown.id)
        encounter.version = shown.version
        encounter.created_at, encounter.last_updated = shown.opened_at, shown.last_updated
        encounter.state = EncounterState(
            patient_id=shown.patient_id,
            encounter_class=shown.encounter_class,
            planned_start=shown.planned_start,
            facility=shown.facility,
            post_mortem=shown.post_mortem,
            history=shown.status_history,
        )
        return encounter

    @property
    def patient_ids(self) -> tuple[UUID, ...]:
        """Whose it is."""
        return (self.state.patient_id,) if self.state else ()

    def held_at(self, moment: datetime) -> "Encounter | None":
        """Return the encounter with the changes of status that had happened at an instant.

        ``None`` before the first. What was entered in error never was anything else.
        """
        if self.state is None or self.state.status == "entered-in-error":
            return self
        happened = tuple(step for step in self.state.history if step.at <= moment)
        if not happened:
            return None
        held = Encounter(self.id)
        held.version = self.version
        held.created_at, held.last_updated = self.created_at, self.last_updated
        held.state = self.state._replace(history=happened)
        return held

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/v1/encounters/{self.id}"

    def shown(self) -> EncounterResource:
        """Return the encounter as the wire shows it."""
        state = self.state
        if state is None:
            raise ValueError("an encounter without history cannot be shown")
        return EncounterResource.trusted(
            id=self.id,
            version=self.version,
            patient_id=state.patient_id,
            encounter_class=state.encounter_class,
            status=state.status,
            status_history=state.history,
            planned_start=state.planned_start,
            period=period(state.history),
            facility=state.facility,
            post_mortem=state.post_mortem,
            allowed=tuple(allowed(state.status)),
            opened_at=self.created_at,
            last_updated=self.last_updated,
        )


def _step(status: EncounterStatus, event: events.EncounterEvent, stamp: Stamp) -> StatusChange:
    return StatusChange.trusted(
        status=status,
        at=event.at,
        reason=event.reason,
        recorded_at=stamp.at,
        recorded_by=stamp.by,
    )


def period(history: Sequence[StatusChange]) -> Period:
    """Return when care took place: from the arrival, or its start, to the end that holds now."""
    start = next((step.at for step in history if step.status in _PRESENT), None)
    end = history[-1].at if start is not None and history[-1].status in TERMINAL else None
    return Period.trusted(start=start, end=end)


_PRESENT = frozenset({"arrived", "triaged", "in-progress", "onleave", "finished"})


def decide_open(
    _state: None,
    command: commands.OpenEncounter,
    context: Context,
    patient: PatientState | None,
) -> Sequence[events.Event]:
    """Open an encounter of a patient that there is, who lives, or for what follows a death."""
    if patient is None:
        raise not_found("patient")
    if patient.deceased is not None and not command.post_mortem:
        raise DomainError(
            "PATIENT_DECEASED",
            "The patient has died; what follows a death says postMortem: true.",
        )
    at = confirm_past(command.at or context.now, context.now, "/at")
    planned_start = utc(command.planned_start)
    for moment, path in ((at, "/at"), (planned_start, "/plannedStart")):
        if moment is not None and is_before_birth(moment, patient.birth_date):
            raise invalid(path, "lies before the birth")
    return [
        events.EncounterOpened(
            patient_id=command.patient_id,
            encounter_class=command.encounter_class,
            status=command.status,
            at=at,
            planned_start=planned_start,
            facility=command.facility or context.facility,
            reason=_reason(command.reason),
            post_mortem=command.post_mortem,
        )
    ]


def decide_transition(
    state: EncounterState, command: commands.TransitionEncounter, context: Context
) -> Sequence[events.Event]:
    """Move an encounter on, where the state machine has such a move."""
    move = TRANSITIONS.get((state.status, command.to))
    if move is None:
        raise DomainError(
            "ENCOUNTER_TRANSITION_NOT_ALLOWED",
            "The state machine has no such move.",
            {"from": state.status, "to": command.to, "allowed": list(allowed(state.status))},
        )
    if move.needs_reason and command.reason is None:
        raise invalid("/reason", "is needed for this move")
    if len(state.history) >= MOST_STEPS:
        raise invalid("", f"an encounter has at most {MOST_STEPS} changes of status")
    since = state.history[-1].at
    if command.at is None:
        at = max(context.now, since)  # another process' clock may be ahead of ours
    else:
        at = confirm_past(command.at, context.now, "/at")
    if at < since:
        raise invalid("/at", "lies before the change to the status that the encounter has")
    return [_event(move, at, _reason(command.reason))]


def _event(move: Transition, at: datetime, reason: str | None) -> events.EncounterEvent:
    made: dict[str, Any] = {"at": at, "reason": reason}
    return move.event.trusted(**made)


def _reason(said: str | None) -> str | None:
    return None if said is None else clean_text(said, "/reason")
