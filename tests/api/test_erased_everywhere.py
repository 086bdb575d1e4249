"""A person whose every word is a canary is erased: it is found nowhere any more.

Not in a table of any schema, as text or as bytes, not in a dump, not in an answer, not in a line
that the service logged. And the read models hold what a rebuild makes of the log that is left.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.api.given_merges import Index, Record, at
from tests.faults.load import caught_up, read_model
from tests.service import (
    ADA,
    CARD,
    Desk,
    Service,
    as_service,
    etag,
    new_id,
    picture,
    place,
    problem,
    running,
    succeeded,
)

from registration.eventstore.embedded import binaries
from registration.eventstore.verify import verify_log
from registration.projections import rebuild
from registration.projections.registry import READ_MODELS
from registration.retention import Swept, sweep

CANARY = "Quilzaphor"
REASON = {"reason": f"as {CANARY} said"}
SPOKEN = {
    "decision": "granted",
    "policy": f"policy of {CANARY}",
    "evidence": {"kind": "verbal", "reference": f"form of {CANARY}", "witness": f"Mx {CANARY}"},
}
PERSON: dict[str, Any] = {
    "names": [{"use": "official", "family": CANARY, "given": [f"{CANARY}ina"], "text": CANARY}],
    "gender": "female",
    "birthDate": "1931-07-19",
    "facility": "north",
    "identifiers": [{"system": CARD, "value": f"{CANARY}-1"}],
    "telecom": [{"system": "email", "value": f"{CANARY}@example.org"}],
    "addresses": [{"text": f"{CANARY} Street 1", "line": [CANARY], "city": f"{CANARY}ville"}],
    "nextOfKin": [{"name": f"Abel {CANARY}", "relationship": f"uncle of {CANARY}"}],
}

STALE_EDIT = {"maritalStatus": "M", "addresses": [{"city": f"{CANARY}stadt"}]}


@dataclass
class Scene:
    """A tenant in which somebody lived; ``image`` are the bytes of her portrait."""

    service: Service
    desk: Desk
    index: Index
    officers: tuple[Desk, Desk]
    person: Record
    other_record: Record
    neighbour: Record
    encounter: Record
    image: bytes = b""

    @property
    def auditor(self) -> Desk:
        return self.service.desk(self.desk.tenant, role="admin", sub="auditor")

    def settled(self) -> None:
        assert asyncio.run(caught_up(self.service.database_url))

    def erase(self) -> None:
        one, other = self.officers
        said = {"patientId": self.person["id"], "basis": "gdpr-17-1-b", **REASON}
        refused = succeeded(one.post("/v1/erasures", said))
        succeeded(other.post(f"/v1/erasures/{refused['id']}/refusal", REASON))
        asked = succeeded(one.post("/v1/erasures", said))
        succeeded(other.post(f"/v1/erasures/{asked['id']}/approval", {}))

    def found_in(self) -> dict[str, int]:
        """Return in how many rows of which tables the canary is, as text or as bytes."""
        needles = [CANARY.casefold(), CANARY.casefold().encode().hex(), CANARY.encode().hex()]
        if self.image:
            needles.append(self.image[:400].hex())
        found = {}
        with psycopg.connect(self.service.database_url) as connection:
            for schema, table in connection.execute(_TABLES).fetchall():
                rows = connection.execute(
                    sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(schema, table))
                ).fetchall()
                count = sum(any(needle in row[0].casefold() for needle in needles) for row in rows)
                if count:
                    found[f"{schema}.{table}"] = count
        return found


_TABLES = """
SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND n.nspname NOT LIKE 'pg_toast%' ORDER BY 1, 2
"""


@pytest.fixture(scope="module")
def scene(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running(module_database_url, tmp_path_factory.mktemp("erased")) as service:
        yield _lived(service)


def _lived(service: Service) -> Scene:
    """Given a person of whom everything is known that the service can know."""
    index = Index.of(service)
    desk = index.desk
    officers = (
        service.desk(desk.tenant, role="privacy", sub="priya"),
        service.desk(desk.tenant, role="privacy", sub="lee"),
    )
    admin = service.desk(desk.tenant, role="admin", sub="admin")
    schema = {"type": "object", "properties": {"note": {"type": "string"}}}
    succeeded(admin.post("/v1/extension-schemas/notes/versions", {"schema": schema}))
    person = desk.given_patient(**PERSON)
    other_record = desk.given_patient(**PERSON | {"identifiers": []})
    neighbour = desk.given_patient()
    made = Scene(service, desk, index, officers, person, other_record, neighbour, {})
    _changed(made)
    _decided(made)
    _refused(made)
    made.settled()
    return made


def _changed(scene: Scene) -> None:
    desk, at_it = scene.desk, place(scene.person)
    name = {"family": f"{CANARY}sen", "given": [CANARY]}
    added = succeeded(desk.post(f"{at_it}/names", name))["names"][-1]
    succeeded(desk("PUT", f"{at_it}/names/{added['id']}", said=name | {"text": f"{CANARY}ova"}))
    succeeded(desk.post(f"{at_it}/names/{added['id']}/retirement", REASON))
    card = succeeded(desk.post(f"{at_it}/identifiers", {"system": CARD, "value": f"{CANARY}-2"}))
    gone = card["identifiers"][-1]["id"]
    succeeded(desk.post(f"{at_it}/identifiers/{gone}/retirement", REASON))
    kin = {"name": f"Baruch {CANARY}", "relationship": "brother"}
    patient = succeeded(desk.post(f"{at_it}/next-of-kin", kin))
    kin_id = patient["nextOfKin"][-1]["id"]
    removal = f"{at_it}/next-of-kin/{kin_id}/removal"
    patient = succeeded(desk.post(removal, REASON, If_Match=etag(patient)))
    city = {"addresses": [{"city": f"{CANARY}burg"}], "facility": "south"}
    succeeded(desk.patch(f"{at_it}/demographics", city, If_Match=etag(patient)))
    succeeded(desk.put(f"{at_it}/consents/portrait", SPOKEN, If_Match='"0"'))
    succeeded(desk.put(f"{at_it}/consents/research", SPOKEN, If_Match='"0"'))
    face = {"content": picture((120, 160)), "Content_Type": "image/png"}
    succeeded(desk("PUT", f"{at_it}/portrait", **face))
    scene.image = desk.get(f"{at_it}/portrait").content
    note = {"schemaVersion": 1, "data": {"note": f"{CANARY} likes tea"}}
    succeeded(desk.put(f"{at_it}/extensions/notes", note, If_Match='"0"'))
    patient = succeeded(desk.get(at_it))
    death = {"deceasedAt": "2026-01-02T03:04:05Z", "cause": f"of {CANARY}", "certificate": CANARY}
    patient = succeeded(desk.post(f"{at_it}/death", death, If_Match=etag(patient)))
    succeeded(desk.post(f"{at_it}/death/reversal", REASON, If_Match=f'"{patient["version"]}"'))
    visit = {"patientId": scene.person["id"], "class": "AMB", **REASON}
    scene.encounter = succeeded(desk.post("/v1/encounters", visit))
    moves = f"/v1/encounters/{scene.encounter['id']}/transitions"
    succeeded(desk.post(moves, {"to": "arrived", **REASON}, If_Match='"1"'))


def _decided(scene: Scene) -> None:
    """Her other record is merged; a neighbour's was by mistake, and another was only proposed."""
    index, person = scene.index, scene.person
    merge = index.merged(index.now(person), index.now(scene.neighbour), **REASON)
    succeeded(index.other_clerk.post(f"{at(merge)}/unmerge", REASON))
    _shown_by_the_neighbour(scene)
    _stale_decisions(scene, merge)
    asked = index.proposed(index.now(person), index.now(scene.neighbour), **REASON)
    succeeded(index.other_clerk.post(f"{at(asked)}/rejection", REASON))
    index.merged(index.now(person), index.now(scene.other_record), **REASON)


