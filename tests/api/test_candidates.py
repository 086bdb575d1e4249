"""Possible duplicates over HTTP: raised, looked at, dismissed, and asked for before registering."""

from typing import Any

import httpx
import pytest
from tests.service import ADA, CARD, Desk, Service, etag, new_id, place, problem, succeeded

CANDIDATES = "/v1/mpi/candidates"
MATCH = "/v1/mpi/match"
KNOWN: dict[str, Any] = ADA | {
    "telecom": [{"system": "phone", "value": "+44 20 7946 0123"}],
    "facility": "north",
}
TYPO: dict[str, Any] = KNOWN | {
    "names": [{"use": "official", "family": "Okorro", "given": ["Ada"]}],
    "facility": "south",
}
"""The same person, with a typing error in the family name."""
NOBODY: dict[str, Any] = {
    "names": [{"family": "Lindqvist", "given": ["Björn"]}],
    "gender": "male",
    "birthDate": "1951-11-30",
}
Record = dict[str, Any]


def up_to_date(answer: httpx.Response) -> dict[str, str]:
    """Return the parameters of a query that includes what an answer did."""
    assert answer.is_success, answer.text
    return {"minPosition": answer.headers["x-log-position"]}


def registered(desk: Desk, said: Record, **more: Any) -> tuple[Record, dict[str, str]]:
    answer = desk.post("/v1/patients", said | more)
    return succeeded(answer), up_to_date(answer)


def queue(desk: Desk, now: dict[str, str], **params: Any) -> list[Record]:
    items: list[Record] = succeeded(desk.get(CANDIDATES, params=now | params))["items"]
    return items


def pair_of(item: Record) -> set[str]:
    return {each["patientId"] for each in item["patients"]}


@pytest.fixture
def pair(desk: Desk) -> tuple[Record, Record, dict[str, str]]:
    """Two records of one person, and where the log stands."""
    one, _ = registered(desk, KNOWN)
    other, now = registered(desk, TYPO)
    return one, other, now


def test_two_records_of_one_person_are_a_candidate_with_reasons(desk: Desk, pair) -> None:
    one, other, now = pair
    (item,) = queue(desk, now)
    assert pair_of(item) == {one["id"], other["id"]}
    assert item["status"] == "open"
    print(item)
