"""A device that was offline sends what it queued."""

import dataclasses
import gzip
import itertools
import random
import socket
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID, uuid4

import orjson
import pytest
from tests.service import (
    ADA,
    CARD,
    Clock,
    Desk,
    Service,
    etag,
    new_id,
    place,
    problem,
    succeeded,
)
from tests.sync.given import (
    GRANTED,
    TABLET,
    after,
    correction,
    kin,
    outcome,
    push,
    queued,
    registration,
)

from registration.domain.contract import Operation
from registration.domain.handlers import HANDLERS


def visit(patient_id: object) -> list[dict[str, Any]]:
    """Return what a tablet queues for somebody new: who, whose kin, consent, and the visit."""
    first = registration(patient_id)
    brother = kin(patient_id)
    consent = queued(
        "patient.set_consent", patient_id, GRANTED, entry="research", after_mutation=after(first)
    )
    opened = queued("encounter.open", new_id(), {"patientId": str(patient_id), "class": "AMB"})
    arrived = queued(
        "encounter.transition",
        opened["aggregateId"],
        {"to": "arrived"},
        after_mutation=after(opened),
    )
    return [first, brother, consent, opened, arrived]


def test_what_was_queued_is_carried_out_by_mutation_id_whatever_the_order_of_the_array(desk: Desk):
    """Given two visits in a shuffled array, when pushed, then each record got its own in order."""
    mutations = [*visit(new_id()), *visit(new_id())]
    shuffled = random.Random(4).sample(mutations, len(mutations))

    results = push(desk, *shuffled)

    assert [result["clientMutationId"] for result in results] == list(map(after, mutations))
    assert [(r["status"], r["version"]) for r in results] == [
        ("applied", version) for version in (1, 2, 1, 1, 2, 1, 2, 1, 1, 2)
    ]
    patient = succeeded(desk.get(f"/v1/patients/{mutations[0]['aggregateId']}"))
    assert [
        (event["type"], event["client"], event["clientMutationId"])
        for event in desk.history(patient)
    ] == [
        ("patient.registered", TABLET, after(mutations[0])),
        ("patient.next-of-kin-added", TABLET, after(mutations[1])),
        ("patient.consent-granted", TABLET, after(mutations[2])),
    ]


def test_the_same_push_again_is_answered_with_what_it_did_and_does_nothing(desk: Desk):
    mutations = visit(new_id())
    first = push(desk, *mutations)

    again = push(desk, *mutations)

    assert again == [
        {
            "clientMutationId": result["clientMutationId"],
            "status": "duplicate",
            "aggregateId": result["aggregateId"],
            "version": result["version"],
            "replayed": True,
            "original": {"status": "applied", "version": result["version"]},
        }
        for result in first
    ]


@pytest.mark.parametrize("days", [25 / 24, 30, 400])
def test_however_late_a_push_returns_nothing_is_applied_twice(
    desk: Desk, clock: Clock, days: float
):
    """Given an applied push and later edits, when it returns, then it is told what it made."""
    mutations = visit(new_id())
    push(desk, *mutations)
    patient = succeeded(desk.get(f"/v1/patients/{mutations[0]['aggregateId']}"))
    desk.given_events(patient, 2)
    clock.ahead = timedelta(days=days)

    assert outcome(desk, *mutations) == [
        ("duplicate", "applied", version) for version in (1, 2, 1, 1, 2)
    ]
    assert len(desk.history(patient)) == 5


def test_a_create_whose_answer_was_lost_online_and_that_is_pushed_then_is_one_create(desk: Desk):
    mutation = registration()
    body = ADA | {"id": mutation["aggregateId"], "clientMutationId": after(mutation)}
    assert desk.post("/v1/patients", body).status_code == 201

    assert outcome(desk, mutation) == [("duplicate", "applied", 1)]


def patiently(desk: Desk, *mutations: dict[str, Any]) -> list[dict[str, Any]]:
    """Push, again while the service is busy."""
    while True:
        answer = desk.post("/v1/sync/push", {"clientId": TABLET, "mutations": list(mutations)})
        if answer.status_code != 429:
            results: list[dict[str, Any]] = succeeded(answer)["results"]
            return results
        time.sleep(int(answer.headers["retry-after"]))


