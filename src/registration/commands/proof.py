"""`registration proof`: prove that an event is in the log, and that the log only grew."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from pydantic import ValidationError

from registration.commands import CommandError, app
from registration.commands.common import (
    DatabaseUrl,
    DataDir,
    Tenant,
    load_settings,
)
from registration.commands.common import database as opened
from registration.commands.evidence import (
    CheckpointFile,
    PublicKeys,
    checkpoint_folder,
    public_keys,
)
from registration.eventstore import database
from registration.evidence import comparison, proofs, tree, watch
from registration.evidence.folder import FolderError
from registration.evidence.notes import NoteError
from registration.evidence.tree import Connection
from registration.settings import Settings

group = typer.Typer(
    help="Proofs about the log, for who has a signed checkpoint of it.", no_args_is_help=True
)
app.add_typer(group, name="proof")


@group.command()
def inclusion(
    position: Annotated[int | None, typer.Argument(min=1, help="The event's position.")] = None,
    event: Annotated[
        tuple[UUID, int] | None,
        typer.Option(metavar="STREAM VERSION", help="The event's stream and version instead."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Events of the tree. [default: those of the last checkpoint]"),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="With the event's own bytes: this is patient data.")
    ] = False,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Print a proof that an event is in the log, as JSON."""
    if (position is None) == (event is None):
        raise CommandError("name either a position or --event STREAM VERSION")

    settings = load_settings(data_dir=data_dir, database_url=database_url)

    async def prove(connection: Connection) -> proofs.Proof:
        at = position or 0
        if event is not None:
            at = await proofs.position_of(connection, tenant, *event)
        until = await _grown(connection, settings, tenant, size)
        return await proofs.inclusion(connection, tenant, at, until, whole=whole)

    _print(settings, prove)


@group.command()
def consistency(
    before: Annotated[int, typer.Argument(metavar="FROM", min=1, help="Events of the one tree.")],
    after: Annotated[int, typer.Argument(metavar="TO", min=1, help="Events of the later one.")],
    tenant: Tenant = "default",
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Print a proof that the log of TO events is that of FROM events with others after them."""

    settings = load_settings(data_dir=data_dir, database_url=database_url)

    async def prove(connection: Connection) -> proofs.Proof:
        await _grown(connection, settings, tenant, after)
        return await proofs.consistency(connection, tenant, before, after)

    _print(settings, prove)


@group.command()
def check(
    file: Annotated[Path, typer.Argument(help="A proof, as JSON.", dir_okay=False)],
    checkpoint: CheckpointFile = None,
    public_key: PublicKeys = None,
    data_dir: DataDir = None,
) -> None:
    """Check a proof, without a database; with --checkpoint, against what was signed too.

    Exit code 1 when it does not hold.
    """
    try:
        proof = proofs.PROOF.validate_json(file.read_bytes())
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error
    except ValidationError as error:
        raise CommandError(f"{file} is no proof: {error.error_count()} member(s) do not fit") from (
            error
        )
    try:
        roots = proofs.check(proof)
        if checkpoint is not None:
            keys = public_keys(load_settings(data_dir=data_dir), public_key)
            signed = [each for each in comparison.read(checkpoint) if each.verified(keys)]
            proofs.check_signed(proof.tenant, roots, [each.checkpoint for each in signed])
    except (proofs.ProofError, NoteError) as error:
        typer.echo(f"does not hold: {error}")
        raise typer.Exit(1) from error
    except OSError as error:
        raise CommandError(f"cannot read {checkpoint}: {error.strerror}") from error
    typer.echo("holds" if checkpoint else "holds, if these are the log's roots:")
    for size, root in roots.items():
        typer.echo(f"{proof.tenant}: {size} events, root {root.hex()}")


async def _grown(connection: Connection, settings: Settings, tenant: str, size: int | None) -> int:
    """Return the size of the tree that is asked for, once the tree is made so far."""
    if size is None:
        found = await watch.copies(connection, tenant, checkpoint_folder(settings).keys())
        if not found:
            raise proofs.ProofError("there is no checkpoint yet: name a --size")
        size = found[0].checkpoint.size
    await tree.extend(connection, tenant, size)
    return size


def _print(settings: Settings, prove: Callable[[Connection], Awaitable[proofs.Proof]]) -> None:
    async def proved(url: str) -> proofs.Proof:
        async with await database.connect(
            url, name="proof", options="-c statement_timeout=60000"
        ) as connection:
            proof = await prove(connection)
            proofs.check(proof)  # the tree that it was made from may be damaged
            return proof

    with opened(settings) as url:
        try:
            proof = asyncio.run(proved(url))
        except tree.TreeError as error:
            raise CommandError(
                "the log has not so many events, or what is kept of its tree is damaged"
            ) from error
        except (proofs.ProofError, FolderError) as error:
            raise CommandError(str(error)) from error
    typer.echo(json.dumps(proofs.as_json(proof), indent=2))
