"""The witness signs what it verified, extends what it signed, and says when it cannot."""

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.eventstore.given import TENANT
from tests.evidence.forging import rechain
from tests.evidence.given import Site, site

from registration.eventstore import database
from registration.eventstore.verify import verify_log, verify_stretch
from registration.evidence import comparison, tree, watch, witness
from registration.evidence.folder import CheckpointFolder, FolderError, checkpoint_key, fingerprint


@pytest.fixture
def here(database_url: str, tmp_path: Path) -> Site:
    return site(database_url, tmp_path)


def rows(here: Site, query: str) -> list[Any]:
    with psycopg.connect(here.url, options="-c search_path=registration") as connection:
        return connection.execute(query.encode()).fetchall()


def test_a_log_that_grows_is_signed_each_time(here: Site) -> None:
    here.append(3)
    here.append(2, tenant="other")
    found = here.look()
    assert {name: log.verified_to for name, log in found.items()} == {TENANT: 3, "other": 2}
    here.look()
    here.append(400)
    here.look()
    here.append(1)
    here.look()
    assert here.signed() == [3, 403, 404]
    assert here.signed("other") == [2]
    report, compared = here.verified()
    assert report.ok
    assert (compared.held, compared.failed) == (3, None)
    last = compared.last.checkpoint
    assert (last.root, last.head) == (report.logs[0].root, report.logs[0].head)
    assert rows(here, f"SELECT size FROM log_checkpoint WHERE tenant = '{TENANT}' ORDER BY 1") == [
        (3,),
        (403,),
        (404,),
    ]


def test_an_empty_log_is_not_signed(here: Site) -> None:
    here.change(f"INSERT INTO log_head VALUES ('{TENANT}', 0, sha256(''), '-infinity')")
    assert here.look()[TENANT].broken is None
    assert here.signed() == []


def test_a_clock_that_goes_back(here: Site) -> None:
    here.append(1)
    here.look()
    here.now = here.now.replace(year=2020)
    here.append(1)
    here.look()
    first, second = comparison.read(here.folder.file(TENANT))
    assert second.checkpoint.at == first.checkpoint.at


@pytest.mark.parametrize("kept", [True, False], ids=["tree kept", "tree forgotten"])
def test_a_log_written_anew_to_its_end_is_not_signed(here: Site, kept: bool) -> None:
    here.append(300)
    here.look()
    here.append(5)
    forge(here, 2)
    if not kept:
        here.change("DELETE FROM tree_node")
    assert verify_log(here.url).ok
    found = here.look()[TENANT]
    assert found.broken is not None
    assert found.broken.position == 300
    assert "when it was signed" in found.broken.reason
    assert here.signed() == [300]
    assert found.verified_to == 300


def test_hashes_that_are_not_those_that_were_signed(here: Site) -> None:
    """The hash stored with an old event is another one: the tree over it does not extend."""
    here.append(40)
    here.look()
    here.append(5)
    here.change("UPDATE event SET hash = sha256('') WHERE position = 20")
    found = here.look()[TENANT]
    assert found.broken is not None
    assert here.signed() == [40]
    assert "not the one that was signed" in found.broken.reason


def test_a_tail_that_was_cut(here: Site) -> None:
    here.append(10)
    here.look()
    cut(here, 7)
    assert verify_log(here.url).ok
    found = here.look()[TENANT]
    assert found.broken is not None
    assert (found.broken.position, found.broken.reason) == (10, "there is no event here any more")


def test_a_log_that_is_gone(here: Site) -> None:
    here.append(2)
    here.look()
    here.change("DELETE FROM event", "DELETE FROM log_head")
    assert verify_log(here.url).logs == ()
    assert here.look()[TENANT].broken is not None


@pytest.mark.parametrize("kept", ["log_watch", "log_checkpoint"])
def test_a_log_that_is_gone_with_its_checkpoints(here: Site, kept: str) -> None:
    here.append(2)
    here.append(2, tenant="other")
    here.look()
    here.change("DELETE FROM event", "DELETE FROM log_head")
    here.change(f"DELETE FROM {({'log_watch', 'log_checkpoint'} - {kept}).pop()}")
    for tenant in (TENANT, "other"):
        here.folder.file(tenant).unlink()
    assert all(log.broken for log in here.look().values())
    assert summary(here)[0] == 2


def test_a_log_without_a_head(here: Site) -> None:
    here.append(2)
    here.change("DELETE FROM log_head")
    broken = here.look()[TENANT].broken
    assert broken is not None
    assert broken.reason == "the log has no head row"


