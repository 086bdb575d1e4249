"""`registration verify`: is the log what was written?"""

from functools import partial
from typing import Annotated

import typer

from registration.commands import CommandError, app
from registration.commands.common import DatabaseUrl, DataDir, database, load_settings
from registration.commands.progress import progress_bars


@app.command()
def verify(
    tenant: Annotated[
        str | None, typer.Option(help="Only this tenant's log. [default: every tenant's]")
    ] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Recompute the hash chain of the log, from its first event to its head.

    Exit code 1 when a link is broken, events are missing or the tail was cut: the first such
    place of each tenant is named.
    """
    from registration.eventstore.verify import verify_log

    settings = load_settings(data_dir=data_dir, database_url=database_url)
    with database(settings) as url, progress_bars() as progress:
        report = verify_log(url, tenant, partial(progress, "verifying"))
    if tenant is not None and not report.logs:
        raise CommandError(f"there is no log of a tenant named {tenant}")
    for log in report.logs:
        if log.broken is None:
            typer.echo(f"{log.tenant}: {log.events} events, whole, head {log.head.hex()}")
        else:
            broken = log.broken
            where = f" (stream {broken.stream_id}, version {broken.version})"
            place = where if broken.stream_id is not None else ""
            typer.echo(
                f"{log.tenant}: broken at position {broken.position}{place}: {broken.reason}"
            )
    if not report.ok:
        raise typer.Exit(1)
