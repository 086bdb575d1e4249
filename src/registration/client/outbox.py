"""The mutations of the device, of everybody who worked at it: what is queued, and what became."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from registration.client.mutation import COLUMNS, IN_REVIEW, Mutation, State, from_row
from registration.client.store import Store

_OPEN = "(state = 'queued' OR (state = 'applied' AND pulled = 0))"
_REVIEWED = "({})".format(", ".join(f"'{state}'" for state in IN_REVIEW))


class Outbox:
    """The table of mutations. What changes several rows belongs into one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, said: Mapping[str, Any]) -> Mutation:
        """Keep a new mutation, queued; ``said`` are its columns."""
        names = [*said, "state"]
        marks = ", ".join("?" * len(names))
        self._store.run(
            f"INSERT INTO mutation ({', '.join(names)}) VALUES ({marks})",  # noqa: S608
            [*said.values(), State.QUEUED.value],
        )
        return self.by_id(said["id"])

    def numbered(self, number: int) -> Mutation | None:
        """Return a mutation by its number."""
        return next(self._where("number = ?", number), None)

    def by_id(self, its_id: UUID | str) -> Mutation:
        """Return the mutation of an id that is known."""
        return next(self._where("id = ?", str(its_id)))

    def find(self, its_id: UUID | None) -> Mutation | None:
        """Return the mutation of an id, if this device has it."""
        return None if its_id is None else next(self._where("id = ?", str(its_id)), None)

    def history(self, subject: str | None = None) -> list[Mutation]:
        """Return every mutation, or those of one person, in the order they were made."""
        if subject is None:
            return list(self._where("TRUE"))
        return list(self._where("subject = ?", subject))

    def queued(self, subject: str, most: int = -1) -> list[Mutation]:
        """Return what a person's next pushes have to send, in the order of the ids."""
        found = self._where("state = 'queued' AND subject = ?", subject, order=f"id LIMIT {most}")
        return list(found)

    def last_queued(self, subject: str) -> UUID | None:
        """Return the greatest id that a person has queued."""
        row = self._store.one(
            "SELECT max(id) FROM mutation WHERE state = 'queued' AND subject = ?", (subject,)
        )
        return None if row is None or row[0] is None else UUID(row[0])

    def doubtful(self, subject: str) -> list[Mutation]:
        """Return what is queued and may be in all the same, in the order of the ids."""
        return list(
            self._where("state = 'queued' AND doubtful = 1 AND subject = ?", subject, order="id")
        )

    def uncertain(self) -> list[Mutation]:
        """Return what is queued since before the device knew how far its clock is off."""
        return list(self._where("state = 'queued' AND uncertain = 1"))

    def not_pulled(self, subject: str, aggregate_id: UUID) -> list[Mutation]:
        """Return a person's mutations of a record that its pulled state does not hold yet."""
        return list(
            self._where(f"{_OPEN} AND subject = ? AND aggregate_id = ?", subject, str(aggregate_id))
        )

    def changed(self, subject: str, kind: str) -> list[UUID]:
        """Return the records of a kind of which :meth:`not_pulled` holds something."""
        rows = self._store.all(
            f"SELECT DISTINCT aggregate_id FROM mutation"  # noqa: S608
            f" WHERE {_OPEN} AND subject = ? AND kind = ?",
            (subject, kind),
        )
        return [UUID(its_id) for (its_id,) in rows]

    def opened_for(self, subject: str, patient_id: UUID) -> list[UUID]:
        """Return the encounters that a person opened for a patient and no pull brought yet."""
        found = self._where(f"{_OPEN} AND subject = ? AND patient_id = ?", subject, str(patient_id))
        return [mutation.aggregate_id for mutation in found]

    def applied_not_pulled(self, subject: str) -> list[Mutation]:
        """Return what is applied and no pull brought yet."""
        return list(self._where("state = 'applied' AND pulled = 0 AND subject = ?", subject))

    def in_review(self, subject: str) -> list[Mutation]:
        """Return what waits for a person, in the order of the ids."""
        return list(self._where(f"state IN {_REVIEWED} AND subject = ?", subject, order="id"))

    def depending(self, its_id: UUID) -> list[Mutation]:
        """Return what builds on a mutation and is not settled, in the order of the ids."""
        return list(
            self._where(
                f"after_id = ? AND (state = 'queued' OR state IN {_REVIEWED})",
                str(its_id),
                order="id",
            )
        )

    def count(self, subject: str, *, others: bool = False) -> int:
        """Return how many mutations of a person, or of the others, wait to be sent."""
        sign = "<>" if others else "="
        row = self._store.one(
            f"SELECT count(*) FROM mutation WHERE state = 'queued' AND subject {sign} ?",  # noqa: S608
            (subject,),
        )
        return int(row[0]) if row else 0

    def doubt(self, mutations: Sequence[Mutation], *, doubtful: bool) -> None:
        """Note whether mutations may be in although no answer said so."""
        self._store.run_many(
            "UPDATE mutation SET doubtful = ? WHERE number = ?",
            ((int(doubtful), mutation.number) for mutation in mutations),
        )

    def applied(self, mutation: Mutation, version: int | None, position: int, at: datetime) -> None:
        """Note that a mutation is in the log."""
        self._update(
            mutation,
            state=State.APPLIED.value,
            doubtful=0,
            version=version,
            position=position,
            problem=None,
            settled_at=at.isoformat(),
        )

    def pulled(self, mutation: Mutation) -> None:
        """Note that what was pulled holds a mutation."""
        self._update(mutation, pulled=1)

    def refused(
        self,
        mutation: Mutation,
        state: State,
        problem: Mapping[str, Any],
        position: int | None = None,
    ) -> None:
        """Put a mutation to the review; ``position`` is how far the log was with the answer."""
        self._update(
            mutation,
            state=state.value,
            doubtful=0,
            problem=orjson.dumps(problem).decode(),
            position=position,
        )

    def queue_again(self, mutation: Mutation) -> None:
        """Send a mutation anew, as it is."""
        self._update(mutation, state=State.QUEUED.value, problem=None)

    def discarded(
        self, mutation: Mutation, reason: str, at: datetime, by: UUID | None = None
    ) -> None:
        """Note that a mutation will never be, why, and which one stands in its place."""
        self._update(
            mutation,
            state=State.DISCARDED.value,
            doubtful=0,
            reason=reason,
            superseded_by=None if by is None else str(by),
            settled_at=at.isoformat(),
        )

    def patient_of(self, encounter_id: UUID) -> str | None:
        """Return for whom somebody opened an encounter here."""
        row = self._store.one(
            "SELECT patient_id FROM mutation WHERE aggregate_id = ? AND patient_id IS NOT NULL",
            (str(encounter_id),),
        )
        return None if row is None else str(row[0])

    def erase(self, ids: Sequence[str], problem: Mapping[str, Any]) -> None:
        """Forget what everybody's mutations of records that were erased said.

        With a patient go the encounters that were opened here. What is not settled is refused. What
        a refusal about another record showed is forgotten where it shows them: a merged record's
        identifiers are among those of the surviving one.
        """
        marks = ", ".join("?" * len(ids))
        opened = self._store.all(
            f"SELECT aggregate_id FROM mutation WHERE patient_id IN ({marks})",  # noqa: S608
            ids,
        )
        ids = [*ids, *(str(its_id) for (its_id,) in opened)]
        marks = ", ".join("?" * len(ids))
        for mutation in list(self._where(f"aggregate_id IN ({marks})", *ids)):
            self._update(mutation, **_erased(mutation, problem))
        for its_id in ids:
            for mutation in list(self._where("problem LIKE '%' || ? || '%'", its_id)):
                self._update(mutation, problem=orjson.dumps(_less(mutation.problem)).decode())

    def rename(self, mutation: Mutation, its_id: UUID) -> None:
        """Give a mutation that the service does not have another id, wherever it is named."""
        old, new = str(mutation.id), str(its_id)
        self._update(mutation, id=new, doubtful=0)
        for column in ("after_id", "supersedes", "superseded_by"):
            self._store.run(
                f"UPDATE mutation SET {column} = ? WHERE {column} = ?",  # noqa: S608
                (new, old),
            )

    def retime(self, mutation: Mutation, made_at: datetime, payload: Mapping[str, Any]) -> None:
        """Correct when an unsent mutation was made."""
        self._update(
            mutation,
            made_at=made_at.isoformat(),
            payload=orjson.dumps(payload).decode(),
            uncertain=0,
        )

    def _update(self, mutation: Mutation, **columns: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        self._store.run(
            f"UPDATE mutation SET {names} WHERE number = ?",  # noqa: S608
            [*columns.values(), mutation.number],
        )

    def _where(self, condition: str, *values: Any, order: str = "number") -> Iterator[Mutation]:
        query = f"SELECT {COLUMNS} FROM mutation WHERE {condition} ORDER BY {order}"  # noqa: S608
        return map(from_row, self._store.all(query, values))


_SHOWN = frozenset({"current", "currentVersion", "fields", "changes", "patients"})


def _less(problem: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a refusal without what it showed of records: the review compares with what is here."""
    return {name: told for name, told in (problem or {}).items() if name not in _SHOWN}


def _erased(mutation: Mutation, problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a mutation that says nothing any more."""
    whose = {} if mutation.patient_id is None else {"patientId": str(mutation.patient_id)}
    columns: dict[str, Any] = {"payload": orjson.dumps(whose).decode(), "problem": None}
    if mutation.state is State.APPLIED:
        return {**columns, "pulled": 1}
    if mutation.state is State.DISCARDED:
        return columns if mutation.superseded_by else {**columns, "reason": "erased"}
    refused = {"state": State.REJECTED.value, "doubtful": 0}
    return {**columns, **refused, "problem": orjson.dumps(problem).decode()}
