"""`registration import`: FHIR R4 Patient resources from a file, through the gate, many at once."""

import asyncio
import gzip
import heapq
import logging
import re
import sys
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, cast
from uuid import UUID

import orjson
import typer
import uuid_utils.compat as uuids
import uvloop
from psycopg_pool import PoolTimeout
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from registration.api.json_body import parse
from registration.command import Command, Refusal
from registration.commands import CommandError, app
from registration.commands.common import (
    DatabaseUrl,
    DataDir,
    Tenant,
    load_settings,
    unlocked_database,
)
from registration.domain.commands import RegisterPatient
from registration.domain.context import Context
from registration.domain.contract import Operation
from registration.domain.errors import DomainError
from registration.domain.patient import decide_register
from registration.domain.validation import validation_failed
from registration.eventstore.store import EventStore, LoadRequest, StoreUnavailableError
from registration.fhir import Mapped, map_patient
from registration.gate import Gate
from registration.master_keys import secret_of
from registration.memory import collect_seldom

if TYPE_CHECKING:
    from io import BufferedReader

IN_FLIGHT = 768
"""Lines at work at once: thrice what one append call takes, so that the next call is ready."""
LONGEST_LINE = 16 * 1024 * 1024
TOO_LONG = "LINE_TOO_LONG"
SOURCE_CHANGED = "SOURCE_CHANGED"

