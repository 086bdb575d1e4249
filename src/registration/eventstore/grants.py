"""What the role that the service connects as may do: add to the log and read it, no more.

Who owns the tables migrates them; the service has a role of its own. Its rights are granted table
by table, so that a table without an entry here is one that the service cannot touch. The functions
run with the rights of who calls them: were they to run with their owner's (``SECURITY DEFINER``),
each of them would be one more way around what is granted here.
"""

from psycopg import Connection, sql
from psycopg.errors import InsufficientPrivilege, UndefinedObject
from psycopg.rows import TupleRow

from registration.eventstore.migrations import MigrationError, alone, connect
from registration.eventstore.reserved import close_other_databases, reserve

APP_ROLE = "registration_app"
"""The service's role in the embedded PostgreSQL."""

TABLES: dict[str, str] = {
    "event": "SELECT, INSERT",
    "log_head": "SELECT, INSERT, UPDATE",
    "outcome": "SELECT, INSERT, UPDATE, DELETE",
    "personal_key": "SELECT, INSERT, UPDATE, DELETE",
    "master_key": "SELECT, INSERT, DELETE",
    "readable_event": "SELECT",
    "identifier_claim": "SELECT, INSERT, DELETE",
    "portrait_image": "SELECT, INSERT, DELETE",
    "read_model": "SELECT, INSERT, UPDATE, DELETE",
    "read_model_position": "SELECT, INSERT, UPDATE, DELETE",
    "dead_letter": "SELECT, INSERT, UPDATE, DELETE",
    "tree_node": "SELECT, INSERT, DELETE",
    "log_checkpoint": "SELECT, INSERT",
    "log_watch": "SELECT, INSERT, UPDATE",
    "device": "SELECT, INSERT, UPDATE",
    "refused_mutation": "SELECT, INSERT, UPDATE",
    "analytics_salt": "SELECT",
    "access_log": "SELECT, INSERT, DELETE",
    "access_log_writer": "SELECT, INSERT, UPDATE, DELETE",
    "access_log_gap": "SELECT, INSERT, DELETE",
    "schema_migration": "SELECT",
}
"""The tables of the schema ``registration``, and what the service does with each."""

_GRANTED = """
SELECT c.relname, string_agg(a.privilege_type, ', ')
  FROM pg_class c, aclexplode(c.relacl) a
 WHERE c.relnamespace = 'registration'::regnamespace AND c.relkind IN ('r', 'p', 'v')
   AND a.grantee = %s::regrole
 GROUP BY c.relname
"""
_MAY_COME_IN = """
SELECT has_schema_privilege(%(role)s, 'registration', 'USAGE')
       AND has_database_privilege(%(role)s, current_database(), 'CREATE')
"""
_OWNS = """
SELECT pg_has_role(%s, relowner, 'MEMBER') FROM pg_class WHERE oid = 'registration.event'::regclass
"""
_READ_MODELS = """
SELECT n.nspname, c.relname
  FROM registration.read_model m
  JOIN pg_namespace n ON n.nspname IN (m.name, m.name || '_rebuild', m.name || '_old')
  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm')
 WHERE NOT pg_has_role(%(role)s, coalesce(c.relowner, n.nspowner), 'MEMBER')
    OR NOT pg_has_role(%(role)s, n.nspowner, 'MEMBER')
 ORDER BY 1, 2
"""


def grant(url: str, role: str, *, create: bool = False) -> bool:
    """Give a role what the service needs and take what it does not; returns whether that was new.

    ``url`` is of who owns the tables, all migrations applied. Read models that somebody else made
    become the role's. ``create``: the server is ours alone, make the role where it is missing. Safe
    to call from several processes at once. Raises `MigrationError` where there is no such role,
    where it owns the tables anyway, or where who asks may not do this, and ``psycopg.Error``.
    """
    with connect(url) as connection, alone(connection):
        if create:
            _create(connection, role)
            close_other_databases(connection)
        _check(connection, role)
        with connection.transaction():
            reserved = reserve(connection, role)
        if _granted(connection, role) and not _foreign(connection, role):
            return reserved
        try:
            with connection.transaction():
                _grant(connection, role)
                _give_read_models(connection, role)
                if not _granted(connection, role):  # of which PostgreSQL only warns
                    raise InsufficientPrivilege("not everything was granted")
        except InsufficientPrivilege as error:
            raise MigrationError(
                "this needs a role that owns the database, its tables and the read models, or a "
                f"superuser: {error}"
            ) from error
    return True


def _create(connection: Connection[TupleRow], role: str) -> None:
    found = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    if found is None:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))


def _check(connection: Connection[TupleRow], role: str) -> None:
    try:
        row = connection.execute(_OWNS, (role,)).fetchone()
    except UndefinedObject as error:
        raise MigrationError(f"there is no role named {role}") from error
    if row is None or row[0]:
        raise MigrationError(
            f"{role} is a superuser, or owns the tables: no grant would bind it. "
            "Let the service have a role of its own"
        )


def _granted(connection: Connection[TupleRow], role: str) -> bool:
    row = connection.execute(_MAY_COME_IN, {"role": role}).fetchone()
    rows = connection.execute(_GRANTED, (sql.Identifier(role).as_string(),)).fetchall()
    found = {table: set(rights.split(", ")) for table, rights in rows}
    wanted = {table: set(rights.split(", ")) for table, rights in TABLES.items()}
    return bool(row and row[0]) and found == wanted


def _grant(connection: Connection[TupleRow], role: str) -> None:
    name = sql.Identifier(role)
    database = sql.Identifier(connection.info.dbname)
    for statement in (
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, name),
        sql.SQL("GRANT USAGE ON SCHEMA registration TO {}").format(name),
        sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA registration FROM {}").format(name),
    ):
        connection.execute(statement)
    for table, rights in TABLES.items():
        listed = sql.SQL(", ").join(sql.SQL(right) for right in rights.split(", "))
        connection.execute(
            sql.SQL("GRANT {} ON {} TO {}").format(
                listed, sql.Identifier("registration", table), name
            )
        )


def _foreign(connection: Connection[TupleRow], role: str) -> list[tuple[str, str | None]]:
    """Return the schemas and tables of read models that the role does not own."""
    return connection.execute(_READ_MODELS, {"role": role}).fetchall()


def _give_read_models(connection: Connection[TupleRow], role: str) -> None:
    name = sql.Identifier(role)
    for schema, table in _foreign(connection, role):
        place = sql.Identifier(schema)
        connection.execute(sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(place, name))
        if table is not None:
            place = sql.Identifier(schema, table)
            connection.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(place, name))