def test_the_same_push_eight_times_at_once_is_done_once(desk: Desk):
    """Given a lost answer, when the device sends again and again without waiting, then: once."""
    mutations = [mutation for _ in range(5) for mutation in visit(new_id())]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: patiently(desk, *mutations), range(8)))

    told = [[result["status"] for result in results] for results in zip(*answers, strict=True)]
    assert [sorted(statuses) for statuses in told] == [["applied"] + ["duplicate"] * 7] * 25
    versions = [{result["version"] for result in results} for results in zip(*answers, strict=True)]
    assert versions == [{version} for version in (1, 2, 1, 1, 2)] * 5


def test_an_edit_on_a_stale_version_is_a_conflict_that_shows_both_sides(desk: Desk):
    patient = desk.given_patient()
    succeeded(
        desk.patch(f"{place(patient)}/demographics", {"gender": "male"}, If_Match=etag(patient))
    )

    [result] = push(desk, correction(patient["id"], "1985", base_version=1))

    refusal = result["problem"]
    assert (result["status"], result["code"]) == ("conflict", "OPTIMISTIC_LOCK_CONFLICT")
    assert (refusal["expectedVersion"], refusal["currentVersion"]) == (1, 2)
    assert refusal["fields"] == [
        {"path": "/birthDate", "base": "1984-03-02", "theirs": "1984-03-02", "yours": "1985"},
        {"path": "/gender", "base": "female", "theirs": "male", "yours": "female"},
    ]
    assert [change["event"] for change in refusal["changes"]] == ["patient.demographics-corrected"]


def test_a_refused_mutation_sent_again_is_told_its_first_refusal(desk: Desk):
    patient = desk.given_patient(birthDate="1990")
    succeeded(
        desk.patch(f"{place(patient)}/demographics", {"gender": "male"}, If_Match=etag(patient))
    )
    stale = correction(patient["id"], "1985", base_version=1)
    [first] = push(desk, stale)

    [again] = push(desk, stale)

    assert again["original"] == {"status": "conflict", "code": "OPTIMISTIC_LOCK_CONFLICT"}
    assert again["problem"] == first["problem"]