def test_new_events_that_do_not_hold_are_not_signed(here: Site) -> None:
    here.append(4)
    here.look()
    here.append(4)
    here.change("UPDATE event SET data = '{}' WHERE position = 6")
    found = here.look()[TENANT]
    assert found.broken is not None
    assert found.broken.position == 6
    assert here.signed() == [4]
    here.append(1)
    assert here.look()[TENANT].broken == found.broken


def test_old_events_are_read_again(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edited row in the midst breaks no checkpoint to come, so a second pass looks for it."""
    monkeypatch.setattr(witness, "REVIEWED_AT_ONCE", 3)
    here.append(10)
    first = here.look()[TENANT]
    assert (first.reviewed_to, first.whole_at) == (4, here.now)
    here.change("UPDATE event SET data = data || ' ' WHERE position = 7")
    here.append(1)
    found = here.look()[TENANT]
    assert found.broken is not None
    assert (found.broken.position, found.broken.reason) == (7, "is not what its hash was made of")
    # the log still only grew: what comes after is signed all the same
    assert here.signed() == [10, 11]
    assert here.look()[TENANT].broken == found.broken
    here.change("UPDATE event SET data = substr(data, 1, length(data) - 1) WHERE position = 7")
    assert [here.look()[TENANT].reviewed_to for _ in range(2)] == [8, 0]
    assert here.look()[TENANT].whole_at is not None


def test_an_event_before_the_first(here: Site) -> None:
    here.append(3)
    here.look()
    here.change(
        "INSERT INTO event SELECT tenant, 0, gen_random_uuid(), 1, topic, data, metadata,"
        " recorded_at, hash FROM event WHERE position = 1"
    )
    found = here.look()[TENANT]
    assert found.broken is not None
    assert found.broken.position == 0


def test_a_damaged_tree_is_made_anew(here: Site) -> None:
    here.append(600)
    here.look()
    for damage in ("UPDATE tree_node SET hash = sha256('')", "DELETE FROM tree_node WHERE index=0"):
        here.change(damage)
        here.append(1)
        assert here.look()[TENANT].broken is None
    assert here.verified()[1].failed is None


def test_a_full_disk_is_told_and_tried_again(
    here: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here.append(2)
    here.look()
    before = here.folder.file(TENANT).read_bytes()
    here.append(1)
    write, room = os.write, [40]

    def full(fd: int, content: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, content[: room.pop()])

    monkeypatch.setattr(os, "write", full)
    found = here.look()[TENANT]
    assert found.unwritten == "No space left on device"
    assert found.broken is None
    assert here.folder.file(TENANT).read_bytes() == before
    assert "no checkpoint of the log of" in caplog.text
    monkeypatch.undo()
    assert summary(here) == (0, 1, 1)
    assert here.look()[TENANT].unwritten is None
    assert here.signed() == [2, 3]
    assert summary(here) == (0, 0, 1)


def test_a_folder_that_cannot_be_used(here: Site) -> None:
    here.append(1)
    here.folder.path.write_text("a file is in the way")
    assert here.look()[TENANT].unwritten == "File exists"
    assert summary(here) == (0, 1, 1)


def test_what_a_crash_left_half_written_is_taken_away(here: Site) -> None:
    here.append(1)
    here.look()
    path = here.folder.file(TENANT)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\n" + whole[: len(whole) // 2])
    here.append(1)
    here.look()
    assert here.signed() == [1, 2]
    assert path.read_bytes().startswith(whole)


def test_a_crash_between_the_file_and_its_copy(here: Site) -> None:
    here.append(1)
    here.look()
    here.change("DELETE FROM log_checkpoint")
    here.look()
    assert rows(here, "SELECT size FROM log_checkpoint") == [(1,)]


def test_another_file_is_in_its_place(here: Site) -> None:
    here.append(1)
    here.append(1, tenant="other")
    here.look()
    here.folder.file("other").replace(here.folder.file(TENANT))
    assert here.look()[TENANT].unwritten == "the last one in its file is of another log"
    here.folder.file(TENANT).write_text("nothing\n\n— nothing of ours\n")
    with pytest.raises(FolderError):
        here.folder.last(TENANT)
    assert here.look()[TENANT].unwritten


def test_a_new_key_goes_on_after_the_old_one(here: Site) -> None:
    here.append(1)
    here.look()
    old, here.key = here.key, Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
    here.append(1)
    here.look()
    assert here.signed() == [1, 2]
    assert here.verified()[1].held == 1
    keys = [old.public_key(), here.key.public_key()]
    read = comparison.read(here.folder.file(TENANT))
    assert all(signed.verified(keys) for signed in read)
    # a checkpoint of a key that nobody published is not gone on from
    (here.folder.path / f"{fingerprint(here.key.public_key())}.pem").unlink()
    here.key = old
    assert "not signed by a key" in str(here.look()[TENANT].unwritten)


def test_two_at_once_sign_once(here: Site) -> None:
    here.append(500)
    looks = [threading.Thread(target=here.look) for _ in range(4)]
    for look in looks:
        look.start()
    for look in looks:
        look.join()
    assert here.signed() == [500]


def test_two_with_folders_of_their_own(here: Site, tmp_path: Path) -> None:
    here.append(2)
    key = Ed25519PrivateKey.from_private_bytes(b"\2" * 32)
    there = Site(here.url, CheckpointFolder(tmp_path / "elsewhere"), key)
    here.look()
    there.look()
    assert here.signed() == there.signed() == [2]
    for one in (here, there):  # each is ahead of the other once
        one.append(1)
        assert one.look()[TENANT].broken is None
    assert (here.signed(), there.signed()) == ([2, 3], [2, 4])
    # a copy of one that was ahead has to be borne out as well
    forge(here, 4)
    found = here.look()[TENANT]
    assert found.broken is not None
    assert "not the one that was signed" in found.broken.reason


GARBAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda _: None,
    "emptied": lambda _: b"",
    "garbage": lambda _: b"\x00garbage",
    "long garbage": lambda _: b"garbage\n" * 9_999,
    "more behind": lambda was: was + b"\ngarbage",
    "last byte": lambda was: was[:-1],
    "last half": lambda was: was[: len(was) // 2 + 9],
    "other dashes": lambda was: was.replace("— ".encode(), b"-- "),
    "last dash": lambda was: b"-- ".join(was.rsplit("— ".encode(), 1)),
    "last one": lambda was: was[: was.rindex(b"\nregistration/")],
    "one zero": lambda was: was + b"\0",
}


@pytest.mark.parametrize("kept", ["copies", "verified", "both"])
@pytest.mark.parametrize("what", GARBAGE)
def test_destroyed_checkpoints_heal_nothing(here: Site, what: str, kept: str) -> None:
    """A log that was cut off is not signed because its checkpoints were destroyed too."""
    for count in (4, 6):
        here.append(count)
        here.look()
    path = here.folder.file(TENANT)
    content = GARBAGE[what](path.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    cut(here, 7)
    if kept == "copies":
        here.change("DELETE FROM log_watch")
    if kept == "verified":
        here.change("DELETE FROM log_checkpoint")
    for _ in range(2):
        found = here.look()[TENANT]
        assert found.broken or found.unwritten
        assert (path.read_bytes() if path.exists() else None) == content
    assert summary(here)[:2] != (0, 0)


def test_a_file_that_is_gone_is_told_of_until_somebody_accepts_it(here: Site) -> None:
    for count in (4, 6):
        here.append(count)
        here.look()
    old = here.folder.file(TENANT).rename(here.folder.path / "old")
    found = here.look()[TENANT]
    assert found.broken is not None
    assert found.broken.reason == "10 events were signed, but its file of checkpoints says 0"
    cut(here, 7)  # as a restore does
    assert here.look()[TENANT].broken is not None
    here.now = here.now.replace(year=2020)  # a clock that went back with it
    found = here.look(accepted=TENANT)[TENANT]
    assert (found.broken, found.verified_to) == (None, 7)
    assert here.signed() == [7]
    here.append(1)
    assert here.look()[TENANT].broken is None
    assert here.signed() == [7, 8]
    assert summary(here)[:2] == (0, 0)
    # and what the new file lacks is told of as before
    path = here.folder.file(TENANT)
    path.write_bytes(path.read_bytes()[: path.read_bytes().rindex(b"\nregistration/")])
    assert here.look()[TENANT].broken is not None
    old.replace(path)
    assert here.look(accepted=TENANT)[TENANT].broken is not None


def test_what_others_put_among_the_copies_changes_nothing(here: Site) -> None:
    here.append(3)
    here.look()
    note = comparison.read(here.folder.file(TENANT))[0].note
    for size in (9, 10):
        forged = note.replace("\n3\n", f"\n{size}\n") if size == 9 else "garbage"
        here.change(
            "INSERT INTO log_checkpoint VALUES (%s, %s, '', %s)", parameters=(TENANT, size, forged)
        )
    here.append(1)
    found = here.look()[TENANT]
    assert (found.broken, found.unwritten) == (None, None)
    assert here.signed() == [3, 4]


def test_files_of_odd_names_are_told_of_and_passed_over(
    here: Site, caplog: pytest.LogCaptureFixture
) -> None:
    here.append(1)
    here.look()
    names = (b"%00", b"\xff", b"%ff", b"", b"a b", b"%zz", b"%2E%2f\n")
    for name in names:
        (Path(os.fsdecode(os.fsencode(here.folder.path) + b"/" + name + b".checkpoints"))).touch()
    here.append(1)
    found = here.look()
    assert found.keys() == {TENANT}
    assert here.signed() == [1, 2]
    assert caplog.text.count("is named after no tenant") == len(names)
    assert summary(here)[:2] == (0, 0)


def test_a_log_that_cannot_be_looked_at_hides_no_other(
    here: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here.append(2)
    here.append(2, tenant="other")

    def failing(url: str, tenant: str, *more: Any) -> Any:
        if tenant == TENANT:
            raise psycopg.DataError("Ada Lovelace")
        return verify_stretch(url, tenant, *more)

    monkeypatch.setattr(witness, "verify_stretch", failing)
    found = here.look()
    assert here.signed("other") == [2]
    broken = found[TENANT].broken
    assert broken is not None
    assert broken.reason == "it could not be looked at (DataError)"
    assert summary(here)[:2] == (1, 1)
    assert "Ada" not in caplog.text
    monkeypatch.undo()
    assert here.look()[TENANT].broken is None
    assert summary(here)[:2] == (0, 0)


@pytest.mark.parametrize("column", ["data", "hash", "recorded_at", "version", "topic"])
def test_an_empty_column_is_told_of(here: Site, column: str) -> None:
    here.append(3)
    here.append(2, tenant="other")
    here.look()
    here.append(300)
    here.change(
        f"ALTER TABLE event ALTER {column} DROP NOT NULL",
        f"UPDATE event SET {column} = NULL WHERE tenant = '{TENANT}' AND position IN (2, 5)",
    )
    found = here.look()
    for place in (5, 2):
        broken = found[TENANT].broken
        assert broken is not None
        assert (broken.position, broken.reason) == (place, f"has no {column} any more")
        here.change(
            f"DELETE FROM event WHERE tenant = '{TENANT}' AND position > 3",
            f"UPDATE log_head SET (position, hash, recorded_at) = (SELECT position, hash,"
            f" recorded_at FROM event WHERE tenant = '{TENANT}' AND position = 3)"
            f" WHERE tenant = '{TENANT}'",
        )
        found = here.look()
    assert found["other"].broken is None


def test_it_gets_over_whatever_goes_wrong(
    here: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here.append(1)
    stop = asyncio.Event()

    async def failing(_: object) -> None:
        if caplog.text:
            stop.set()
        raise ValueError("Ada Lovelace")

    monkeypatch.setattr(witness.Witness, "look", failing)
    asyncio.run(witness.run_forever(here.url, here.folder, here.key, interval=0.01, stop=stop))
    assert "the log could not be looked at: ValueError" in caplog.text
    assert "Ada" not in caplog.text


def test_nobody_else_may_read_what_is_written(here: Site, tmp_path: Path) -> None:
    here.append(1)
    here.look()
    checkpoint_key(tmp_path)
    for path in (here.folder.file(TENANT), tmp_path / "checkpoint-key.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(here.folder.path.stat().st_mode) == 0o700


def test_it_gets_over_a_database_that_is_away(here: Site, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(
            witness.run_forever(
                "postgresql://127.0.0.1:1/none", here.folder, here.key, interval=9, stop=stop
            )
        )
        while "could not be looked at" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        stop.set()
        await running

    asyncio.run(scenario())


def summary(here: Site) -> tuple[int, int, int]:
    async def read() -> tuple[int, int, int]:
        async with await database.connect(here.url, name="test") as connection:
            found = await watch.summary(connection)
            return found.broken, found.unwritten, found.failures

    return asyncio.run(read())


def cut(here: Site, position: int) -> None:
    """Cut off the log behind a position, head included."""
    here.change(
        f"DELETE FROM event WHERE position > {position}",
        "UPDATE log_head h SET position = e.position, hash = e.hash, recorded_at = e.recorded_at"
        f" FROM event e WHERE e.tenant = h.tenant AND e.position = {position}",
    )


def forge(here: Site, position: int) -> None:
    """Change an event and make the chain anew from there to its end, head included."""
    here.change(f"UPDATE event SET metadata = '{{}}' WHERE position = {position}")
    rechain(here.url, TENANT)


def test_the_tree_says_when_it_is_not_there(here: Site) -> None:
    here.append(300)

    async def ask() -> None:
        async with await database.connect(here.url, name="test") as connection:
            with pytest.raises(tree.TreeError):
                await tree.root(connection, TENANT, 300)
            with pytest.raises(tree.TreeError):
                await tree.extend(connection, TENANT, 600)

    asyncio.run(ask())
