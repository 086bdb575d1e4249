"""A law of erasing: whenever the keys went, a read model holds what a rebuild makes of the log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.eventstore.given import TENANT
from tests.projections.clinic import Step, patient_id
from tests.projections.given_erasures import Life, Stored, Tables
from tests.projections.test_matching import CHOICES, HISTORIES

from registration.domain.candidate import candidate_id
from registration.eventstore import database

SAME, ALIKE = 0, 3
"""Choices of ``clinic``: a person, and the same with another spelling."""
ANA, BEA, CLEO, DORA = range(4)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Tables]:
    async with await database.connect(url, name="test") as connection:
        yield Tables(connection)


@pytest.fixture(scope="module")
def law_url(module_database_url: str) -> str:
    """The module's database with the empty tables."""

    async def make() -> None:
        async with connected(module_database_url) as tables:
            await tables.make()

    asyncio.run(make())
    return module_database_url


def taken(url: str, stored: Stored, *how: Any) -> dict[str, list[str]]:
    """Return what the read models make of a log."""

    async def scenario() -> dict[str, list[str]]:
        async with connected(url) as tables:
            return await tables.take(stored, *how)

    return asyncio.run(scenario())


def singly(stored: Stored) -> list[int]:
    return list(range(1, len(stored.log)))


def insist_on_nothing_of(rows: dict[str, list[str]], gone: set[UUID]) -> None:
    """Insist that who was erased has no row; that others parted from them may be said."""
    ours = {table: [row for row in found if TENANT in row] for table, found in rows.items()}
    pairs = [row.split(",")[2:4] for row in ours.pop("matching.dismissal")]
    # whose record stood above when others were parted is an id, and no more
    pairs += [row.split(",")[3:5] for row in ours.pop("merges.merge")]
    assert gone.isdisjoint({UUID(each) for pair in pairs for each in pair})
    held = [row for found in ours.values() for row in found]
    assert not [row for row in held if any(str(its_id) in row for its_id in gone)]


@settings(max_examples=30, deadline=None)
@given(
    before=HISTORIES,
    after=st.lists(
        st.builds(
            Step,
            what=st.sampled_from(["register", "rename", "number", "merge", "unmerge", "dismiss"]),
            clinic=st.just(0),
            one=st.integers(0, 5),
            other=st.integers(0, 5),
            choice=CHOICES,
        ),
        max_size=8,
    ),
    who=st.lists(st.integers(0, 3), min_size=1, max_size=2),
    cuts=st.lists(st.integers(0, 120), max_size=6),
    read_whole=st.integers(0, 7),
)
def test_the_rows_are_those_of_a_rebuild_whenever_the_keys_went(
    law_url: str,
    before: list[Step],
    after: list[Step],
    who: list[int],
    cuts: list[int],
    read_whole: int,
) -> None:
    life = Life().take(before)
    for number in who:
        life.erase(number)
    stored = life.take(after).sealed()
    rebuilt = taken(law_url, stored, singly(stored))
    assert taken(law_url, stored, cuts, read_whole) == rebuilt
    # as the life was: all but the erasure itself is read whole
    assert taken(law_url, stored, singly(stored), len(stored.log)) == rebuilt
    insist_on_nothing_of(rebuilt, stored.gone)


def test_what_an_unmerge_of_the_erased_told_apart_stays_so_and_nobody_knows_why(
    law_url: str,
) -> None:
    life = Life().take(
        [
            *(Step("register", 0, who, 0, SAME) for who in (ANA, BEA, CLEO)),
            Step("merge", 0, ANA, BEA, 0),
            Step("merge", 0, ANA, CLEO, 0),
            Step("unmerge", 0, 0, 0, 1),  # Cleo is neither Ana nor Bea
            Step("unmerge", 0, 0, 0, 0),
        ]
    )
    told = [row for row in _dismissals(law_url, life) if str(_pair(BEA, CLEO)) in row]
    assert len(told) == 1
    assert "two persons after all" in told[0]
    (left,) = _dismissals(law_url, life.erase(ANA))
    assert str(_pair(BEA, CLEO)) in left
    assert "two persons after all" not in left


def test_other_pairs_keep_their_dismissals(law_url: str) -> None:
    life = Life().take(
        [
            *(Step("register", 0, who, 0, SAME) for who in (ANA, BEA, CLEO)),
            Step("dismiss", 0, ANA, BEA, 0),
            Step("dismiss", 0, BEA, CLEO, 0),
        ]
    )
    assert len(_dismissals(law_url, life)) == 2
    (left,) = _dismissals(law_url, life.erase(ANA))
    assert "sisters" in left


def test_a_survivor_that_let_go_of_who_was_erased_is_not_found_by_it(law_url: str) -> None:
    life = Life().take(
        [
            Step("register", 0, ANA, 0, SAME),
            Step("register", 0, BEA, 0, 26),
            Step("merge", 0, ANA, BEA, 0),
            Step("unmerge", 0, 0, 0, 0),
        ]
    )
    stored = life.sealed()
    ever = taken(law_url, stored, [], 1)["past.ever"]
    assert any("lindqvist" in row and str(patient_id(ANA)) in row for row in ever)
    stored = life.erase(BEA).sealed()
    for how in ([], 1), ([], 0), (singly(stored), len(stored.log)):
        rows = taken(law_url, stored, *how)
        assert not [row for row in rows["past.ever"] if "lindqvist" in row]
        assert [row for row in rows["past.ever"] if "okoro" in row]
        assert not [row for row in rows["search.spelling"] if "lindqvist" in row]
        assert [row for row in rows["search.spelling"] if "okoro" in row]


def _pair(one: int, other: int) -> UUID:
    return candidate_id(patient_id(one), patient_id(other))


def _dismissals(url: str, life: Life) -> list[str]:
    """Return the dismissals of the clinic; all was read before anybody was erased."""
    stored = life.sealed()
    rows = taken(url, stored, singly(stored), len(stored.log))["matching.dismissal"]
    return [row for row in rows if TENANT in row]
