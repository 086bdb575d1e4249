"""The peers of our push and pull: Kinto on PostgreSQL, and pouchdb-server on LevelDB.

``python -m benchmarks --install-peers`` puts them into a folder of their own; nothing else needs
them. Each runs as one process, as its manual starts it, but without a log line for each request.
Kinto commits once a request, durably; pouchdb-server answers before anything is on disk.
"""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

import httpx
import orjson

from benchmarks.bench import Bench
from benchmarks.sync_workloads import Follow, Page, Send, head

_KINTO = "26.5.0"
_KINTO_NEEDS = ("psycopg2-binary==2.9.13", "SQLAlchemy==2.1.9", "waitress==3.0.2")
_POUCHDB = "4.2.0"

_FOLDER = Path(__file__).resolve().parent.parent / ".peers"
_KINTO_BIN = _FOLDER / "kinto" / "bin"
_POUCHDB_PROGRAM = _FOLDER / "pouchdb" / "node_modules" / ".bin" / "pouchdb-server"
_PATIENCE = 60.0

_RECORDS = "/v1/buckets/bench/collections/patients/records"
_KINTO_PAGE = f"{_RECORDS}?_limit=1000&_sort=last_modified"
_POUCHDB_PAGE = "/patients/_changes?include_docs=true&limit=1000"
_BASIC = "Basic " + base64.b64encode(b"bench:bench").decode()

_INI = """
[server:main]
use = egg:waitress#main
host = 127.0.0.1
port = {port}
threads = 8

[app:main]
use = egg:kinto
kinto.userid_hmac_secret = bench
multiauth.policies = basicauth
multiauth.policy.basicauth.use = kinto.core.authentication.BasicAuthAuthenticationPolicy
kinto.storage_backend = kinto.core.storage.postgresql
kinto.storage_url = {url}
kinto.permission_backend = kinto.core.permission.postgresql
kinto.permission_url = {url}
kinto.cache_backend = kinto.core.cache.postgresql
kinto.cache_url = {url}
kinto.batch_max_requests = 100

[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = WARNING
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = %%(message)s
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that runs: where, and what is sent to it, given documents."""

    port: int
    batch: Callable[[Sequence[bytes], int], Send]
    single: Callable[[Sequence[bytes]], Send]
    pages: Follow


@dataclass(frozen=True, slots=True)
class Peer:
    """A system that does what push and pull do."""

    name: str
    is_durable: bool
    program: Path
    running: Callable[[Bench], AbstractContextManager[Running]]

    @property
    def is_installed(self) -> bool:
        """Whether it is there to be measured."""
        return self.program.exists()


def install() -> None:
    """Install the peers, at the versions named above. Raises where something needed is missing."""
    npm = which("npm")
    if npm is None:
        raise RuntimeError("pouchdb-server needs node and npm")
    if not _KINTO_BIN.exists():
        subprocess.run([sys.executable, "-m", "venv", _KINTO_BIN.parent], check=True)
    needs = (f"kinto[postgresql]=={_KINTO}", *_KINTO_NEEDS)
    pip = (_KINTO_BIN / "python", "-m", "pip", "--disable-pip-version-check")
    subprocess.run([*pip, "install", "--quiet", *needs], check=True)
    folder = _FOLDER / "pouchdb"
    folder.mkdir(exist_ok=True)
    quietly = ("--no-audit", "--no-fund", "--no-save", "--loglevel=error")
    name = f"pouchdb-server@{_POUCHDB}"
    subprocess.run([npm, "install", *quietly, "--prefix", folder, name], check=True)


