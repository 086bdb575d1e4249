"""The service's own connection cannot change what was written, and can do all else that it does."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from tests.eventstore.given import TENANT, fill, next_of_kin, open_store, registered, stored
from tests.service import as_service
from typer.testing import CliRunner

from registration.cli import app
from registration.commands.common import database
from registration.eventstore.embedded import EmbeddedPostgres
from registration.eventstore.grants import APP_ROLE, TABLES, grant
from registration.eventstore.migrations import MigrationError, migrate
from registration.eventstore.verify import verify_log
from registration.projections.rebuild import rebuild
from registration.projections.registry import READ_MODELS
from registration.settings import Settings

FORBIDDEN = (
    "UPDATE event SET data = '{}'",
    "UPDATE event SET hash = hash WHERE false",
    "DELETE FROM event",
    "TRUNCATE event",
    "MERGE INTO event e USING log_head h ON e.tenant = h.tenant WHEN MATCHED THEN DELETE",
    "INSERT INTO event SELECT * FROM event ON CONFLICT (tenant, position) DO UPDATE SET data = ''",
    "SELECT FROM event FOR UPDATE",
    "LOCK TABLE event IN ACCESS EXCLUSIVE MODE",
    "ALTER TABLE event ADD COLUMN more text",
    "ALTER TABLE event DISABLE TRIGGER ALL",
    (
        "CREATE TRIGGER change BEFORE INSERT ON event"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    ),
    "CREATE RULE change AS ON INSERT TO event DO INSTEAD NOTHING",
    "CREATE INDEX more ON event (topic)",
    "DROP TABLE event",
    "DROP TABLE log_head",
    "TRUNCATE log_head",
    "DELETE FROM log_head",
    "DROP FUNCTION forget_refusals",
    "CREATE TABLE registration.more ()",
    "CREATE FUNCTION registration.sha256(text) RETURNS bytea LANGUAGE sql AS 'SELECT NULL'",
    "UPDATE log_checkpoint SET note = ''",
    "DELETE FROM log_checkpoint",
    "DELETE FROM schema_migration",
    "UPDATE schema_migration SET sha256 = ''",
    "SET ROLE postgres",
    "SET session_replication_role = replica",
    f"ALTER ROLE {APP_ROLE} SUPERUSER",
)


@pytest.fixture
def restricted(database_url: str) -> str:
    """A log of three events, as the service sees it."""

    async def scenario() -> None:
        async with open_store(as_service(database_url)) as store:
            await fill(store, 3)

    asyncio.run(scenario())
    return as_service(database_url)


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True, options="-c search_path=registration")


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_what_the_service_cannot_do(restricted: str, statement: str) -> None:
    with (
        connect(restricted) as connection,
        pytest.raises(InsufficientPrivilege),
        connection.transaction(),
    ):
        connection.execute(statement.encode())
    assert verify_log(restricted).events == 3


def test_every_table_is_granted_as_is_said(database_url: str) -> None:
    with connect(database_url) as connection:
        rows = connection.execute(
            "SELECT relname, ("
            "  SELECT array_agg(p ORDER BY p) FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE',"
            "    'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p"
            "   WHERE has_table_privilege(%s, c.oid, p))"
            "  FROM pg_class c WHERE relnamespace = 'registration'::regnamespace"
            "   AND relkind IN ('r', 'v')",
            (APP_ROLE,),
        ).fetchall()
    assert dict(rows) == {table: sorted(said.split(", ")) for table, said in TABLES.items()}
    assert TABLES["event"] == "SELECT, INSERT"


def test_the_store_does_what_it_does(restricted: str) -> None:
    """Appending with claims and keys, forgetting, loading; all else is what the API's tests do."""

    async def scenario() -> None:
        async with open_store(restricted) as store:
            stream = uuid4()
            at = ("https://ids.example", "1")
            await stored(store, registered(), stream=stream, key=uuid4(), take=[at])
            await stored(store, next_of_kin(), stream=stream, version=1, give=[at])
            assert await store.head(TENANT) == 5
            assert len(await store.read_log(TENANT, 0, 9)) == 5
            await store.forget_refusals()

    asyncio.run(scenario())
    assert verify_log(restricted).ok


def test_a_rebuild(restricted: str) -> None:
    for _ in range(2):  # the second one drops and renames what the first one made
        asyncio.run(rebuild(restricted))


def test_granting_again_takes_what_was_given_besides(database_url: str) -> None:
    assert grant(database_url, APP_ROLE) is False
    with connect(database_url) as connection:
        connection.execute(f"GRANT UPDATE, TRUNCATE ON event TO {APP_ROLE}".encode())
    assert grant(database_url, APP_ROLE) is True
    assert grant(database_url, APP_ROLE) is False
    with connect(as_service(database_url)) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute("TRUNCATE event")


@pytest.fixture
def another_role(database_server_url: str) -> Iterator[str]:
    """A role of this test's own; ask for it before the database, which has to go before it."""
    name = f"app_{uuid4().hex[:12]}"
    with connect(database_server_url) as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        yield name
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_the_command_for_an_external_database(another_role: str, database_url: str) -> None:
    run = CliRunner().invoke(
        app, ["migrate", "--database-url", database_url, "--grant", another_role]
    )
    assert run.exit_code == 0
    assert run.stdout.splitlines() == [
        "nothing to do: the schema is up to date",
        f"granted to {another_role} what the service needs",
    ]
    with connect(database_url) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(another_role)))
        connection.execute("SELECT FROM event")
        with pytest.raises(InsufficientPrivilege):
            connection.execute("DELETE FROM event")


