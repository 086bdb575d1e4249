"""The service's records as pulls brought them, apart for each scope that somebody here may see."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from registration.client.store import Store

PATIENT, ENCOUNTER, SCHEMA, POLICY = "patient", "encounter", "extension_schema", "policy"


class Record(NamedTuple):
    """A record as the service showed it, at the position of its last change."""

    kind: str
    id: str
    version: int
    position: int
    body: dict[str, Any]


class Place(NamedTuple):
    """How far the pulls of a scope are; ``resyncing``: they are bringing everything anew."""

    cursor: str | None
    generation: int
    resyncing: bool
    position: int
    synced_at: str | None


class Cache:
    """The records of one scope."""

    def __init__(self, store: Store, scope: str) -> None:
        self._store = store
        self._policy: Mapping[str, Any] | None = None
        self.scope = scope

    def get(self, kind: str, its_id: UUID | str) -> Record | None:
        """Return a record."""
        row = self._store.one(
            "SELECT kind, id, version, position, body FROM record"
            " WHERE scope = ? AND kind = ? AND id = ?",
            (self.scope, kind, str(its_id)),
        )
        return None if row is None else _record(row)

    def encounters_of(self, patient_id: UUID) -> list[str]:
        """Return the ids of a patient's encounters."""
        rows = self._store.all(
            "SELECT id FROM record WHERE scope = ? AND patient_id = ?",
            (self.scope, str(patient_id)),
        )
        return [its_id for (its_id,) in rows]

    def policy(self) -> Mapping[str, Any] | None:
        """Return the policy that the service told; ``None`` before the first pull."""
        if self._policy is None:
            query = "SELECT body FROM record WHERE scope = ? AND kind = ?"
            row = self._store.one(query, (self.scope, POLICY))
            self._policy = None if row is None else orjson.loads(row[0])
        return self._policy

    def put(self, item: Mapping[str, Any], generation: int) -> None:
        """Keep a record of a pull in the place of what was known of it."""
        body = item["body"]
        self._policy = None
        self._store.run(
            "INSERT INTO record (scope, kind, id, version, position, generation, patient_id, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, kind, id) DO UPDATE"
            " SET version = excluded.version, position = excluded.position,"
            " generation = excluded.generation, body = excluded.body",
            (
                self.scope,
                item["kind"],
                item["id"],
                item["version"],
                item["position"],
                generation,
                body.get("patientId") if item["kind"] == ENCOUNTER else None,
                orjson.dumps(body).decode(),
            ),
        )

    def drop(self, kind: str, its_id: str) -> None:
        """Forget a record."""
        self._policy = None
        self._store.run(
            "DELETE FROM record WHERE scope = ? AND kind = ? AND id = ?", (self.scope, kind, its_id)
        )

    def patient_of(self, encounter_id: UUID) -> str | None:
        """Return whose encounter it is, as anybody's pulls here brought it."""
        row = self._store.one(
            "SELECT patient_id FROM record WHERE kind = ? AND id = ?",
            (ENCOUNTER, str(encounter_id)),
        )
        return None if row is None else str(row[0])

    def erase(self, kind: str, its_id: str) -> list[str]:
        """Forget what was erased, whoever's pulls brought it: a patient with all encounters.

        Returns the ids of those.
        """
        self._policy = None
        rows = self._store.all("SELECT DISTINCT id FROM record WHERE patient_id = ?", (its_id,))
        self._store.run("DELETE FROM record WHERE kind = ? AND id = ?", (kind, its_id))
        self._store.run("DELETE FROM record WHERE patient_id = ?", (its_id,))
        return [str(each) for (each,) in rows]

    def older_than(self, generation: int) -> list[tuple[str, str]]:
        """Return kind and id of what the pulls of a generation did not bring."""
        rows = self._store.all(
            "SELECT kind, id FROM record WHERE scope = ? AND generation < ?",
            (self.scope, generation),
        )
        return [(kind, its_id) for kind, its_id in rows]

    def place(self) -> Place:
        """Return how far the pulls are."""
        row = self._store.one(
            "SELECT cursor, generation, resyncing, position, synced_at FROM scope WHERE name = ?",
            (self.scope,),
        )
        if row is None:
            return Place(None, 0, resyncing=False, position=0, synced_at=None)
        return Place(row[0], row[1], bool(row[2]), row[3], row[4])

    def move(self, place: Place) -> None:
        """Keep how far the pulls are."""
        self._store.run(
            "INSERT INTO scope VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET cursor = excluded.cursor, generation = excluded.generation,"
            " resyncing = excluded.resyncing, position = excluded.position,"
            " synced_at = excluded.synced_at",
            (self.scope, *place),
        )


def _record(row: tuple[Any, ...]) -> Record:
    kind, its_id, version, position, body = row
    return Record(kind, its_id, version, position, orjson.loads(body))