class TestWhatAChangeWasMadeOn:
    """``baseVersion`` and ``afterMutation``."""

    @staticmethod
    def chain() -> list[dict[str, Any]]:
        """Return a queue of create, edit, edit again, and an encounter for the patient."""
        first = registration()
        its_id = first["aggregateId"]
        second = correction(its_id, "1984", after_mutation=after(first))
        third = correction(its_id, "1985", after_mutation=after(second))
        payload = {"patientId": its_id, "class": "AMB"}
        opened = queued("encounter.open", new_id(), payload, after_mutation=after(first))
        return [first, second, third, opened]

    def test_a_chain_made_offline_goes_through_without_any_version(self, desk: Desk):
        """create, edit, edit again, and open an encounter, before any answer"""
        assert outcome(desk, *self.chain()) == [
            ("applied", 1),
            ("applied", 2),
            ("applied", 3),
            ("applied", 1),
        ]

    @pytest.mark.parametrize("gap", [1, 2, 3])
    @pytest.mark.parametrize("one_push", [True, False], ids=["one push", "a push each"])
    def test_a_foreign_edit_anywhere_in_the_chain_is_a_conflict_for_the_next_edit(
        self, desk: Desk, gap: int, one_push: bool
    ):
        chain = self.chain()
        its_id = chain[0]["aggregateId"]

        before = outcome(desk, *chain[:gap])
        patient = succeeded(desk.get(f"/v1/patients/{its_id}"))
        other = desk.service.desk(desk.tenant, sub="somebody-else")
        succeeded(
            other.patch(
                f"{place(patient)}/demographics", {"gender": "male"}, If_Match=etag(patient)
            )
        )
        rest = chain[gap:]
        then = outcome(desk, *rest) if one_push else [outcome(desk, m)[0] for m in rest]

        stale = ("conflict", "OPTIMISTIC_LOCK_CONFLICT")
        blocked = ("blocked", "DEPENDENCY_FAILED")
        expected: dict[int, list[Any]] = {
            1: [stale, blocked, ("applied", 1)],
            2: [stale, ("applied", 1)],
            3: [("applied", 1)],
        }
        assert before == [("applied", version) for version in range(1, gap + 1)]
        assert then == expected[gap]

    def test_ones_own_changes_since_the_base_are_no_conflict(self, desk: Desk):
        patient = desk.given_patient()
        name = queued("patient.add_name", patient["id"], {"family": "Obi", "use": "nickname"})
        edit = correction(patient["id"], base_version=1, after_mutation=after(name))

        assert outcome(desk, name, edit) == [("applied", 2), ("applied", 3)]

    def test_an_unseen_edit_before_ones_own_harmless_addition_is_a_conflict(self, desk: Desk):
        """Given an edit nobody on the tablet saw, when it adds kin and corrects, then it is told"""
        patient = desk.given_patient()
        other = desk.service.desk(desk.tenant, sub="somebody-else")
        succeeded(
            other.patch(
                f"{place(patient)}/demographics", {"birthDate": "1999"}, If_Match=etag(patient)
            )
        )
        added = kin(patient["id"])
        edit = correction(patient["id"], "1985", base_version=1, after_mutation=after(added))

        assert outcome(desk, added, edit) == [
            ("applied", 3),
            ("conflict", "OPTIMISTIC_LOCK_CONFLICT"),
        ]

    def test_building_on_what_stated_no_version_needs_the_base_as_well(self, desk: Desk):
        patient = desk.given_patient()
        added = kin(patient["id"])
        edit = correction(patient["id"], after_mutation=after(added))

        assert outcome(desk, added, edit) == [("applied", 2), ("rejected", "VERSION_REQUIRED")]

    def test_a_chain_takes_its_base_from_the_mutation_that_stated_one(self, desk: Desk):
        patient = desk.given_patient()
        first = correction(patient["id"], "1984", base_version=1)
        second = correction(patient["id"], "1985", after_mutation=after(first))

        assert outcome(desk, first, second) == [("applied", 2), ("applied", 3)]

    def test_another_device_of_the_same_person_is_foreign(self, desk: Desk):
        patient = desk.given_patient()
        theirs = correction(patient["id"], "1999", base_version=1)
        assert outcome(desk, theirs, client="tablet-8") == [("applied", 2)]
        added = kin(patient["id"])
        edit = correction(patient["id"], "1985", base_version=1, after_mutation=after(added))

        assert outcome(desk, added, edit) == [
            ("applied", 3),
            ("conflict", "OPTIMISTIC_LOCK_CONFLICT"),
        ]

    def test_a_flag_is_counted_by_itself(self, desk: Desk):
        first = registration()
        its_id = first["aggregateId"]
        granted = queued(
            "patient.set_consent", its_id, GRANTED, entry="research", after_mutation=after(first)
        )
        withdrawn = queued(
            "patient.set_consent",
            its_id,
            GRANTED | {"decision": "withdrawn"},
            entry="research",
            after_mutation=after(granted),
        )
        other = queued("patient.set_consent", its_id, GRANTED, entry="portrait", base_version=0)

        assert outcome(desk, first, granted, withdrawn, other) == [
            ("applied", 1),
            ("applied", 1),
            ("applied", 2),
            ("applied", 1),
        ]

    def test_what_a_restored_device_forgot_is_foreign_to_it(self, desk: Desk):
        """Given a correction that was lost with the disk, when the device goes on, it is told"""
        patient = desk.given_patient()
        push(desk, correction(patient["id"], "1960", base_version=1))
        added = kin(patient["id"])
        edit = correction(patient["id"], "1970", base_version=1, after_mutation=after(added))

        assert outcome(desk, added, edit) == [
            ("applied", 3),
            ("conflict", "OPTIMISTIC_LOCK_CONFLICT"),
        ]

    def test_a_base_of_nothing_together_with_ones_own_create(self, desk: Desk):
        first = registration()
        edit = correction(first["aggregateId"], base_version=0, after_mutation=after(first))

        assert outcome(desk, first, edit) == [("applied", 1), ("applied", 2)]

    def test_an_extension_that_was_taken_away_before_is_not_there_for_a_whole_chain(
        self, desk: Desk
    ):
        admin = desk.service.desk(desk.tenant, role="admin", sub="somebody-else")
        name = f"survey-{new_id().hex[:8]}"
        succeeded(admin.post(f"/v1/extension-schemas/{name}/versions", {"schema": True}))
        patient = desk.given_patient()
        path = f"{place(patient)}/extensions/{name}"
        succeeded(admin.put(path, {"schemaVersion": 1, "data": 1}, If_Match='"0"'))
        succeeded(admin("DELETE", path, If_Match='"1"'))

        def data(value: int, **more: Any) -> dict[str, Any]:
            said = {"schemaVersion": 1, "data": value}
            return queued("patient.set_extension", patient["id"], said, entry=name, **more)

        first = data(2, base_version=0)
        second = data(3, base_version=0, after_mutation=after(first))
        third = queued(
            "patient.remove_extension", patient["id"], entry=name, after_mutation=after(second)
        )

        assert outcome(desk, first, second, third) == [
            ("applied", 3),
            ("applied", 4),
            ("applied", 0),
        ]

    def test_a_chain_about_a_flag_takes_the_flags_base(self, desk: Desk):
        patient = desk.given_patient()
        succeeded(desk.put(f"{place(patient)}/consents/research", GRANTED, If_Match='"0"'))

        def said(decision: str, **more: Any) -> dict[str, Any]:
            payload = GRANTED | {"decision": decision}
            return queued("patient.set_consent", patient["id"], payload, entry="research", **more)

        first = said("withdrawn", base_version=1)
        second = said("granted", after_mutation=after(first))

        assert outcome(desk, first, second) == [("applied", 2), ("applied", 3)]

    def test_afterMutation_across_pushes_and_after_the_time_to_live(  # noqa: N802
        self, desk: Desk, clock: Clock
    ):
        first = registration()
        push(desk, first)
        clock.ahead = timedelta(days=30)
        edit = correction(first["aggregateId"], after_mutation=after(first))

        assert outcome(desk, edit) == [("applied", 2)]

    def test_a_mutation_builds_on_earlier_ones_only(self, desk: Desk):
        first = registration()
        edit = correction(first["aggregateId"])
        edit["afterMutation"] = str(new_id())

        [_, result] = push(desk, first, edit)

        assert result["problem"]["errors"] == [
            {"path": "/afterMutation", "message": "must be an earlier mutation"}
        ]


