"""`registration desk`: a front desk in the terminal that works without the service."""

import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from registration.commands import CommandError, app
from registration.commands.common import DataDir, load_settings

if TYPE_CHECKING:
    from rich.console import Console

    from registration.client.terminal import Terminal


@app.command()
def desk(
    file: Annotated[Path, typer.Option(help="The device's file; made when missing.")] = Path(
        "desk.db"
    ),
    url: Annotated[str, typer.Option(help="Where the service runs.")] = "http://127.0.0.1:8000",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="REGISTRATION_TOKEN",
            help="Who works here. [default: somebody called desk, by the key in the data folder]",
            show_default=False,
        ),
    ] = None,
    passphrase: Annotated[
        str | None,
        typer.Option(
            envvar="REGISTRATION_PASSPHRASE",
            help="Encrypts the file; needs the extra `cipher`.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Register and find patients in the terminal, with or without the service.

    One command a line, from the terminal or from standard input: `help` lists them. Exit code 1: a
    command of standard input failed.
    """
    from rich.console import Console

    from registration.client import Client, ClientError
    from registration.client.terminal import Terminal

    settings = load_settings(data_dir=data_dir)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # its lines would stand among the tables
    bearer = token or _own_token(settings.data_dir)
    console = Console(highlight=False, soft_wrap=False)
    try:
        with Client.open(file, url=url, token=bearer, passphrase=passphrase) as client:
            failed = _work(Terminal(client, console), console)
    except ClientError as error:
        raise CommandError(str(error)) from error
    if failed and not sys.stdin.isatty():
        raise typer.Exit(1)


def _work(terminal: "Terminal", console: "Console") -> int:
    if not sys.stdin.isatty():
        return terminal.run(sys.stdin)
    return terminal.run(_typed(terminal, console))


def _typed(terminal: "Terminal", console: "Console") -> Iterator[str]:
    """Yield what a person types, after the status line."""
    while True:
        try:
            yield console.input(f"{terminal.prompt} ", markup=False)
        except (EOFError, KeyboardInterrupt):
            console.print()
            return


def _own_token(data_dir: Path) -> str:
    """Return a token of the service's own key, where this is the machine that it runs on."""
    from registration.api.keys import KEY_FILE, issue_token, signing_key

    if not (data_dir / KEY_FILE).exists():
        raise CommandError(
            f"no --token, and no {KEY_FILE} in {data_dir} to make one: get one from whoever runs "
            "the service (registration token --role desk)"
        )
    return issue_token(signing_key(data_dir), role="desk", token_id=uuid4(), now=datetime.now(UTC))
