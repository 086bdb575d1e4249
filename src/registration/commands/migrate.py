"""`registration migrate`: bring a database's schema up to date."""

import typer

from registration.commands import app
from registration.commands.common import DatabaseUrl, DataDir, check_reachable, load_settings
from registration.eventstore.embedded import EmbeddedPostgres
from registration.eventstore.migrations import migrate as apply


@app.command()
def migrate(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Create or update the tables. Running it again, or several at once, does no harm.

    `serve` does this by itself for the embedded PostgreSQL; an external one is yours to migrate.
    """
    settings = load_settings(database_url=database_url, data_dir=data_dir)
    if settings.database_url is None:
        with EmbeddedPostgres(settings.data_dir) as postgres:
            applied = apply(postgres.url)
    else:
        check_reachable(settings.database_url)
        applied = apply(settings.database_url)
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("nothing to do: the schema is up to date")