class TestEachStandsOrFallsAlone:
    """Refusals stop nothing but what builds on them."""

    POISON: ClassVar[dict[str, Any]] = {
        "no operation": {"operation": "patient.explode"},
        "no such member": {"surprise": 1},
        "no aggregate": {"aggregateId": 7},
        "an invalid payload": {"payload": {"name": ""}},
        "a NUL": {"payload": {"name": "a\0b", "relationship": "x"}},
        "no v7": {"clientMutationId": str(uuid4())},
        "no uuid": {"clientMutationId": "mutation-1"},
        "from the future": {"clientMutationId": str(UUID(int=new_id().int + (10**11 << 80)))},
        "prohibited": {"operation": "patient.record_death"},
        "a patient that is not there": {"aggregateId": str(new_id())},
    }

    @pytest.mark.parametrize("place_of_poison", range(4))
    @pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
    def test_a_poisonous_mutation_costs_itself_alone(
        self, desk: Desk, poison: dict[str, Any], place_of_poison: int
    ):
        patient = desk.given_patient()
        mutations = [kin(patient["id"], f"Kin {number}") for number in range(4)]
        mutations[place_of_poison] |= poison

        results = push(desk, *mutations)

        by_id = {result["clientMutationId"]: result["status"] for result in results}
        assert [by_id[after(mutation)] for mutation in mutations] == [
            "rejected" if number == place_of_poison else "applied" for number in range(4)
        ]

    @pytest.mark.parametrize(
        "text",
        [rb'"\ud800"', b"NaN", b"Infinity", rb'"a\u0000"'],
        ids=["half", "NaN", "inf", "NUL"],
    )
    def test_so_does_text_that_no_document_may_hold(self, desk: Desk, text: bytes):
        patient = desk.given_patient()
        bad, good = kin(patient["id"], "HERE"), kin(patient["id"])
        body = orjson.dumps({"clientId": TABLET, "mutations": [bad, good]})
        body = body.replace(b'"HERE"', text)

        answer = desk(
            "POST", "/v1/sync/push", content=body, headers={"content-type": "application/json"}
        )

        assert [(r["status"], r.get("code")) for r in succeeded(answer)["results"]] == [
            ("rejected", "VALIDATION_FAILED"),
            ("applied", None),
        ]

    def test_what_builds_on_a_refused_create_is_blocked_and_the_rest_goes_on(self, desk: Desk):
        bad = registration(gender="unsaid")
        its_id = bad["aggregateId"]
        brother = kin(its_id)
        opened = queued("encounter.open", new_id(), {"patientId": its_id, "class": "AMB"})
        good = registration()

        assert outcome(desk, bad, brother, opened, good) == [
            ("rejected", "VALIDATION_FAILED"),
            ("blocked", "DEPENDENCY_FAILED"),
            ("blocked", "DEPENDENCY_FAILED"),
            ("applied", 1),
        ]

    def test_what_was_blocked_is_tried_anew_once_what_it_builds_on_is_there(self, desk: Desk):
        first = registration()
        edit = kin(first["aggregateId"], after_mutation=after(first))
        assert outcome(desk, edit) == [("rejected", "NOT_FOUND")]

        assert outcome(desk, first, edit)[0] == ("applied", 1)

    def test_an_identifier_goes_to_the_earlier_mutation(self, desk: Desk):
        card = [{"system": CARD, "value": "4711"}]
        mutations = [registration(identifiers=card) for _ in range(5)]

        assert outcome(desk, *reversed(mutations)) == [
            ("applied", 1),
            *[("conflict", "IDENTIFIER_CONFLICT")] * 4,
        ]

    def test_an_identifier_that_is_given_back_may_be_taken_after(self, desk: Desk):
        patient = desk.given_patient(identifiers=[{"system": CARD, "value": "4711"}])
        retired = queued(
            "patient.retire_identifier",
            patient["id"],
            {"reason": "lost"},
            entry=patient["identifiers"][0]["id"],
        )
        taken = registration(identifiers=[{"system": CARD, "value": "4711"}])

        assert outcome(desk, taken, retired) == [("applied", 2), ("applied", 1)]


