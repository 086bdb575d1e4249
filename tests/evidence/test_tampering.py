"""A thousand random changes by somebody who may change everything in the database: all are found.

After each the log is put back as it was, so that one serves for all. What is expected is computed
from the log before the change: where the chain can tell, the very event.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from tests.eventstore.given import TENANT
from tests.evidence.forging import rechain
from tests.evidence.given import Site, site

from registration.eventstore.verify import VerifyReport

SIZES = (7, 40, 41, 90)
"""Of which there are checkpoints; the last is the whole log."""
EVENTS = SIZES[-1]


@dataclass
class Scene:
    """A signed log, and a chance to change it."""

    site: Site
    pick: random.Random
    whole: list[tuple[Any, ...]]

    def place(self) -> int:
        return self.pick.randint(1, EVENTS)

    def run(self, statement: str, **parameters: Any) -> None:
        with psycopg.connect(self.site.url, options="-c search_path=registration") as connection:
            connection.execute(statement.encode(), parameters | {"tenant": TENANT})

    def restore(self) -> None:
        """Put everything back as it was."""
        with psycopg.connect(self.site.url, options="-c search_path=registration") as connection:
            connection.execute("TRUNCATE event")
            connection.execute("INSERT INTO event SELECT * FROM kept_event")
            connection.execute("TRUNCATE log_head")
            connection.execute("INSERT INTO log_head SELECT * FROM kept_head")


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Scene:
    here = site(database_url, tmp_path)
    before = 0
    for size in SIZES:
        here.append(size - before)
        here.look()
        before = size
    here.change(
        "CREATE TABLE kept_event AS SELECT * FROM event",
        "CREATE TABLE kept_head AS SELECT * FROM log_head",
    )
    with psycopg.connect(here.url, options="-c search_path=registration") as connection:
        whole = connection.execute("SELECT * FROM event ORDER BY position").fetchall()
    return Scene(here, random.Random(20_261_128), whole)  # seeded: a failure can be had again


EDITS = {
    "data": "data || ' '",
    "metadata": "metadata || ' '",
    "topic": "topic || 'x'",
    "recorded_at": "recorded_at + interval '1 microsecond'",
    "hash": "sha256(hash)",
    "stream_id": "gen_random_uuid()",
    "version": "version + 1",
    "tenant": "tenant || 'x'",
}


def edit(scene: Scene) -> tuple[str, int]:
    """One column of one row is another one."""
    column, place = scene.pick.choice(list(EDITS)), scene.place()
    scene.run(f"UPDATE event SET {column} = {EDITS[column]} WHERE position = %(at)s", at=place)
    if (
        column == "tenant"
    ):  # here it is missing: the next one follows on nothing, or it was the last
        return column, min(place + 1, EVENTS)
    return column, place


def flip(scene: Scene) -> tuple[str, int]:
    """One bit of the stored bytes is another one."""
    column, place = scene.pick.choice(("data", "metadata", "hash")), scene.place()
    scene.run(
        f"UPDATE event SET {column} = set_bit({column}, (%(bit)s %% (8 * length({column})))::int8,"
        f" 1 - get_bit({column}, (%(bit)s %% (8 * length({column})))::int8))"
        " WHERE position = %(at)s",
        at=place,
        bit=scene.pick.randrange(10**6),
    )
    return column, place


def delete(scene: Scene) -> tuple[str, int]:
    """A row is gone."""
    place = scene.place()
    scene.run("DELETE FROM event WHERE position = %(at)s", at=place)
    return "row", min(place + 1, EVENTS)


def close(scene: Scene) -> tuple[str, int]:
    """A row is gone, and the others move up into its place; the head row says so."""
    place = scene.place()
    scene.run("DELETE FROM event WHERE position = %(at)s", at=place)
    scene.run("UPDATE event SET position = -position WHERE position > %(at)s", at=place)
    scene.run("UPDATE event SET position = -position - 1 WHERE position < 0")
    scene.run("UPDATE log_head SET position = position - 1")
    return "row and place", min(place, EVENTS - 1)


def swap(scene: Scene) -> tuple[str, int]:
    """Two rows are in each other's place."""
    one, other = sorted(scene.pick.sample(range(1, EVENTS + 1), 2))
    scene.run("UPDATE event SET position = -1 WHERE position = %(at)s", at=one)
    scene.run("UPDATE event SET position = %(to)s WHERE position = %(at)s", at=other, to=one)
    scene.run("UPDATE event SET position = %(to)s WHERE position = -1", to=other)
    return "order", one


