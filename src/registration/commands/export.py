"""`registration export`: every record as FHIR NDJSON or Parquet, for analysts."""

import re
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from registration.commands import CommandError, app
from registration.commands.common import DatabaseUrl, DataDir, Tenant, database, load_settings
from registration.commands.progress import progress_bars
from registration.export.order import KINDS, RECORDS_PER_FILE, Exported, ExportError, Order
from registration.export.run import export as run
from registration.memory import collect_seldom

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


@app.command()
def export(
    form: Annotated[
        Literal["ndjson", "parquet"],
        typer.Option(
            "--format",
            help="ndjson: FHIR R4 resources; parquet: tables, with registration[parquet].",
        ),
    ] = "ndjson",
    since: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="POSITION",
            help="Only what changed after this position of the log: that of an earlier manifest.",
        ),
    ] = 0,
    tenant: Tenant = "default",
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A folder of its own; made where there is none.")
    ] = Path("export"),
    kinds: Annotated[
        str, typer.Option(help="Which, separated by commas.", show_default=True)
    ] = ",".join(KINDS),
    per_file: Annotated[
        int,
        typer.Option(
            "--records-per-file",
            min=1,
            help="How many patients and encounters make one file of each type.",
        ),
    ] = RECORDS_PER_FILE,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Write a tenant's patients, next of kin, consents and encounters into a folder.

    Each record comes as it is now, with what was merged away and entered in error. Of a patient who
    was erased nothing comes; with --since the export says who that was. The service may run
    meanwhile. The files hold patient data: only you can read them (0600, in a folder 0700).

    manifest.json is written last: where it is, the export is whole. Its "position" is what to say
    as --since next time. A run that was stopped goes on where it was when it is started again with
    the same options. See docs/export.md for what is in the files.

    Exit code 0: it is whole. 2: it could not run, or not to the end.
    """
    if not _TENANT.fullmatch(tenant):
        raise CommandError("--tenant takes letters, digits, dots, dashes and underscores")
    order = Order(tenant, form, since, _chosen(kinds), per_file)
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    start = time.monotonic()
    collect_seldom()
    with database(settings) as url, progress_bars() as progress:
        try:
            exported = run(url, order, output, progress)
        except ExportError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("interrupted; run it again to go on") from None
    typer.echo(_summary(exported, output, time.monotonic() - start))
    if exported.set_aside:
        typer.echo(
            f"{exported.set_aside} record(s) are missing or old: the read model `changes` could"
            " not take them in and set them aside (see /readyz)",
            err=True,
        )


def _chosen(kinds: str) -> tuple[str, ...]:
    said = {kind.strip() for kind in kinds.split(",") if kind.strip()}
    if not said or said - set(KINDS):
        raise CommandError(f"--kinds takes some of: {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in said)


def _summary(exported: Exported, output: Path, seconds: float) -> str:
    counts = exported.counts()
    listed = ", ".join(f"{kind} {count:,}" for kind, count in counts.items()) or "nothing"
    rate = sum(counts.values()) / seconds
    return (
        f"{listed} in {output}, all up to position {exported.position}"
        f" ({seconds:.1f} s, {rate:,.0f} a second)"
    )
