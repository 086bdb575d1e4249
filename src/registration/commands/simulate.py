"""`registration simulate`: devices, people and faults, all decided by a seed."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from registration.commands import app
from registration.commands.common import DatabaseUrl, load_settings, unlocked_database
from registration.commands.progress import progress_bars


@app.command()
def simulate(
    seed: Annotated[int, typer.Option(help="The first seed.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, one after the other.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each run.")] = 50,
    trace: Annotated[bool, typer.Option("--trace", help="Show every step.")] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Let devices and people loose on a real service while everything fails that can.

    A run is a tenant of its own on a service of its own, with a PostgreSQL in a folder that is
    deleted afterwards; with a database URL the events stay there. Answers get lost, arrive twice
    or late; devices crash; clocks jump by years; days pass; the service is killed. Then the faults
    stop, and it is checked that nothing was lost, nothing happened twice, nothing was overwritten
    unseen, and every device holds the truth of its scope. The same seed gives the same trace.

    Exit code 1: something does not hold; the seed, what it is and the trace are shown.
    """
    from registration.simulation.run import Broken
    from registration.simulation.run import simulate as run
    from registration.simulation.world import World

    broken = 0
    with tempfile.TemporaryDirectory(prefix="registration-simulate-") as folder:
        settings = load_settings(data_dir=Path(folder), database_url=database_url)
        with (
            unlocked_database(settings) as url,
            World(url, settings.data_dir).running() as world,
            progress_bars() as advance,
        ):
            for number in range(seed, seed + seeds):
                try:
                    told = run(world, number, steps)
                except Broken as error:
                    broken += 1
                    typer.echo("\n".join([*error.trace, str(error)]))
                else:
                    if trace:
                        typer.echo("\n".join(told))
                advance("seeds", number - seed + 1, seeds)
    typer.echo(f"{seeds - broken} of {seeds} seeds hold")
    if broken:
        raise typer.Exit(1)
