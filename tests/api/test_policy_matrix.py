"""Every row of the conflict table, over real HTTP, in every situation that the table speaks of.

A scene says how a row is asked for and what a colleague does that collides with it. A row without
a scene fails, and so does a scene whose answer is not what its row says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tests.service import ADA, CARD, Desk, Service, new_id, picture, place, problem, succeeded

from registration.domain.contract import RULES, Operation, Rule, Version
from registration.domain.encounter import ARRIVAL, BETWEEN, FINISH, OTHER_END
from registration.domain.handlers import HANDLERS

SCHEMA = "housing"
SPOKEN = {"decision": "granted", "evidence": {"kind": "signature"}}
KIN = {"name": "Obi Okoro", "relationship": "brother"}
Record = dict[str, Any]


def patient(desk: Desk) -> Record:
    return desk.given_patient(
        names=[{"family": "Okoro"}, {"family": "Obi"}],
        identifiers=[{"system": CARD, "value": "1"}],
        nextOfKin=[KIN],
    )


def consents(desk: Desk, record: Record, flag: str, version: int = 0, **said: Any) -> Record:
    path = f"{place(record)}/consents/{flag}"
    return succeeded(desk.put(path, SPOKEN | said, If_Match=f'"{version}"'))


def who_consents(desk: Desk) -> Record:
    record = patient(desk)
    consents(desk, record, "research")
    return record


def who_may_have_a_portrait(desk: Desk) -> Record:
    record = patient(desk)
    consents(desk, record, "portrait")
    return record


def with_a_portrait(desk: Desk) -> Record:
    record = who_may_have_a_portrait(desk)
    sent = desk("PUT", f"{place(record)}/portrait", content=picture(), Content_Type="image/png")
    return succeeded(sent)


def extended(desk: Desk, record: Record, version: int = 0, **data: Any) -> Record:
    path = f"{place(record)}/extensions/{SCHEMA}"
    return succeeded(desk.put(path, {"schemaVersion": 1, "data": data}, If_Match=f'"{version}"'))


def with_a_schema(desk: Desk) -> Record:
    said = {"schema": {"type": "object"}}
    succeeded(desk.post(f"/v1/extension-schemas/{SCHEMA}/versions", said))
    return patient(desk)


def with_an_extension(desk: Desk) -> Record:
    record = with_a_schema(desk)
    extended(desk, record, rooms=1)
    return record


def with_a_death(desk: Desk) -> Record:
    record = patient(desk)
    said = {"deceasedAt": "2026-01-01T00:00:00Z"}
    return succeeded(desk.post(f"{place(record)}/death", said, If_Match='"1"'))


def encounter_in(*statuses: str) -> Callable[[Desk], Record]:
    def arrange(desk: Desk) -> Record:
        said = {"patientId": patient(desk)["id"], "class": "AMB", "status": statuses[0]}
        record = succeeded(desk.post("/v1/encounters", said))
        for status in statuses[1:]:
            record = moved(desk, record, status)
        return record

    return arrange


def moved(desk: Desk, record: Record, to: str) -> Record:
    path = f"/v1/encounters/{record['id']}/transitions"
    return succeeded(desk.post(path, {"to": to}, If_Match=f'"{record["version"]}"'))


def a_possible_duplicate(desk: Desk) -> Record:
    succeeded(desk.register())
    position = desk.register().headers["x-log-position"]
    found = succeeded(desk.get("/v1/mpi/candidates", params={"minPosition": position}))
    record: Record = found["items"][0]
    return record


def someone_else_edits(desk: Desk, record: Record) -> None:
    version = f'"{record["version"]}"'
    succeeded(desk.patch(f"{place(record)}/demographics", {"gender": "other"}, If_Match=version))


def someone_else_renames(desk: Desk, record: Record) -> None:
    succeeded(desk.post(f"{place(record)}/names", {"family": "Third"}))


def someone_else_removes_a_next_of_kin(desk: Desk, record: Record) -> None:
    kin = record["nextOfKin"][0]["id"]
    path = f"{place(record)}/next-of-kin/{kin}/removal"
    succeeded(desk.post(path, {"reason": "moved"}, If_Match=f'"{record["version"]}"'))


def nobody_else(_desk: Desk, _record: Record) -> None:
    pass


def two_records(desk: Desk) -> Record:
    survivor, retired = (desk.given_patient() for _ in range(2))
    return survivor | {
        "proposal": {
            "survivorId": survivor["id"],
            "retiredId": retired["id"],
            "survivorVersion": survivor["version"],
            "retiredVersion": retired["version"],
            "reason": "the same person",
        }
    }


def a_proposal(desk: Desk) -> Record:
    somebody_else = desk.service.desk(desk.tenant, role="admin", sub="clerk-2")
    return succeeded(somebody_else.post("/v1/mpi/merges", two_records(desk)["proposal"]))


def a_merge(desk: Desk) -> Record:
    return succeeded(desk("POST", f"/v1/mpi/merges/{a_proposal(desk)['id']}/approval"))


def an_erasure_request(desk: Desk) -> Record:
    somebody_else = desk.service.desk(desk.tenant, role="privacy", sub="officer-2")
    return succeeded(somebody_else.post("/v1/erasures", erasure_of(patient(desk))))


def erasure_of(record: Record) -> Record:
    return {"patientId": record["id"], "basis": "gdpr-17-1-b", "reason": "asked to"}


@dataclass(frozen=True)
class Scene:
    """How a row is asked for: on what, how, and what would collide with it.

    ``own_version`` is the version to state where it is not the record's.
    """

    method: str
    path: str
    said: Callable[[Record], Any]
    arrange: Callable[[Desk], Record] = patient
    collide: Callable[[Desk, Record], object] = nobody_else
    own_version: int | None = None
    status: int = 200

    def send(self, desk: Desk, record: Record, **headers: Any) -> httpx.Response:
        """Send the request."""
        path = self.path.format(
            here=place(record),
            id=record["id"],
            name=_first(record, "names"),
            identifier=_first(record, "identifiers"),
            kin=_first(record, "nextOfKin"),
            schema=SCHEMA,
        )
        said = self.said(record)
        if isinstance(said, bytes):
            return desk(self.method, path, content=said, Content_Type="image/png", **headers)
        if self.method == "DELETE":
            return desk(self.method, path, params=said, **headers)
        return desk(self.method, path, said=said, **headers)

    def version(self, record: Record) -> int:
        """Return the version that is current in the record as it was arranged."""
        return int(record["version"]) if self.own_version is None else self.own_version


def _first(record: Record, member: str) -> Any:
    return next((entry["id"] for entry in record.get(member, ())), None)


def says(**said: Any) -> Callable[[Record], Any]:
    return lambda _record: said


REASON = says(reason="a mistake")


def transition(arrange: Callable[[Desk], Record], to: str, meanwhile: str, **said: Any) -> Scene:
    return Scene(
        "POST",
        "/v1/encounters/{id}/transitions",
        says(to=to, **said),
        arrange,
        lambda desk, record: moved(desk, record, meanwhile),
    )


SCENES: dict[tuple[Operation, str], Scene] = {
    (Operation.REGISTER_PATIENT, ""): Scene(
        "POST", "/v1/patients", lambda _: ADA, lambda _: {"id": str(new_id())}, status=201
    ),
    (Operation.UPDATE_DEMOGRAPHICS, ""): Scene(
        "PATCH", "{here}/demographics", says(maritalStatus="M"), collide=someone_else_renames
    ),
    (Operation.ADD_IDENTIFIER, ""): Scene(
        "POST", "{here}/identifiers", says(system=CARD, value="2"), status=201
    ),
    (Operation.RETIRE_IDENTIFIER, ""): Scene(
        "POST", "{here}/identifiers/{identifier}/retirement", REASON
    ),
    (Operation.ADD_NAME, ""): Scene("POST", "{here}/names", says(family="New"), status=201),
    (Operation.REPLACE_NAME, ""): Scene("PUT", "{here}/names/{name}", says(family="New")),
    (Operation.RETIRE_NAME, ""): Scene("POST", "{here}/names/{name}/retirement", REASON),
    (Operation.ADD_NEXT_OF_KIN, ""): Scene("POST", "{here}/next-of-kin", lambda _: KIN, status=201),
    (Operation.REMOVE_NEXT_OF_KIN, ""): Scene(
        "POST",
        "{here}/next-of-kin/{kin}/removal",
        REASON,
        collide=someone_else_removes_a_next_of_kin,
    ),
    (Operation.SET_CONSENT, ""): Scene(
        "PUT",
        "{here}/consents/research",
        lambda _: SPOKEN | {"decision": "withdrawn"},
        who_consents,
        lambda desk, record: consents(desk, record, "research", 1),
        own_version=1,
    ),
    (Operation.SET_PORTRAIT, ""): Scene(
        "PUT", "{here}/portrait", lambda _: picture(), who_may_have_a_portrait
    ),
    (Operation.REMOVE_PORTRAIT, ""): Scene("DELETE", "{here}/portrait", REASON, with_a_portrait),
    (Operation.SET_EXTENSION, ""): Scene(
        "PUT",
        "{here}/extensions/{schema}",
        says(schemaVersion=1, data={"rooms": 2}),
        with_an_extension,
        lambda desk, record: extended(desk, record, 1, rooms=3),
        own_version=1,
    ),
    (Operation.REMOVE_EXTENSION, ""): Scene(
        "DELETE",
        "{here}/extensions/{schema}",
        says(),
        with_an_extension,
        lambda desk, record: extended(desk, record, 1, rooms=3),
        own_version=1,
    ),
    (Operation.RECORD_DEATH, ""): Scene(
        "POST",
        "{here}/death",
        says(deceasedAt="2026-01-01T00:00:00Z"),
        collide=someone_else_edits,
    ),
    (Operation.REVERSE_DEATH, ""): Scene(
        "POST", "{here}/death/reversal", REASON, with_a_death, someone_else_edits
    ),
    (Operation.OPEN_ENCOUNTER, ""): Scene(
        "POST",
        "/v1/encounters",
        lambda record: {"patientId": record["id"], "class": "AMB"},
        status=201,
    ),
    (Operation.TRANSITION_ENCOUNTER, ARRIVAL): transition(
        encounter_in("planned"), "arrived", "cancelled"
    ),
    (Operation.TRANSITION_ENCOUNTER, BETWEEN): transition(
        encounter_in("arrived"), "in-progress", "triaged"
    ),
    (Operation.TRANSITION_ENCOUNTER, FINISH): transition(
        encounter_in("in-progress"), "finished", "onleave"
    ),
    (Operation.TRANSITION_ENCOUNTER, OTHER_END): transition(
        encounter_in("planned", "arrived"), "cancelled", "triaged"
    ),
    (Operation.PROPOSE_MERGE, ""): Scene(
        "POST", "/v1/mpi/merges", lambda record: record["proposal"], two_records, status=201
    ),
    (Operation.APPROVE_MERGE, ""): Scene(
        "POST", "/v1/mpi/merges/{id}/approval", says(), a_proposal
    ),
    (Operation.REJECT_MERGE, ""): Scene(
        "POST", "/v1/mpi/merges/{id}/rejection", REASON, a_proposal
    ),
    (Operation.UNMERGE, ""): Scene("POST", "/v1/mpi/merges/{id}/unmerge", REASON, a_merge),
    (Operation.DISMISS_CANDIDATE, ""): Scene(
        "POST", "/v1/mpi/candidates/{id}/dismissal", REASON, a_possible_duplicate
    ),
    (Operation.REQUEST_ERASURE, ""): Scene("POST", "/v1/erasures", erasure_of, status=201),
    (Operation.APPROVE_ERASURE, ""): Scene(
        "POST", "/v1/erasures/{id}/approval", says(), an_erasure_request
    ),
    (Operation.REFUSE_ERASURE, ""): Scene(
        "POST", "/v1/erasures/{id}/refusal", REASON, an_erasure_request
    ),
    (Operation.PUBLISH_SCHEMA, ""): Scene(
        "POST",
        "/v1/extension-schemas/{schema}/versions",
        says(schema={"type": "object"}),
        lambda _: {"id": str(new_id())},
        status=201,
    ),
}


def name_of(rule: Rule) -> str:
    return f"{rule.operation} {rule.case}".strip()


BUILT = [rule for rule in RULES if rule.operation in HANDLERS]


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_every_row_has_a_scene(rule: Rule) -> None:
    assert (rule.operation, rule.case) in SCENES


@pytest.fixture
def admin(service: Service) -> Desk:
    return service.desk(role="admin")


@pytest.fixture
def scene(rule: Rule) -> Scene:
    return SCENES[rule.operation, rule.case]


def stated(scene: Scene, rule: Rule, record: Record) -> dict[str, Any]:
    return {"If_Match": f'"{scene.version(record)}"'} if rule.needs_version else {}


@pytest.mark.parametrize("rule", BUILT, ids=name_of)
class TestARow:
    def test_online_with_the_current_version_it_is_done(self, admin, scene, rule) -> None:
        record = scene.arrange(admin)
        answer = scene.send(admin, record, **stated(scene, rule, record))
        assert answer.status_code == scene.status, answer.text
        assert answer.headers["x-log-position"].isdecimal()
        of_a_part = rule.version in (Version.CONSENT_FLAG, Version.EXTENSION_INSTANCE)
        assert of_a_part or answer.headers["etag"] == f'"{answer.json()["version"]}"'

    def test_stale_it_is_refused_with_what_changed(self, admin, scene, rule) -> None:
        record = scene.arrange(admin)
        if not rule.needs_version:
            assert scene.collide is nobody_else
            return
        scene.collide(admin, record)
        told = problem(
            scene.send(admin, record, **stated(scene, rule, record)),
            412,
            "OPTIMISTIC_LOCK_CONFLICT",
        )
        version = scene.version(record)
        assert (told["expectedVersion"], told["currentVersion"]) == (version, version + 1)
        assert [change["version"] for change in told["changes"]] == [version + 1]
        assert told["current"]

    def test_without_the_version_it_is_asked_for_where_the_row_needs_it(
        self, admin, scene, rule
    ) -> None:
        record = scene.arrange(admin)
        answer = scene.send(admin, record)
        if rule.needs_version:
            problem(answer, 428, "VERSION_REQUIRED")
        else:
            assert answer.status_code == scene.status

    def test_sent_twice_it_is_done_once(self, admin, scene, rule) -> None:
        record = scene.arrange(admin)
        headers = stated(scene, rule, record) | {"Idempotency_Key": str(new_id())}
        first, again = (scene.send(admin, record, **headers) for _ in range(2))
        assert (again.status_code, again.content) == (first.status_code, first.content)
        told = [answer.headers.get("idempotency-replayed") for answer in (first, again)]
        assert told == [None, "true"]
        assert first.headers["x-log-position"] == again.headers["x-log-position"]
        assert first.headers["etag"] == again.headers["etag"]

    def test_in_another_tenant_there_is_no_such_record(self, service, admin, scene, rule) -> None:
        record = scene.arrange(admin)
        stranger = service.desk(role="admin")
        answer = scene.send(stranger, record, **stated(scene, rule, record))
        if scene.path in ("/v1/patients", "/v1/extension-schemas/{schema}/versions"):
            assert answer.status_code == 201  # their own, of the same name
        else:
            problem(answer, 404, "NOT_FOUND")

    def test_without_the_scope_it_is_forbidden(self, service, admin, scene, rule) -> None:
        record = scene.arrange(admin)
        others = " ".join({"patient:read", "encounter:read", "sync"} - {rule.scope})
        answer = scene.send(
            service.desk(admin.tenant, scope=others), record, **stated(scene, rule, record)
        )
        assert problem(answer, 403, "FORBIDDEN") == {"scope": rule.scope}