def insert(scene: Scene) -> tuple[str, int]:
    """A row that was never appended, beyond the end or before the beginning."""
    place = scene.pick.choice((EVENTS + 1, EVENTS + 7, 0, -3))
    scene.run(
        "INSERT INTO event SELECT tenant, %(to)s, %(stream)s, 1, topic, data, metadata,"
        " recorded_at, hash FROM event WHERE position = %(at)s",
        at=scene.place(),
        to=place,
        stream=uuid4(),
    )
    return "more", place


def cut(scene: Scene) -> tuple[str, int]:
    """The tail is gone; the head row still tells."""
    place = scene.place()
    scene.run("DELETE FROM event WHERE position >= %(at)s", at=place)
    return "tail", place


HEAD_EDITS = {
    "position = position + 1": EVENTS + 1,
    "position = position - 1": EVENTS,
    "hash = sha256(hash)": EVENTS,
    "recorded_at = recorded_at + interval '1 microsecond'": EVENTS,
}


def edit_head(scene: Scene) -> tuple[str, int]:
    """The head row says something else."""
    change, place = scene.pick.choice(list(HEAD_EDITS.items()))
    scene.run(f"UPDATE log_head SET {change}")
    return "head", place


def cut_with_head(scene: Scene) -> None:
    """The tail is gone, and the head row is that of the event before."""
    place = scene.pick.randint(2, EVENTS)
    scene.run("DELETE FROM event WHERE position >= %(at)s", at=place)
    rechain(scene.site.url, TENANT)


def forge(scene: Scene) -> None:
    """A row is another one, and the chain is made anew from there to the end, head included."""
    way = scene.pick.choice((edit, flip, delete, swap))
    while way(scene)[0] in ("tenant", "hash"):
        scene.restore()
    rechain(scene.site.url, TENANT)


SEEN_BY_THE_CHAIN: list[Callable[[Scene], tuple[str, int]]] = [
    edit,
    flip,
    delete,
    close,
    swap,
    insert,
    cut,
    edit_head,
]
SEEN_BY_CHECKPOINTS: list[Callable[[Scene], None]] = [cut_with_head, forge]


def check_chain(scene: Scene, change: Callable[[Scene], tuple[str, int]]) -> None:
    """The chain by itself names the first event that is not as it was."""
    what, place = change(scene)
    report, _ = scene.site.verified()
    told = f"{change.__name__} of {what} at {place}"
    assert not report.ok, told
    [broken] = report.broken
    assert broken.position == place, told
    if change in (edit, flip, swap) and what not in ("stream_id", "version", "tenant", "order"):
        expected = scene.whole[place - 1]
        assert (broken.stream_id, broken.version) == (expected[2], expected[3]), told


def check_checkpoints(scene: Scene, change: Callable[[Scene], None]) -> None:
    """The chain finds nothing; the checkpoints say between which of them it begins to differ."""
    change(scene)
    first = first_difference(scene)
    report, compared = scene.site.verified()
    told = f"{change.__name__} at {first}"
    assert chain_holds(report), told
    failed = compared.failed
    assert failed is not None, told
    expected = min(size for size in SIZES if size >= first)
    before = max((size for size in SIZES if size < first), default=0)
    assert (failed.after, failed.until) == (before, expected), told
    assert compared.held == SIZES.index(expected), told


def chain_holds(report: VerifyReport) -> bool:
    """Whether a forger did all right: only a stream's versions may still tell."""
    return all("version does not follow" in broken.reason for broken in report.broken)


def first_difference(scene: Scene) -> int:
    """Return the position of the first row that is not what it was."""
    with psycopg.connect(scene.site.url, options="-c search_path=registration") as connection:
        now = connection.execute("SELECT * FROM event ORDER BY position").fetchall()
    pairs = zip(scene.whole, [*now, *[()] * EVENTS], strict=False)
    return next(place for place, (was, found) in enumerate(pairs, 1) if was != found)


def tampered(scene: Scene, count: int) -> None:
    """Make so many changes of every kind in turn; each must be found."""
    changes: list[Any] = [*SEEN_BY_THE_CHAIN, *SEEN_BY_CHECKPOINTS]
    for number in range(count):
        change = changes[number % len(changes)]
        check = check_chain if change in SEEN_BY_THE_CHAIN else check_checkpoints
        check(scene, change)
        scene.restore()
    report, compared = scene.site.verified()
    assert report.ok
    assert compared.failed is None


def test_sixty_changes(scene: Scene) -> None:
    tampered(scene, 60)


@pytest.mark.slow
def test_a_thousand_changes(scene: Scene) -> None:
    tampered(scene, 1000)
