"""`registration import`: FHIR R4 Patient resources from a file, through the gate."""

import asyncio
import gc
import gzip
import heapq
import re
import sys
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TextIO
from uuid import NAMESPACE_URL, UUID, uuid5

import typer

from registration.commands import CommandError, app
from registration.commands.common import DatabaseUrl, DataDir, Tenant, database, load_settings

if TYPE_CHECKING:
    from registration.domain.context import Context
    from registration.domain.errors import DomainError
    from registration.eventstore.store import EventStore
    from registration.fhir import Mapped
    from registration.gate import Command
    from registration.settings import Settings

IN_FLIGHT = 768
"""Lines at work at once: what one append call takes, thrice, so that the next call is ready."""
LONGEST_LINE = 16 * 1024 * 1024
_LINES_A_READ = 512
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_FACILITY = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_USES = ("usual", "official", "secondary", None, "temp", "old")
_IDS = uuid5(NAMESPACE_URL, "registration:import")
_OWN_IDS = {"names": {"__all__": {"id"}}, "identifiers": {"__all__": {"id"}}}
_OWN_IDS["next_of_kin"] = {"__all__": {"id"}}

TOO_LONG = "LINE_TOO_LONG"
SOURCE_CHANGED = "SOURCE_CHANGED"


@app.command(name="import")
def import_(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE.ndjson",
            help="FHIR R4 Patient resources, one a line, as bulk export writes them; may be "
            "gzipped; - is standard input.",
        ),
    ],
    tenant: Tenant = "default",
    facility: Annotated[
        str | None, typer.Option(help="The facility of patients without a managingOrganization.")
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            help="Names the system that the file comes from, where several number their patients "
            "alike. Say the same each time."
        ),
    ] = "",
    actor: Annotated[str, typer.Option(help="Who imports, for the history.")] = "import",
    errors: Annotated[
        Path | None,
        typer.Option(
            help="Write refused lines here, as NDJSON, instead of to standard error.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Register the patients of a FHIR NDJSON file; run it again and nothing is added.

    Each line goes through the same rules as a request to the service. A line that is refused is
    reported with its number, a code and the place in the resource, never with patient data; the
    others go in. A run that was stopped goes on where it was when it is started again.

    The id of a patient follows from tenant, --source and the resource's id, or else its first
    usual identifier, or else its whole content. The same record with other content is refused
    (SOURCE_CHANGED), not registered twice. What FHIR says that has no place here is left out, and
    the summary counts it. The dead, the inactive and the replaced are refused
    (NOT_REPRESENTABLE).

    Exit code 0: all are in. 1: some lines were refused. 2: it could not run, or not to the end.
    """
    if not _TENANT.fullmatch(tenant):
        raise CommandError("--tenant takes letters, digits, dots, dashes and underscores")
    if facility is not None and not _FACILITY.fullmatch(facility):
        raise CommandError("--facility takes letters, digits, dots, dashes and underscores")
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    origin = Origin(tenant, source, actor, facility)
    started = time.monotonic()
    tally = Tally()
    with ExitStack() as stack:
        reader = stack.enter_context(_opened(file))
        log = stack.enter_context(_report_file(errors)) if errors else None
        url = stack.enter_context(database(settings))
        show = stack.enter_context(_progress(reader, tally))
        report = Report(log, show)
        try:
            _run(_Import(reader, origin, settings, tally, report), url)
        except KeyboardInterrupt:
            raise CommandError(f"interrupted; {_how_far(tally)}") from None
        finally:
            report.finish()
    typer.echo(tally.summary(time.monotonic() - started))
    if tally.refused:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where patients come from, as far as the resources do not say it."""

    tenant: str
    source: str
    actor: str
    facility: str | None

    def patient_id(self, resource: Mapping[str, Any], mapped: "Mapped") -> UUID:
        """Return the patient's id: the same for the same record of the same source, always.

        By the resource's ``id``, which a FHIR server never gives to another; without one by an
        identifier (the ``usual`` one first, then by system and value, so that their order does
        not matter); without any by the content: the same line is then the same patient.
        """
        number = resource.get("id")
        identifiers = mapped.said.get("identifiers", [])
        if isinstance(number, str) and number:
            record = ["id", number]
        elif identifiers:
            chosen = min(identifiers, key=_preference)
            record = ["identifier", str(chosen["system"]), str(chosen["value"])]
        else:
            record = ["content", sha256(_canonical(mapped.said)).hexdigest()]
        return uuid5(_IDS, _canonical([self.tenant, self.source, *record]).decode())


def _preference(identifier: Mapping[str, Any]) -> tuple[int, str, str]:
    use = identifier.get("use")
    rank = _USES.index(use) if use in _USES else len(_USES)
    return rank, str(identifier["system"]), str(identifier["value"])


def _canonical(value: object) -> bytes:
    import orjson

    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


@dataclass(slots=True)
class Tally:
    """What became of the lines so far."""

    registered: int = 0
    known: int = 0
    refused: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def lines(self) -> int:
        """How many patients were looked at."""
        return self.registered + self.known + self.refused

    def summary(self, seconds: float) -> str:
        """Return the account of a whole run."""
        rate = self.lines / seconds if seconds > 0 else 0
        text = (
            f"{self.registered:,} registered, {self.known:,} already there, "
            f"{self.refused:,} refused ({seconds:.1f} s, {rate:,.0f} a second)"
        )
        if self.left_out:
            counts = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
            left = ", ".join(f"{element} {count:,}" for element, count in counts)
            text += f"\nleft out, having no place here (element and patients): {left}"
        return text


class Report:
    """The refused lines, in the order of the file, on standard error or as NDJSON in a file.

    Lines end out of order, so a refusal waits until no earlier line is at work.
    """

    def __init__(self, log: TextIO | None, show: Any) -> None:
        self._log = log
        self._show = show
        self._at_work: dict[int, None] = {}
        self._waiting: list[tuple[int, str, str, str]] = []

    def start(self, line: int) -> None:
        """Note that a line is at work; lines start in order."""
        self._at_work[line] = None

    def end(self, line: int) -> None:
        """Note that a line is done."""
        del self._at_work[line]
        first = next(iter(self._at_work), line + 1)
        while self._waiting and self._waiting[0][0] < first:
            self._write(*heapq.heappop(self._waiting))

    def refuse(self, line: int, error: "DomainError", mapped: "Mapped | None") -> None:
        """Report a line: its number, the code, and each place in the resource with its fault."""
        faults = error.extra.get("errors") or [{"path": "", "message": error.detail}]
        for fault in faults:
            path = mapped.place(fault["path"]) if mapped and fault["path"] else fault["path"]
            heapq.heappush(self._waiting, (line, error.code, path, fault["message"]))

    def finish(self) -> None:
        """Write what waits for lines that will not end any more."""
        while self._waiting:
            self._write(*heapq.heappop(self._waiting))

    def _write(self, line: int, code: str, path: str, message: str) -> None:
        if self._log is None:
            self._show(f"line {line}: {code} {f'{path}: ' if path else ''}{message}")
        else:
            fault = {"line": line, "code": code, "path": path, "message": message}
            self._log.write(_canonical(fault).decode() + "\n")


class Reader:
    """The lines of a file with their numbers, blank ones left out, read ahead in a thread."""

    def __init__(self, file: IO[bytes], raw: IO[bytes], size: int | None) -> None:
        self.size = size
        self._file = file
        self._raw = raw
        self._number = 0
        self._ready: deque[tuple[int, bytes]] = deque()
        self._reading = asyncio.Lock()
        self._more = True

    @property
    def position(self) -> int:
        """How many bytes of the file are read."""
        return self._raw.tell()

    async def next(self) -> tuple[int, bytes] | None:
        """Return the next line and its number; ``None`` at the end. An overlong line is cut."""
        while not self._ready:
            async with self._reading:
                if not self._ready and not self._more:
                    return None
                if not self._ready:
                    # a slow pipe must not stop the loop, whose appends have deadlines
                    self._ready.extend(await asyncio.to_thread(self._read))
        return self._ready.popleft()

    def _read(self) -> list[tuple[int, bytes]]:
        lines = []
        for _ in range(_LINES_A_READ):
            line = self._read_line()
            if not line:
                self._more = False
                break
            self._number += 1
            if self._number == 1:
                line = line.removeprefix(_BOM)
            if not line.isspace() and line:
                lines.append((self._number, line))
        return lines

    def _read_line(self) -> bytes:
        try:
            line = self._file.readline(LONGEST_LINE + 1)
            rest = line
            while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
                rest = self._file.readline(LONGEST_LINE + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise CommandError(f"cannot read on after line {self._number}: {error}") from error
        return line


@dataclass(slots=True)
class _Import:
    """One run: its lines, and what becomes of them."""

    reader: Reader
    origin: Origin
    settings: "Settings"
    tally: Tally
    report: Report


def _run(job: _Import, url: str) -> None:
    import uvloop

    # What is alive now stays: the collector need not look at it for every line.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_import(job, url))


async def _import(job: _Import, url: str) -> None:
    from psycopg_pool import PoolTimeout

    from registration.eventstore.store import EventStore, StoreUnavailableError

    store = EventStore(
        url,
        ttl=timedelta(seconds=job.settings.idempotency_ttl),
        queue_limit=2 * IN_FLIGHT,
    )
    away = f"the database does not answer; {_how_far(job.tally)}"
    try:
        await store.open()
    except PoolTimeout:
        raise CommandError("cannot reach the database") from None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(_work(job, store))
    except* StoreUnavailableError:
        away = f"the database does not answer; {_how_far(job.tally)}"
        raise CommandError(away) from None
    except* CommandError as errors:
        raise _first(errors) from None
    finally:
        await store.close()


def _how_far(tally: Tally) -> str:
    return (
        f"{tally.registered:,} were registered and {tally.known:,} found, "
        "run it again to go on from there"
    )
