"""Encounters: the state machine, and what may be said of when."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.domain.given import NOW, STAMP, When, context, folded, registered, uuid, when
from tests.domain.test_vital_status import DIED, REVERSED

from registration.domain import commands, events
from registration.domain.contract import RULES, Offline, Operation
from registration.domain.encounter import (
    INITIAL,
    MOST_STEPS,
    STATUSES,
    TERMINAL,
    TRANSITIONS,
    Encounter,
    EncounterState,
    allowed,
    case_of,
    decide_transition,
    period,
)
from registration.domain.errors import DomainError

HOUR = timedelta(hours=1)

# the wire contract, section 5, as it is written
LEGAL = {
    "planned": "arrived|cancelled",
    "arrived": "triaged|in-progress|cancelled",
    "triaged": "in-progress|cancelled",
    "in-progress": "onleave|finished",
    "onleave": "in-progress|finished",
    "finished": "in-progress",
    "cancelled": "",
    "entered-in-error": "",
}


def opens(*patient: events.Event, **said: Any) -> When:
    said = {"patientId": str(uuid(7)), "class": "AMB"} | said
    return When([], Operation.OPEN_ENCOUNTER, said, related=patient)


def opened(**members: Any) -> events.EncounterOpened:
    made: dict[str, Any] = {
        "patient_id": uuid(7),
        "encounter_class": "AMB",
        "status": "planned",
        "at": NOW,
        "facility": "north",
    }
    return events.EncounterOpened(**made | members)


def moves(*history: events.Event, to: str, **said: Any) -> When:
    return when(*history, operation=Operation.TRANSITION_ENCOUNTER, to=to, **said)


def in_status(status: str) -> list[events.Event]:
    """Return the shortest history that leads to a status."""
    paths: list[list[Any]] = [[opened(status=initial, at=NOW - HOUR)] for initial in INITIAL]
    while True:
        for path in paths:
            if folded(Encounter, path).status == status:
                return path
        paths = [
            [*path, move.event(at=NOW - HOUR, reason="because" if move.needs_reason else None)]
            for path in paths
            for move in TRANSITIONS.values()
            if move.source == folded(Encounter, path).status
        ]


class TestOpening:
    def test_it_takes_the_desks_facility_and_the_time_of_the_server(self) -> None:
        opens(registered()).then(opened())

    def test_who_was_seen_before_the_tablet_was_online_came_when_they_came(self) -> None:
        came = NOW - 3 * HOUR
        opens(
            registered(), status="arrived", at=came.isoformat(), facility="south", reason=" cough "
        ).then(opened(status="arrived", at=came, facility="south", reason="cough"))

    def test_of_nobody(self) -> None:
        opens().then_refused("NOT_FOUND")

    def test_of_the_dead_only_what_follows_a_death(self) -> None:
        opens(registered(), DIED).then_refused("PATIENT_DECEASED")
        opens(registered(), DIED, postMortem=True).then(opened(post_mortem=True))
        opens(registered(), DIED, REVERSED).then(opened())

    def test_not_in_the_future(self) -> None:
        later = (NOW + HOUR).isoformat()
        opens(registered(), at=later).then_refused("VALIDATION_FAILED", "/at")
        assert opens(registered(), plannedStart=later).decide()

    @pytest.mark.parametrize("member", ["at", "plannedStart"])
    def test_not_before_birth(self, member: str) -> None:
        born = registered(birth_date="2026-02-28")
        said = {member: "2026-02-27T09:59:59Z"}
        opens(born, **said).then_refused("VALIDATION_FAILED", f"/{member}")
        assert opens(born, **{member: "2026-02-27T10:00:00Z"}).decide()


class TestMoving:
    def test_the_table_is_the_contracts(self) -> None:
        for status in STATUSES:
            expected = set(filter(None, LEGAL[status].split("|")))
            if status != "entered-in-error":
                expected.add("entered-in-error")
            assert set(allowed(status)) == expected
        needing = {(m.source, m.target) for m in TRANSITIONS.values() if m.needs_reason}
        assert needing == {
            ("finished", "in-progress"),
            *((status, "entered-in-error") for status in STATUSES if status != "entered-in-error"),
        }

    def test_every_move_falls_under_a_row_of_the_conflict_table(self) -> None:
        rows = {r.case: r for r in RULES if r.operation is Operation.TRANSITION_ENCOUNTER}
        assert {move.case for move in TRANSITIONS.values()} == set(rows)
        for move in TRANSITIONS.values():
            ends = move.target in TERMINAL or move.source in TERMINAL
            expected = Offline.ONLINE_CONFIRMATION if ends else Offline.VALIDATED_ON_SYNC
            assert rows[move.case].offline is expected

    @pytest.mark.parametrize("source", STATUSES)
    @pytest.mark.parametrize("target", STATUSES)
    def test_what_the_table_has_is_done_and_nothing_else(self, source: Any, target: Any) -> None:
        history = in_status(source)
        move = TRANSITIONS.get((source, target))
        if move is None:
            refusal = moves(*history, to=target, reason="because").then_refused(
                "ENCOUNTER_TRANSITION_NOT_ALLOWED"
            )
            assert refusal.extra == {"from": source, "to": target, "allowed": allowed(source)}
        else:
            moves(*history, to=target, reason="because").then(move.event(at=NOW, reason="because"))
            assert folded(Encounter, [*history, move.event(at=NOW)]).status == target

    def test_a_reopening_and_a_mistake_need_a_reason(self) -> None:
        for source, target in (("finished", "in-progress"), ("arrived", "entered-in-error")):
            moves(*in_status(source), to=target).then_refused("VALIDATION_FAILED", "/reason")

    def test_time_does_not_run_backwards(self) -> None:
        history = [opened(status="in-progress", at=NOW - HOUR)]
        for at, path in ((NOW - HOUR - timedelta(seconds=1), "/at"), (NOW + HOUR, "/at")):
            moves(*history, to="finished", at=at.isoformat()).then_refused(
                "VALIDATION_FAILED", path
            )
        moves(*history, to="finished", at=(NOW - HOUR).isoformat()).then(
            events.EncounterFinished(at=NOW - HOUR)
        )

    def test_a_process_whose_clock_is_behind_records_what_comes_next_as_not_before(self) -> None:
        ahead = NOW + timedelta(milliseconds=3)
        moves(opened(status="arrived", at=ahead), to="in-progress").then(
            events.EncounterStarted(at=ahead)
        )

    def test_a_program_gone_wild_is_stopped(self) -> None:
        back_and_forth = [events.EncounterLeaveStarted(at=NOW), events.EncounterLeaveEnded(at=NOW)]
        history = [opened(status="in-progress"), *back_and_forth * (MOST_STEPS // 2)]
        moves(*history[:MOST_STEPS], to="finished").then_refused("VALIDATION_FAILED", "")


class TestThePeriodOfCare:
    @pytest.mark.parametrize(
        ("history", "start", "end"),
        [
            ([opened()], None, None),
            ([opened(status="arrived")], 0, None),
            ([opened(), events.EncounterCancelled(at=NOW + HOUR)], None, None),
            ([opened(status="in-progress"), events.EncounterFinished(at=NOW + HOUR)], 0, 1),
            (
                [
                    opened(status="in-progress"),
                    events.EncounterFinished(at=NOW + HOUR),
                    events.EncounterReopened(at=NOW + 2 * HOUR),
                ],
                0,
                None,
            ),
        ],
        ids=["planned", "arrived", "never came", "finished", "reopened"],
    )
    def test_it_is_from_the_arrival_to_the_end_that_holds(
        self, history: list[events.Event], start: int | None, end: int | None
    ) -> None:
        found = period(folded(Encounter, history).history)
        assert (found.start, found.end) == tuple(
            None if hours is None else NOW + hours * HOUR for hours in (start, end)
        )


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(INITIAL),
    st.lists(st.tuples(st.sampled_from(STATUSES), st.booleans(), st.integers(-3, 0))),
)
def test_no_sequence_of_commands_leaves_the_state_machine(initial: Any, wanted: Any) -> None:
    state: EncounterState = folded(Encounter, [opened(status=initial, at=NOW - 2 * HOUR)])
    for target, reasoned, hours in wanted:
        command = commands.TransitionEncounter(
            to=target, reason="because" if reasoned else None, at=NOW + hours * HOUR
        )
        before = state
        try:
            (event,) = decide_transition(state, command, context())
        except DomainError:
            continue
        assert isinstance(event, events.EncounterEvent)
        state = Encounter.evolve(state, event, STAMP)
        assert (before.status, state.status) in TRANSITIONS
        assert state.status == target
        assert state.history[:-1] == before.history
        assert [step.at for step in state.history] == sorted(step.at for step in state.history)
    for source, target in zip(state.history, state.history[1:], strict=False):
        assert case_of(source.status, target.status)
