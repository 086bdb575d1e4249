"""Given two records and what was decided about them, when somebody decides, then these events."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.domain.given import CARD, NOW, context, identifier, name, registered, uuid

from registration.domain import candidate, commands, events, merge
from registration.domain.aggregate import Decided, Stamp
from registration.domain.context import Context
from registration.domain.errors import DomainError
from registration.domain.merge import Merge, Party
from registration.domain.obstacles import obstacles
from registration.domain.patient_resource import Patient
from registration.domain.resources import Obstacle

ADA, EDA, IDA = uuid(501), uuid(502), uuid(503)
MERGE = uuid(600)
CLERK = context()._replace(actor="clerk-2")


@dataclass(frozen=True)
class Record:
    """An event of a history, as the log has it."""

    version: int
    event: events.Event
    actor: str = "desk-1"

    @property
    def recorded_at(self) -> Any:
        return NOW + timedelta(microseconds=self.version)

    @property
    def meta(self) -> dict[str, Any]:
        return {"actor": self.actor}


def party(patient_id: UUID, *history: events.Event) -> Party:
    records = [Record(version, event) for version, event in enumerate(history, 1)]
    return Party(Patient(patient_id, records), records)


def parties(*met: Party) -> dict[UUID, Party]:
    return {each.patient.id: each for each in met}


ada = party(ADA, registered(identifiers=(identifier(11, "1"),)))
eda = party(EDA, registered(names=(name(2, "Okoroh"),), identifiers=(identifier(12, "2"),)))
BOTH = parties(ada, eda)
PLURAL = CLERK._replace(plural_systems=frozenset({CARD}))
"""Whoever decides where a person may have several cards."""


def proposed(**members: Any) -> events.MergeProposed:
    said = {
        "survivor_id": ADA,
        "retired_id": EDA,
        "survivor_version": 1,
        "retired_version": 1,
        "reason": "one passport",
    }
    return events.MergeProposed(**said | members)


def decision(*history: events.Event) -> Any:
    """Return what is known of a decision that ``desk-1`` proposed."""
    return Merge(MERGE, [Record(version, event) for version, event in enumerate(history, 1)]).state


def propose(met: dict[UUID, Party], who: Context = PLURAL, **members: Any) -> Decided:
    said = proposed().model_dump(exclude={"overridden", "override_reason"}) | members
    return merge.decide_propose(None, commands.ProposeMerge(**said), who, met, MERGE)


def approve(met: dict[UUID, Party], who: Context = PLURAL, *history: events.Event) -> Decided:
    state = decision(*(history or (proposed(),)))
    return merge.decide_approve(state, commands.ApproveMerge(), who, met, MERGE)


ABSORBED = events.PatientAbsorbed(
    merge_id=MERGE, patient_id=EDA, names=eda.state.names, identifiers=eda.state.identifiers
)
AWAY = events.PatientMergedAway(merge_id=MERGE, survivor_id=ADA)


class TestProposing:
    def test_two_records_are_proposed_to_be_one_persons(self) -> None:
        assert propose(BOTH) == Decided([proposed()], {})

    def test_what_speaks_against_it_is_named(self) -> None:
        with pytest.raises(DomainError) as refused:
            propose(BOTH, CLERK)
        assert refused.value.code == "MERGE_NOT_ALLOWED"
        assert refused.value.extra == {"obstacles": [{"kind": "identifier", "system": CARD}]}

    def test_what_speaks_against_it_can_be_overridden_for_a_reason(self) -> None:
        against = (Obstacle(kind="identifier", system=CARD),)
        said = propose(BOTH, CLERK, override={"reason": "both cards seen"})
        assert said.own == [proposed(overridden=against, override_reason="both cards seen")]

    def test_a_reason_of_spaces_is_none(self) -> None:
        with pytest.raises(DomainError, match="VALIDATION_FAILED"):
            propose(BOTH, reason="   ")

    @pytest.mark.parametrize(
        ("members", "code"),
        [
            ({"retired_id": ADA}, "MERGE_NOT_ALLOWED"),
            ({"retired_id": IDA}, "NOT_FOUND"),
            ({"retired_version": 2}, "OPTIMISTIC_LOCK_CONFLICT"),
            ({"survivor_version": None}, "VERSION_REQUIRED"),
        ],
    )
    def test_what_cannot_be_is_refused(self, members: dict[str, Any], code: str) -> None:
        with pytest.raises(DomainError, match=code):
            propose(BOTH, **members)


class TestApproving:
    def test_both_records_and_the_decision_change_together(self) -> None:
        assert approve(BOTH) == Decided(
            [
                events.MergeApproved(survivor_version=1, retired_version=1),
                events.MergeExecuted(survivor_id=ADA, retired_id=EDA),
            ],
            {EDA: [AWAY], ADA: [ABSORBED]},
        )

    def test_what_the_retired_record_had_absorbed_comes_along(self) -> None:
        ida = events.PatientAbsorbed(merge_id=uuid(9), patient_id=IDA, names=(name(3),))
        more = party(EDA, eda.history[0].event, ida)
        made = approve(parties(ada, more), PLURAL, proposed(retired_version=2))
        assert made.others[ADA] == [ABSORBED, ida.model_copy(update={"merge_id": MERGE})]

    def test_four_eyes_see_more_than_two(self) -> None:
        proposer = PLURAL._replace(actor="desk-1")
        with pytest.raises(DomainError, match="FORBIDDEN"):
            approve(BOTH, proposer)
        assert approve(BOTH, proposer._replace(four_eyes=False)) == approve(BOTH)

    def test_what_the_proposal_did_not_override_speaks_against_it_still(self) -> None:
        with pytest.raises(DomainError, match="MERGE_NOT_ALLOWED"):
            approve(BOTH, CLERK)
        against = (Obstacle(kind="identifier", system=CARD),)
        assert approve(BOTH, CLERK, proposed(overridden=against)) == approve(BOTH)

    @pytest.mark.parametrize(
        "after",
        [
            [events.MergeRejected(reason="twins")],
            [
                events.MergeApproved(survivor_version=1, retired_version=1),
                events.MergeExecuted(survivor_id=ADA, retired_id=EDA),
            ],
        ],
    )
    def test_a_decision_is_made_once(self, after: Sequence[events.Event]) -> None:
        with pytest.raises(DomainError, match="MERGE_NOT_ALLOWED"):
            approve(BOTH, PLURAL, proposed(), *after)
        with pytest.raises(DomainError, match="MERGE_NOT_ALLOWED"):
            merge.decide_reject(decision(proposed(), *after), commands.Reason(reason="late"), CLERK)


class TestUndoing:
    EXECUTED = (
        proposed(),
        events.MergeApproved(survivor_version=1, retired_version=1),
        events.MergeExecuted(survivor_id=ADA, retired_id=EDA),
    )

    def undo(self, *met: Party) -> Decided:
        said = commands.Reason(reason="twins")
        return merge.decide_unmerge(decision(*self.EXECUTED), said, CLERK, parties(*met), MERGE)

    def test_both_records_are_what_their_own_histories_say(self) -> None:
        retired = party(EDA, eda.history[0].event, AWAY)
        survivor = party(ADA, ada.history[0].event, ABSORBED)
        made = self.undo(retired, survivor)
        for before, after in ((eda, retired), (ada, survivor)):
            for event in made.others[before.patient.id]:
                after.patient.apply(event, Stamp(3, NOW, "clerk-2"))
            assert after.patient.state == before.state

    def test_records_further_up_let_go_as_well(self) -> None:
        top = uuid(504)
        middle = events.PatientMergedAway(merge_id=uuid(601), survivor_id=top)
        brought = [
            events.PatientAbsorbed(merge_id=uuid(601), patient_id=ADA, names=(name(1),)),
            ABSORBED.model_copy(update={"merge_id": uuid(601)}),
        ]
        made = self.undo(
            party(EDA, eda.history[0].event, AWAY),
            party(ADA, ada.history[0].event, ABSORBED, middle),
            party(top, registered(), *brought),
        )
        let_go = [events.PatientReleased(merge_id=MERGE, patient_ids=(EDA,))]
        assert made.others == {
            EDA: [events.PatientRestored(merge_id=MERGE)],
            ADA: let_go,
            top: let_go,
        }
        assert made.own == [
            events.MergeReversed(
                survivor_id=ADA, retired_id=EDA, released_by=(ADA, top), reason="twins"
            )
        ]


class TestObstacles:
    def against(self, ours: Party, theirs: Party, who: Context = CLERK) -> list[Obstacle]:
        return list(obstacles(ours.state, theirs.state, who))

    def test_a_shared_number_settles_its_system(self) -> None:
        shared = party(EDA, registered(identifiers=(identifier(12, "2"), identifier(13, "1"))))
        assert self.against(ada, shared) == []

    def test_one_lives_and_the_other_has_died(self) -> None:
        died = events.DeathRecorded(deceased_at=NOW)
        assert self.against(party(ADA, registered()), party(EDA, registered(), died)) == [
            Obstacle(kind="deceased")
        ]
        assert self.against(party(ADA, registered(), died), party(EDA, registered(), died)) == []


class TestDismissing:
    PAIR = candidate.ordered(EDA, ADA)
    SAID = commands.DismissCandidate(patient_ids=PAIR, evidence="e1", reason="father and son")

    def test_a_pair_has_one_name_whoever_is_named_first(self) -> None:
        assert self.PAIR == (ADA, EDA)
        assert candidate.candidate_id(ADA, EDA) == candidate.candidate_id(EDA, ADA)

    def test_once_is_enough_while_the_evidence_is_the_same(self) -> None:
        (event,) = candidate.decide_dismiss(None, self.SAID, CLERK)
        known = candidate.Candidate(uuid(700), [Record(1, event)])
        assert candidate.decide_dismiss(known.state, self.SAID, CLERK) == []
        other = self.SAID.model_copy(update={"evidence": "e2"})
        assert len(candidate.decide_dismiss(known.state, other, CLERK)) == 1
