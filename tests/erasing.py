"""Erasing a patient over HTTP, as the two people do who have to agree about it."""

from typing import Any

from tests.service import Desk, succeeded


def erased(desk: Desk, patient: dict[str, Any]) -> int:
    """Erase a patient of the desk's tenant; returns how far the log is then."""
    ask, agree = (
        desk.service.desk(desk.tenant, role="privacy", sub=f"officer-{number}") for number in (1, 2)
    )
    said = {"patientId": patient["id"], "basis": "gdpr-17-1-b", "reason": "asked for it"}
    erasure = succeeded(ask.post("/v1/erasures", said))
    answer = agree.post(f"/v1/erasures/{erasure['id']}/approval", {})
    assert succeeded(answer)["status"] == "shredded"
    return int(answer.headers["x-log-position"])
