"""A law of erasing, over HTTP and in PostgreSQL: nothing of who was erased is left in a read model.

What was known of the person holds one word that nobody else bears, in every text that somebody may
write. The rows that are left are those of a rebuild.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.api.given_merges import Index, Record, at
from tests.api.test_candidates import CANDIDATES, dismissal
from tests.faults.load import caught_up, read_model
from tests.service import (
    CARD,
    Service,
    as_service,
    etag,
    picture,
    place,
    problem,
    running,
    succeeded,
)

from registration import retention
from registration.projections import rebuild

MODELS = ("search", "past", "merges", "portraits", "matching", "audit", "extension_schemas")
CANARY = "Zwunschkanari"
"""A word of a language that nobody speaks."""
NUMBER, BORN = "700900123", "1931-07-19"
HERS = (CANARY, NUMBER, BORN, BORN.replace("-", ""))
"""What nobody else has, as any table may write it."""
PHONE = [{"system": "phone", "value": "+44 20 7946 0123"}]
OVERRIDE = {"override": {"reason": f"{CANARY} showed a passport"}}
SAID = {"reason": f"{CANARY} asked for it"}


class Story:
    """What happens at a clinic to Ada, who is to be erased, and to others who are like her."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.index = Index.of(service)
        self.desk = self.index.desk

    def begin(self) -> None:
        """Register everybody, and find two pairs to be two persons."""
        card = {"system": CARD, "value": f"{CANARY}-1", "use": "secondary"}
        both = [*PHONE, {"system": "phone", "value": f"+44 7{NUMBER}"}]
        self.ada = self.patient(["Okoro", CANARY], identifiers=[card], telecom=both)
        self.twin = self.patient(["Okoro"], telecom=PHONE)
        self.other = self.patient(["Okorro"], telecom=PHONE)
        self.second = self.patient(["Okoro", f"{CANARY}second"])
        self.third = self.patient(["Okoro"], gender="male")
        assert asyncio.run(caught_up(self.service.database_url))
        self.dismiss(self.ada, self.twin, f"{CANARY} has a sister")
        self.dismiss(self.twin, self.other, "born on one day")
        for who in (self.ada, self.twin):
            self.pose(who)

    def go_on(self) -> None:
        """Change what is known of Ada, merge records of hers, and some that are none of hers."""
        self.change()
        for survivor, retired in ((self.ada, self.third), (self.twin, self.ada)):
            parted = self.merge(survivor, retired)
            succeeded(self.index.other_clerk.post(f"{at(parted)}/unmerge", SAID))
        self.merge(self.ada, self.second)
        rejected = self.propose(self.ada, self.twin)
        succeeded(self.index.other_clerk.post(f"{at(rejected)}/rejection", SAID))
        self.propose(self.other, self.ada)
        self.kept = self.propose(self.other, self.twin, reason="one address")

    def change(self) -> None:
        """Give Ada a name of before, a number, a relative, an address, and take some away."""
        path, kin = place(self.ada), {"name": f"{CANARY} kin", "relationship": "aunt"}
        name = succeeded(self.desk.post(f"{path}/names", {"family": f"{CANARY}before"}))
        its_id = name["names"][-1]["id"]
        self.desk.post(f"{path}/names/{its_id}/retirement", SAID)
        succeeded(self.desk.post(f"{path}/next-of-kin", kin))
        held = {"system": CARD, "value": f"{CANARY}-2", "use": "secondary"}
        succeeded(self.desk.post(f"{path}/identifiers", held))
        living = {"addresses": [{"city": f"{CANARY} town"}], "birthDate": BORN}
        now = self.now(self.ada)
        succeeded(self.desk.patch(f"{path}/demographics", living, If_Match=etag(now)))

    def erase(self) -> None:
        """Erase Ada: asked for by one, agreed to by another."""
        officer, other = (
            self.service.desk(self.desk.tenant, role="privacy", sub=f"officer-{number}")
            for number in (1, 2)
        )
        said = {"patientId": self.ada["id"], "basis": "gdpr-17-1-b", **SAID}
        asked = succeeded(officer.post("/v1/erasures", said))
        succeeded(other.post(f"/v1/erasures/{asked['id']}/approval", {}))
        problem(self.desk.get(place(self.ada)), 410, "ERASED")
        problem(self.desk.get(place(self.second)), 410, "ERASED")

    def patient(self, words: list[str], **members: Any) -> Record:
        names = [{"use": "official", "family": words[0], "given": ["Ada", *words[1:]]}]
        return self.desk.given_patient(names=names, **members)

    def now(self, record: Record) -> Record:
        return self.index.now(record)

    def pose(self, record: Record) -> None:
        said = {"decision": "granted", "evidence": {"kind": "signature"}}
        path = place(record)
        succeeded(self.desk.put(f"{path}/consents/portrait", said, If_Match='"0"'))
        image = picture()
        sent = self.desk("PUT", f"{path}/portrait", content=image, Content_Type="image/png")
        succeeded(sent)

    def dismiss(self, one: Record, other: Record, reason: str) -> None:
        both = {one["id"], other["id"]}
        found = succeeded(self.index.clerk.get(CANDIDATES))["items"]
        (pair,) = [p for p in found if {each["patientId"] for each in p["patients"]} == both]
        succeeded(self.index.clerk.post(dismissal(pair), {"reason": reason}))

    def propose(self, survivor: Record, retired: Record, **said: Any) -> Record:
        survivor, retired = self.now(survivor), self.now(retired)
        more = SAID | said
        answer = self.index.proposes(survivor, retired, **more)
        if not answer.is_success:
            answer = self.index.proposes(survivor, retired, **OVERRIDE, **more)
        return succeeded(answer)

    def merge(self, survivor: Record, retired: Record) -> Record:
        return succeeded(self.index.approves(self.propose(survivor, retired)))

    def words(self, path: str, **params: str) -> list[str]:
        """Return the ids that a search answers with."""
        return [each["id"] for each in succeeded(self.desk.get(path, params=params))["items"]]


