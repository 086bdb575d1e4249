"""`registration verify`: is the log what was written?"""

from typing import Annotated

import typer

from registration.commands import app
from registration.commands.common import DatabaseUrl, DataDir, database, load_settings
from registration.commands.progress import progress_bar


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
    with database(settings) as url, progress_bar("verifying") as progress:
        broken = list(verify_log(url, tenant, progress))
    for finding in broken:
        typer.echo(str(finding))
    if broken:
        raise typer.Exit(1)
    typer.echo("the log is whole")
