"""A small clinic whose every figure is known, and who asks for them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from tests.service import ADA, Clock, Desk, Service, new_id, new_tenant, succeeded
from tests.sync.given import push, queued

MONDAY = datetime(2031, 3, 3, 9, 30, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
Row = dict[str, Any]


@dataclass
class Clinic:
    """A desk in the north, a tablet in the south, an analyst, and somebody who sees all."""

    service: Service
    tenant: str
    north: Desk
    south: Desk
    analyst: Desk
    admin: Desk

    @classmethod
    def of(cls, service: Service, tenant: str | None = None) -> "Clinic":
        """Return a clinic in a tenant of its own."""
        tenant = tenant or new_tenant()
        return cls(
            service,
            tenant,
            service.desk(tenant, facility="north"),
            service.desk(tenant, facility="south"),
            service.desk(tenant, role="analyst", sub="analyst"),
            service.desk(tenant, role="admin", sub="admin"),
        )

    @contextmanager
    def at(self, moment: datetime) -> Iterator[None]:
        """Let it be another time."""
        before = self.service.clock.ahead
        set_clock(self.service.clock, moment)
        yield
        self.service.clock.ahead = before

    def asks(self, desk: Desk, name: str, **params: Any) -> dict[str, Any]:
        """Return a report that includes all that was stored."""
        params = {"minPosition": self.head()} | params
        params = {
            "from" if k == "since" else "to" if k == "until" else k: v for k, v in params.items()
        }
        return succeeded(desk.get(f"/v1/reports/{name}", params=params))

    def head(self) -> int:
        """Return how far the tenant's log is."""
        with psycopg.connect(self.service.database_url) as connection:
            found = connection.execute(
                "SELECT position FROM registration.log_head WHERE tenant = %s", (self.tenant,)
            ).fetchone()
        return found[0] if found else 0

    def patient(self, desk: Desk | None = None, **members: Any) -> Row:
        """Return a patient, registered in the north unless at another desk."""
        return (desk or self.north).given_patient(**members)


def set_clock(clock: Clock, moment: datetime) -> None:
    """Put a clock to a moment; it goes on from there."""
    clock.ahead += moment - clock()


def captured(moment: datetime, number: int = 0) -> UUID:
    """Return a clientMutationId that a device makes at a moment (RFC 9562, version 7)."""
    milliseconds = int(moment.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | number + 1)


def table(answer: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    """Return the items as rows of these columns; all, if none is named."""
    chosen = names or tuple(column["name"] for column in answer["columns"])
    return [tuple(item[name] for name in chosen) for item in answer["items"]]


def registered(moment: datetime, **members: Any) -> Row:
    """Return a registration of Ada that a device captured at a moment."""
    return queued("patient.register", new_id(), ADA | members, id=captured(moment))


BOTH_DAYS = {"since": "2031-03-03", "until": "2031-03-05"}


def two_days(clinic: Clinic) -> None:
    """Monday: two women at the desk, a boy on the tablet, offline; Tuesday: somebody unknown."""
    clinic.patient(birthDate="2000-03-04")
    clinic.patient(birthDate="2001")
    boy = registered(MONDAY - 2 * HOUR, gender="male", birthDate="2027-01-01")
    assert push(clinic.south, boy)[0]["status"] == "applied"
    with clinic.at(MONDAY + DAY):
        clinic.patient(gender="unknown", birthDate=None)


def until(condition: Callable[[], bool]) -> None:
    """Insist on what comes true soon: devices are counted beside their pushes."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