def _shown_by_the_neighbour(scene: Scene) -> None:
    """While she was taken for the neighbour, a refusal about him showed her identifiers."""
    index = scene.index
    merge = index.merged(index.now(scene.neighbour), index.now(scene.person), **REASON)
    headers = {"If_Match": '"1"', "Idempotency_Key": "of-the-neighbour"}
    path = f"{place(scene.neighbour)}/demographics"
    assert CANARY in scene.desk.patch(path, {"maritalStatus": "M"}, **headers).text
    succeeded(index.other_clerk.post(f"{at(merge)}/unmerge", REASON))


def _stale_decisions(scene: Scene, merge: Record) -> None:
    """Decisions that were stale show what was decided, and why."""
    clerk = scene.index.other_clerk
    for step, said in (("approval", {}), ("rejection", REASON), ("unmerge", REASON)):
        headers = {"If_Match": '"9"', "Idempotency_Key": f"stale-{step}"}
        stale = clerk.post(f"{at(merge)}/{step}", said, **headers)
        assert problem(stale, 412, "OPTIMISTIC_LOCK_CONFLICT")["current"]["proposed"] is not None


def _refused(scene: Scene) -> None:
    """What was refused under a key is remembered, with what the record said then."""
    desk, at_it = scene.desk, place(scene.person)
    for key, where in (("stale", at_it), ("merged", place(scene.other_record))):
        headers = {"If_Match": '"1"', "Idempotency_Key": key}
        assert CANARY in desk.patch(f"{where}/demographics", STALE_EDIT, **headers).text
    mutation = {
        "clientMutationId": str(new_id()),
        "operation": "patient.update_demographics",
        "aggregateId": scene.person["id"],
        "baseVersion": 1,
        "payload": STALE_EDIT,
    }
    pushed = desk.post("/v1/sync/push", {"clientId": "tablet-7", "mutations": [mutation]})
    assert CANARY in pushed.text


def test_what_is_stored_for_good_is_sealed_while_she_is_known(scene: Scene) -> None:
    """The canary is where it is used: in read models, and in who holds which identifier."""
    found = scene.found_in()
    assert {name for name in found if name.startswith("registration.")} == {
        "registration.identifier_claim",
        "registration.portrait_image",
    }
    assert {name.partition(".")[0] for name in found} >= {"search", "changes", "matching", "past"}