def test_an_owner_who_is_no_superuser(another_role: str, empty_database_url: str) -> None:
    """The way of an external database: one role owns and migrates, another one serves."""
    joint = "&" if "?" in empty_database_url else "?"
    owner_url = f"{empty_database_url}{joint}options=-c%20role%3D{another_role}"
    with connect(empty_database_url) as connection:
        name = sql.Identifier(connection.info.dbname), sql.Identifier(another_role)
        connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(*name))
        connection.execute(
            sql.SQL("REVOKE CREATE ON DATABASE {} FROM {}").format(
                name[0], sql.Identifier(APP_ROLE)
            )
        )
        migrate(owner_url)
        with pytest.raises(MigrationError, match="a role that owns the database"):
            grant(owner_url, APP_ROLE)
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(*name))
        assert grant(owner_url, APP_ROLE) is True
        assert grant(owner_url, APP_ROLE) is False
        asyncio.run(rebuild(as_service(empty_database_url)))


RESERVED = (
    "SELECT pg_advisory_lock(1633903461, 1)",
    "SELECT pg_try_advisory_lock(1633903461, 1)",
    "SELECT pg_try_advisory_lock_shared(1633903461, 1)",
    "SELECT pg_try_advisory_xact_lock(1)",
    "SELECT pg_advisory_xact_lock_shared(1)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_create(0)",
    "SELECT lo_open(1, 131072)",
    "SELECT lowrite(0, 'x')",
)
"""What any login of a PostgreSQL may do, unless it is taken from everybody."""


@contextmanager
def analyst(database_url: str) -> Iterator[psycopg.Connection]:
    """The connection of a BI tool, as docs/reports.md sets it up."""
    name = sql.Identifier(f"bi_{uuid4().hex[:12]}")
    with connect(database_url) as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(name))
        connection.execute(sql.SQL("GRANT registration_analyst TO {}").format(name))
        connection.execute(sql.SQL("SET ROLE {}").format(name))
        try:
            yield connection
        finally:
            connection.execute("RESET ROLE")
            connection.execute(sql.SQL("DROP ROLE {}").format(name))


@pytest.mark.parametrize("statement", RESERVED)
def test_an_analyst_takes_no_lock_and_stores_nothing(database_url: str, statement: str) -> None:
    with analyst(database_url) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(statement.encode())


def test_what_is_given_back_to_everybody_is_taken_again(database_url: str) -> None:
    with connect(database_url) as connection:
        connection.execute("GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC")
    assert grant(database_url, APP_ROLE) is True
    assert grant(database_url, APP_ROLE) is False


def test_the_statements_for_the_administrator_of_an_external_database(
    another_role: str, empty_database_url: str
) -> None:
    """Where the owner is no superuser, ``--grant`` cannot do it; operations.md has what does."""
    migrate(empty_database_url)
    page = Path("docs/operations.md").read_text()
    (block,) = re.findall(r"```sql\n(DO .*?)```", page, re.DOTALL)
    with analyst(empty_database_url) as connection:
        connection.execute("SELECT pg_try_advisory_lock(1)")
    with connect(empty_database_url) as connection:
        connection.execute(block.replace("registration_owner", another_role).encode())
    for statement in RESERVED:
        with analyst(empty_database_url) as connection, pytest.raises(InsufficientPrivilege):
            connection.execute(statement.encode())
    for role in (APP_ROLE, another_role):
        with connect(empty_database_url) as connection:
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
            connection.execute("SELECT pg_try_advisory_lock(1)")


def test_roles_that_no_grant_would_bind(another_role: str, database_url: str) -> None:
    with pytest.raises(MigrationError, match="there is no role named nobody_at_all"):
        grant(database_url, "nobody_at_all")
    with connect(database_url) as connection:
        owner = connection.info.user
        with pytest.raises(MigrationError, match=f"{owner} is a superuser, or owns the tables"):
            grant(database_url, owner)
        connection.execute(
            sql.SQL("ALTER TABLE event OWNER TO {}").format(sql.Identifier(another_role))
        )
        with pytest.raises(MigrationError, match="owns the tables"):
            grant(database_url, another_role)


def test_read_models_that_the_owner_made_become_the_role_s(database_url: str) -> None:
    """As in a data folder of an earlier version, where one role did everything."""
    asyncio.run(rebuild(database_url))
    assert grant(database_url, APP_ROLE) is True
    asyncio.run(rebuild(as_service(database_url)))
    with connect(database_url) as connection:
        owners = connection.execute(
            "SELECT DISTINCT pg_get_userbyid(c.relowner), pg_get_userbyid(n.nspowner)"
            "  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = ANY(%s)",
            ([model.NAME for model in READ_MODELS],),
        ).fetchall()
    assert owners == [(APP_ROLE, APP_ROLE)]


@pytest.mark.slow
def test_a_data_folder_of_an_earlier_version(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its tables, its events and its read models are the superuser's, and there is no other."""
    folder = Path(tmp_path_factory.mktemp("earlier"))
    with EmbeddedPostgres(folder) as postgres:
        migrate(postgres.url)

        async def scenario() -> None:
            async with open_store(postgres.url) as store:
                await fill(store, 3)
            await rebuild(postgres.url)

        asyncio.run(scenario())
    with database(Settings(data_dir=folder)) as url:
        with connect(url) as connection:
            assert connection.info.user == APP_ROLE
            with pytest.raises(InsufficientPrivilege):
                connection.execute("DELETE FROM event")
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            connect(url.replace("/registration?", "/postgres?"))
        asyncio.run(rebuild(url))
        assert verify_log(url).events == 3
