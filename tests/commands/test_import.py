"""`registration import`: real files, through the real gate, into a real database."""

import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import orjson
import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner

from registration.commands import CommandError, app, import_
from registration.commands.sample import AS_OF, patients
from registration.domain.errors import DomainError
from registration.eventstore.records import RecordedEvent
from registration.fhir import map_patient

EXCERPT = Path(__file__).parents[1] / "data" / "febrl4-excerpt.ndjson"
RUN = CliRunner()
PROGRAM = "from registration.cli import main; main()"

ADA: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "ada",
    "name": [{"family": "Okoro", "given": ["Ada"]}],
    "gender": "female",
    "birthDate": "1984-03-02",
}


def lines(*resources: object) -> bytes:
    return b"".join(orjson.dumps(resource) + b"\n" for resource in resources)


class Desk:
    """Somebody who imports files into one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.file = folder / "patients.ndjson"

    def __call__(self, content: bytes | Path, *options: str) -> tuple[int, str, str]:
        """Import a file; returns exit code, the counts, and what went to standard error."""
        if isinstance(content, Path):
            file = content
        else:
            file = self.file
            file.write_bytes(content)
        result = RUN.invoke(app, ["import", str(file), "--database-url", self.url, *options])
        if isinstance(result.exception, CommandError):
            raise result.exception
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        counts = result.stdout.partition(" (")[0]
        return result.exit_code, counts, result.stderr

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with psycopg.connect(self.url, options="-c search_path=registration") as connection:
            return connection.execute(query.encode()).fetchall()

    @property
    def events(self) -> int:
        """How many events the log holds."""
        return int(self.rows("SELECT count(*) FROM event")[0][0])

    def stored(self) -> list[Any]:
        """Return what the log says, in order."""
        found = self.rows("SELECT * FROM readable_event ORDER BY position")
        return [orjson.loads(RecordedEvent(*row).said) for row in found]


@pytest.fixture
def desk(database_url: str, tmp_path: Path) -> Desk:
    return Desk(database_url, tmp_path)


def test_a_dirty_file_goes_in_but_for_the_bad_lines(desk: Desk) -> None:
    no_day = "VALIDATION_FAILED /birthDate: is no day of the calendar"
    no_name = (
        "VALIDATION_FAILED /name: "
        "A patient needs a name with a family name, a given name or a text."
    )
    bad = dict.fromkeys((155, 159, 160, 162, 164, 170, 176), no_day)
    bad |= dict.fromkeys((116, 182, 217), no_name)
    report = "".join(f"line {number}: {bad[number]}\n" for number in sorted(bad))
    assert desk(EXCERPT) == (1, "290 registered, 0 already there, 10 refused", report)
    assert desk.events == 290
    assert desk(EXCERPT) == (1, "0 registered, 290 already there, 10 refused", report)
    assert desk.events == 290
    facilities = {said["facility"] for said in desk.stored()}
    assert facilities == {"north", "south"}


def test_whoever_has_an_id_cannot_find_out_whose_it_is(desk: Desk) -> None:
    """Each tenant makes other ids of the same record, and by a secret: not by what is known."""
    for tenant in ("clinic-a", "clinic-b"):
        assert desk(lines(ADA), "--tenant", tenant)[0] == 0
    ids = {row[0] for row in desk.rows("SELECT stream_id FROM event")}
    assert len(ids) == 2
    known = [
        uuid5(NAMESPACE_URL, "https://hl7.org/fhir/R4/patient.html"),
        NAMESPACE_URL,
        UUID(int=0),
    ]
    records = [["id", "ada"], ["", "id", "ada"], ["clinic-a", "", "id", "ada"]]
    guesses = {uuid5(each, orjson.dumps(record).decode()) for each in known for record in records}
    assert not ids & guesses


def test_after_the_time_to_live_nothing_is_added_either(desk: Desk) -> None:
    file = lines(ADA)
    assert desk(file)[:2] == (0, "1 registered, 0 already there, 0 refused")
    with psycopg.connect(desk.url, options="-c search_path=registration") as connection:
        connection.execute("UPDATE outcome SET recorded_at = recorded_at - interval '30 days'")
    assert desk(file)[:2] == (0, "0 registered, 1 already there, 0 refused")
    assert desk.events == 1


def test_blank_lines_a_byte_order_mark_and_other_line_ends_do_not_matter(desk: Desk) -> None:
    other = ADA | {"id": "eve"}
    content = b"\xef\xbb\xbf" + lines(ADA).replace(b"\n", b"\r\n") + b"\r\n \n" + b"{\r\n"
    content += lines(other).rstrip()
    code, counts, report = desk(content)
    assert (code, counts) == (1, "2 registered, 0 already there, 1 refused")
    assert report == "line 4: MALFORMED_REQUEST The body is not JSON with each member once.\n"


def test_a_gzipped_file_and_standard_input(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "patients.ndjson.gz"
    file.write_bytes(gzip.compress(lines(ADA)))
    assert desk(file)[:2] == (0, "1 registered, 0 already there, 0 refused")
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, "import", "-", "--database-url", desk.url],
        input=lines(ADA, ADA | {"id": "eve"}),
        capture_output=True,
        check=True,
    )
    assert result.stdout.startswith(b"1 registered, 1 already there, 0 refused (")


def test_what_comes_through_a_pipe_by_name(desk: Desk, tmp_path: Path) -> None:
    """As of ``<(head …)``, and of ``/dev/stdin`` behind a pipe: such a file cannot be sought in."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = lines(*(ADA | {"id": str(number)} for number in range(600)))
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    try:
        assert desk(pipe)[:2] == (0, "600 registered, 0 already there, 0 refused")
    finally:
        writer.join()