class TestOnceErased:
    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def _she_is_erased(scene: Scene) -> None:
        scene.erase()
        scene.settled()

    def test_no_table_holds_a_word_of_her(self, scene: Scene) -> None:
        assert scene.found_in() == {}

    def test_no_dump_holds_a_word_of_her(self, scene: Scene, tmp_path: Path) -> None:
        dump = tmp_path / "all.sql"
        command = [binaries() / "pg_dump", "--dbname", scene.service.database_url, "--file", dump]
        subprocess.run([*map(str, command)], check=True, capture_output=True)
        text = dump.read_text(encoding="utf-8").casefold()
        told = (CANARY.casefold(), CANARY.encode().hex(), scene.image[:400].hex())
        assert [needle for needle in told if needle in text] == []

    def test_no_answer_tells_a_word_of_her(self, scene: Scene) -> None:
        who = scene.auditor
        head = {"minPosition": succeeded(who.get("/v1/audit/verify"))["events"]}
        asked = [
            f"/v1/patients?name={CANARY}",
            f"/v1/patients?family={CANARY[:4]}",
            f"/v1/patients?identifier={CARD}|{CANARY}-1",
            "/v1/patients?birthDate=1931-07-19",
            f"/v1/patients?name={CANARY}&asOf=2100-01-01T00:00:00Z",
            "/v1/encounters",
            "/v1/encounters/board",
            "/v1/mpi/merges",
            "/v1/mpi/candidates",
            "/v1/mpi/candidates?status=dismissed",
            f"/v1/audit/events?patientId={scene.person['id']}",
            "/v1/sync/pull",
            "/v1/erasures",
        ]
        told = {path: who.get(path) for path in asked}
        assert {path: answer.status_code for path, answer in told.items()} == dict.fromkeys(
            asked, 200
        )
        assert [path for path, answer in told.items() if CANARY in answer.text] == []
        assert succeeded(told["/v1/encounters"])["items"] == []
        matched = who.post("/v1/mpi/match", PERSON_TO_MATCH)
        assert succeeded(matched)["items"] == []
        assert head["minPosition"] > 0

    def test_what_was_refused_is_refused_without_what_was_said(self, scene: Scene) -> None:
        for key, where in (("stale", scene.person), ("merged", scene.other_record)):
            headers = {"If_Match": '"1"', "Idempotency_Key": key}
            again = scene.desk.patch(f"{place(where)}/demographics", STALE_EDIT, **headers)
            assert problem(again, 410, "ERASED") == {}

    def test_what_the_neighbour_was_refused_with_shows_nothing_of_her(self, scene: Scene) -> None:
        headers = {"If_Match": '"1"', "Idempotency_Key": "of-the-neighbour"}
        path = f"{place(scene.neighbour)}/demographics"
        again = scene.desk.patch(path, {"maritalStatus": "M"}, **headers)
        assert problem(again, 412, "OPTIMISTIC_LOCK_CONFLICT") == {}
        assert again.headers["Idempotency-Replayed"] == "true"

    def test_nobody_else_lost_anything(self, scene: Scene) -> None:
        neighbour = succeeded(scene.desk.get(place(scene.neighbour)))
        assert neighbour["names"][0]["family"] == ADA["names"][0]["family"]
        found = succeeded(scene.desk.get("/v1/patients?family=Okoro"))["items"]
        assert [each["id"] for each in found] == [scene.neighbour["id"]]

    def test_her_identifiers_are_free(self, scene: Scene) -> None:
        card = {"system": CARD, "value": f"{CANARY}-1"}
        added = f"{place(scene.neighbour)}/identifiers"
        patient = succeeded(scene.desk.post(added, card))
        held = patient["identifiers"][-1]
        assert held["value"] == card["value"]
        succeeded(scene.desk.post(f"{added}/{held['id']}/retirement", {"reason": "not hers"}))

    def test_the_retention_job_goes_on(self, scene: Scene) -> None:
        assert asyncio.run(sweep(as_service(scene.service.database_url))) == Swept()

    def test_the_log_is_whole(self, scene: Scene) -> None:
        assert verify_log(scene.service.database_url).ok

    def test_the_read_models_are_what_a_rebuild_makes(self, scene: Scene) -> None:
        scene.settled()
        url = scene.service.database_url
        live = {model.NAME: read_model(url, model.NAME) for model in READ_MODELS}
        asyncio.run(rebuild.rebuild(as_service(url)))
        again = {name: read_model(url, name) for name in live}
        assert [name for name in live if again[name] != live[name]] == []
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT * FROM registration.dead_letter").fetchall() == []

    def test_the_log_lines_never_told_a_word_of_her(self, scene: Scene) -> None:
        assert [line for line in scene.service.lines if CANARY.encode() in line] == []


PERSON_TO_MATCH = {
    "names": [{"family": CANARY, "given": [f"{CANARY}ina"]}],
    "birthDate": "1931-07-19",
    "gender": "female",
}
