"""What several commands share: their options, the settings and the database."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import psycopg
import typer
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError
from pydantic_settings import SettingsError

from registration.commands import CommandError
from registration.eventstore.embedded import EmbeddedPostgres, EmbeddedPostgresError
from registration.eventstore.grants import APP_ROLE, grant
from registration.eventstore.migrations import migrate, pending
from registration.eventstore.sealing import MasterKeyError
from registration.master_keys import unlock
from registration.mpi.model import ModelError
from registration.projections import matching_model
from registration.settings import Settings

logger = logging.getLogger(__name__)

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the embedded PostgreSQL and the signing key. "
        "[env: REGISTRATION_DATA_DIR] [default: .registration]",
        show_default=False,
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="An external PostgreSQL, 15 or newer: postgresql://user@host/database. "
        "[env: REGISTRATION_DATABASE_URL] [default: the embedded one]",
        show_default=False,
    ),
]


def checked_tenant(value: str | None) -> str | None:
    """Return a tenant's name. Raises `CommandError` where the database could not hold it."""
    try:
        if value is None or (value.encode() and "\0" not in value):
            return value
    except UnicodeEncodeError:  # bytes that the shell passed on
        pass
    raise CommandError("--tenant takes text")


Tenant = Annotated[
    str,
    typer.Option(
        help="The tenant, as in the `tenant` claim of tokens.",
        callback=checked_tenant,
    ),
]


def load_settings(**options: Any) -> Settings:
    """The settings, with the options that were given (not None) on top. Sets up logging.

    Raises `CommandError` when they are invalid, without repeating the values.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        problems = "; ".join(_describe(problem) for problem in error.errors())
        raise CommandError(f"invalid settings: {problems}") from error
    except SettingsError as error:
        raise CommandError(f"invalid settings: {error}") from error
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells paths and queries
    return settings


@contextmanager
def database(settings: Settings, *, revive: bool = False) -> Iterator[str]:
    """The URL of the database with its schema up to date: the external one, or the embedded.

    The embedded server is joined or started, and migrated, and the URL is of a role that may not
    change events; with `revive` it is also started again when it dies meanwhile. An external one
    is only looked at.
    Raises `CommandError` when it cannot be reached or its schema is not what this version needs.
    """
    if settings.database_url is not None:
        _check_schema(settings.database_url)
        yield settings.database_url
        return
    with EmbeddedPostgres(settings.data_dir) as postgres:
        migrate(postgres.url)
        grant(postgres.url, APP_ROLE, create=True)
        with _revived(postgres) if revive else nullcontext():
            yield postgres.url_of(APP_ROLE)


@contextmanager
def unlocked_database(settings: Settings, *, revive: bool = False) -> Iterator[str]:
    """The URL of the database, as `database` gives it, and this process able to open its events.

    Raises `CommandError` also without the database's master key.
    """
    with database(settings, revive=revive) as url:
        try:
            unlock(settings, url)
        except MasterKeyError as error:
            raise CommandError(str(error)) from error
        yield url


@contextmanager
def _revived(postgres: EmbeddedPostgres) -> Iterator[None]:
    leaving = threading.Event()

    def watch() -> None:
        while not leaving.wait(0.5):
            try:
                postgres.ensure_running()
            except EmbeddedPostgresError as error:
                logger.error("%s", error)

    watcher = threading.Thread(target=watch, name="watch-postgres")
    watcher.start()
    try:
        yield
    finally:
        leaving.set()
        watcher.join()


def instant_of(text: str, option: str) -> datetime:
    """Return the instant that an option says. Raises `CommandError` for what is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option} takes an instant like 2026-11-28T09:00:00Z") from None
    if moment.tzinfo is None:
        raise CommandError(f"{option} needs an offset, such as Z")
    return moment


def use_matching_model(settings: Settings) -> None:
    """Have this process compare records by the model of the settings.

    Raises `CommandError` where it cannot be used.
    """
    try:
        matching_model.use(settings.mpi_model)
    except ModelError as error:
        raise CommandError(str(error)) from error


def check_reachable(url: str) -> None:
    """Raise a `CommandError` of one line, without the password, unless the database answers."""
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise CommandError(f"cannot reach the database at {_place(url)}: {reason}") from error


def _check_schema(url: str) -> None:
    check_reachable(url)
    missing = pending(url)
    if missing:
        raise CommandError(
            f"the database schema is behind by {len(missing)} migration(s). To mend it, run:\n"
            f"  registration migrate --database-url {without_password(url)}"
        )


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    password = urlsplit(url).password
    return url if not password else url.replace(f":{password}@", ":***@", 1)


def _place(url: str) -> str:
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "the given URL"
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}"


def _describe(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" if name else message
