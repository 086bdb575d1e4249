"""What an auditor is told of the log, its checkpoints and its proofs, over real HTTP."""

import asyncio
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.evidence.given import KEY
from tests.service import Desk, Service, new_tenant, problem, running, succeeded

from registration.evidence import proofs
from registration.evidence.folder import CheckpointFolder
from registration.evidence.notes import parse
from registration.evidence.witness import Witness

PATHS = (
    "/v1/audit/verify",
    "/v1/audit/checkpoints",
    "/v1/audit/proofs/inclusion?position=1",
    "/v1/audit/proofs/consistency?from=1",
)


@pytest.fixture(scope="module")
def audited(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service of its own, since a broken log shows in what is said of all."""
    with running(module_database_url, tmp_path_factory.mktemp("audited")) as service:
        yield service


@pytest.fixture
def auditor(audited: Service) -> Desk:
    return audited.desk(role="auditor")


def registering(auditor: Desk, count: int) -> None:
    desk = auditor.service.desk(auditor.tenant)
    for _ in range(count):
        desk.given_patient()


def look(auditor: Desk) -> None:
    folder = CheckpointFolder(Path(auditor.service.settings.data_dir) / "checkpoints")
    asyncio.run(Witness(auditor.service.database_url, folder, KEY).look())


def change(auditor: Desk, statement: str) -> None:
    with psycopg.connect(auditor.service.database_url) as connection:
        connection.execute(statement.encode(), {"tenant": auditor.tenant})


def test_before_anybody_looked(auditor: Desk) -> None:
    found = succeeded(auditor.get("/v1/audit/verify"))
    assert (found["status"], found["events"], found["checkpoint"]) == ("unknown", 0, None)
    registering(auditor, 1)
    assert succeeded(auditor.get("/v1/audit/verify"))["events"] == 1
    assert succeeded(auditor.get("/v1/audit/checkpoints")) == {"items": [], "next": None}
    for path, said in ((PATHS[2], "/size"), (PATHS[3], "/to")):
        [error] = problem(auditor.get(path), 422, "VALIDATION_FAILED")["errors"]
        assert error["path"] == said


def test_a_log_that_is_whole(auditor: Desk) -> None:
    registering(auditor, 3)
    look(auditor)
    registering(auditor, 1)
    found = succeeded(auditor.get("/v1/audit/verify"))
    assert (found["status"], found["events"], found["verifiedTo"]) == ("whole", 4, 3)
    assert found["broken"] is None
    assert not found["unwritten"]
    assert datetime.fromisoformat(found["lookedAt"]) <= datetime.fromisoformat(found["wholeAt"])
    checkpoint = found["checkpoint"]
    signed = parse(checkpoint["note"].encode())
    assert signed.verified([KEY.public_key()])
    assert signed.checkpoint.tenant == auditor.tenant
    assert (checkpoint["size"], checkpoint["rootHash"], checkpoint["headHash"]) == (
        3,
        signed.checkpoint.root.hex(),
        signed.checkpoint.head.hex(),
    )
    assert checkpoint["keyId"] == signed.key_id.hex()
    assert succeeded(auditor.get("/v1/audit/checkpoints"))["items"] == [checkpoint]


def test_a_log_that_is_broken_and_mended(auditor: Desk) -> None:
    registering(auditor, 3)
    look(auditor)
    change(auditor, "UPDATE registration.event SET data = data || ' ' WHERE tenant = %(tenant)s")
    look(auditor)
    found = succeeded(auditor.get("/v1/audit/verify"))
    broken = found["broken"]
    assert found["status"] == "broken"
    assert (broken["position"], broken["version"]) == (1, 1)
    assert broken["streamId"]
    assert broken["reason"] == "is not what its hash was made of"
    ready = succeeded(auditor.service.http.get("/readyz"))
    assert (ready["status"], ready["logs"]) == ("degraded", {"broken": 1, "unwritten": 0})
    assert "registration_logs_broken 1.0" in auditor.service.http.get("/metrics").text

    change(
        auditor,
        "UPDATE registration.event SET data = substr(data, 1, length(data) - 1)"
        " WHERE tenant = %(tenant)s",
    )
    look(auditor)
    assert succeeded(auditor.get("/v1/audit/verify"))["status"] == "whole"
    assert succeeded(auditor.service.http.get("/readyz"))["logs"]["broken"] == 0


def test_every_proof_of_a_small_log(auditor: Desk) -> None:
    signed = {}
    for count in (2, 1, 4):
        registering(auditor, count)
        look(auditor)
        last = succeeded(auditor.get("/v1/audit/verify"))["checkpoint"]
        signed[last["size"]] = parse(last["note"].encode()).checkpoint
    assert sorted(signed) == [2, 3, 7]
    for size in signed:
        for position in range(1, size + 1):
            path = f"/v1/audit/proofs/inclusion?position={position}&size={size}"
            proof = checked(succeeded(auditor.get(path)))
            proofs.check_signed(auditor.tenant, proofs.check(proof), signed.values())
        for before in signed:
            if before <= size:
                path = f"/v1/audit/proofs/consistency?from={before}&to={size}"
                proof = checked(succeeded(auditor.get(path)))
                proofs.check_signed(auditor.tenant, proofs.check(proof), signed.values())
    newest = succeeded(auditor.get("/v1/audit/proofs/inclusion?position=1"))
    assert newest["size"] == 7
    assert newest["event"].keys() == {
        *("streamId", "version", "type", "at", "digest", "previousHash", "hash")
    }
    assert succeeded(auditor.get("/v1/audit/proofs/consistency?from=2"))["to"] == 7
    # trees of sizes that nobody signed
    assert succeeded(auditor.get("/v1/audit/proofs/inclusion?position=4&size=5"))["size"] == 5


def test_the_checkpoints_page_by_page(auditor: Desk) -> None:
    for _ in range(5):
        registering(auditor, 1)
        look(auditor)
    sizes: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = succeeded(auditor.get(f"/v1/audit/checkpoints?limit=2{cursor}"))
        sizes += [item["size"] for item in page["items"]]
        cursor = page["next"] and f"&cursor={page['next']}"
    assert sizes == [5, 4, 3, 2, 1]
    problem(auditor.get("/v1/audit/checkpoints?cursor=bm9uZQ"), 422, "VALIDATION_FAILED")
    change(
        auditor,
        "UPDATE registration.log_checkpoint SET note = 'forged' WHERE tenant = %(tenant)s"
        " AND size = 5",
    )
    assert succeeded(auditor.get("/v1/audit/checkpoints"))["items"][0]["size"] == 4


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("inclusion?position=4", "/position"),
        ("inclusion?position=3&size=2", "/position"),
        ("inclusion?position=1&size=4", "/size"),
        ("inclusion?position=0", "/position"),
        ("inclusion", "/position"),
        ("inclusion?position=many", "/position"),
        ("inclusion?position=1&size=9223372036854775808", "/size"),
        ("consistency?from=1&to=4", "/to"),
        ("consistency?from=3&to=2", "/from"),
        ("consistency?from=4", "/from"),
        ("consistency?from=0&to=2", "/from"),
        ("consistency", "/from"),
    ],
)
def test_what_cannot_be_proved(auditor: Desk, query: str, path: str) -> None:
    registering(auditor, 3)
    look(auditor)
    [error] = problem(auditor.get(f"/v1/audit/proofs/{query}"), 422, "VALIDATION_FAILED")["errors"]
    assert error["path"] == path


@pytest.mark.parametrize("path", PATHS)
def test_only_auditors_are_told(auditor: Desk, path: str) -> None:
    desk = auditor.service.desk(auditor.tenant)
    assert problem(desk.get(path), 403, "FORBIDDEN")
    assert problem(auditor.service.http.get(path), 401, "UNAUTHENTICATED") == {}


def test_another_tenant_does_not_exist(auditor: Desk) -> None:
    registering(auditor, 2)
    look(auditor)
    other = auditor.service.desk(new_tenant(), role="auditor")
    assert succeeded(other.get("/v1/audit/verify"))["events"] == 0
    assert succeeded(other.get("/v1/audit/checkpoints"))["items"] == []
    for path in PATHS[2:]:
        problem(other.get(path), 422, "VALIDATION_FAILED")


def test_what_a_damaged_log_cannot_prove(auditor: Desk) -> None:
    registering(auditor, 2)
    look(auditor)
    change(auditor, "DELETE FROM registration.event WHERE tenant = %(tenant)s AND position = 1")
    problem(auditor.get("/v1/audit/proofs/inclusion?position=2"), 409, "LOG_BROKEN")
    problem(auditor.get("/v1/audit/proofs/consistency?from=1"), 409, "LOG_BROKEN")
    problem(auditor.get("/v1/audit/proofs/inclusion?position=1"), 409, "LOG_BROKEN")
    change(auditor, "DELETE FROM registration.event WHERE tenant = %(tenant)s")
    change(auditor, "DELETE FROM registration.log_watch WHERE tenant = %(tenant)s")


@pytest.mark.parametrize("damage", ["hash = ''", "hash = sha256('')", "hash = 'short'"])
def test_what_a_damaged_tree_cannot_prove(auditor: Desk, damage: str) -> None:
    registering(auditor, 260)
    look(auditor)
    registering(auditor, 1)
    look(auditor)
    change(auditor, f"UPDATE registration.tree_node SET {damage} WHERE tenant = %(tenant)s")
    for query in ("inclusion?position=2", "inclusion?position=259", "consistency?from=258"):
        problem(auditor.get(f"/v1/audit/proofs/{query}"), 409, "LOG_BROKEN")
    problem(auditor.get("/v1/audit/proofs/inclusion?position=2&size=257"), 409, "LOG_BROKEN")
    change(auditor, "DELETE FROM registration.tree_node WHERE tenant = %(tenant)s")
    registering(auditor, 1)
    look(auditor)
    succeeded(auditor.get("/v1/audit/proofs/inclusion?position=2"))


@pytest.mark.parametrize("damage", ["hash = ''", "recorded_at = 'infinity'", "hash = NULL"])
def test_what_a_damaged_event_cannot_prove(auditor: Desk, damage: str) -> None:
    registering(auditor, 2)
    look(auditor)
    at = "WHERE tenant = %(tenant)s AND position = 2"
    change(auditor, "ALTER TABLE registration.event ALTER hash DROP NOT NULL")
    change(auditor, f"UPDATE registration.event SET {damage} {at}")
    problem(auditor.get("/v1/audit/proofs/inclusion?position=2"), 409, "LOG_BROKEN")
    change(auditor, "DELETE FROM registration.event WHERE tenant = %(tenant)s")
    change(auditor, "DELETE FROM registration.log_watch WHERE tenant = %(tenant)s")
    change(auditor, "ALTER TABLE registration.event ALTER hash SET NOT NULL")


def test_copies_that_nobody_signed_are_passed_over(auditor: Desk) -> None:
    """The service's own role may add rows there."""
    registering(auditor, 3)
    look(auditor)
    for size in range(9, 259):
        change(
            auditor,
            "INSERT INTO registration.log_checkpoint"
            f" SELECT tenant, {size}, key_id, replace(note, E'\\n3\\n', E'\\n{size}\\n')"
            " FROM registration.log_checkpoint WHERE tenant = %(tenant)s AND size = 3",
        )
    assert [c["size"] for c in succeeded(auditor.get("/v1/audit/checkpoints"))["items"]] == [3]
    assert succeeded(auditor.get("/v1/audit/verify"))["checkpoint"]["size"] == 3
    assert succeeded(auditor.get("/v1/audit/proofs/inclusion?position=1"))["size"] == 3
    assert succeeded(auditor.get("/v1/audit/proofs/consistency?from=1"))["to"] == 3
    problem(auditor.get("/v1/audit/proofs/inclusion?position=1&size=9"), 422, "VALIDATION_FAILED")


def checked(document: dict[str, Any]) -> proofs.Proof:
    return proofs.PROOF.validate_python(document)
