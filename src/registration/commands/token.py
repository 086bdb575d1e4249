"""`registration token`: a bearer token of the embedded issuer."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated
from uuid import uuid4

import typer

from registration.commands import CommandError, app
from registration.commands.common import DataDir, Tenant, load_settings


class Role(StrEnum):
    """Who a token is for."""

    desk = "desk"
    analyst = "analyst"
    auditor = "auditor"
    mpi = "mpi"
    privacy = "privacy"
    admin = "admin"


@app.command()
def token(
    role: Annotated[
        Role,
        typer.Option(
            help="desk: registers patients and encounters, proposes merges, synchronises. "
            "analyst: reads reports. auditor: reads the log and patients. "
            "mpi: decides on merges. admin: everything."
        ),
    ],
    tenant: Tenant = "default",
    facility: Annotated[str | None, typer.Option(help="The facility stamped on events.")] = None,
    sub: Annotated[
        str | None, typer.Option(help="The subject: who acts. [default: the role]")
    ] = None,
    data_dir: DataDir = None,
    ttl: Annotated[int, typer.Option(min=1, help="Seconds until it expires.")] = 12 * 3600,
) -> None:
    """Print a bearer token, and nothing else, for a service with its own signing key.

    Use it as `curl -H "Authorization: Bearer $(registration token --role desk)" ...`.
    The key is made in the data folder when missing.
    """
    from registration.api.auth import TENANT
    from registration.api.keys import issue_token, signing_key

    settings = load_settings(data_dir=data_dir)
    if settings.jwks_url is not None:
        raise CommandError(f"tokens come from the issuer of {settings.jwks_url}, not from here")
    if not TENANT.fullmatch(tenant):
        raise CommandError("a tenant is 1 to 63 letters, digits, dots, hyphens and underscores")
    typer.echo(
        issue_token(
            signing_key(settings.data_dir),
            role=role,
            token_id=uuid4(),
            now=datetime.now(UTC),
            ttl=timedelta(seconds=ttl),
            subject=sub,
            tenant=tenant,
            facility=facility,
        )
    )