@contextmanager
def held_up(url: str) -> Iterator[None]:
    """Let no read model take anything in."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT FROM registration.read_model FOR UPDATE")
        yield


def holding(url: str, word: str) -> set[str]:
    """Return the tables that hold a word, in any case, in text or in bytes."""
    found = set()
    with psycopg.connect(url) as connection:
        for name in MODELS:
            tables = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = %s", (name,)
            ).fetchall()
            for (table,) in tables:
                for row in connection.execute(f"SELECT * FROM {name}.{table}").fetchall():
                    said = " ".join(map(_text, row)).casefold()
                    if word.casefold() in said:
                        found.add(f"{name}.{table}")
    return found


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


@pytest.mark.parametrize("behind", [False, True], ids=["level", "behind"])
def test_nothing_is_left_of_who_was_erased(
    database_url: str, tmp_path: Path, *, behind: bool
) -> None:
    with running(database_url, tmp_path) as service:
        story = Story(service)
        story.begin()
        assert asyncio.run(caught_up(database_url))
        with held_up(database_url) if behind else nullcontext():
            story.go_on()
            if not behind:
                assert asyncio.run(caught_up(database_url))
                assert len(holding(database_url, CANARY)) > 7
                assert all(holding(database_url, word) for word in HERS)
            story.erase()
        assert asyncio.run(caught_up(database_url))
        insist_on_what_is_left(story)
        live = {name: read_model(database_url, name) for name in MODELS}
        for name in MODELS:
            asyncio.run(rebuild.rebuild(as_service(database_url), name))
        assert {name: read_model(database_url, name) for name in MODELS} == live
        insist_on_what_is_left(story)
        assert asyncio.run(retention.sweep(database_url, service.clock)) == (0, 0, 0)


def insist_on_what_is_left(story: Story) -> None:
    """Insist that nothing of Ada is left, and all of the others."""
    url = story.service.database_url
    assert [holding(url, word) for word in HERS] == [set() for _ in HERS]
    for gone in (story.ada, story.second):
        assert holding(url, gone["id"]) == {"audit.place"}
    living = {each["id"] for each in (story.twin, story.other, story.third)}
    assert living <= set(story.words("/v1/patients", name="Ada"))
    assert story.words("/v1/patients", name=CANARY, fuzzy="true") == []
    queue = succeeded(story.index.clerk.get(CANDIDATES, params={"status": "dismissed"}))["items"]
    assert [each["dismissal"]["reason"] for each in queue] == ["born on one day"]
    merges = succeeded(story.index.clerk.get("/v1/mpi/merges"))["items"]
    assert [each["id"] for each in merges] == [story.kept["id"]]
    assert story.now(story.twin)["portrait"]
