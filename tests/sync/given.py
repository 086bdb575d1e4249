"""What a device queues and gets, in few words."""

from typing import Any
from uuid import UUID

from tests.service import ADA, Desk, new_id, succeeded

TABLET = "tablet-7"
GRANTED: dict[str, Any] = {"decision": "granted", "evidence": {"kind": "signature"}}


def queued(
    operation: str, aggregate_id: object, payload: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """Return a mutation with a fresh id; keywords are further members (``base_version=3``)."""
    mutation = {
        "clientMutationId": str(more.pop("id", None) or new_id()),
        "operation": operation,
        "aggregateId": str(aggregate_id),
        "payload": payload or {},
    }
    for name, value in more.items():
        first, *others = name.split("_")
        mutation[first + "".join(map(str.title, others))] = (
            str(value) if isinstance(value, UUID) else value
        )
    return mutation


def registration(patient_id: object = None, **members: Any) -> dict[str, Any]:
    """Return a queued registration of Ada."""
    return queued("patient.register", patient_id or new_id(), ADA | members)


def kin(patient_id: object, name: str = "Chidi", **more: Any) -> dict[str, Any]:
    """Return a queued next of kin."""
    payload = {"name": name, "relationship": "brother"}
    return queued("patient.add_next_of_kin", patient_id, payload, **more)


def correction(patient_id: object, birth_date: str = "1984-03", **more: Any) -> dict[str, Any]:
    """Return a queued correction of the birth date."""
    payload = {"birthDate": birth_date}
    return queued("patient.update_demographics", patient_id, payload, **more)


def after(mutation: dict[str, Any]) -> str:
    """Return the id of a mutation, to build on it."""
    found: str = mutation["clientMutationId"]
    return found


def push(desk: Desk, *mutations: dict[str, Any], client: str = TABLET) -> list[dict[str, Any]]:
    """Push mutations; returns their results."""
    answer = desk.post("/v1/sync/push", {"clientId": client, "mutations": list(mutations)})
    body = succeeded(answer)
    assert answer.headers["x-log-position"] == str(body["position"])
    results: list[dict[str, Any]] = body["results"]
    return results


def told(result: dict[str, Any]) -> tuple[Any, ...]:
    """Return (status, version) of what went in, else (status, code)."""
    if result["status"] == "duplicate":
        first = result["original"]
        return "duplicate", first["status"], first.get("version", first.get("code"))
    return result["status"], result.get("version", result.get("code"))


def outcome(desk: Desk, *mutations: dict[str, Any], client: str = TABLET) -> list[tuple[Any, ...]]:
    """Push mutations; returns what was told of each."""
    return [told(result) for result in push(desk, *mutations, client=client)]
