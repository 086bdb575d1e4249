"""`desk`: a morning at the terminal, with the service, without it, and with a conflict."""

import re
import subprocess
import sys

from rich.console import Console
from tests.client.given import ADA_OKORO, Index, Site
from tests.service import CARD

from registration.client.terminal import Terminal

NOWHERE = "http://127.0.0.1:9"


def desk(site: Site, *lines: str, url: str | None = None, **more: str) -> tuple[int, list[str]]:
    """Run commands at the terminal; returns the exit code and what was said, in single spaces."""
    arguments = [sys.executable, "-m", "registration", "desk", "--file", str(site.folder / "d.db")]
    arguments += ["--url", url or site.service.url, "--data-dir", str(site.folder)]
    done = subprocess.run(
        arguments,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "COLUMNS": "200", "REGISTRATION_TOKEN": site.token(), **more},
    )
    said = (done.stdout + done.stderr).splitlines()
    return done.returncode, [re.sub(r"\s+", " ", line).strip() for line in said if line.strip()]


def test_a_morning_without_the_service(site: Site) -> None:
    code, said = desk(
        site,
        "register family=Okoro given=Ada gender=female birth=1984-03-02 phone=0803",
        "kin 1 name='Chidi Okoro' relationship=brother",
        "arrive 1",
        "search oko",
        "status",
        "sync",
        url=NOWHERE,
    )
    assert code == 0
    assert "1 Ada Okoro 1984-03-02 female 2" in said
    assert "next of kin Chidi Okoro, brother" in said
    assert "reached by phone 0803" in said
    assert any("AMB arrived" in line for line in said)
    assert "[3 unsent, never synced]" in said
    assert (
        said[-1] == "the service does not answer, 0 applied, 0 to review, 0 pulled, 3 still unsent"
    )


def test_a_conflict_is_reviewed_and_sent_again(site: Site) -> None:
    desk(site, "register family=Okoro given=Ada gender=female birth=1984-03-02", "sync")
    with site.device("another") as other:
        other.pull()
        [patient] = other.search("okoro")
        other.update_demographics(patient.id, {"birthDate": "1985"})
        other.sync()
    code, said = desk(
        site,
        "search okoro",
        "correct 1 birth=1984-03-20",
        "kin 1 name=Chidi relationship=brother",
        "sync",
        "review",
        "discard 2 'no reason'",
        "resubmit 2 birth=1985-03",
        "sync",
        "history",
    )
    assert code == 1  # others build on what was to be discarded
    assert "/birthDate 1984-03-02 1985 1984-03-20" in said
    assert "changes that build on it: 1; say whether to discard or detach them" in said
    assert "queued as change 4" in said
    applied = [line for line in said if re.search(r"^[45] desk-1 .* applied$", line)]
    assert len(applied) == 2


def test_a_merge_is_met_and_gone_on_with(site: Site) -> None:
    """Given two records, merged while the desk was offline, then it goes on with the survivor."""
    with site.device("another") as other:
        gone = other.register(ADA_OKORO | {"identifiers": [{"system": CARD, "value": "7"}]})
        stays = other.register(ADA_OKORO | {"names": [{"family": "Eze"}], "birthDate": "1985"})
        other.sync()
    desk(
        site,
        "sync",
        "search okoro",
        "correct 1 birth=1984-03-20",
        "kin 1 name=Obi relationship=son",
    )
    Index(site).merge(stays.id, gone.id)

    code, said = desk(
        site,
        "sync",
        "review",
        "resubmit 1",
        f"kin {gone.id} name=Chidi relationship=brother",
        f"show {gone.id}",
        f"follow {gone.id}",
        "follow 1",
        "survivor 1 birth=1984",
        "sync",
        "show 1",
        "search okoro",
    )

    assert code == 1
    assert f"merged into {stays.id}: survivor, discard, or leave it" in said
    assert "/birthDate 1984-03-02 1985 1984-03-20" in said
    assert said.count("PATIENT_MERGED: This record was merged into another one.") == 3
    assert said.count(f"go on with {stays.id}") == 2
    assert f"merged into {stays.id}; `follow` goes on with that" in said
    assert "this record was not merged into one that is known here" in said
    assert "queued as change 3" in said
    assert f"also known as {gone.id}" in said
    assert f"identifier {CARD} 7 (of a merged record)" in said
    assert "next of kin Obi, son" in said
    assert said[-1] == "1 Eze 1984 female"


