"""What an auditor does at the command line: verify, sign, prove, check; and without the program."""

import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from tests.eventstore.given import TENANT
from tests.evidence.forging import rechain
from tests.evidence.given import Site, site
from tests.service import as_service
from typer.testing import CliRunner

from registration.cli import app
from registration.commands import CommandError
from registration.evidence.folder import checkpoint_key

DOCS = Path(__file__).parents[2] / "docs"


class Auditor:
    """Somebody with the program, a data folder of the installation, and files of their own."""

    def __init__(self, url: str, path: Path) -> None:
        self.site: Site = site(url, path)
        self.site.key = checkpoint_key(path)
        self.path = path
        self.key = path / "key.pem"
        self.file = self.site.folder.file(TENANT)

    def run(self, *arguments: str, code: int = 0, database: bool = True) -> str:
        """Run a command and return what it printed."""
        more = ["--database-url", as_service(self.site.url)] if database else []
        done = CliRunner().invoke(app, [*arguments, "--data-dir", str(self.path), *more])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.stdout

    def prove(self, *arguments: str) -> Path:
        """Write a proof to a file."""
        file = self.path / "proof.json"
        file.write_text(self.run("proof", *arguments, "--tenant", TENANT))
        return file

    def check(self, file: Path, code: int = 0) -> str:
        """Check a proof against the checkpoints, with nothing but files."""
        signed = ("--checkpoint", str(self.file), "--public-key", str(self.key))
        return self.run("proof", "check", str(file), *signed, code=code, database=False)

    def verify(self, code: int = 0) -> list[str]:
        """Verify the log against the checkpoints."""
        return self.run("verify", "--checkpoint", str(self.file), code=code).splitlines()


@pytest.fixture
def auditor(database_url: str, tmp_path: Path) -> Auditor:
    """An installation with checkpoints of 3 and of 5 events, and two events after them."""
    made = Auditor(database_url, tmp_path)
    made.key.write_text(made.run("checkpoint", "key", database=False))
    for count in (3, 2):
        made.site.append(count)
        assert made.run("checkpoint", "now").endswith(f"signed in {made.file}\n")
    made.site.append(2)
    return made


def test_a_log_and_its_checkpoints(auditor: Auditor) -> None:
    log, checkpoints = auditor.verify()
    assert log.startswith(f"{TENANT}: 7 events, whole, head ")
    assert checkpoints.startswith(f"{TENANT}: all 2 checkpoints hold, the last of 5 events, signed")


def test_a_single_checkpoint_as_the_service_gives_it(auditor: Auditor) -> None:
    auditor.file = auditor.path / "one"
    with psycopg.connect(auditor.site.url) as connection:
        row = connection.execute(
            "SELECT note FROM registration.log_checkpoint WHERE size = 3"
        ).fetchone()
        assert row
        auditor.file.write_text(row[0])
    assert "all 1 checkpoints hold" in auditor.verify()[1]


def test_a_log_written_anew_to_its_end(auditor: Auditor) -> None:
    auditor.site.change("UPDATE event SET metadata = '{}' WHERE position = 4")
    rechain(auditor.site.url, TENANT)
    log, checkpoint, place = auditor.verify(code=1)
    assert "7 events, whole" in log
    assert "the checkpoint of 5 events, signed at " in checkpoint
    assert checkpoint.endswith(
        "does not hold: the events up to there are not those that were signed"
    )
    assert place.endswith("the first event that differs is at one of the positions 4 to 5")
    assert "broken at position 5" in auditor.run("checkpoint", "now", code=1)


def test_a_tail_that_was_cut_head_included(auditor: Auditor) -> None:
    auditor.site.change("DELETE FROM event WHERE position > 3")
    rechain(auditor.site.url, TENANT)
    _, checkpoint, place = auditor.verify(code=1)
    assert checkpoint.endswith("does not hold: the log has only 3 events")
    assert place.endswith("positions 4 to 5")
    auditor.site.change("DELETE FROM event", "DELETE FROM log_head")
    assert auditor.verify(code=1)[1].endswith("does not hold: the log has only 0 events")


