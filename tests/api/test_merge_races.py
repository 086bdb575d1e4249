"""Everybody merges, approves, undoes and edits the same few records at once."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.api.given_merges import Index, Record, at, insist_on_whole_merges, proposal
from tests.service import Service, etag, place, succeeded

CODES = {
    "OPTIMISTIC_LOCK_CONFLICT",
    "PATIENT_MERGED",
    "MERGE_NOT_ALLOWED",
    "IDENTIFIER_CONFLICT",
}
"""What somebody who comes too late is told."""


class Clerk:
    """Does things at random, on whatever is there, and remembers what was acknowledged."""

    def __init__(self, index: Index, patients: list[Record], seed: int) -> None:
        self.index = index
        self.patients = patients
        self.chance = random.Random(seed)
        self.done: list[tuple[str, str]] = []

    def work(self) -> None:
        for _ in range(25):
            what = self.chance.choice([self.propose, self.approve, self.undo, self.edit])
            what()

    def propose(self) -> None:
        one, other = (self.index.now(p) for p in self.chance.sample(self.patients, 2))
        self.told(self.index.clerk.post("/v1/mpi/merges", proposal(one, other)), "proposed")

    def approve(self) -> None:
        merge = self.some("proposed")
        if merge is not None:
            stated = {
                f"{who}Version": self.index.now({"id": merge[f"{who}Id"]})["version"]
                for who in ("survivor", "retired")
            }
            self.told(self.index.approves(merge, **stated), "executed")

    def undo(self) -> None:
        merge = self.some("executed")
        if merge is not None:
            self.told(self.index.undoes(merge), "reversed")

    def edit(self) -> None:
        patient = self.index.now(self.chance.choice(self.patients))
        if self.chance.random() < 0.5:
            kin = {"name": "Obi", "relationship": "brother"}
            self.told(self.index.desk.post(f"{place(patient)}/next-of-kin", kin), "")
        else:
            said = {"maritalStatus": self.chance.choice("MSDWU")}
            path = f"{place(patient)}/demographics"
            self.told(self.index.desk.patch(path, said, If_Match=etag(patient)), "")

    def some(self, status: str) -> Record | None:
        found = succeeded(self.index.clerk.get("/v1/mpi/merges", params={"status": status}))
        return self.chance.choice(found["items"]) if found["items"] else None

    def told(self, answer: Any, status: str) -> None:
        """Take in an answer: it is a success, or says that somebody was faster."""
        if answer.is_success:
            if status:
                self.done.append((answer.json()["id"], status))
        else:
            assert answer.json()["code"] in CODES, answer.text


@pytest.mark.parametrize("seed", range(4))
def test_nobody_ever_leaves_half_a_merge(service: Service, seed: int) -> None:
    index = Index.of(service)
    patients = [index.patient(number) for number in range(4)]
    clerks = [Clerk(index, patients, seed * 10 + number) for number in range(6)]
    with ThreadPoolExecutor(len(clerks)) as pool:
        list(pool.map(Clerk.work, clerks))

    done = [each for clerk in clerks for each in clerk.done]
    merges = [succeeded(index.clerk.get(at({"id": its_id}))) for its_id in {i for i, _ in done}]
    insist_on_whole_merges(map(index.now, patients), merges)
    # what was acknowledged was done, and done once
    assert len(set(done)) == len(done)
    for merge in merges:
        history = succeeded(index.clerk.get(f"{at(merge)}/history"))["items"]
        steps = [event["type"].rpartition("-")[2] for event in history]
        acknowledged = [status for its_id, status in done if its_id == merge["id"]]
        assert sorted(set(steps) - {"approved"}) == sorted(acknowledged)


def test_of_two_approvals_at_once_one_is_carried_out(service: Service) -> None:
    index = Index.of(service)
    for _ in range(5):
        merge = index.proposed(index.patient(new()), index.patient(new()))
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(index.approves, [merge] * 4))
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]


def test_of_a_merge_and_its_mirror_at_once_one_is_carried_out(service: Service) -> None:
    index = Index.of(service)
    for _ in range(5):
        one, other = index.patient(new()), index.patient(new())
        merges = [index.proposed(one, other), index.proposed(other, one)]
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(index.approves, merges))
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        shown = [succeeded(index.clerk.get(at(merge))) for merge in merges]
        insist_on_whole_merges(map(index.now, (one, other)), shown)


_numbers = iter(range(1000, 10_000))


def new() -> int:
    return next(_numbers)
