"""Who works in a simulated clinic with a network: at the patients, and at the index of them."""

from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

import httpx

from registration.simulation.known import Known, correction, fresh_id
from registration.simulation.network import Crash, Network
from registration.simulation.world import World, token_of


class DirectUser:
    """Somebody with a network, who changes what others change offline."""

    def __init__(self, world: World, known: Known, tenant: str, random: Random) -> None:
        """Make a user; ``random`` decides what they do."""
        self._known = known
        self._random = random
        token = token_of(world, subject="direct", tenant=tenant)
        self.http = httpx.Client(
            base_url=world.url,
            headers={"Authorization": f"Bearer {token}"},
            transport=Network(world, random),
            timeout=30,
        )

    def close(self) -> None:
        """Go home."""
        self.http.close()

    def change(self) -> str:
        """Change a random patient as it is now."""
        if not self._known.patients:
            return "finds nobody"
        its_id = self._random.choice(self._known.patients)
        said = correction(self._random)
        name = self._known.called(its_id)
        current = self.http.get(f"/v1/patients/{its_id}")
        if current.status_code == 404:
            return f"finds no {name} yet"
        if self._random.random() < 0.3:
            kin = {"name": f"Kin {self._random.randrange(1000)}", "relationship": "aunt"}
            answer = self.http.post(f"/v1/patients/{its_id}/next-of-kin", json=kin)
            return f"adds kin to {name}: {answer.status_code}"
        answer = self.http.patch(
            f"/v1/patients/{its_id}/demographics",
            json=said,
            headers={"If-Match": current.headers["etag"]},
        )
        return f"corrects {name}: {answer.status_code}"

    def get(self, path: str) -> httpx.Response:
        """Look something up."""
        return self.http.get(path)


@dataclass
class Decision:
    """A merge that somebody proposed, of the second patient into the first one."""

    id: UUID
    survivor: UUID
    retired: UUID
    status: str = "proposed"


class Index:
    """Two clerks of the patient index: what one of them proposes, the other one approves or undoes.

    Their line is as bad as anybody's. Each asks again, under the same key, until they are answered:
    so what comes of it is not left to chance.
    """

    def __init__(self, world: World, known: Known, tenant: str, random: Random) -> None:
        """Let two clerks in; ``random`` decides what they do."""
        self._known = known
        self._random = random
        self.network = Network(world, Random(random.getrandbits(64)))  # noqa: S311
        self._decisions: list[Decision] = []
        self._proposer, self._approver = (
            httpx.Client(
                base_url=world.url,
                headers={
                    "Authorization": f"Bearer {token_of(world, subject=subject, tenant=tenant)}"
                },
                transport=self.network,
                timeout=30,
            )
            for subject in ("index-1", "index-2")
        )

    def close(self) -> None:
        """Go home."""
        self._proposer.close()
        self._approver.close()

    def work(self) -> str:
        """Decide on a proposal that waits, undo a merge, or merge two patients."""
        self.network.arrive_late()
        waiting = [each for each in self._decisions if each.status == "proposed"]
        if waiting:
            return self._approve(waiting[0])
        merged = [each for each in self._decisions if each.status == "executed"]
        if merged and self._random.random() < 0.4:
            return self._undo(self._random.choice(merged))
        return self._propose()

    def _propose(self) -> str:
        pair = self._two_records()
        if pair is None:
            return "finds no two records"
        survivor, retired = pair
        made = Decision(fresh_id(self._random), UUID(survivor["id"]), UUID(retired["id"]))
        said = {
            "id": str(made.id),
            "survivorId": survivor["id"],
            "retiredId": retired["id"],
            "survivorVersion": survivor["version"],
            "retiredVersion": retired["version"],
            "reason": "the same person",
            "override": {"reason": "looked at the papers"},
        }
        answer = self._ask(self._proposer, "POST", "/v1/mpi/merges", said)
        told = f"proposes to merge {self._names(made)}: {answer.status_code}"
        if answer.is_success:
            self._decisions.append(made)
            if self._random.random() < 0.7:
                return f"{told}, and {self._approve(made)}"
        return told

    def _two_records(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return two that are used, chosen at random among what has come to the service."""
        found: dict[str, dict[str, Any]] = {}
        for each in self._random.sample(self._known.patients, len(self._known.patients)):
            body = self._current(each)
            if body is not None:
                found.setdefault(body["id"], body)
            if len(found) == 2:
                first, second = found.values()
                return first, second
        return None

    def _approve(self, decision: Decision) -> str:
        path = f"/v1/mpi/merges/{decision.id}"
        answer = self._ask(self._approver, "POST", f"{path}/approval", {})
        if answer.is_success:
            decision.status = "executed"
        else:  # one of the two is not what it was
            self._ask(self._approver, "POST", f"{path}/rejection", {"reason": "look again"})
            decision.status = "rejected"
        return f"merges {self._names(decision)}: {answer.status_code}"

    def _undo(self, decision: Decision) -> str:
        said = {"reason": "two persons after all"}
        answer = self._ask(self._approver, "POST", f"/v1/mpi/merges/{decision.id}/unmerge", said)
        decision.status = "reversed"
        return f"undoes the merge of {self._names(decision)}: {answer.status_code}"

    def _current(self, patient: UUID) -> dict[str, Any] | None:
        """Return the record that a patient is found under now."""
        while True:
            answer = self._ask(self._proposer, "GET", f"/v1/patients/{patient}")
            if answer.status_code == 404:
                return None
            body: dict[str, Any] = answer.json()
            above = [each for each in body["links"] if each["type"] == "replaced-by"]
            if not above:
                return body
            patient = UUID(above[0]["patientId"])

    def _ask(self, clerk: httpx.Client, method: str, path: str, said: Any = None) -> httpx.Response:
        key = fresh_id(self._random)
        while True:
            try:
                answer = clerk.request(
                    method, path, json=said, headers={"Idempotency-Key": f'"{key}"'}
                )
            except (httpx.TransportError, Crash):
                continue
            if answer.status_code != 503:
                return answer

    def _names(self, decision: Decision) -> str:
        retired, survivor = decision.retired, decision.survivor
        return f"{self._known.called(retired)} into {self._known.called(survivor)}"
