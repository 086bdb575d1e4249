"""What PostgreSQL lets every login do in a database, and only the service should.

Any login may take any advisory lock, and on these rests who migrates, who feeds a read model and
which process is alive. Any login may store large objects, even one that may only read. A superuser
takes both from everybody, and leaves the locks to the service's role and to who owns the tables.
"""

from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.rows import TupleRow

_IS_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
_FUNCTIONS = """
SELECT oid::regprocedure::text, proname ~ 'advisory',
       EXISTS (
        SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0
       ),
       has_function_privilege(%s, oid, 'EXECUTE')
  FROM pg_proc
 WHERE pronamespace = 'pg_catalog'::regnamespace
   AND proname ~ '^(pg_(try_)?advisory_|lo_|loread$|lowrite$)'
 ORDER BY 1
"""
_OWNER = """
SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'registration.event'::regclass
"""
_OPEN_DATABASES = """
SELECT datname FROM pg_database
 WHERE datname IN ('postgres', 'template1')
   AND EXISTS (
    SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0
   )
"""


class _Function(NamedTuple):
    signature: str
    locks: bool
    is_everybodys: bool
    is_the_roles: bool


def reserve(connection: Connection[TupleRow], role: str) -> bool:
    """Reserve advisory locks and large objects in this database; returns whether that was new.

    Does nothing where who asks is no superuser: docs/operations.md says what is left to do then.
    """
    if connection.execute(_IS_SUPERUSER).fetchone() != (True,):
        return False
    rows = connection.execute(_FUNCTIONS, (role,)).fetchall()
    functions = [_Function(*row) for row in rows]
    if not any(f.is_everybodys or (f.locks and not f.is_the_roles) for f in functions):
        return False
    (owner,) = connection.execute(_OWNER).fetchone() or (role,)
    everything = ", ".join(f.signature for f in functions)
    locks = ", ".join(f.signature for f in functions if f.locks)
    those = ", ".join(sql.Identifier(name).as_string() for name in (role, owner))
    connection.execute(f"REVOKE EXECUTE ON FUNCTION {everything} FROM PUBLIC".encode())
    connection.execute(f"GRANT EXECUTE ON FUNCTION {locks} TO {those}".encode())
    return True


def close_other_databases(connection: Connection[TupleRow]) -> None:
    """Let only superusers into the other databases of a server that is the service's alone."""
    for (name,) in connection.execute(_OPEN_DATABASES).fetchall():
        connection.execute(
            sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name))
        )
