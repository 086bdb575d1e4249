"""The folder of one export: whole files only, how far it is, and the manifest that ends it.

- A file is written as ``NAME.part``, reaches the disk, and only then gets its name.
- ``export-state.json`` says what was asked for and which files hold; what else is there of ours is
  what a killed run left, and is written anew. It goes once ``manifest.json`` is there.
- ``export.lock`` keeps a second process out while one writes.

Source of the manifest: https://hl7.org/fhir/uv/bulkdata/export.html (Complete Status). Its ``url``
is the name of a file beside it, ``request`` the command; ``position`` is ours.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self
from uuid import UUID

import orjson

from registration.export.order import DELETED, Exported, ExportError, Order, Output

MANIFEST = "manifest.json"
STATE = "export-state.json"
LOCK = "export.lock"
PART = ".part"

_FILE = re.compile(
    r"[A-Za-z_]+\.\d{3,}\.(ndjson|parquet)(\.part)?|(manifest|export-state)\.json\.part"
)
_BUFFER = 1 << 20


class State(NamedTuple):
    """How far an export is: every record up to ``place`` (position, id) is in ``output``.

    ``position`` is where the read model stood when the run began, ``mark`` the hash of the log's
    event there (hex), ``made_at`` when the read model's tables were made: they tell whether a
    later run reads the same log and the same tables. ``first_position`` is that of the first run.
    """

    order: Order
    position: int
    mark: str
    made_at: datetime
    place: tuple[int, UUID]
    first_position: int
    output: tuple[Output, ...] = ()

    def encoded(self) -> bytes:
        """Return it as JSON."""
        members = self._asdict() | {"order": self.order._asdict()}
        return orjson.dumps(members, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def decoded(cls, content: bytes) -> Self:
        """Return what :meth:`encoded` wrote. Raises ``ValueError`` for anything else."""
        try:
            said: dict[str, Any] = orjson.loads(content)
            order = said["order"]
            position, its_id = said["place"]
            return cls(
                order=Order(**order | {"kinds": tuple(order["kinds"])}),
                position=said["position"],
                mark=said["mark"],
                made_at=datetime.fromisoformat(said["made_at"]),
                place=(position, UUID(its_id)),
                first_position=said["first_position"],
                output=tuple(Output(**file) for file in said["output"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError("no state of an export") from error


class Folder:
    """A folder that this process alone writes an export into."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Self]:
        """Make the folder (0700) where there is none, and keep others out of it meanwhile.

        Raises :class:`ExportError` where it holds something else, a whole export, or another
        process writes into it. ``OSError`` comes out as such an error too, whoever raised it.
        """
        folder = cls(path)
        with folder.named_errors():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder._check()
            path.chmod(0o700)
        with folder._locked():
            yield folder

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turn what the operating system refuses into an error that names the folder."""
        try:
            yield
        except OSError as error:
            raise ExportError(f"cannot write into {self.path}: {error.strerror}") from error

    def _check(self) -> None:
        names = set(os.listdir(self.path))  # noqa: PTH208  (names are all that is wanted)
        if MANIFEST in names and STATE not in names:
            raise ExportError(f"{self.path} holds a whole export; name another folder")
        if STATE not in names and names - {LOCK, STATE + PART}:
            raise ExportError(f"{self.path} holds something else; name a new or an empty folder")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.named_errors(), self._create(LOCK) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ExportError(f"another process exports into {self.path}") from None
            yield

    def _create(self, name: str) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
        return os.fdopen(os.open(self.path / name, flags, 0o600), "wb", buffering=_BUFFER)

    def state(self) -> State | None:
        """Return how far an earlier run came; ``None`` where there was none.

        Raises :class:`ExportError` where the file says something else.
        """
        try:
            return State.decoded((self.path / STATE).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ExportError(f"{self.path / STATE} is damaged; name another folder") from error

    def whole(self) -> Exported | None:
        """Return what an earlier run exported, where it was killed just before its very end."""
        try:
            manifest = orjson.loads((self.path / MANIFEST).read_bytes())
        except FileNotFoundError:
            return None
        return Exported(
            manifest["position"],
            datetime.fromisoformat(manifest["transactionTime"]),
            tuple(Output(**file) for file in (*manifest["output"], *manifest["deleted"])),
            manifest["extension"]["setAside"],
        )

    def part(self, name: str) -> BinaryIO:
        """Return a new, empty file that has no name yet but for ``.part``."""
        file = self._create(name + PART)
        file.truncate()
        return file

    def begin(self, state: State) -> None:
        """Take away what a killed run left, and note where this one begins."""
        held = {file.url for file in state.output}
        there = {path.name for path in self.path.iterdir() if _FILE.fullmatch(path.name)}
        if not held <= there:
            raise ExportError(f"files are gone from {self.path}; name another folder")
        for name in there - held:
            (self.path / name).unlink()
        self._replace(STATE, state.encoded())

    def keep(self, files: Sequence[tuple[str, BinaryIO]], state: State) -> None:
        """Give files their names once they are on the disk, and then note the new state."""
        for name, file in files:
            self._name(name, file)
        self._sync()
        self._replace(STATE, state.encoded())

    def end(self, whole: Exported, order: Order) -> None:
        """Write the manifest: from now on this is a whole export."""
        manifest = {
            "transactionTime": whole.transaction_time.astimezone(UTC).isoformat(),
            "request": order.said(),
            "requiresAccessToken": False,
            "position": whole.position,
            "output": [file for file in whole.output if file.type not in DELETED],
            "deleted": [file for file in whole.output if file.type in DELETED],
            "error": [],
            "extension": {
                "since": order.since,
                "tenant": order.tenant,
                "format": order.form,
                "setAside": whole.set_aside,
            },
        }
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        self._replace(MANIFEST, orjson.dumps(manifest, option=options))
        self.clear()

    def clear(self) -> None:
        """Take away what only a run that goes on needs."""
        (self.path / LOCK).unlink(missing_ok=True)
        (self.path / STATE).unlink(missing_ok=True)

    def _replace(self, name: str, content: bytes) -> None:
        with self.part(name) as file:
            file.write(content)
            self._name(name, file)
        self._sync()

    def _name(self, name: str, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())
        (self.path / (name + PART)).replace(self.path / name)

    def _sync(self) -> None:
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
