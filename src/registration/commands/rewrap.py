"""`registration rewrap`: put a new master key in the place of an old one."""

import typer

from registration.commands import app
from registration.commands.common import DatabaseUrl, DataDir, load_settings, unlocked_database


@app.command()
def rewrap(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Wrap the keys of all patients with the master key of the settings.

    Run it once every process has the new REGISTRATION_MASTER_KEY, and the old one among
    REGISTRATION_FORMER_MASTER_KEYS, which can go afterwards. Events stay as they are.
    """
    from registration.master_keys import rewrap as wrap_anew

    settings = load_settings(data_dir=data_dir, database_url=database_url)
    with unlocked_database(settings) as url:
        count = wrap_anew(url)
    typer.echo(f"keys wrapped anew: {count}")
