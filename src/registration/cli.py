"""The `registration` program: the composition root, and the list of its commands."""

import sys

import psycopg
import typer

from registration.commands import (
    CommandError,
    app,
    audit,
    checkpoint,
    demo,
    desk,
    export,
    import_,
    migrate,
    mpi,
    proof,
    readmodels,
    replay,
    retention,
    rewrap,
    sample,
    serve,
    simulate,
    token,
    verify,
)
from registration.eventstore.embedded import AlreadyServing, EmbeddedPostgresError
from registration.eventstore.migrations import MigrationError
from registration.key_files import KeyFileError

__all__ = ["COMMANDS", "app", "main"]

# Importing a module registers its command; a new one is added here.
COMMANDS = (
    serve,
    token,
    migrate,
    readmodels,
    retention,
    rewrap,
    verify,
    checkpoint,
    proof,
    replay,
    audit,
    import_,
    export,
    sample,
    demo,
    desk,
    simulate,
    mpi,
)

EXPECTED_ERRORS = (
    AlreadyServing,
    CommandError,
    EmbeddedPostgresError,
    MigrationError,
    KeyFileError,
    psycopg.OperationalError,
)


def main() -> None:
    """Run the program; what a user can mend ends as one message and exit code 2."""
    try:
        app()
    except EXPECTED_ERRORS as error:
        typer.echo(f"registration: {error}", err=True)
        sys.exit(2)