def test_what_waited_for_a_merge_to_be_undone_is_told(site: Site) -> None:
    index = Index(site)
    with site.device("another") as other:
        gone, stays = other.register(ADA_OKORO), other.register(ADA_OKORO)
        other.sync()
    desk(site, "sync", f"correct {gone.id} birth=1985")
    index.unmerge(index.merge(stays.id, gone.id))
    merge = index.merge(stays.id, gone.id)
    desk(site, "sync")
    index.unmerge(merge)

    code, said = desk(site, "sync", "review", "resubmit 1", "sync", f"show {gone.id}")

    assert code == 0
    assert "that was undone: resubmit or discard" in said
    assert "born 1985" in said


def test_a_discharge_is_confirmed(site: Site) -> None:
    code, said = desk(
        site,
        "register family=Okoro gender=female",
        "arrive 1",
        "move 1 in-progress",
        "move 1 finished",
        "sync",
        "confirm 4",
        "sync",
        "review",
        "show 1",
        "quit",
        "search nobody",
    )
    assert code == 0
    assert "change 4 is applied" in said
    assert "nothing waits for you" in said
    assert any(line.split()[2:3] == ["finished"] for line in said)
    assert "nobody" not in said


def test_what_cannot_be_is_told_and_the_desk_goes_on(site: Site) -> None:
    code, said = desk(
        site,
        "register family=Okoro birth=2999",
        "register family='Okоro'",
        "show 1",
        "dance",
        "register family=Okoro shoes=38",
        "consent",
        "register family='Okoro",
        "confirm 1",
        "# nothing",
        "",
        "search okoro",
    )
    assert code == 1
    assert said == [
        "VALIDATION_FAILED: The request is not valid.",
        "/birthDate: lies in the future",
        "VALIDATION_FAILED: The request is not valid.",
        "/names/0/family: A word mixes letters of different scripts.",
        "name a patient by its number in the last list, or by its id",
        "there is no command 'dance'; try help",
        "this takes no shoes",
        "name a patient by its number in the last list, or by its id",
        "No closing quotation",
        "no such change is under review",
        "nobody",
    ]


def test_a_wrong_passphrase_is_told_in_a_line(site: Site) -> None:
    desk(site, "register family=Okoro", REGISTRATION_PASSPHRASE="right", url=NOWHERE)
    code, said = desk(site, "search okoro", REGISTRATION_PASSPHRASE="wrong", url=NOWHERE)
    assert (code, len(said)) == (2, 1)
    assert "the passphrase does not open" in said[0]


def test_without_a_token_the_key_in_the_data_folder_makes_one(site: Site) -> None:
    code, said = desk(site, "status", REGISTRATION_TOKEN="")
    assert (code, said[0][:38]) == (2, "registration: no --token, and no signi")
    key = site.service.settings.data_dir / "signing-key.pem"
    (site.folder / key.name).write_bytes(key.read_bytes())
    assert desk(site, "status", REGISTRATION_TOKEN="") == (0, ["[0 unsent, never synced]"])


def test_the_status_line_says_what_is_unsent_and_how_old_the_last_sync_is(site: Site) -> None:
    with site.device() as client:
        terminal = Terminal(client, Console(quiet=True))
        terminal.run(["register family=Okoro", "sync", "register family=Eze"])
        assert re.fullmatch(r"\[1 unsent, synced \d s ago\]", terminal.prompt)
