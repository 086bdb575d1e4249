"""`registration migrate`: bring a database's schema up to date."""

from typing import Annotated

import typer

from registration.commands import app
from registration.commands.common import DatabaseUrl, DataDir, check_reachable, load_settings
from registration.eventstore.embedded import EmbeddedPostgres
from registration.eventstore.grants import APP_ROLE
from registration.eventstore.grants import grant as apply_grants
from registration.eventstore.migrations import migrate as apply


@app.command()
def migrate(
    grant: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            help="Grant the role that the service connects as what it needs, and nothing else: of "
            "events, to add and to read them.",
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Create or update the tables. Running it again, or several at once, does no harm.

    `serve` does this by itself for the embedded PostgreSQL, grants included; an external one is
    yours to migrate, as the role that owns the tables.
    """
    settings = load_settings(database_url=database_url, data_dir=data_dir)
    if settings.database_url is None:
        with EmbeddedPostgres(settings.data_dir) as postgres:
            _migrate(postgres.url, grant or APP_ROLE, create=grant is None)
    else:
        check_reachable(settings.database_url)
        _migrate(settings.database_url, grant)


def _migrate(url: str, role: str | None, *, create: bool = False) -> None:
    applied = apply(url)
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("nothing to do: the schema is up to date")
    if role is not None and apply_grants(url, role, create=create):
        typer.echo(f"granted to {role} what the service needs")
