"""`registration replay`: a stream, event by event, with what each one changed."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from registration.commands import CommandError, app
from registration.commands.common import (
    DatabaseUrl,
    DataDir,
    Tenant,
    instant_of,
    load_settings,
    unlocked_database,
)
from registration.printing import printable

if TYPE_CHECKING:
    from registration.domain.timeline import Step
    from registration.eventstore.records import RecordedEvent

_READ = """
SELECT * FROM registration.readable_event
 WHERE tenant = %s AND stream_id = %s ORDER BY version
"""


@app.command()
def replay(
    stream: Annotated[UUID, typer.Argument(help="The id of a patient, encounter or merge.")],
    tenant: Tenant = "default",
    until: Annotated[int | None, typer.Option(min=1, help="Up to this version.")] = None,
    as_of: Annotated[
        str | None,
        typer.Option(help="Up to this instant, with its offset: 2026-11-28T09:00:00Z."),
    ] = None,
    step: Annotated[
        bool, typer.Option(help="In a terminal: wait for a key after each event; q ends it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Print what happened to one record, event by event: when, by whom, what changed, the hash.

    It shows patient data. Exit code 2: there is no such stream, or the options clash.
    """
    from registration.domain.timeline import kind_of, steps

    if until is not None and as_of is not None:
        raise CommandError("--until and --as-of say the same thing in two ways: give one")
    moment = None if as_of is None else instant_of(as_of, "--as-of")
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    with unlocked_database(settings) as url:
        history = _read(url, tenant, stream)
    if not history:
        raise CommandError(f"tenant {tenant} has no stream {stream}")
    history = [
        event
        for event in history
        if (until is None or event.version <= until)
        and (moment is None or event.recorded_at <= moment)
    ]
    if not history:
        typer.echo("nothing had been recorded by then")
        return
    _print(list(steps(kind_of(history[0].event), stream, history)), as_json, wait=step)


def _read(url: str, tenant: str, stream: UUID) -> "Sequence[RecordedEvent]":
    import psycopg

    from registration.eventstore.records import RecordedEvent

    with psycopg.connect(url, options="-c timezone=UTC") as connection:
        rows = connection.execute(_READ, (tenant, stream), binary=True).fetchall()
    return [RecordedEvent(*row) for row in rows]


def _print(found: "Sequence[Step]", as_json: bool, *, wait: bool) -> None:
    for number, step in enumerate(found, 1):
        typer.echo(_as_json(step) if as_json else _as_text(step))
        if wait and number < len(found) and sys.stdin.isatty() and sys.stdout.isatty():
            import click

            if click.getchar() in ("q", "\x03", "\x04"):
                return


def _as_json(step: "Step") -> str:
    record: Any = step.record
    shown = {
        "version": record.version,
        "position": record.position,
        "at": record.recorded_at.isoformat(),
        "actor": record.meta["actor"],
        "type": record.topic,
        "differences": [difference._asdict() for difference in step.differences],
        "hash": record.hash.hex(),
    }
    return json.dumps(shown, ensure_ascii=False)


def _as_text(step: "Step") -> str:
    record: Any = step.record
    head = f"{record.version}  {record.recorded_at.isoformat()}  {record.topic}"
    lines = [f"{head}  by {_value(record.meta['actor'])}"]
    lines += [
        f"    {printable(path)}: {_value(before)} -> {_value(after)}"
        for path, before, after in step.differences
    ]
    return "\n".join([*lines, f"    hash {record.hash.hex()}"])


def _value(value: Any) -> str:
    return "-" if value is None else printable(json.dumps(value, ensure_ascii=False))
