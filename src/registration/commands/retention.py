"""`registration retention`: let portraits go that are due, now."""

import asyncio

import typer

from registration.commands import app
from registration.commands.common import DatabaseUrl, DataDir, load_settings, unlocked_database


@app.command()
def retention(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Let go of portraits whose retention date or consent has ended, and delete their bytes.

    `serve` and `project` do the same every REGISTRATION_RETENTION_INTERVAL seconds.
    """
    from registration.retention import sweep

    settings = load_settings(data_dir=data_dir, database_url=database_url)
    with unlocked_database(settings) as url:
        swept = asyncio.run(sweep(url))
    typer.echo(
        f"portraits let go: {swept.removed}, pictures deleted: {swept.deleted}, "
        f"left for later: {swept.left}"
    )