def test_a_file_that_breaks_off_is_an_error_and_what_is_in_stays(
    desk: Desk, tmp_path: Path
) -> None:
    file = tmp_path / "patients.ndjson.gz"
    whole = gzip.compress(lines(*(ADA | {"id": str(n)} for n in range(1000))))
    file.write_bytes(whole[:-20])
    with pytest.raises(CommandError, match=r"cannot read on after line \d+ .*run it again"):
        desk(file)
    file.write_bytes(whole)
    code, counts, _ = desk(file)
    assert code == 0
    assert counts.endswith("0 refused")
    assert desk.events == 1000


def test_a_file_that_is_not_there(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot read .*: No such file or directory"):
        desk(tmp_path / "none.ndjson")


def test_the_same_record_again(desk: Desk) -> None:
    moved = ADA | {"meta": {"versionId": "2", "lastUpdated": "2026-01-01T00:00:00Z"}}
    corrected = ADA | {"birthDate": "1984-02-03"}
    code, counts, report = desk(lines(ADA, ADA, moved, corrected))
    assert (code, counts) == (1, "1 registered, 2 already there, 1 refused")
    assert report == (
        "line 4: SOURCE_CHANGED This record was imported before, with other content; "
        "correct the patient.\n"
    )
    # whoever imports it, it is there; another system's record of the same number is another one
    assert desk(lines(ADA), "--actor", "amal")[1] == "0 registered, 1 already there, 0 refused"
    assert desk(lines(corrected), "--actor", "amal")[0] == 1
    other = desk(lines(corrected), "--source", "east")
    assert other[:2] == (0, "1 registered, 0 already there, 0 refused")
    actors = desk.rows("SELECT convert_from(metadata, 'UTF8')::json ->> 'client' FROM event")
    assert actors == [(None,), ("east",)]


def test_without_an_id_a_record_is_known_by_an_identifier_and_else_by_its_content(
    desk: Desk,
) -> None:
    card = {"system": "urn:card", "value": "7"}
    number = {"system": "urn:mrn", "value": "1", "use": "usual"}
    nameless = {name: value for name, value in ADA.items() if name != "id"}
    known = nameless | {"identifier": [card, number]}
    turned = nameless | {"identifier": [number, card]}
    code, counts, report = desk(lines(known, turned, nameless, nameless, nameless | {"x": 1}))
    # the order of identifiers is content; who the record is about is not in doubt
    assert (code, counts) == (1, "2 registered, 2 already there, 1 refused")
    assert report.startswith("line 2: SOURCE_CHANGED ")


def test_an_identifier_that_somebody_holds_is_refused_until_it_is_free(desk: Desk) -> None:
    card = [{"system": "urn:card", "value": "7"}]
    file = lines(ADA | {"identifier": card}, ADA | {"id": "eve", "identifier": card})
    code, counts, report = desk(file)
    assert (code, counts) == (1, "1 registered, 0 already there, 1 refused")
    assert report.startswith("line 2: IDENTIFIER_CONFLICT /identifier: one of them is held by")
    assert desk.rows("SELECT stream_id::text FROM event")[0][0] in report
    with psycopg.connect(desk.url, options="-c search_path=registration") as connection:
        connection.execute("DELETE FROM identifier_claim")
    assert desk(file)[:2] == (0, "1 registered, 1 already there, 0 refused")


@pytest.mark.parametrize(
    ("line", "report"),
    [
        (b"[]\n", "NOT_A_PATIENT This is not a FHIR Patient resource."),
        (
            lines({"resourceType": "Encounter", "id": "1"}),
            "NOT_A_PATIENT This is not a FHIR Patient resource.",
        ),
        (
            b'{"resourceType": "Patient", "id": "1", "id": "2"}\n',
            "MALFORMED_REQUEST The body is not JSON with each member once.",
        ),
        (
            lines(ADA).replace(b"Okoro", b"Ok\\u0000ro"),
            "VALIDATION_FAILED holds a NUL character",
        ),
        (
            lines(ADA | {"active": False}),
            "NOT_REPRESENTABLE /active: not representable yet: the record is not in use",
        ),
        (
            lines(ADA | {"deceasedBoolean": True}),
            "NOT_REPRESENTABLE /deceasedBoolean: not representable yet: the person is dead",
        ),
        (
            lines(ADA | {"deceasedDateTime": "2020"}),
            "NOT_REPRESENTABLE /deceasedDateTime: not representable yet: the person is dead",
        ),
        (
            lines(ADA | {"link": [{"type": "seealso"}, {"type": "replaced-by"}]}),
            "NOT_REPRESENTABLE /link/1: not representable yet: another record replaces this one",
        ),
        (
            lines(ADA | {"modifierExtension": []}),
            (
                "NOT_REPRESENTABLE /modifierExtension: not representable yet: "
                "it changes the meaning of the record"
            ),
        ),
        (lines(ADA | {"name": ADA["name"][0]}), "VALIDATION_FAILED /name: must be a list"),
        (lines(ADA | {"contact": ["Obi"]}), "VALIDATION_FAILED /contact/0: must be an object"),
        (
            lines(ADA | {"name": [{"use": "official"}, {"family": "Ok\u202eoro"}]}),
            (
                "VALIDATION_FAILED /name/1/family: "
                "The text holds a control, invisible or unassigned character."
            ),
        ),
        (
            lines(ADA | {"gender": "f"}),
            "VALIDATION_FAILED /gender: Input should be 'male', 'female', 'other' or 'unknown'",
        ),
        (lines(ADA | {"birthDate": "2999"}), "VALIDATION_FAILED /birthDate: lies in the future"),
        (
            lines(ADA | {"address": [{"city": ""}]}),
            "VALIDATION_FAILED /address/0/city: String should have at least 1 character",
        ),
        (
            lines(
                ADA
                | {
                    "contact": [
                        {
                            "name": {"text": "Obi"},
                            "telecom": [{"value": "1"}, {"system": "post", "value": "1"}],
                        }
                    ]
                }
            ),
            (
                "VALIDATION_FAILED /contact/0/telecom/1/system: "
                "Input should be 'phone', 'fax', 'email', 'pager', 'url', 'sms' or 'other'"
            ),
        ),
    ],
)
def test_a_refused_line_says_where_and_why(desk: Desk, line: bytes, report: str) -> None:
    assert desk(line) == (
        1,
        "0 registered, 0 already there, 1 refused",
        f"line 1: {report}\n",
    )
    assert desk.events == 0


def test_an_overlong_line_is_refused_without_being_held(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_, "LONGEST_LINE", 1000)
    photo = ADA | {"id": "eve", "photo": [{"data": "A" * 5000}]}
    code, counts, report = desk(lines(photo, ADA))
    assert (code, counts) == (1, "1 registered, 0 already there, 1 refused")
    assert report == "line 1: LINE_TOO_LONG The line has more than 1,000 bytes.\n"


def test_refused_lines_can_go_to_a_file(desk: Desk, tmp_path: Path) -> None:
    report = tmp_path / "refused.ndjson"
    code, counts, said = desk(lines([], ADA | {"birthDate": "1"}), "--errors", str(report))
    assert (code, counts, said) == (1, "0 registered, 0 already there, 2 refused", "")
    assert [orjson.loads(line) for line in report.read_bytes().splitlines()] == [
        {
            "line": 1,
            "code": "NOT_A_PATIENT",
            "path": "",
            "message": "This is not a FHIR Patient resource.",
        },
        {
            "line": 2,
            "code": "VALIDATION_FAILED",
            "path": "/birthDate",
            "message": "must be YYYY, YYYY-MM or YYYY-MM-DD",
        },
    ]


def test_what_is_left_out_is_counted(desk: Desk) -> None:
    desk.file.write_bytes(
        lines(
            ADA | {"photo": [{}], "extension": [{}], "Ada Okoro": 1},
            ADA | {"id": "eve", "photo": [{}], "meta": {"tag": [], "lastUpdated": "2026"}},
            ADA | {"id": "bad", "photo": [{}], "gender": "x"},
        )
    )
    result = RUN.invoke(app, ["import", str(desk.file), "--database-url", desk.url])
    assert result.stdout.splitlines()[1] == (
        "left out, having no place here (of how many patients): "
        "photo 2, (unknown) 1, extension 1, meta.tag 1"
    )


def _many(folder: Path, count: int) -> Path:
    file = folder / "many.ndjson"
    file.write_bytes(lines(*patients(count, 7, 0.1, AS_OF.date())))
    return file


def _importing(file: Path, url: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, "import", str(file), "--database-url", url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for(desk: Desk, events: int) -> None:
    deadline = time.monotonic() + 20
    while desk.events < events:
        assert time.monotonic() < deadline, "the import does not get on"
        time.sleep(0.01)


def test_a_killed_import_goes_on_where_it_was(desk: Desk, tmp_path: Path) -> None:
    file = _many(tmp_path, 1500)
    with _importing(file, desk.url) as process:
        _wait_for(desk, 200)
        process.kill()
    assert process.wait() < 0
    _, counts, report = desk(file)
    assert report == ""
    assert not counts.startswith("1,500 ")
    assert desk.events == 1500
    assert desk.rows("SELECT count(*), count(DISTINCT stream_id) FROM event") == [(1500, 1500)]
    assert desk(file)[:2] == (0, "0 registered, 1,500 already there, 0 refused")


def test_a_database_that_goes_away_ends_it_with_a_message(desk: Desk, tmp_path: Path) -> None:
    file = _many(tmp_path, 1500)
    parts = urlsplit(desk.url)
    name = sql.Identifier(parts.path[1:])
    server = desk.url.replace(parts.path, "/postgres", 1)
    with psycopg.connect(server, autocommit=True) as admin, _importing(file, desk.url) as process:
        _wait_for(desk, 200)
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [parts.path[1:]],
        )
        _, said = process.communicate(timeout=30)
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    assert process.returncode == 2
    assert said.startswith("registration: the database does not answer: ")
    assert said.endswith("run it again to go on\n")
    assert desk(file)[0] == 0
    assert desk.events == 1500


FULL: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p1",
    "meta": {"versionId": "3", "security": [{"code": "R"}]},
    "text": {"status": "generated"},
    "active": True,
    "identifier": [
        {
            "use": "usual",
            "type": {"coding": [{"code": "MR"}]},
            "system": "urn:mrn",
            "value": "1",
            "period": {"start": "2001"},
            "assigner": {"display": "north"},
        },
        {"system": "urn:mrn", "value": "1"},
        {"value": "2"},
        {"system": "urn:mrn"},
    ],
    "name": [
        {"use": "official", "text": "", "period": {}},
        {
            "use": "official",
            "family": "حداد",
            "given": ["سلمى", None],
            "_given": [None, {"extension": []}],
        },
        {"use": "anonymous", "family": "Doe", "given": ["Jo"], "prefix": ["Dr"]},
    ],
    "telecom": [
        {"system": "phone", "value": "1", "use": "mobile", "rank": 1},
        {"value": "2"},
        {"system": "email"},
    ],
    "deceasedBoolean": False,
    "birthDate": "1984-03",
    "_birthDate": {"extension": []},
    "address": [{"use": "home", "type": "both", "line": ["1 Road", None], "postalCode": "2"}],
    "maritalStatus": {
        "coding": [
            {"system": "urn:own", "code": "X"},
            {"system": "http://terminology.hl7.org/CodeSystem/v3-MaritalStatus", "code": "M"},
        ]
    },
    "multipleBirthBoolean": True,
    "photo": [{"data": "AAAA"}],
    "contact": [
        {
            "relationship": [{"coding": [{"code": "N", "display": "Next-of-Kin"}]}],
            "name": {"prefix": ["Mr"], "given": ["Karim"], "family": "Haddad"},
            "telecom": [{"value": "3"}, {"system": "phone", "value": "4"}],
            "address": {"city": "Amman"},
            "gender": "male",
        },
        {"relationship": [{"text": "sister"}], "name": {"text": "Lina"}},
        {"name": {"family": "Okoro"}},
        {"organization": {"reference": "Organization/9"}},
    ],
    "communication": [
        {"language": {"coding": [{"code": "en"}]}},
        {"language": {"coding": [{"code": "ar"}]}, "preferred": True},
    ],
    "generalPractitioner": [{}],
    "managingOrganization": {"reference": "https://fhir.example/Organization/north/_history/2"},
    "link": [{"type": "seealso"}],
}


