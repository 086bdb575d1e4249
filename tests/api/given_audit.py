"""Auditors, and what they ask."""

from dataclasses import dataclass
from typing import Any

from tests.service import Desk, Service, new_tenant, place, succeeded

Record = dict[str, Any]


@dataclass
class Audited:
    """A desk that may do everything, and the auditor of its tenant."""

    desk: Desk
    auditor: Desk

    @classmethod
    def of(cls, service: Service, tenant: str | None = None) -> "Audited":
        """Return both."""
        tenant = tenant or new_tenant()
        return cls(
            service.desk(tenant, role="admin", sub="desk-1", facility="north", client="tablet-7"),
            service.desk(tenant, role="auditor", sub="auditor-1"),
        )

    def events(self, **asked: Any) -> list[Record]:
        """Return a page of what was done."""
        found: list[Record] = self.page(**asked)["items"]
        return found

    def page(self, **asked: Any) -> Record:
        """Return what was done, once everything done so far is found by every filter."""
        head = succeeded(self.auditor.get("/v1/audit/events"))["position"]
        asked = {"minPosition": head} | asked
        return succeeded(self.auditor.get("/v1/audit/events", params=asked))

    def reads(self, **asked: Any) -> list[Record]:
        """Return who read what, the newest first, without what auditors read themselves."""
        answer = succeeded(self.auditor.get("/v1/audit/access", params={"limit": 200} | asked))
        return [read for read in answer["items"] if read["actor"] != "auditor-1"]

    def who_saw(self, patient: Record) -> list[Record]:
        """Return who read a patient's data, the newest first, auditors aside."""
        answer = succeeded(self.auditor.get(f"{place(patient)}/access", params={"limit": 200}))
        return [read for read in answer["items"] if read["actor"] != "auditor-1"]