def test_a_schema_that_moved_on_meanwhile_still_takes_what_was_made_under_its_old_version(
    desk: Desk,
):
    admin = desk.service.desk(desk.tenant, role="admin")
    name = f"survey-{new_id().hex[:8]}"
    versions = f"/v1/extension-schemas/{name}/versions"
    succeeded(admin.post(versions, {"schema": {"type": "object"}}))
    patient = desk.given_patient()
    queue = [
        queued(
            "patient.set_extension",
            patient["id"],
            {"schemaVersion": number, "data": {}},
            entry=name,
            base_version=0,
        )
        for number in (1, 3)
    ]
    said = {"schema": {"type": "array"}, "compatibility": "none"}
    succeeded(admin.post(versions, said))

    assert outcome(desk, *queue) == [("applied", 1), ("conflict", "OPTIMISTIC_LOCK_CONFLICT")]
    later = {**queue[1], "clientMutationId": str(new_id()), "baseVersion": 1}
    assert outcome(desk, later) == [("rejected", "EXTENSION_INVALID")]


class TestOffline:
    """What is safety-critical or a legal record is not done by a queue."""

    @pytest.mark.parametrize(
        "operation",
        [
            "patient.record_death",
            "patient.reverse_death",
            "patient.set_portrait",
            "patient.remove_portrait",
            "extension_schema.publish",
            "mpi.propose_merge",
            "mpi.approve_merge",
            "mpi.reject_merge",
            "mpi.unmerge",
            "mpi.dismiss_candidate",
        ],
    )
    def test_prohibited(self, desk: Desk, operation: str):
        patient = desk.given_patient()

        assert outcome(desk, queued(operation, patient["id"], base_version=1)) == [
            ("rejected", "OFFLINE_PROHIBITED")
        ]
        assert desk.topics(patient) == ["patient.registered"]

    def test_an_encounter_is_ended_by_the_direct_request_that_the_answer_names(self, desk: Desk):
        patient = desk.given_patient()
        opened = queued(
            "encounter.open",
            new_id(),
            {"patientId": patient["id"], "class": "AMB", "status": "in-progress"},
        )
        ended = queued(
            "encounter.transition",
            opened["aggregateId"],
            {"to": "finished"},
            after_mutation=after(opened),
        )

        [_, result] = push(desk, opened, ended)

        assert (result["status"], result["code"], result["confirm"]) == (
            "rejected",
            "ONLINE_CONFIRMATION_REQUIRED",
            {
                "method": "POST",
                "href": f"/v1/encounters/{opened['aggregateId']}/transitions",
                "headers": {"If-Match": '"1"', "Idempotency-Key": f'"{after(ended)}"'},
                "body": {"to": "finished"},
            },
        )
        ask = result["confirm"]
        shown = succeeded(
            desk(ask["method"], ask["href"], said=ask["body"], headers=ask["headers"])
        )
        assert shown["status"] == "finished"
        assert outcome(desk, opened, ended) == [
            ("duplicate", "applied", 1),
            ("duplicate", "applied", 2),
        ]

    def test_a_move_that_the_state_machine_lacks_is_a_conflict_to_look_at(self, desk: Desk):
        patient = desk.given_patient()
        opened = queued("encounter.open", new_id(), {"patientId": patient["id"], "class": "AMB"})
        moved = queued(
            "encounter.transition",
            opened["aggregateId"],
            {"to": "finished"},
            after_mutation=after(opened),
        )

        assert outcome(desk, opened, moved)[1] == ("conflict", "ENCOUNTER_TRANSITION_NOT_ALLOWED")


