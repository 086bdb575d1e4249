"""People whose every text is a canary, and where a canary may be found.

A canary is a word that nothing else in the world says. Whoever finds it, or a part of it, in any of
the forms in which programs keep words, has found what was said of a person.
"""

import io
import random
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
from PIL import Image
from psycopg import sql
from tests.api.given_merges import proposal
from tests.service import CARD, Desk, Service, etag, new_id, new_tenant, place, succeeded
from tests.sync.given import kin, push, queued

Record = dict[str, Any]

WORD = "Zebedéequux"
"""As people are called; in other forms and cases it has ``CORE`` in it all the same."""
CODE = "Zebedeequux"
"""Where only ASCII may stand."""
CORE = "zebed"
FORMS = {
    "as text": CORE.encode(),
    "in hexadecimal": CORE.encode().hex().encode(),
    "in hexadecimal, with its capital": CORE.capitalize().encode().hex().encode(),
    # what of a word in base64 does not depend on what stands around it
    **{
        f"in base64, {word} after {before}": b64encode(b"x" * before + word.encode())[
            (before * 8 + 5) // 6 : (before + len(word)) * 8 // 6
        ].lower()
        for word in (CORE, CORE.capitalize(), CORE.upper())
        for before in range(3)
    },
}


def forms_in(content: bytes) -> list[str]:
    """Return in which forms the canary is in some bytes."""
    lower = content.lower()
    return [name for name, form in FORMS.items() if form in lower]


def picture() -> bytes:
    """Return an image that no other is like."""
    image = Image.frombytes("RGB", (60, 80), random.Random(7).randbytes(60 * 80 * 3))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def said(what: str) -> str:
    """Return a text of the canary."""
    return f"{WORD} {what}"


PHONE = {"system": "phone", "value": said("phone")}
ADDRESS = {
    **{part: said(part) for part in ("text", "city", "district", "state", "postalCode")},
    "line": [said("line")],
    "country": said("country"),
}
KIN = {"name": said("kin"), "relationship": said("friend"), "telecom": [PHONE], "address": ADDRESS}
NAME = {
    "use": "official",
    "family": WORD,
    "given": [said("given")],
    "prefix": [said("prefix")],
    "suffix": [said("suffix")],
    "text": said("name"),
}
REASON = {"reason": said("reason")}
EVIDENCE = {"kind": "signature", "reference": said("form"), "witness": said("witness")}
HOUSING = {"type": "object", "properties": {"street": {"type": "string"}}}


def card(number: int) -> Record:
    """Return an identifier."""
    return {"system": CARD, "value": f"{CODE}-{number}", "type": CODE, "use": "secondary"}


def person(number: int) -> Record:
    """Return the registration of somebody of whom all is the canary."""
    return {
        "names": [NAME],
        "gender": "female",
        "birthDate": "1984-03-02",
        "identifiers": [card(number)],
        "telecom": [PHONE],
        "addresses": [ADDRESS],
        "nextOfKin": [KIN],
        "maritalStatus": CODE,
    }