_LINES_A_READ = 512
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_SCOPES = frozenset({"patient:write", "patient:read"})
_USES = ("usual", "official", "secondary", None, "temp", "old")
_MADE_IDS = {name: {"__all__": {"id"}} for name in ("names", "identifiers", "next_of_kin")}
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_FACILITY = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
# The store keeps refusals only for commands with a key of their own: none here.
_NOT_USED = timedelta(days=1)


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
            "alike. Say the same each time.",
            show_default=False,
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

    The id of a patient follows from a secret of the tenant, --source and the resource's id, or else
    one of its identifiers, or else its content. The same record with other content is refused
    (SOURCE_CHANGED), not registered twice. What FHIR says that has no place here is left out, and
    the summary counts it; the dead, the inactive and the replaced are refused (NOT_REPRESENTABLE).

    Exit code 0: all are in. 1: some lines were refused. 2: it could not run, or not to the end.
    """
    if not _TENANT.fullmatch(tenant):
        raise CommandError("--tenant takes letters, digits, dots, dashes and underscores")
    if facility is not None and not _FACILITY.fullmatch(facility):
        raise CommandError("--facility takes letters, digits, dots, dashes and underscores")
    if not 0 < len(actor) <= 255 or not actor.isprintable():
        raise CommandError("--actor takes a short text")
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    with open_lines(file) as lines, unlocked_database(settings) as url:
        namespace = UUID(bytes=secret_of(url, tenant)[:16])
        origin = Origin(tenant, source, namespace, actor, facility, settings.identifier_systems)
        tally = run(lines, origin, url, errors)
    typer.echo(tally.summary())
    if tally.refused:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the patients come from, as far as their resources do not say it."""

    tenant: str
    source: str
    namespace: UUID
    actor: str
    facility: str | None
    identifier_systems: Mapping[str, str]

    def patient_id(self, resource: Mapping[str, Any], mapped: Mapped) -> UUID:
        """Return the patient's id: always the same for the same record of the same source.

        By the resource's ``id``, which a FHIR server gives to one record only; without one by an
        identifier (a ``usual`` one first, then by system and value, so that their order does not
        matter); without any by the content: the same line is then the same patient.

        The namespace is a secret: whoever has an id alone must not find out whose it is by trying
        numbers, for ids outlive the erasure of a patient.
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
        return uuids.uuid5(self.namespace, _canonical([self.source, *record]).decode())

    def context(self, facility: str | None) -> Context:
        """Return what the decision about one line may know."""
        return Context(
            now=datetime.now(UTC),
            new_id=uuids.uuid7,
            tenant=self.tenant,
            actor=self.actor,
            scopes=_SCOPES,
            facility=facility or self.facility,
            client=self.source or None,
            identifier_systems=self.identifier_systems,
        )


def _preference(identifier: Mapping[str, Any]) -> tuple[int, str, str]:
    use = identifier.get("use")
    rank = _USES.index(use) if use in _USES else len(_USES)
    return rank, str(identifier["system"]), str(identifier["value"])


def _canonical(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


@dataclass(slots=True)
class Tally:
    """What became of the lines so far."""

    registered: int = 0
    known: int = 0
    refused: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    def summary(self) -> str:
        """Return the account of the run, in a line or two."""
        seconds = time.monotonic() - self.started
        rate = (self.registered + self.known + self.refused) / seconds
        text = (
            f"{self.registered:,} registered, {self.known:,} already there, "
            f"{self.refused:,} refused ({seconds:.1f} s, {rate:,.0f} a second)"
        )
        if self.left_out:
            counts = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
            listed = ", ".join(f"{element} {count:,}" for element, count in counts)
            text += f"\nleft out, having no place here (of how many patients): {listed}"
        return text

    def stopped(self, why: str) -> CommandError:
        """Return the error of a run that did not get to the end."""
        return CommandError(
            f"{why}: {self.registered:,} registered and {self.known:,} found already there by "
            "then; run it again to go on"
        )


class Lines:
    """The lines of a file with their numbers, without blank ones, read ahead in a thread."""

    def __init__(self, file: IO[bytes], raw: IO[bytes], size: int | None) -> None:
        self.size = size
        self._file = file
        self._raw = raw
        self._number = 0
        self._ready: deque[tuple[int, bytes]] = deque()
        self._reading = asyncio.Lock()
        self._more = True

    def position(self) -> int:
        """Return how many bytes are read of a file whose size is known."""
        return self._raw.tell() if self.size is not None else 0

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
            if line and not line.isspace():
                lines.append((self._number, line))
        return lines

    def _read_line(self) -> bytes:
        try:
            line = rest = self._file.readline(LONGEST_LINE + 1)
            while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
                rest = self._file.readline(LONGEST_LINE + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise _Unreadable(f"cannot read on after line {self._number} ({error})") from error
        return line


class _Unreadable(Exception):
    """The file broke off."""


@contextmanager
def open_lines(file: str) -> Iterator[Lines]:
    """Open a file, or standard input for ``-``, gzipped or not. Raises `CommandError`."""
    standard_input = file == "-"
    try:
        raw = sys.stdin.buffer if standard_input else Path(file).open("rb")  # noqa: SIM115 (below)
        head = cast("BufferedReader", raw).peek(len(_GZIP))[: len(_GZIP)]
        # what comes through a pipe has no size, and no place in it to tell
        size = Path(file).stat().st_size if not standard_input and raw.seekable() else None
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error
    with nullcontext() if standard_input else raw:
        yield Lines(
            cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if head == _GZIP else raw, raw, size
        )


class Report:
    """The refused lines, in the order of the file.

    Lines end out of order, so a refusal waits until no earlier line is at work.
    """

    def __init__(self, write: Callable[[int, str, str, str], None]) -> None:
        self._write = write
        self._at_work: dict[int, None] = {}
        self._waiting: list[tuple[int, str, str, str]] = []

    def start(self, line: int) -> None:
        """Note that a line is at work. Lines start in order."""
        self._at_work[line] = None

    def end(self, line: int) -> None:
        """Note that a line is done."""
        del self._at_work[line]
        first = next(iter(self._at_work), None)
        while self._waiting and (first is None or self._waiting[0][0] < first):
            self._write(*heapq.heappop(self._waiting))

    def refuse(self, line: int, error: DomainError, mapped: Mapped | None) -> None:
        """Report the code, and each place in the resource with what is wrong there."""
        for fault in error.extra.get("errors") or [{"path": "", "message": error.detail}]:
            path = mapped.place(fault["path"]) if mapped and fault["path"] else fault["path"]
            heapq.heappush(self._waiting, (line, error.code, path, fault["message"]))


def run(lines: Lines, origin: Origin, url: str, errors: Path | None) -> Tally:
    """Import every line, reporting the refused ones to ``errors``, or else to standard error.

    Raises `CommandError` where it cannot go on; what is registered by then stays.
    """
    tally = Tally()
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # what matters ends the import
    with _progress(lines, tally) as (show, advance), _writer(errors, show) as write:
        # What is alive now stays: the collector need not look at it for every line.
        collect_seldom()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_import(lines, origin, url, tally, Report(write), advance))
        except StoreUnavailableError:
            raise tally.stopped("the database does not answer") from None
        except _Unreadable as error:
            raise tally.stopped(str(error)) from error
        except KeyboardInterrupt:
            raise tally.stopped("interrupted") from None
    return tally


async def _import(
    lines: Lines,
    origin: Origin,
    url: str,
    tally: Tally,
    report: Report,
    advance: Callable[[], None],
) -> None:
    store = EventStore(url, ttl=_NOT_USED, queue_limit=2 * IN_FLIGHT)
    try:
        await store.open()
    except PoolTimeout:
        raise StoreUnavailableError("open") from None
    worker = _Worker(lines, origin, store, tally, report, advance)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(worker.work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        await store.close()


class _Worker:
    """Takes lines until there are no more; many of it work side by side."""

    def __init__(
        self,
        lines: Lines,
        origin: Origin,
        store: EventStore,
        tally: Tally,
        report: Report,
        advance: Callable[[], None],
    ) -> None:
        self._lines = lines
        self._origin = origin
        self._store = store
        self._gate = Gate(store)
        self._tally = tally
        self._report = report
        self._advance = advance

    async def work(self) -> None:
        """Work until the lines end, or something other than a line is wrong."""
        while (entry := await self._lines.next()) is not None:
            number, line = entry
            self._report.start(number)
            try:
                await self._take(number, line)
            finally:
                self._report.end(number)
            if number % 256 == 0:
                self._advance()

    async def _take(self, number: int, line: bytes) -> None:
        mapped = None
        try:
            resource = _parse(line)
            mapped = map_patient(resource)
            payload = _payload(mapped)
            patient_id = self._origin.patient_id(resource, mapped)
            # An id of our choosing makes the create idempotent; a key would have the store
            # remember refusals as well, and a refused line may well go in next time.
            command = Command(Operation.REGISTER_PATIENT, payload, mapped.said, patient_id)
            context = self._origin.context(mapped.said.get("facility"))
            new = await self._register(command, context)
        except DomainError as error:
            self._tally.refused += 1
            self._report.refuse(number, error, mapped)
            return
        if new:
            self._tally.registered += 1
        else:
            self._tally.known += 1
        self._tally.left_out.update(mapped.left_out)

    async def _register(self, command: Command, context: Context) -> bool:
        """Register the patient; ``False`` where an earlier run, or an earlier line, did."""
        try:
            reply = await self._gate.handle(command, context)
        except Refusal as refusal:
            if refusal.error.code != "ID_TAKEN":
                raise _told(refusal.error) from None
            # registered before, by another actor or from another content
            if not await self._says_the_same(command, context):
                raise DomainError(
                    SOURCE_CHANGED,
                    "This record was imported before, with other content; correct the patient.",
                    {"patientId": str(command.aggregate_id)},
                ) from None
            return False
        return not reply.replayed

    async def _says_the_same(self, command: Command, context: Context) -> bool:
        stream = LoadRequest(context.tenant, command.aggregate_id, until=1)
        stored = (await self._store.load(stream)).events[0].event
        (said,) = decide_register(None, cast("RegisterPatient", command.payload), context)
        return type(stored) is type(said) and _content(stored) == _content(said)


def _content(event: Any) -> dict[str, Any]:
    """Return an event without the ids that the server made."""
    content: dict[str, Any] = event.model_dump(exclude=_MADE_IDS)
    return content


def _parse(line: bytes) -> Any:
    if len(line) > LONGEST_LINE:
        raise DomainError(TOO_LONG, f"The line has more than {LONGEST_LINE:,} bytes.")
    return parse(line)


def _payload(mapped: Mapped) -> RegisterPatient:
    try:
        return RegisterPatient.model_validate(mapped.said)
    except ValidationError as error:
        raise validation_failed(error.errors(include_input=False, include_url=False)) from None


def _told(error: DomainError) -> DomainError:
    """Return a refusal with what the report needs."""
    holder = error.extra.get("patientId")
    if holder is None:
        return error
    fault = {"path": "/identifiers", "message": f"one of them is held by the patient {holder}"}
    return DomainError(error.code, error.detail, {"errors": [fault]})


@contextmanager
def _progress(
    lines: Lines, tally: Tally
) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """Draw a bar; yields how to write a line above it, and how to bring it up to date."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn(), TextColumn("{task.fields[n]}"))
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("importing", total=lines.size, n="")

        def advance() -> None:
            counts = f"{tally.registered:,} in, {tally.known:,} known, {tally.refused:,} refused"
            bar.update(task, completed=lines.position(), n=counts)

        yield console.print, advance


@contextmanager
def _writer(
    errors: Path | None, show: Callable[[str], None]
) -> Iterator[Callable[[int, str, str, str], None]]:
    """Yield how a refused line is written: for people, or as NDJSON into a file."""
    if errors is None:
        yield lambda line, code, path, message: show(
            f"line {line}: {code} {f'{path}: ' if path else ''}{message}"
        )
        return
    try:
        file = errors.open("wb")
    except OSError as error:
        raise CommandError(f"cannot write {errors}: {error.strerror}") from error

    def write(line: int, code: str, path: str, message: str) -> None:
        fault = {"line": line, "code": code, "path": path, "message": message}
        file.write(orjson.dumps(fault) + b"\n")

    with file:
        yield write