def test_a_refused_mutation_is_settled_for_good(desk: Desk, clock: Clock):
    """Given a number that was held, and free since, when the refused one returns, then: refused"""
    card = [{"system": CARD, "value": "4711"}]
    holder, other = desk.given_patient(identifiers=card), desk.given_patient()
    late = queued("patient.add_identifier", other["id"], card[0])
    push(desk, late)
    retirement = f"{place(holder)}/identifiers/{holder['identifiers'][0]['id']}/retirement"
    succeeded(desk.post(retirement, {"reason": "lost"}))
    clock.ahead = timedelta(days=30)

    assert outcome(desk, late) == [("duplicate", "conflict", "IDENTIFIER_CONFLICT")]


def test_a_long_queue_on_one_record_gets_further_each_time(desk: Desk):
    """However slow: what is in is not done again, and so a device comes to its end."""
    chain = [registration()]
    for number in range(150):
        its_id = chain[0]["aggregateId"]
        chain.append(correction(its_id, str(1900 + number % 90), after_mutation=after(chain[-1])))

    rounds = [outcome(desk, *chain)]
    while rounds[-1][-1][0] == "retry":
        rounds.append(outcome(desk, *chain))

    done = [sum(status != "retry" for status, *_ in results) for results in rounds]
    assert done == sorted(set(done))
    assert outcome(desk, *chain) == [("duplicate", "applied", n) for n in range(1, 152)]


def test_a_fault_of_ours_costs_one_mutation_and_what_builds_on_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    sound = HANDLERS[Operation.ADD_NEXT_OF_KIN]

    def decide(state: Any, command: Any, context: Any) -> Any:
        if command.name == "BOOM":
            raise ZeroDivisionError
        return sound.decide(state, command, context)

    monkeypatch.setitem(
        HANDLERS, Operation.ADD_NEXT_OF_KIN, dataclasses.replace(sound, decide=decide)
    )
    its_id = desk.given_patient()["id"]
    boom = kin(its_id, "BOOM")
    builds_on_it = kin(its_id, after_mutation=after(boom))

    results = push(desk, boom, builds_on_it, kin(its_id), registration())

    assert [(r["status"], r.get("retryAfter")) for r in results] == [
        ("retry", 60),
        ("retry", 60),
        ("applied", None),
        ("applied", None),
    ]
    assert any(b'"fault":"ZeroDivisionError"' in line for line in desk.service.lines)


