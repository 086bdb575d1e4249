"""`registration audit`: the audit trail for other programs."""

from enum import StrEnum
from typing import Annotated

import typer

from registration.commands import app
from registration.commands.common import (
    DatabaseUrl,
    DataDir,
    Tenant,
    instant_of,
    load_settings,
    unlocked_database,
)

audit = typer.Typer(
    help="What was done and what was seen, for auditors.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(audit, name="audit")


class Format(StrEnum):
    """How a line is written."""

    FHIR = "fhir"
    NDJSON = "ndjson"


@audit.callback()
def _group() -> None:
    """Keep `export` a command of a group, of which it is the only one so far."""


@audit.command()
def export(
    form: Annotated[
        Format,
        typer.Option("--format", help="fhir: R4 AuditEvent; ndjson: as /v1/audit/* shows them."),
    ] = Format.NDJSON,
    since: Annotated[
        str | None, typer.Option(help="From this instant on: 2026-11-28T09:00:00Z. [default: all]")
    ] = None,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Write every change and every read of patient data to standard output, one a line, by time.

    Where reads are missing, because a process was killed or the database away, a line says so.
    Patients are named by their ids alone; what was changed to what stays in the log.
    """
    import orjson
    import psycopg

    from registration.audit_trail import trail

    moment = None if since is None else instant_of(since, "--since")
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    with (
        unlocked_database(settings) as url,
        psycopg.connect(url, options="-c timezone=UTC") as connection,
    ):
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for record in trail(connection, tenant, moment):
            line = record.as_fhir() if form is Format.FHIR else record.as_json()
            typer.echo(orjson.dumps(line, option=orjson.OPT_UTC_Z))
