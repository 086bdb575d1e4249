"""An export that is stopped goes on: at any point, to the same files, or it says why not."""

import asyncio
import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from tests.export.given import (
    TENANT,
    Analyst,
    Export,
    imported,
    made,
    names_in,
    order_of,
    silent,
)

from registration.export import folder as folders
from registration.export import run, source
from registration.export.folder import Folder, State
from registration.export.order import ExportError
from registration.projections import changes
from registration.projections.rebuild import rebuild

PATIENTS = 130
_MOVE = """
WITH log AS (
    INSERT INTO registration.event (tenant, position, stream_id, version, topic, data, metadata,
                                    recorded_at, hash)
    SELECT tenant, position + 1, gen_random_uuid(), 1, 'none', '', '',
           recorded_at + interval '1 second', sha256(hash)
      FROM registration.log_head WHERE tenant = %(tenant)s RETURNING position, hash, recorded_at)
UPDATE registration.log_head SET (position, hash, recorded_at) = (SELECT * FROM log)
 WHERE tenant = %(tenant)s RETURNING position
"""


class Stopped(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def url(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with patients of one tenant and of another."""
    folder = tmp_path_factory.mktemp("imported")
    imported(module_database_url, TENANT, folder, PATIENTS)
    imported(module_database_url, "another", folder, 20)
    return module_database_url


@pytest.fixture
def own_url(database_url: str, tmp_path: Path) -> str:
    """A database with patients, which a test may change."""
    imported(database_url, TENANT, tmp_path, PATIENTS)
    return database_url


def record_changes(url: str, position_of: int) -> str:
    """Change the record at a position, as the log and the read model would; returns its id."""
    with psycopg.connect(url) as connection:
        row = connection.execute(_MOVE, {"tenant": TENANT}).fetchone()
        assert row is not None
        found = connection.execute(
            "SELECT id, body FROM changes.record WHERE tenant = %s AND position = %s",
            (TENANT, position_of),
        ).fetchone()
        assert found is not None
        its_id, body = found[0], orjson.loads(found[1])
        changed = orjson.dumps(body | {"version": 2, "gender": "other"})
        connection.execute(
            "UPDATE changes.record SET position = %s, version = 2, body = %s"
            " WHERE tenant = %s AND id = %s",
            (row[0], changed, TENANT, its_id),
        )
        connection.execute(
            "UPDATE registration.read_model_position SET position = %s"
            " WHERE name = 'changes' AND tenant = %s",
            (row[0], TENANT),
        )
    return str(its_id)


def until(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the process go at a moment: before or after a file is named, or taken away."""
    left = iter(range(moment))

    def count() -> None:
        if next(left, None) is None:
            raise Stopped

    for name in ("replace", "unlink"):
        real = getattr(Path, name)

        def done(path: Path, *args: Any, _real: Any = real, **more: Any) -> Any:
            count()
            result = _real(path, *args, **more)
            count()
            return result

        monkeypatch.setattr(Path, name, done)


@pytest.mark.parametrize("form", ["ndjson", "parquet"])
def test_stopped_at_any_point_it_goes_on_to_the_same_files(
    url: str, tmp_path: Path, form: str
) -> None:
    expected = made(url, tmp_path / "whole", order_of(form))
    assert len(expected) == (2 if form == "ndjson" else 4) * 3 + 1
    for moment in range(1000):
        path = tmp_path / f"stopped-{moment}"
        with pytest.MonkeyPatch.context() as monkeypatch:
            until(moment, monkeypatch)
            try:
                run.export(url, order_of(form), path, silent)
            except Stopped:
                pass
            else:
                break
        names = names_in(path)
        if folders.MANIFEST in names:
            assert Export(path).files().items() >= expected.items()
        if folders.MANIFEST not in names or folders.STATE in names:
            run.export(url, order_of(form), path, silent)
        assert Export(path).files() == expected, moment
    assert moment > 2 * len(expected)


def test_stopped_again_and_again_it_comes_to_an_end(url: str, tmp_path: Path) -> None:
    expected = made(url, tmp_path / "whole", order_of())
    path = tmp_path / "stopped"
    for _ in range(1000):
        with pytest.MonkeyPatch.context() as monkeypatch:
            until(15, monkeypatch)
            try:
                run.export(url, order_of(), path, silent)
            except Stopped:
                continue
            except ExportError:
                break  # it was stopped after the very last step, and is whole
            break
    assert Export(path).files() == expected


def stopped(url: str, path: Path, moment: int = 10) -> State:
    """Return the state of an export that was stopped after some chunks."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        until(moment, monkeypatch)
        with pytest.raises(Stopped):
            run.export(url, order_of(), path, silent)
    state = Folder(path).state()
    assert state is not None
    assert 0 < state.place[0] < state.position
    return state


def test_what_changed_meanwhile_is_there_as_it_is_now(own_url: str, tmp_path: Path) -> None:
    path = tmp_path / "export"
    state = stopped(own_url, path)
    behind, ahead = (record_changes(own_url, position) for position in (3, state.place[0] + 7))
    whole = run.export(own_url, order_of(), path, silent)
    found = Export(path).all("Patient")
    newest = {each["id"]: each for each in found}
    assert whole.position == Export(path).manifest["position"] == state.position + 2
    assert len(newest) == PATIENTS
    assert [each["id"] for each in found].count(behind) == 2
    assert [each["id"] for each in found].count(ahead) == 1
    for its_id in (behind, ahead):
        assert (newest[its_id]["gender"], newest[its_id]["meta"]["versionId"]) == ("other", "2")
    again = tmp_path / "since"
    nothing = run.export(own_url, order_of(since=whole.position), again, silent)
    assert nothing.output == ()


def test_what_changes_while_it_runs_is_for_the_next_time(own_url: str, tmp_path: Path) -> None:
    changed: list[str] = []

    def meanwhile(what: str, _done: int, _total: int) -> None:
        if what == "exporting" and not changed:
            changed.extend(record_changes(own_url, position) for position in (2, PATIENTS - 1))

    whole = run.export(own_url, order_of(), tmp_path / "export", meanwhile)
    found = Export(tmp_path / "export").all("Patient")
    assert len({each["id"] for each in found}) == len(found) == PATIENTS
    assert {each["meta"]["versionId"] for each in found} == {"1"}
    run.export(own_url, order_of(since=whole.position), tmp_path / "next", silent)
    following = Export(tmp_path / "next").all("Patient")
    assert [(each["id"], each["gender"]) for each in following] == [
        (its_id, "other") for its_id in changed
    ]


def rebuilt(url: str) -> None:
    """Build the read model anew, in a thread of its own."""
    thread = threading.Thread(target=lambda: asyncio.run(rebuild(url, changes.NAME)))
    thread.start()
    thread.join()


def test_a_rebuild_while_it_runs_takes_nothing_away(
    own_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = made(own_url, tmp_path / "whole", order_of())
    told: list[str] = []

    def meanwhile(what: str, _done: int, _total: int) -> None:
        if what == "exporting" and not told:
            told.append(what)
            rebuilt(own_url)

    run.export(own_url, order_of(), tmp_path / "export", meanwhile)
    assert told
    assert Export(tmp_path / "export").files() == expected
    assert [line.message for line in caplog.records] in (
        [],
        ["read model changes: the old tables are still read"],
    )


def test_tables_exchanged_just_before_the_first_read_are_noticed(
    own_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = made(own_url, tmp_path / "whole", order_of())
    looked = source._standing
    looks: list[source.Standing] = []

    def then_rebuilt(connection: Any, tenant: str) -> source.Standing:
        standing = looked(connection, tenant)
        if not looks:
            rebuilt(own_url)
        looks.append(standing)
        return standing

    monkeypatch.setattr(source, "_standing", then_rebuilt)
    assert made(own_url, tmp_path / "export", order_of()) == expected
    assert len(looks) == 2


def test_after_a_rebuild_or_a_restored_log_it_does_not_go_on(own_url: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    state = stopped(own_url, one)
    rebuilt(own_url)
    with pytest.raises(ExportError, match="rebuilt, or the log restored"):
        run.export(own_url, order_of(), one, silent)
    stopped(own_url, two)
    _rewrite(two, mark="00" * 32)
    with pytest.raises(ExportError, match="rebuilt, or the log restored"):
        run.export(own_url, order_of(), two, silent)
    assert state.output


def _rewrite(path: Path, **members: Any) -> None:
    file = path / folders.STATE
    file.write_bytes(orjson.dumps(orjson.loads(file.read_bytes()) | members))


def test_two_exports_never_share_a_folder(url: str, tmp_path: Path) -> None:
    path = tmp_path / "export"
    state = stopped(url, path)
    before = Export(path).files()
    for other in (
        order_of(since=1),
        order_of("parquet"),
        order_of(kinds=("patient",)),
        order_of(per_file=7),
        order_of(tenant="another"),
    ):
        with pytest.raises(ExportError, match="holds another export, which is not whole"):
            run.export(url, other, path, silent)
    assert Export(path).files() == before
    run.export(url, state.order, path, silent)
    for order in (state.order, order_of(since=1)):
        with pytest.raises(ExportError, match="holds a whole export; name another folder"):
            run.export(url, order, path, silent)


@pytest.mark.parametrize("name", ["thesis.txt", "Patient.000.ndjson", "Patient.000.ndjson.part"])
def test_a_folder_of_somebody_elses_is_left_alone(url: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / "export"
    path.mkdir()
    (path / name).write_text("all of it")
    with pytest.raises(ExportError, match="holds something else"):
        run.export(url, order_of(), path, silent)
    assert Export(path).files() == {name: b"all of it"}


def test_one_process_at_a_time(url: str, tmp_path: Path) -> None:
    path = tmp_path / "export"
    stopped(url, path)
    with (path / folders.LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ExportError, match="another process exports into"):
            run.export(url, order_of(), path, silent)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"order": 1}', b"[]"])
def test_a_damaged_state_or_a_missing_file_is_noticed(
    url: str, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "export"
    state = stopped(url, path)
    whole = (path / folders.STATE).read_bytes()
    (path / folders.STATE).write_bytes(content)
    with pytest.raises(ExportError, match="is damaged; name another folder"):
        run.export(url, order_of(), path, silent)
    (path / folders.STATE).write_bytes(whole)
    (path / state.output[0].url).unlink()
    with pytest.raises(ExportError, match="files are gone"):
        run.export(url, order_of(), path, silent)


def test_where_nothing_can_be_written_it_says_so(url: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    analyst = Analyst(url, TENANT, file)
    assert analyst.is_refused() == f"cannot write into {file}/export: Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_where_nobody_may_write_it_says_so(url: str, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    analyst = Analyst(url, TENANT, tmp_path / "closed")
    assert analyst.is_refused().endswith("/closed/export: Permission denied")


def test_when_the_database_goes_away_it_ends_and_later_goes_on(url: str, tmp_path: Path) -> None:
    expected = made(url, tmp_path / "whole", order_of())
    path = tmp_path / "export"

    def meanwhile(what: str, _done: int, _total: int) -> None:
        if what == "exporting":
            with psycopg.connect(url) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'registration export'"
                    " AND datname = current_database()"
                )

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(source, "_FETCH", 20)
        with pytest.raises(psycopg.OperationalError):
            run.export(url, order_of(), path, meanwhile)
    assert folders.MANIFEST not in names_in(path)
    run.export(url, order_of(), path, silent)
    assert Export(path).files() == expected