class TestIds:
    """Whose mutation it is, and whether it is the same one."""

    def test_an_id_with_other_content_is_rejected(self, desk: Desk):
        """A device restored from a backup gives its ids away a second time."""
        first = registration()
        push(desk, first)
        patient_id = new_id()

        assert outcome(
            desk,
            registration(patient_id) | {"clientMutationId": after(first)},
            kin(patient_id),
        ) == [("rejected", "IDEMPOTENCY_KEY_REUSED"), ("blocked", "DEPENDENCY_FAILED")]

    def test_the_same_id_twice_in_one_push_is_one_mutation(self, desk: Desk):
        mutation = registration()

        assert outcome(desk, mutation, mutation) == [("applied", 1), ("duplicate", "applied", 1)]

    def test_another_person_with_the_same_client_id_meets_nobodys_outcomes(self, desk: Desk):
        mutation = registration()
        push(desk, mutation)
        thief = desk.service.desk(desk.tenant, sub="thief")

        assert outcome(thief, mutation) == [("rejected", "ID_TAKEN")]

    def test_a_token_that_names_a_device_speaks_for_no_other(self, service: Service):
        desk = service.desk(client="tablet-9")

        answer = desk.post("/v1/sync/push", {"clientId": TABLET, "mutations": []})

        problem(answer, 403, "FORBIDDEN")
        assert outcome(desk, registration(), client="tablet-9") == [("applied", 1)]

    def test_a_review_leaves_its_trace_in_the_history(self, desk: Desk):
        patient = desk.given_patient()
        old = new_id()
        push(desk, kin(patient["id"], supersedes=old))

        assert desk.history(patient)[1]["supersedes"] == str(old)


class TestTheEnvelope:
    """What is refused as a whole, before anything is tried."""

    @staticmethod
    def send(desk: Desk, body: bytes, **headers: str) -> Any:
        return desk(
            "POST",
            "/v1/sync/push",
            content=body,
            headers={"content-type": "application/json"} | headers,
        )

    def test_gzip_is_taken_and_given(self, desk: Desk):
        mutations = [registration() for _ in range(30)]
        body = gzip.compress(orjson.dumps({"clientId": TABLET, "mutations": mutations}))

        answer = self.send(desk, body, **{"content-encoding": "gzip"})

        assert answer.headers["content-encoding"] == "gzip"
        assert [r["status"] for r in succeeded(answer)["results"]] == ["applied"] * 30

    def test_a_gzip_bomb_goes_off_outside(self, desk: Desk):
        bomb = gzip.compress(b" " * 50_000_000)

        answer = self.send(desk, bomb, **{"content-encoding": "gzip"})

        assert problem(answer, 413, "PAYLOAD_TOO_LARGE") == {
            "limit": 2097152,
            "limits": {"mutations": 500, "bytes": 2097152},
        }

    @pytest.mark.parametrize("cut", [1, 15, -1])
    def test_half_a_gzip_is_none(self, desk: Desk, cut: int):
        body = gzip.compress(orjson.dumps({"clientId": TABLET, "mutations": []}))

        answer = self.send(desk, body[:cut], **{"content-encoding": "gzip"})

        problem(answer, 400, "MALFORMED_REQUEST")

    def test_more_than_500_mutations(self, desk: Desk):
        mutation = registration()

        answer = desk.post("/v1/sync/push", {"clientId": TABLET, "mutations": [mutation] * 501})

        assert problem(answer, 413, "PAYLOAD_TOO_LARGE") == {
            "limits": {"mutations": 500, "bytes": 2097152}
        }

    @pytest.mark.parametrize(
        ("said", "path"),
        [
            ({"mutations": []}, "/clientId"),
            ({"clientId": "a b", "mutations": []}, "/clientId"),
            ({"clientId": TABLET}, "/mutations"),
            ({"clientId": TABLET, "mutations": {}}, "/mutations"),
            ({"clientId": TABLET, "mutations": [], "more": 1}, "/more"),
            ({"clientId": TABLET, "mutations": [7]}, "/mutations/0/clientMutationId"),
            ({"clientId": TABLET, "mutations": [{}]}, "/mutations/0/clientMutationId"),
        ],
    )
    def test_what_cannot_be_told_apart(self, desk: Desk, said: Any, path: str):
        refusal = problem(desk.post("/v1/sync/push", said), 422, "VALIDATION_FAILED")

        assert [error["path"] for error in refusal["errors"]] == [path]

    def test_an_empty_push_tells_where_the_log_stands(self, desk: Desk):
        desk.given_events(desk.given_patient(), 2)

        answer = desk.post("/v1/sync/push", {"clientId": TABLET, "mutations": []})

        assert succeeded(answer) == {"clientId": TABLET, "position": 3, "results": []}

    def test_scopes(self, service: Service):
        """sync is needed for the push, and each mutation needs what it needs elsewhere"""
        nobody = service.desk(scope="patient:write")
        body = {"clientId": TABLET, "mutations": [registration()]}
        problem(nobody.post("/v1/sync/push", body), 403, "FORBIDDEN")

        reader = service.desk(scope="sync patient:read")
        assert outcome(reader, registration()) == [("rejected", "FORBIDDEN")]


