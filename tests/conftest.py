"""A PostgreSQL for the tests, a fresh database for each that asks, and one service for all.

The server is an embedded one, shared by all pytest-xdist workers of a run, unless
`REGISTRATION_TEST_DATABASE_URL` names another
(as `postgresql://...`); its role must be able to create databases and roles.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from tests.service import Clock, Desk, Service, running

import registration.cli  # noqa: F401  (all commands, in their order, whatever a test imports)
from registration.eventstore.embedded import EmbeddedPostgres
from registration.eventstore.grants import APP_ROLE, grant
from registration.eventstore.migrations import migrate
from registration.eventstore.sealing import KEYRING, master_of

MASTER_KEY = "dGhlIG1hc3RlciBrZXkgb2YgYWxsIHRoZSB0ZXN0cyE="
_SERVER_DIR = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    # The settings of whoever runs the tests are not the tests'.
    os.environ["REGISTRATION_MASTER_KEY"] = MASTER_KEY
    KEYRING.use(master_of(MASTER_KEY))
    for name in [name for name in os.environ if name.startswith("REGISTRATION_")]:
        if name not in ("REGISTRATION_TEST_DATABASE_URL", "REGISTRATION_MASTER_KEY"):
            del os.environ[name]
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.stash[_SERVER_DIR] = Path(worker["server_dir"])
    else:
        config.stash[_SERVER_DIR] = Path(tempfile.mkdtemp(prefix="registration-tests-"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    node.workerinput["server_dir"] = str(node.config.stash[_SERVER_DIR])


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[_SERVER_DIR])


@pytest.fixture(scope="session")
def database_server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server to create databases on, as the URL of a database that exists."""
    external = os.environ.get("REGISTRATION_TEST_DATABASE_URL")
    if external:
        yield external
        return
    with EmbeddedPostgres(request.config.stash[_SERVER_DIR] / "data") as postgres:
        yield postgres.url


@pytest.fixture(scope="session")
def _databases(database_server_url: str) -> Iterator["_Databases"]:
    databases = _Databases(database_server_url)
    yield databases
    databases.drop_all()


@pytest.fixture(scope="session")
def _migrated_template(_databases: "_Databases") -> str:
    name, url = _databases.create()
    migrate(url)
    grant(url, APP_ROLE)
    return name


@pytest.fixture
def empty_database_url(_databases: "_Databases") -> Iterator[str]:
    """A database of this test's own with nothing in it."""
    name, url = _databases.create()
    yield url
    _databases.drop(name)


@pytest.fixture
def database_url(_databases: "_Databases", _migrated_template: str) -> Iterator[str]:
    """A database of this test's own with the current schema."""
    name, url = _databases.create(_migrated_template)
    yield url
    _databases.drop(name)


@pytest.fixture(scope="module")
def module_database_url(_databases: "_Databases", _migrated_template: str) -> Iterator[str]:
    """A database with the current schema that the tests of one module share."""
    name, url = _databases.create(_migrated_template)
    yield url
    _databases.drop(name)


@pytest.fixture(scope="session")
def service(
    _databases: "_Databases", _migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service and its read models, on a database that all tests of the session share."""
    name, url = _databases.create(_migrated_template)
    with running(url, tmp_path_factory.mktemp("service")) as found:
        yield found
    _databases.drop(name)


@pytest.fixture
def desk(service: Service) -> Desk:
    """A registration desk in a tenant of its own."""
    return service.desk()


@pytest.fixture
def clock(service: Service) -> Iterator[Clock]:
    """The service's time; what a test moved is put right after it."""
    yield service.clock
    service.clock.ahead -= service.clock.ahead


class _Databases:
    """Creates databases with names that no other run or worker uses, and drops them."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._prefix = f"test_{uuid4().hex[:12]}"
        self._numbers = count()
        self._names: set[str] = set()

    def create(self, template: str = "template0") -> tuple[str, str]:
        name = f"{self._prefix}_{next(self._numbers)}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        if template == "template0":
            # As in production: code point order whatever the server's locale.
            statement += sql.SQL(" ENCODING 'UTF8' LOCALE 'C'")
            statement += self._provider()
        self._execute(statement)
        self._names.add(name)
        self._let_in(name)
        return name, self._url(name)

    def _let_in(self, name: str) -> None:
        """Make the role that services connect as, with the password of the tests' own."""
        role, password = sql.Identifier(APP_ROLE), sql.Literal(urlsplit(self._server_url).password)
        with psycopg.connect(self._server_url, autocommit=True) as connection:
            if not connection.execute(
                "SELECT FROM pg_roles WHERE rolname = %s", (APP_ROLE,)
            ).fetchone():
                with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                    connection.execute(
                        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, password)
                    )
            connection.execute(
                sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(name), role)
            )

    def drop(self, name: str) -> None:
        self._execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )
        self._names.discard(name)

    def drop_all(self) -> None:
        for name in sorted(self._names):
            self.drop(name)

    def _provider(self) -> sql.SQL:
        with psycopg.connect(self._server_url) as connection:
            if connection.info.server_version >= 170000:
                return sql.SQL(" LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'")
        return sql.SQL(" LOCALE_PROVIDER libc")

    def _url(self, name: str) -> str:
        return urlunsplit(urlsplit(self._server_url)._replace(path=f"/{name}"))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._server_url, autocommit=True) as connection:
            connection.execute(statement)