def test_the_mapping_of_a_whole_resource() -> None:
    mapped = map_patient(FULL)
    assert mapped.said == {
        "names": [
            {"use": "official", "family": "حداد", "given": ["سلمى"]},
            {
                "use": "anonymous",
                "family": "Doe",
                "given": ["Jo"],
                "prefix": ["Dr"],
                "text": "Dr Jo Doe",
            },
        ],
        "identifiers": [{"use": "usual", "system": "urn:mrn", "value": "1", "type": "MR"}],
        "telecom": [{"system": "phone", "value": "1", "use": "mobile"}],
        "addresses": [{"use": "home", "line": ["1 Road"], "postalCode": "2"}],
        "nextOfKin": [
            {
                "name": "Mr Karim Haddad",
                "relationship": "Next-of-Kin",
                "telecom": [{"system": "phone", "value": "4"}],
                "address": {"city": "Amman"},
            },
            {"name": "Lina", "relationship": "sister", "telecom": []},
            {"name": "Okoro", "relationship": "unknown", "telecom": []},
        ],
        "gender": "unknown",
        "birthDate": "1984-03",
        "maritalStatus": "M",
        "preferredLanguage": "ar",
        "facility": "north",
    }
    assert mapped.left_out == {
        "_birthDate",
        "address.type",
        "communication",
        "contact (without a name)",
        "contact.gender",
        "contact.organization",
        "link",
        "generalPractitioner",
        "identifier (repeated)",
        "identifier (without system)",
        "identifier (without value)",
        "identifier.assigner",
        "identifier.period",
        "meta.security",
        "multipleBirthBoolean",
        "name (without any text)",
        "name._given",
        "name.period",
        "photo",
        "telecom (without system)",
        "telecom (without value)",
        "telecom.rank",
        "text",
    }
    assert mapped.place("/names/1/given/0") == "/name/2/given/0"
    assert mapped.place("/nextOfKin/0/telecom/0/value") == "/contact/0/telecom/1/value"
    assert mapped.place("/identifiers") == "/identifier"