def test_a_slow_upload_is_waited_for(desk: Desk):
    """Given a tablet whose bytes trickle in past the deadline of requests, then it is answered."""
    body = orjson.dumps({"clientId": TABLET, "mutations": [registration() for _ in range(5)]})
    where = urllib.parse.urlsplit(desk.service.url)
    with socket.create_connection((where.hostname or "", where.port or 0)) as line:
        line.sendall(
            (
                "POST /v1/sync/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {desk.bearer}\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode()
        )
        for start in range(0, len(body), len(body) // 5):
            line.sendall(body[start : start + len(body) // 5])
            time.sleep(1)
        assert line.recv(1000).startswith(b"HTTP/1.1 200")


def test_pointers_start_at_the_mutation(desk: Desk):
    [result] = push(desk, registration(birthDate="yesterday", names=[]))

    assert [error["path"] for error in result["problem"]["errors"]] == ["/payload/names"]
    [result] = push(desk, registration(birthDate="yesterday"))
    assert [error["path"] for error in result["problem"]["errors"]] == ["/payload/birthDate"]


def test_every_operation_that_is_permitted_offline_goes_through(desk: Desk):
    """A sweep over the policy table: whatever it permits has a scene here."""
    first = registration(identifiers=[{"system": CARD, "value": "1"}])
    its_id, name, card = first["aggregateId"], str(new_id()), str(new_id())
    schema = f"survey-{new_id().hex[:8]}"
    admin = desk.service.desk(desk.tenant, role="admin")
    succeeded(admin.post(f"/v1/extension-schemas/{schema}/versions", {"schema": True}))
    kin_id, encounter = str(new_id()), new_id()
    chain = [
        first,
        queued("patient.add_name", its_id, {"id": name, "family": "Obi"}),
        queued("patient.replace_name", its_id, {"family": "Obiora"}, entry=name),
        queued("patient.retire_name", its_id, {"reason": "typo"}, entry=name),
        queued(
            "patient.add_identifier", its_id, {"id": card, "system": CARD, "value": str(new_id())}
        ),
        queued("patient.retire_identifier", its_id, {"reason": "lost"}, entry=card),
        queued(
            "patient.add_next_of_kin",
            its_id,
            {"id": kin_id, "name": "Chidi", "relationship": "brother"},
        ),
        queued("patient.set_consent", its_id, GRANTED, entry="research"),
        queued("patient.set_extension", its_id, {"schemaVersion": 1, "data": {}}, entry=schema),
        queued("patient.remove_extension", its_id, entry=schema),
        correction(its_id),
        queued("patient.remove_next_of_kin", its_id, {"reason": "error"}, entry=kin_id),
        queued("encounter.open", encounter, {"patientId": its_id, "class": "AMB"}),
        queued("encounter.transition", encounter, {"to": "arrived"}),
    ]
    for earlier, mutation in itertools.pairwise(chain):
        mutation["afterMutation"] = after(earlier)
    chain[-2]["afterMutation"] = after(first)

    assert [status for status, _ in outcome(desk, *chain)] == ["applied"] * len(chain)