@contextmanager
def _kinto(bench: Bench) -> Iterator[Running]:
    port = _free_port()
    with bench.database(migrated=False) as url, TemporaryDirectory() as folder:
        ini = Path(folder) / "kinto.ini"
        ini.write_text(_INI.format(port=port, url=url.replace("%", "%%")))
        program, log = str(_KINTO_BIN / "kinto"), Path(folder, "log")
        with log.open("wb") as output:
            migrate = [program, "migrate", "--ini", str(ini)]
            subprocess.run(migrate, check=True, stdout=output, stderr=output)
        with _process([program, "start", "--ini", str(ini)], log, port, "/v1/"):
            for path in ("/v1/buckets/bench", "/v1/buckets/bench/collections/patients"):
                _put(port, path, authorization=_BASIC)
            pages = Follow(_BASIC, _KINTO_PAGE, _kinto_page)
            yield Running(port, _kinto_batch, _kinto_single, pages)


def _kinto_batch(bodies: Sequence[bytes], size: int) -> Send:
    texts = [b'{"path":"%s/@0@","body":{"data":%s}}' % (_RECORDS.encode(), b) for b in bodies]
    around = (b'{"defaults":{"method":"PUT"},"requests":[', b"]}")
    return Send(head("POST", "/v1/batch", _BASIC), texts, size, 200, b'"status":201', around)


def _kinto_single(bodies: Sequence[bytes]) -> Send:
    texts = [b'{"data":{"id":"@0@",%s}' % body[1:] for body in bodies]
    # two writes at one instant are a conflict to it, which it asks to send again
    return Send(head("POST", _RECORDS, _BASIC), texts, 1, 201, b'"last_modified":', later=409)


def _kinto_page(body: bytes) -> Page:
    found = orjson.loads(body)["data"]
    # as its own client goes on: what was modified after the last one
    more = len(found) == 1000
    return len(found), f"{_KINTO_PAGE}&_since={found[-1]['last_modified']}" if more else None


@contextmanager
def _pouchdb(_bench: Bench) -> Iterator[Running]:
    port = _free_port()
    with TemporaryDirectory() as folder:
        Path(folder, "config.json").write_bytes(orjson.dumps({"log": {"level": "error"}}))
        command = [_POUCHDB_PROGRAM, "--host", "127.0.0.1", "--port", port, "--dir", folder]
        with _process([*map(str, command), "--no-stdout-logs"], Path(folder, "out"), port, "/"):
            _put(port, "/patients")
            pages = Follow("", _POUCHDB_PAGE, _pouchdb_page)
            yield Running(port, _pouchdb_batch, _pouchdb_single, pages)


def _pouchdb_batch(bodies: Sequence[bytes], size: int) -> Send:
    start = head("POST", "/patients/_bulk_docs")
    return Send(start, _with_id(bodies), size, 201, b'"ok":true', (b'{"docs":[', b"]}"))


def _pouchdb_single(bodies: Sequence[bytes]) -> Send:
    return Send(head("POST", "/patients"), _with_id(bodies), 1, 201, b'"ok":true')


def _with_id(bodies: Sequence[bytes]) -> list[bytes]:
    return [b'{"_id":"@0@",%s' % body[1:] for body in bodies]


def _pouchdb_page(body: bytes) -> Page:
    said = orjson.loads(body)
    held = len(said["results"])
    return held, f"{_POUCHDB_PAGE}&since={said['last_seq']}" if held == 1000 else None


PEERS = (
    Peer(
        f"pouchdb-server {_POUCHDB}", is_durable=False, program=_POUCHDB_PROGRAM, running=_pouchdb
    ),
    Peer(f"Kinto {_KINTO}", is_durable=True, program=_KINTO_BIN / "kinto", running=_kinto),
)


@contextmanager
def _process(command: Sequence[str], log: Path, port: int, path: str) -> Iterator[None]:
    """Run a server until the end of the block; begins when it answers."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        try:
            deadline = time.monotonic() + _PATIENCE
            while not _answers(port, path):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"it does not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_PATIENCE)


def _answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}").is_success
    except httpx.TransportError:
        return False


def _put(port: int, path: str, **headers: str) -> None:
    httpx.put(f"http://127.0.0.1:{port}{path}", json={}, headers=headers).raise_for_status()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