def test_an_edited_event_is_named_by_the_chain(auditor: Auditor) -> None:
    auditor.site.change("UPDATE event SET data = data || ' ' WHERE position = 2")
    log, checkpoint, place = auditor.verify(code=1)
    assert re.fullmatch(
        rf"{TENANT}: broken at position 2 \(stream [0-9a-f-]{{36}}, version 1\): "
        "is not what its hash was made of",
        log,
    )
    assert "the checkpoint of 3 events" in checkpoint
    assert place.endswith("positions 1 to 3")


def test_checkpoints_that_are_bad_themselves(auditor: Auditor) -> None:
    content = auditor.file.read_text()
    auditor.file.write_text(content.replace("\n5\n", "\n6\n"))
    assert auditor.verify(code=1)[1].endswith("does not hold: it is not signed with the key")
    auditor.file.write_text(content[:-40])
    assert auditor.verify(code=1) == [
        f"entry 2 of {auditor.file.name} has a line among its signatures that is none"
    ]
    auditor.file.write_text("")
    with pytest.raises(CommandError, match="holds no checkpoint"):
        auditor.verify()
    auditor.file.unlink()
    with pytest.raises(CommandError, match="No such file"):
        auditor.verify()


def test_the_key_that_counts(auditor: Auditor, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "key.pem").write_text(
        CliRunner().invoke(app, ["checkpoint", "key", "--data-dir", str(other)]).stdout
    )
    signed = ("verify", "--checkpoint", str(auditor.file), "--public-key")
    assert "not signed with the key" in auditor.run(*signed, str(other / "key.pem"), code=1)
    auditor.run(*signed, str(other / "key.pem"), "--public-key", str(auditor.key))
    with pytest.raises(CommandError, match="holds no public key"):
        auditor.run(*signed, str(auditor.file))
    with pytest.raises(CommandError, match="No such file"):
        auditor.run(*signed, "nothing.pem")
    (auditor.path / "checkpoint-key.pem").unlink()
    with pytest.raises(CommandError, match="name --public-key"):
        auditor.verify()


def test_only_one_tenant(auditor: Auditor) -> None:
    signed = ("--checkpoint", str(auditor.file))
    assert "all 2 checkpoints hold" in auditor.run("verify", *signed, "--tenant", TENANT)
    with pytest.raises(CommandError, match="holds no checkpoint of other"):
        auditor.run("verify", *signed, "--tenant", "other")


def test_the_key_for_other_tools(auditor: Auditor) -> None:
    printed = auditor.run("checkpoint", "key", "--tenant", TENANT, database=False)
    assert re.fullmatch(rf"registration/{TENANT}\+[0-9a-f]{{8}}\+[A-Za-z0-9+/]{{44}}\n", printed)


def test_proofs_that_hold(auditor: Auditor) -> None:
    for position in range(1, 6):
        told = auditor.check(auditor.prove("inclusion", str(position)))
        assert told.splitlines()[0] == "holds"
        assert f"{TENANT}: 5 events, root " in told
    assert auditor.check(auditor.prove("inclusion", "2", "--size", "3"))
    assert auditor.check(auditor.prove("consistency", "3", "5"))
    found = json.loads(auditor.prove("inclusion", "2").read_text())
    assert found["event"].keys() == {
        *("streamId", "version", "type", "at", "digest", "previousHash", "hash")
    }
    by_stream = auditor.prove("inclusion", "--event", found["event"]["streamId"], "1")
    assert json.loads(by_stream.read_text()) == found


def test_a_proof_with_the_event_itself(auditor: Auditor) -> None:
    file = auditor.prove("inclusion", "2", "--whole")
    assert auditor.check(file)
    found = json.loads(file.read_text())
    data = b64decode(found["event"]["data"])
    assert b"Family1" in data
    file.write_text(file.read_text().replace(found["event"]["streamId"], str(UUID(int=1))))
    assert auditor.check(file, code=1) == (
        "does not hold: the event's bytes are not those of its digest\n"
    )


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("position",), 3, "the event's hash is not made of what is said of it"),
        (("event", "at"), "2026-01-01T00:00:00Z", "the event's hash is not made of"),
        (("event", "digest"), "00" * 32, "the event's hash is not made of what is said of it"),
        (("event", "previousHash"), "00" * 32, "the event's hash is not made of"),
        (("size",), 4, "the path does not lead from the event to the root"),
        (("path", 0), "00" * 32, "the path does not lead from the event to the root"),
        (("rootHash",), "00" * 32, "the path does not lead from the event to the root"),
        (("tenant",), "other", "there is no signed checkpoint of 5 events"),
    ],
)
def test_proofs_that_were_changed(
    auditor: Auditor, path: tuple[str, ...], value: object, reason: str
) -> None:
    file = auditor.prove("inclusion", "2")
    document = json.loads(file.read_text())
    *above, last = path
    place = document
    for step in above:
        place = place[step]
    place[last] = value
    file.write_text(json.dumps(document))
    assert f"does not hold: {reason}" in auditor.check(file, code=1)