@dataclass
class Clinic:
    """A tenant in which people say nothing but the canary."""

    service: Service
    tenant: str = field(default_factory=new_tenant)
    keys: Iterator[int] = field(default_factory=lambda: iter(range(1000)))
    sent: list[tuple[Desk, str, str, Any, dict[str, str]]] = field(default_factory=list)
    """What was refused under a key, to be sent again."""
    position: str = "0"
    """Where the last command stands in the log."""

    def __post_init__(self) -> None:
        self.desk = self.service.desk(self.tenant, role="admin", sub="admin-1")
        self.other = self.service.desk(self.tenant, role="admin", sub="admin-2")
        schema = {"schema": HOUSING}
        self.did("POST", "/v1/extension-schemas/housing/versions", schema)

    def did(self, method: str, path: str, body: Any, **headers: str) -> Record:
        """Send a command with a key of its own, and return its answer, a success."""
        headers = {"Idempotency_Key": f"key-{next(self.keys)}"} | headers
        answer = self.desk(method, path, said=body, **headers)
        self.position = answer.headers.get("x-log-position", "0")
        return succeeded(answer)

    def refused(self, method: str, path: str, body: Any, code: str, **headers: str) -> None:
        """Send a command with a key, and insist that it is refused with a code."""
        headers = {"Idempotency_Key": f"key-{next(self.keys)}"} | headers
        answer = self.desk(method, path, said=body, **headers)
        assert answer.json()["code"] == code, answer.text
        self.sent.append((self.desk, method, path, body, headers))

    def now(self, record: Record) -> Record:
        """Return a patient as it is now."""
        return succeeded(self.desk.get(place(record)))

    def patient(self, number: int) -> Record:
        """Return somebody of whom all that can be said was said, and much of it taken back."""
        patient = self.did("POST", "/v1/patients", person(number))
        at = place(patient)
        for topic in (
            *(self._named, self._identified, self._consented, self._pictured),
            *(self._extended, self._dead, self._pushed),
        ):
            topic(at)
        self._refusals(at)
        self._encounters(patient["id"])
        return self.now(patient)

    def _named(self, at: str) -> None:
        changes = {"telecom": [PHONE, PHONE | {"use": "home"}], "addresses": [ADDRESS]}
        self.did("PATCH", f"{at}/demographics", changes, If_Match=self.etag(at))
        name = str(new_id())
        self.did("POST", f"{at}/names", NAME | {"id": name, "use": "usual"}, If_Match=self.etag(at))
        self.did("PUT", f"{at}/names/{name}", NAME | {"use": "old"}, If_Match=self.etag(at))
        self.did("POST", f"{at}/names/{name}/retirement", REASON, If_Match=self.etag(at))
        its_id = str(new_id())
        self.did("POST", f"{at}/next-of-kin", KIN | {"id": its_id})
        self.did("POST", f"{at}/next-of-kin/{its_id}/removal", REASON, If_Match=self.etag(at))

    def _identified(self, at: str) -> None:
        for number, retired in ((next(self.keys) + 100, True), (next(self.keys) + 100, False)):
            its_id = str(new_id())
            said = card(number) | {"id": its_id}
            self.did("POST", f"{at}/identifiers", said, If_Match=self.etag(at))
            if retired:
                path = f"{at}/identifiers/{its_id}/retirement"
                self.did("POST", path, REASON, If_Match=self.etag(at))

    def _consented(self, at: str) -> None:
        for version, (flag, decision) in enumerate(
            (("research", "refused"), ("research", "granted"), ("research", "withdrawn"))
        ):
            consent = {"decision": decision, "evidence": EVIDENCE, "policy": said("policy")}
            self.did("PUT", f"{at}/consents/{flag}", consent, If_Match=f'"{version}"')
        consent = {"decision": "granted", "evidence": EVIDENCE, "policy": said("policy")}
        self.did("PUT", f"{at}/consents/portrait", consent, If_Match='"0"')

    def _pictured(self, at: str) -> None:
        for again in (True, False):
            answer = self.desk(
                "PUT", f"{at}/portrait", content=picture(), headers={"content-type": "image/png"}
            )
            succeeded(answer)
            if again:
                succeeded(self.desk("DELETE", f"{at}/portrait", params=REASON))

    def _extended(self, at: str) -> None:
        path = f"{at}/extensions/housing"
        data = {"schemaVersion": 1, "data": {"street": said("street"), WORD: [said("more")]}}
        self.did("PUT", path, data, If_Match='"0"')
        answer = self.desk("DELETE", path, params=REASON, If_Match='"1"')
        succeeded(answer)
        self.did("PUT", path, data, If_Match='"2"')

    def _dead(self, at: str) -> None:
        death = {
            "deceasedAt": "2024-01-01T00:00:00Z",
            "cause": said("cause"),
            "certificate": said("certificate"),
        }
        self.did("POST", f"{at}/death", death, If_Match=self.etag(at))
        self.did("POST", f"{at}/death/reversal", REASON, If_Match=self.etag(at))

    def _pushed(self, at: str) -> None:
        its_id = at.rpartition("/")[2]
        stale = {"addresses": [ADDRESS], "gender": "male"}
        told = push(
            self.desk,
            kin(its_id, said("pushed kin")),
            queued("patient.update_demographics", its_id, stale, base_version=1),
            queued("patient.add_identifier", its_id, card(-1) | {"use": said("no use")}),
        )
        assert [each["status"] for each in told] == ["applied", "conflict", "rejected"], told

    def _refusals(self, at: str) -> None:
        changes = {"addresses": [ADDRESS], "gender": "other"}
        stale = ("PATCH", f"{at}/demographics", changes, "OPTIMISTIC_LOCK_CONFLICT")
        self.refused(*stale, If_Match='"1"')
        wrong = {"schemaVersion": 1, "data": {"street": [said("street")]}}
        path = f"{at}/extensions/housing"
        self.refused("PUT", path, wrong, "EXTENSION_INVALID", If_Match='"3"')

    def _encounters(self, patient_id: str) -> None:
        steps = "arrived triaged in-progress onleave in-progress finished in-progress"
        for path in (steps.split(), ["cancelled"], ["entered-in-error"]):
            body = REASON | {"patientId": patient_id, "class": "AMB"}
            opened = self.did("POST", "/v1/encounters", body)
            at = f"/v1/encounters/{opened['id']}"
            for to in path:
                step = REASON | {"to": to}
                self.did("POST", f"{at}/transitions", step, If_Match=self.etag(at))
        self.refused(
            "POST",
            f"{at}/transitions",
            REASON | {"to": "finished"},
            "ENCOUNTER_TRANSITION_NOT_ALLOWED",
            If_Match=self.etag(at),
        )

    def etag(self, at: str) -> str:
        """Return the entity tag of what is at a path now."""
        return etag(succeeded(self.desk.get(at)))

    def merges(self, survivor: Record, retired: Record) -> list[Record]:
        """Merge two records, after all that people may say before; return every decision."""
        found = [self.proposes(survivor, retired)]
        self.did("POST", f"/v1/mpi/merges/{found[0]['id']}/rejection", REASON)
        for undone in (True, False):
            found.append(self.proposes(survivor, retired))
            path = f"/v1/mpi/merges/{found[-1]['id']}"
            succeeded(self.other.post(f"{path}/approval", {}))
            if undone:
                self.did("POST", f"{path}/unmerge", REASON)
        path = f"{place(retired)}/next-of-kin"
        self.refused("POST", path, KIN, "PATIENT_MERGED")
        return found

    def proposes(self, survivor: Record, retired: Record) -> Record:
        """Return a proposal to merge two records as they are now."""
        body = proposal(self.now(survivor), self.now(retired)) | REASON | {"override": REASON}
        return self.did("POST", "/v1/mpi/merges", body)

    def dismisses(self, one: Record, other: Record) -> Record:
        """Find two records that look alike to be of two persons."""
        asked = {"minPosition": self.position, "patientId": one["id"]}
        items = succeeded(self.desk.get("/v1/mpi/candidates", params=asked))["items"]
        pair = {one["id"], other["id"]}
        (found,) = (i for i in items if {p["currentPatientId"] for p in i["patients"]} == pair)
        return self.did("POST", f"/v1/mpi/candidates/{found['id']}/dismissal", REASON)

    def requests(self, patient: Record) -> Record:
        """Return a request to erase somebody, after one that was refused."""
        body = REASON | {"patientId": patient["id"], "basis": "gdpr-17-1-b"}
        refused = self.did("POST", "/v1/erasures", body)
        self.did("POST", f"/v1/erasures/{refused['id']}/refusal", REASON)
        return self.did("POST", "/v1/erasures", body)

    def approves(self, request: Record) -> Record:
        """Erase somebody; return the request."""
        return succeeded(self.other.post(f"/v1/erasures/{request['id']}/approval", {}))

    def sent_again(self) -> list[httpx.Response]:
        """Return the answers to what was refused before, with the same keys."""
        return [
            desk(method, path, said=body, **headers)
            for desk, method, path, body, headers in self.sent
        ]


def columns_with(url: str, look_for: Any = forms_in) -> dict[str, list[str]]:
    """Return the columns of all tables of a database in which something is found, and its forms."""
    found: dict[str, list[str]] = {}
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables"
            " WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
            " UNION ALL SELECT 'pg_catalog', 'pg_stats'"
            " UNION ALL SELECT 'pg_catalog', 'pg_stats_ext'"
        ).fetchall()
        for schema, table in tables:
            name = sql.Identifier(schema, table)
            cursor = connection.execute(sql.SQL("SELECT * FROM {}").format(name))
            names = [column.name for column in cursor.description or ()]
            for row in cursor:
                for column, value in zip(names, row, strict=True):
                    if forms := look_for(_bytes(value)):
                        found.setdefault(f"{schema}.{table}.{column}", []).extend(forms)
    return {column: sorted(set(forms)) for column, forms in found.items()}


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes | memoryview):
        return bytes(value)
    if isinstance(value, list | tuple):
        return b" ".join(_bytes(each) for each in value)
    return str(value).encode()
