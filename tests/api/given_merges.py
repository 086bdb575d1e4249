"""People who merge: one proposes, another approves, over HTTP."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx
from tests.service import CARD, Desk, Service, new_tenant, place, succeeded

Record = dict[str, Any]
PASSPORT = "https://ids.example/passport"
REASON = {"reason": "the same passport photo"}


@dataclass
class Index:
    """The people at the master patient index of one tenant."""

    desk: Desk
    clerk: Desk
    other_clerk: Desk

    @classmethod
    def of(cls, service: Service, tenant: str | None = None) -> "Index":
        """Return a desk and two clerks."""
        tenant = tenant or new_tenant()
        return cls(
            service.desk(tenant, sub="desk-1", facility="north"),
            service.desk(tenant, role="mpi", sub="clerk-1"),
            service.desk(tenant, role="mpi", sub="clerk-2"),
        )

    def patient(self, number: int, **members: Any) -> Record:
        """Return a patient with a card of its own."""
        card = {"system": CARD, "value": f"card-{number}", "use": "secondary"}
        return self.desk.given_patient(**{"identifiers": [card], "facility": "north"} | members)

    def two(self, **of_the_second: Any) -> tuple[Record, Record]:
        """Return two records of Ada: the one to stay, and the one to go."""
        return self.patient(1), self.patient(2, **of_the_second)

    def now(self, record: Record) -> Record:
        """Return a record as it is now."""
        return succeeded(self.desk.get(place(record)))

    def proposes(self, survivor: Record, retired: Record, **said: Any) -> httpx.Response:
        """Propose to merge two records as they are shown."""
        return self.clerk.post("/v1/mpi/merges", proposal(survivor, retired) | said)

    def proposed(self, survivor: Record, retired: Record, **said: Any) -> Record:
        """Return a proposal."""
        return succeeded(self.proposes(survivor, retired, **said))

    def approves(self, merge: Record, **said: Any) -> httpx.Response:
        """Approve a proposal, as somebody else."""
        return self.other_clerk("POST", f"{at(merge)}/approval", said=said or None)

    def merged(self, survivor: Record, retired: Record, **said: Any) -> Record:
        """Return a merge that was carried out."""
        return succeeded(self.approves(self.proposed(survivor, retired, **said)))

    def undoes(self, merge: Record) -> httpx.Response:
        """Undo a merge."""
        return self.other_clerk.post(f"{at(merge)}/unmerge", {"reason": "twins after all"})

    def unmerged(self, merge: Record) -> Record:
        """Return a merge that was undone."""
        return succeeded(self.undoes(merge))


def at(merge: Record) -> str:
    """Return the path of a merge decision."""
    return f"/v1/mpi/merges/{merge['id']}"


def proposal(survivor: Record, retired: Record) -> Record:
    """Return what a proposal says of two records as they are shown."""
    return REASON | {
        "survivorId": survivor["id"],
        "retiredId": retired["id"],
        "survivorVersion": survivor["version"],
        "retiredVersion": retired["version"],
    }


def content(record: Record) -> Record:
    """Return what a record says, without when and how often it changed."""
    return {name: value for name, value in record.items() if name not in ("version", "lastUpdated")}


def insist_on_whole_merges(patients: Iterable[Record], merges: Iterable[Record]) -> None:
    """Insist that each merge is there on both records and in its decision, or on none of them.

    ``patients`` and ``merges`` are all that the tenant has, as they are now.
    """
    shown = {patient["id"]: patient for patient in patients}
    replaced = {(p["id"], s) for p in shown.values() for s in _linked(p, "replaced-by")}
    executed = {(m["retiredId"], m["survivorId"]) for m in merges if m["status"] == "executed"}
    assert replaced == executed
    for patient in shown.values():
        assert patient["active"] == (not _linked(patient, "replaced-by"))
        below = {its_id for its_id in shown if patient["id"] in _above(its_id, dict(replaced))}
        assert set(_linked(patient, "replaces")) == below
        former = {i["mergedFrom"] for i in patient["identifiers"] if "mergedFrom" in i}
        assert former == {its_id for its_id in below if _own_identifiers(shown[its_id])}


def _linked(patient: Record, kind: str) -> list[str]:
    return [link["patientId"] for link in patient["links"] if link["type"] == kind]


def _above(its_id: str, replaced: dict[str, str]) -> list[str]:
    """Return what a record was merged into, up to the last; a circle would never end."""
    chain: list[str] = []
    while its_id in replaced:
        its_id = replaced[its_id]
        assert its_id not in chain
        chain.append(its_id)
    return chain


def _own_identifiers(patient: Record) -> list[Record]:
    return [held for held in patient["identifiers"] if "mergedFrom" not in held]
