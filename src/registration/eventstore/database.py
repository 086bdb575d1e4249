"""Connections to PostgreSQL with the settings that every part of the service relies on."""

from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

SCHEMA = "registration"

# psycopg's own notices stay with the caller; a hung statement, a stuck lock or a forgotten
# transaction each end by themselves, well inside a request's deadline.
_OPTIONS = (
    f"-c search_path={SCHEMA} -c statement_timeout=4000 -c lock_timeout=3000"
    " -c idle_in_transaction_session_timeout=5000 -c jit=off -c timezone=UTC"
    " -c default_transaction_isolation=read\\ committed"
)

_KEEPALIVES = "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"


Pool = AsyncConnectionPool[AsyncConnection[TupleRow]]


def pool(
    url: str, *, name: str, size: int, options: str = ""
) -> AsyncConnectionPool[AsyncConnection[TupleRow]]:
    """Return a closed pool of autocommit connections; the caller opens it.

    Waiting for a free connection ends after two seconds with ``PoolTimeout``.
    """
    return AsyncConnectionPool(
        url,
        min_size=1,
        max_size=size,
        name=name,
        open=False,
        timeout=2.0,
        reconnect_timeout=10.0,
        kwargs={"autocommit": True, **parameters(name, options)},
    )


async def connect(url: str, *, name: str, options: str = "") -> AsyncConnection[TupleRow]:
    """Return one autocommit connection that nobody else uses; ``options`` come last and win.

    A peer that is gone without a word is noticed within about ten seconds, at both ends.
    """
    options = f"{_KEEPALIVES} {options}"
    return await AsyncConnection.connect(
        url,
        autocommit=True,
        **parameters(name, options),
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=10_000,
    )


def parameters(name: str, options: str = "") -> dict[str, Any]:
    """Return the connection parameters that every connection has."""
    return {
        "options": f"{_OPTIONS} {options}",
        "connect_timeout": 3,
        "application_name": f"registration {name}",
    }