@pytest.mark.parametrize(
    ("organization", "facility"),
    [
        ({"reference": "Organization/a.b-c"}, "a.b-c"),
        ({"reference": "urn:uuid:0c0a"}, "0c0a"),
        ({"reference": "#here"}, None),
        ({"reference": "Organization/a b"}, None),
        ({"display": "north"}, None),
    ],
)
def test_the_facility_is_the_last_part_of_a_reference(
    organization: dict[str, str], facility: str | None
) -> None:
    mapped = map_patient(ADA | {"managingOrganization": organization})
    assert mapped.said.get("facility") == facility
    assert mapped.left_out == (set() if facility else {"managingOrganization"})


def _broken(value: Any, junk: object) -> Iterator[Any]:
    """Yield the value with each of its parts in turn replaced by junk."""
    yield junk
    if isinstance(value, dict):
        for name, member in value.items():
            yield from (value | {name: other} for other in _broken(member, junk))
    elif isinstance(value, list):
        for at, member in enumerate(value):
            yield from ([*value[:at], other, *value[at + 1 :]] for other in _broken(member, junk))


@pytest.mark.parametrize("junk", [None, True, 10**30, "", "x", [], [[]], ["x"], {}, {"x": []}])
def test_a_resource_that_is_built_otherwise_is_mapped_or_refused(junk: object) -> None:
    origin = import_.Origin("t", "", uuid4(), "import", None, {})
    codes = set()
    for resource in _broken(FULL, junk):
        try:
            mapped = map_patient(resource)
            import_._payload(mapped)
        except DomainError as error:
            codes.add(error.code)
        else:
            assert origin.patient_id(resource, mapped).version == 5
    assert codes == {"VALIDATION_FAILED", "NOT_REPRESENTABLE", "NOT_A_PATIENT"}