def test_proofs_of_what_nobody_signed(auditor: Auditor) -> None:
    file = auditor.prove("inclusion", "7", "--size", "7")
    told = auditor.run("proof", "check", str(file), database=False)
    assert told.startswith("holds, if these are the log's roots:")
    assert "no signed checkpoint of 7 events" in auditor.check(file, code=1)
    # a proof of a log that was forged since holds by itself, and not against what was signed
    auditor.site.change("UPDATE event SET metadata = '{}' WHERE position = 2")
    rechain(auditor.site.url, TENANT)
    auditor.site.change("DELETE FROM tree_node")
    assert "another root" in auditor.check(auditor.prove("inclusion", "2"), code=1)
    assert "another root" in auditor.check(auditor.prove("consistency", "3", "5"), code=1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("inclusion",), "name either a position or"),
        (("inclusion", "8"), "the event is not among so many"),
        (("inclusion", "1", "--size", "300"), "the log has not so many events"),
        (("inclusion", "--event", str(UUID(int=1)), "1"), "there is no such event"),
        (("consistency", "5", "3"), "a log does not shrink"),
        (("consistency", "5", "9"), "the log has not so many events"),
    ],
)
def test_what_cannot_be_proved(auditor: Auditor, arguments: tuple[str, ...], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        auditor.prove(*arguments)


def test_what_is_no_proof(auditor: Auditor) -> None:
    file = auditor.path / "proof.json"
    with pytest.raises(CommandError, match="cannot read"):
        auditor.check(file)
    for content in ("", "{}", '{"kind": "inclusion"}', "[1]"):
        file.write_text(content)
        with pytest.raises(CommandError, match="is no proof"):
            auditor.check(file)


def test_without_this_program(auditor: Auditor) -> None:
    """What the page for auditors says can be done with PostgreSQL, Python and OpenSSL alone."""
    page = (DOCS / "tamper-evidence.md").read_text()
    [script] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with psycopg.connect(auditor.site.url) as connection:
        rows = connection.execute(
            "SELECT encode(hash, 'hex') FROM registration.event"
            " WHERE tenant = %s AND position <= 5 ORDER BY position",
            (TENANT,),
        ).fetchall()
    hashes = "".join(f"{row[0]}\n" for row in rows)
    root = subprocess.run(
        [sys.executable, "-c", script], input=hashes, capture_output=True, text=True, check=True
    ).stdout
    note = auditor.file.read_text().split("\n\n")[-2]
    assert root.strip() == note.splitlines()[2]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
def test_a_signature_without_this_program(auditor: Auditor) -> None:
    text, signature = auditor.file.read_text().split("\n\n")[:2]
    (auditor.path / "text").write_text(text + "\n")
    (auditor.path / "signature").write_bytes(b64decode(signature.split()[2])[4:])
    done = subprocess.run(
        [
            *("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(auditor.key)),
            *("-rawin", "-in", str(auditor.path / "text")),
            *("-sigfile", str(auditor.path / "signature")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def bare(auditor: Auditor, code: int = 0) -> list[str]:
    return auditor.run("verify", code=code).splitlines()


def test_without_a_checkpoint_the_files_of_the_folder_are_taken(auditor: Auditor) -> None:
    auditor.site.append(1, tenant="other")
    log, other, checkpoints, none = bare(auditor)
    assert (log[:30], other[:6]) == (f"{TENANT}: 7 events, whole, head"[:30], "other:")
    assert checkpoints.startswith(f"{TENANT}: all 2 checkpoints hold, the last of 5 events")
    assert none == "other: compared with no checkpoint: none is in the data folder's own files"
    auditor.site.change("DELETE FROM event WHERE position > 3")
    rechain(auditor.site.url, TENANT)
    assert bare(auditor, code=1)[2].endswith("does not hold: the log has only 3 events")


def test_everything_gone(auditor: Auditor) -> None:
    auditor.site.change("DELETE FROM event", "DELETE FROM log_head")
    none, checkpoint, _ = bare(auditor, code=1)
    assert none == "there is no log at all"
    assert checkpoint.endswith("does not hold: the log has only 0 events")
    auditor.file.unlink()
    assert bare(auditor) == ["there is no log at all"]


def test_files_of_the_folder_that_cannot_be_read(auditor: Auditor) -> None:
    content = auditor.file.read_bytes()
    auditor.file.write_bytes(content + b"\n" + content[:90])  # one is just being written
    assert "all 2 checkpoints hold" in bare(auditor)[1]
    for spoilt in (b"garbage", content.replace("— ".encode(), b"-- "), b"garbage\n\n" + content):
        auditor.file.write_bytes(spoilt)
        assert bare(auditor, code=1)[1].startswith(f"{TENANT}: its checkpoints cannot be read: ")
    auditor.file.write_bytes(content)
    (auditor.site.folder.path / "bad.pem").write_text("no key")
    with pytest.raises(CommandError, match="holds no public key"):
        bare(auditor)


def test_a_tenant_whose_name_commands_the_terminal(auditor: Auditor) -> None:
    auditor.site.append(1, tenant="x: whole\nfake: 9 events, whole\x1b[2J")
    lines = bare(auditor)
    assert lines[1].startswith(r"x: whole\nfake: 9 events, whole\x1b[2J: 1 events, whole")
    told = auditor.run("checkpoint", "now")
    assert "\x1b" not in told
    assert len(told.splitlines()) == 2


def test_rows_that_may_be_hidden(auditor: Auditor) -> None:
    auditor.site.change("ALTER TABLE event ENABLE ROW LEVEL SECURITY")
    assert any("event has row level security" in line for line in bare(auditor, code=1))


def test_a_file_that_was_moved_is_accepted_by_people(auditor: Auditor) -> None:
    with pytest.raises(CommandError, match="nothing to accept"):
        auditor.run("checkpoint", "accept", "--tenant", TENANT)
    auditor.file.rename(auditor.path / "old")
    told = auditor.run("checkpoint", "now", code=1)
    assert "5 events were signed, but its file of checkpoints says 0" in told
    with pytest.raises(CommandError, match="no log of this tenant"):
        auditor.run("checkpoint", "accept", "--tenant", "other", code=1)
    told = auditor.run("checkpoint", "accept", "--tenant", TENANT)
    assert told == f"{TENANT}: 7 events, signed in {auditor.file}\n"
    assert auditor.run("checkpoint", "now") == told


@pytest.mark.parametrize("gone", ["metadata", "data"])
def test_half_of_an_event_proves_nothing(auditor: Auditor, gone: str) -> None:
    file = auditor.prove("inclusion", "2", "--whole")
    document = json.loads(file.read_text())
    del document["event"][gone]
    file.write_text(json.dumps(document))
    assert "data and metadata go together" in auditor.check(file, code=1)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("at", "2026-01-01T00:00:00"),
        ("at", 10**30),
        ("version", 10**30),
        ("version", -(10**30)),
        ("type", "\ud800"),
    ],
)
def test_members_that_no_event_has(auditor: Auditor, member: str, value: object) -> None:
    file = auditor.prove("inclusion", "2", "--whole")
    document = json.loads(file.read_text())
    document["event"][member] = value
    file.write_text(json.dumps(document))
    with pytest.raises(CommandError, match="is no proof"):
        auditor.check(file)


@pytest.mark.parametrize("tenant", ["\udcff", "a\0b", ""])
@pytest.mark.parametrize("command", [("proof", "inclusion", "1"), ("verify",)])
def test_a_tenant_that_is_no_text(auditor: Auditor, command: tuple[str, ...], tenant: str) -> None:
    with pytest.raises(CommandError, match="--tenant takes text"):
        auditor.run(*command, "--tenant", tenant)


def test_a_damaged_tree_proves_nothing(auditor: Auditor) -> None:
    auditor.site.append(600)
    auditor.run("checkpoint", "now")
    for damage in ("hash = ''", "hash = sha256('')"):
        auditor.site.change(f"UPDATE tree_node SET {damage} WHERE index = 0")
        with pytest.raises(CommandError, match=r"damaged|does not lead"):
            auditor.prove("inclusion", "2")
