"""Merging two patients over HTTP, and undoing it."""

from typing import Any

from tests.service import Desk, place, succeeded


def merged(desk: Desk, retired: dict[str, Any], survivor: dict[str, Any]) -> dict[str, Any]:
    """Return the decision that merged two patients, as they are now: one proposes, one approves."""
    seen = [succeeded(desk.get(place(patient))) for patient in (retired, survivor)]
    proposal = succeeded(
        _somebody(desk, "proposer").post(
            "/v1/mpi/merges",
            {
                "survivorId": survivor["id"],
                "retiredId": retired["id"],
                "survivorVersion": seen[1]["version"],
                "retiredVersion": seen[0]["version"],
                "reason": "one person",
            },
        )
    )
    return succeeded(_somebody(desk, "approver")("POST", f"{_where(proposal)}/approval"))


def parted(desk: Desk, decision: dict[str, Any]) -> dict[str, Any]:
    """Return a decision after the merge was undone."""
    said = {"reason": "two persons after all"}
    return succeeded(_somebody(desk, "approver").post(f"{_where(decision)}/unmerge", said))


def _somebody(desk: Desk, who: str) -> Desk:
    return desk.service.desk(desk.tenant, role="mpi", sub=who)


def _where(decision: dict[str, Any]) -> str:
    return f"/v1/mpi/merges/{decision['id']}"
