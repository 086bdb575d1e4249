"""304 only where nothing can have changed but by a new version."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.service import Clock, Desk, Service, new_tenant, place, succeeded

HOUR = timedelta(hours=1)


@pytest.fixture
def research(desk: Desk) -> str:
    """The path of a consent flag of a patient."""
    return f"{place(desk.given_patient())}/consents/research"


def said(desk: Desk, path: str, version: int, decision: str = "granted", **bounds: Any) -> None:
    body = {"decision": decision, "evidence": {"kind": "verbal"}} | {
        name: moment.isoformat() for name, moment in bounds.items()
    }
    succeeded(desk.put(path, body, If_Match=f'"{version}"'))


def in_force(desk: Desk, path: str) -> bool:
    """Return what a caller with a copy is told, who always says which version that is."""
    copy = desk.get(path)
    answer = desk.get(path, If_None_Match=copy.headers["etag"])
    return bool(succeeded(answer)["inForce"])


def test_a_consent_that_has_run_out_is_told(desk: Desk, clock: Clock, research: str) -> None:
    """Given a copy of a consent that holds, when it runs out, then the copy is not confirmed."""
    said(desk, research, 0, validUntil=datetime.now(UTC) + HOUR)
    copy = desk.get(research)
    assert copy.json()["inForce"] is True
    clock.ahead += 2 * HOUR
    now = desk.get(research, If_None_Match=copy.headers["etag"])
    assert succeeded(now)["inForce"] is False
    assert now.headers["etag"] == copy.headers["etag"]


def test_a_consent_that_begins_is_told(desk: Desk, clock: Clock, research: str) -> None:
    said(desk, research, 0, validFrom=datetime.now(UTC) + HOUR)
    assert in_force(desk, research) is False
    clock.ahead += 2 * HOUR
    assert in_force(desk, research) is True


def test_a_decision_before_the_last_one_counts_as_well(
    desk: Desk, clock: Clock, research: str
) -> None:
    """The last one holds; but which one did is decided by the bounds of all."""
    said(desk, research, 0, validFrom=datetime.now(UTC) + HOUR)
    said(desk, research, 1)
    assert desk.get(research, If_None_Match='"2"').status_code == 200


def test_without_bounds_the_version_says_all(desk: Desk, clock: Clock, research: str) -> None:
    said(desk, research, 0)
    clock.ahead += 24 * 365 * HOUR
    answer = desk.get(research, If_None_Match='"1"')
    assert (answer.status_code, answer.headers["etag"]) == (304, '"1"')


def test_the_list_is_always_whole(desk: Desk, research: str) -> None:
    said(desk, research, 0)
    path = research.removesuffix("/research")
    etag = desk.get(path).headers["etag"]
    assert desk.get(path, If_None_Match=etag).status_code == 200


def test_a_request_that_another_one_ended_is_told(service: Service) -> None:
    """Given two requests to erase somebody, when one is approved, the other reads shredded."""
    tenant = new_tenant()
    patient = service.desk(tenant).given_patient()
    priya, lee = (service.desk(tenant, role="privacy", sub=name) for name in ("priya", "lee"))
    asked = {"patientId": patient["id"], "basis": "gdpr-17", "reason": "asked to"}
    one, other = (succeeded(priya.post("/v1/erasures", asked)) for _ in range(2))
    path = f"/v1/erasures/{other['id']}"
    copy = priya.get(path)
    succeeded(lee.post(f"/v1/erasures/{one['id']}/approval", {}))
    now = priya.get(path, If_None_Match=copy.headers["etag"])
    assert (copy.json()["status"], succeeded(now)["status"]) == ("requested", "shredded")
