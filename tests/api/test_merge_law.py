"""Laws of merging, over HTTP and in PostgreSQL.

Two tenants live the same life, with the same ids: in one of them records are merged and the merges
undone, in the other they are not. In the end nobody can tell one from the other.
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from tests.api.given_merges import Index, Record, at, content
from tests.service import Service, etag, new_id, picture, place, problem, succeeded

from registration.eventstore.records import RecordedEvent

SPOKEN = {"decision": "granted", "evidence": {"kind": "signature"}}
REASON = {"reason": "a mistake"}

Edit = Callable[[Index, Record, int], Any]
"""Changes a record as it is now; the number makes values and ids, the same in both tenants."""


def its_id(number: int) -> str:
    return str(UUID(int=0x0190_0000_0000_7000_8000_0000_0000_0000 + number))


def patch(index: Index, record: Record, number: int) -> Any:
    said = {"maritalStatus": "MSDWU"[number % 5], "birthDate": f"19{number % 90 + 10}-03-02"}
    return index.desk.patch(f"{place(record)}/demographics", said, If_Match=etag(record))


def move_house(index: Index, record: Record, number: int) -> Any:
    said = {"addresses": [{"city": f"Town {number}"}], "facility": f"site-{number % 3}"}
    return index.desk.patch(f"{place(record)}/demographics", said, If_Match=etag(record))


def add_name(index: Index, record: Record, number: int) -> Any:
    return index.desk.post(
        f"{place(record)}/names", {"id": its_id(number), "family": f"Name{number}"}
    )


def retire_name(index: Index, record: Record, number: int) -> Any:
    names = record["names"]
    if len(names) > 1:
        path = f"{place(record)}/names/{names[number % len(names)]['id']}/retirement"
        return index.desk.post(path, REASON)
    return None


def add_identifier(index: Index, record: Record, number: int) -> Any:
    said = {"id": its_id(number), "system": "urn:card", "value": f"c{number}", "use": "secondary"}
    return index.desk.post(f"{place(record)}/identifiers", said)


def retire_identifier(index: Index, record: Record, number: int) -> Any:
    held = [each for each in record["identifiers"] if "mergedFrom" not in each]
    if held:
        path = f"{place(record)}/identifiers/{held[number % len(held)]['id']}/retirement"
        return index.desk.post(path, REASON)
    return None


def add_kin(index: Index, record: Record, number: int) -> Any:
    said = {"id": its_id(number), "name": f"Kin {number}", "relationship": "aunt"}
    return index.desk.post(f"{place(record)}/next-of-kin", said)


def remove_kin(index: Index, record: Record, number: int) -> Any:
    kin = record["nextOfKin"]
    if kin:
        path = f"{place(record)}/next-of-kin/{kin[number % len(kin)]['id']}/removal"
        return index.desk.post(path, REASON, If_Match=etag(record))
    return None


def say(flag: str) -> Edit:
    def consent(index: Index, record: Record, number: int) -> Any:
        version = next((c["version"] for c in record["consents"] if c["flag"] == flag), 0)
        said = SPOKEN | {
            "decision": ("granted", "refused")[number % 2 if flag != "portrait" else 0]
        }
        return index.desk.put(f"{place(record)}/consents/{flag}", said, If_Match=f'"{version}"')

    return consent


def set_portrait(index: Index, record: Record, number: int) -> Any:
    say("portrait")(index, record, 0)
    image = picture((40, 50 + number % 7))
    return index.desk("PUT", f"{place(record)}/portrait", content=image, Content_Type="image/png")


def set_extension(index: Index, record: Record, number: int) -> Any:
    version = next((e["version"] for e in record["extensions"] if e["schema"] == "housing"), 0)
    path = f"{place(record)}/extensions/housing"
    said = {"schemaVersion": 1, "data": {"rooms": number}}
    return index.desk.put(path, said, If_Match=f'"{version}"')


def die_or_not(index: Index, record: Record, number: int) -> Any:
    if "deceased" in record:
        return index.desk.post(f"{place(record)}/death/reversal", REASON, If_Match=etag(record))
    said = {"deceasedAt": "2026-01-01T00:00:00Z"}
    return index.desk.post(f"{place(record)}/death", said, If_Match=etag(record))


EDITS: dict[str, Edit] = {
    "demographics": patch,
    "address": move_house,
    "name": add_name,
    "no name": retire_name,
    "identifier": add_identifier,
    "no identifier": retire_identifier,
    "kin": add_kin,
    "no kin": remove_kin,
    "consent": say("research"),
    "portrait": set_portrait,
    "extension": set_extension,
    "death": die_or_not,
}

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(sorted(EDITS)), st.integers(0, 2)),
        st.tuples(st.just("merge"), st.sampled_from([(0, 1), (1, 0), (1, 2), (0, 2), (2, 1)])),
        st.tuples(st.just("unmerge"), st.integers(0, 5)),
    ),
    min_size=3,
    max_size=14,
)


class World:
    """A tenant with three patients, and the merges that are in force."""

    def __init__(self, service: Service, ids: list[str]) -> None:
        self.index = Index.of(service)
        self.ids = ids
        self.merges: list[Record] = []
        schema = {"schema": {"type": "object"}}
        admin = service.desk(self.index.desk.tenant, role="admin")
        succeeded(admin.post("/v1/extension-schemas/housing/versions", schema))
        for number, patient_id in enumerate(ids):
            name = {"id": its_id(9000 + number), "family": "Okoro", "given": ["Ada"]}
            self.index.desk.given_patient(id=patient_id, names=[name])

    def now(self, who: int) -> Record:
        return succeeded(self.index.desk.get(f"/v1/patients/{self.ids[who]}"))

    def merge(self, survivor: int, retired: int) -> None:
        """Merge two records where that is possible; what was announced is what is stored."""
        override = {"override": {"reason": "the law does not ask who has died"}}
        proposed = self.index.proposes(self.now(survivor), self.now(retired), **override)
        if not proposed.is_success:
            assert proposed.json()["code"] in ("PATIENT_MERGED", "MERGE_NOT_ALLOWED")
            return
        merge = proposed.json()
        announced = succeeded(self.index.clerk.get(f"{at(merge)}/preview"))["events"]
        answer = self.index.approves(merge)
        succeeded(answer)
        position = int(answer.headers["x-log-position"])
        assert self.stored(position, len(announced)) == announced
        self.merges.append(merge)

    def stored(self, position: int, count: int) -> list[Record]:
        """Return the last events of the log, as a preview lists them."""
        query = """
            SELECT * FROM registration.readable_event
             WHERE tenant = %s AND position > %s AND position <= %s ORDER BY position
        """
        tenant = self.index.desk.tenant
        with psycopg.connect(self.index.desk.service.database_url) as connection:
            found = connection.execute(query, (tenant, position - count, position)).fetchall()
        return [
            {
                "streamId": str(event.stream_id),
                "version": event.version,
                "type": event.topic,
                "data": orjson.loads(event.said),
            }
            for event in (RecordedEvent(*row) for row in found)
        ]

    def unmerge(self, which: int) -> None:
        if self.merges:
            merge = self.merges.pop(which % len(self.merges))
            self.index.unmerged(merge)

    def search_rows(self) -> list[Record]:
        """Return what the search holds of the tenant, once it has all of the log."""
        position = self.index.desk.register(names=[{"family": "Last"}]).headers["x-log-position"]
        succeeded(self.index.desk.get(f"/v1/patients?minPosition={position}"))
        return [
            row
            for table in ("patient", "name_pair", "identifier")
            for row in rows(
                self.index,
                f"SELECT to_jsonb(t) - 'tenant' - 'version' AS row FROM search.{table} AS t"
                " WHERE tenant = %s ORDER BY 1",
                self.index.desk.tenant,
            )
            if any(each in str(row) for each in self.ids)
        ]


def rows(index: Index, query: str, *parameters: Any) -> list[Record]:
    with psycopg.connect(index.desk.service.database_url, row_factory=dict_row) as connection:
        return connection.execute(query.encode(), parameters).fetchall()


_WHEN = ("registeredAt", "recordedAt", "lastUpdated")


def timeless(value: Any) -> Any:
    """Return JSON without when it was recorded, and without the random id of a portrait."""
    if isinstance(value, dict):
        return {
            name: "drawn" if name == "id" and "contentHash" in value else timeless(inner)
            for name, inner in value.items()
            if name not in _WHEN
        }
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, ends=st.lists(st.integers(0, 5), min_size=5, max_size=5))
def test_what_was_merged_and_unmerged_is_as_if_it_never_was(
    service: Service, steps: list[tuple[str, Any]], ends: list[int]
) -> None:
    ids = [str(new_id()) for _ in range(3)]
    merging, plain = World(service, ids), World(service, ids)
    for number, (what, how) in enumerate(steps):
        if what == "merge":
            merging.merge(*how)
        elif what == "unmerge":
            merging.unmerge(how)
        else:
            answer = EDITS[what](merging.index, merging.now(how), number)
            if answer is not None and answer.is_success:
                succeeded(EDITS[what](plain.index, plain.now(how), number))
            elif answer is not None:
                problem(answer, 409, "PATIENT_MERGED")
    for which in ends:
        merging.unmerge(which)
    assert not merging.merges
    for who in range(3):
        assert timeless(content(merging.now(who))) == timeless(content(plain.now(who)))
    assert merging.search_rows() == plain.search_rows()


@pytest.mark.parametrize("what", EDITS)
def test_each_kind_of_edit_survives_a_merge_and_its_undoing(service: Service, what: str) -> None:
    """Before the merge on both, between on the survivor, after on both."""
    test = test_what_was_merged_and_unmerged_is_as_if_it_never_was.hypothesis.inner_test  # type: ignore[attr-defined]
    before = [(what, 0), (what, 1)]
    between = [("merge", (0, 1)), (what, 0), (what, 1), ("unmerge", 0)]
    test(service, [*before, *between, *before], [0, 0, 0, 0, 0])
