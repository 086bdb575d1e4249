"""Two people of the index, who merge records and undo it, in few words."""

from typing import Any

from tests.service import Desk, Service, place, succeeded


class Index:
    """The index of one tenant: one proposes, another one approves."""

    def __init__(self, service: Service, tenant: str) -> None:
        self._proposer = service.desk(tenant, role="mpi", sub="index-1")
        self.approver: Desk = service.desk(tenant, role="mpi", sub="index-2")
        self.position = 0
        """How far the log was after the last decision."""

    def merge(self, survivor_id: object, retired_id: object) -> str:
        """Merge the second record into the first, as both are now; returns the decision's id."""
        survivor, retired = (
            succeeded(self._proposer.get(place({"id": each}))) for each in (survivor_id, retired_id)
        )
        said = {
            "survivorId": survivor["id"],
            "retiredId": retired["id"],
            "survivorVersion": survivor["version"],
            "retiredVersion": retired["version"],
            "reason": "the same person",
            "override": {"reason": "looked at the papers"},
        }
        proposal = succeeded(self._proposer.post("/v1/mpi/merges", said))
        its_id: str = proposal["id"]
        self._decide(its_id, "approval", {})
        return its_id

    def unmerge(self, merge_id: str) -> None:
        """Undo a merge."""
        self._decide(merge_id, "unmerge", {"reason": "two persons after all"})

    def _decide(self, merge_id: str, what: str, said: dict[str, Any]) -> None:
        answer = self.approver.post(f"/v1/mpi/merges/{merge_id}/{what}", said)
        succeeded(answer)
        self.position = int(answer.headers["x-log-position"])
