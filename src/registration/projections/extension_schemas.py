"""The read model of the schema registry: one row a published version, so that it can be listed."""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.events import Event, ExtensionSchemaPublished
from registration.eventstore.records import RecordedEvent

NAME = "extension_schemas"
VERSION = 1
EVENTS: tuple[type[Event], ...] = (ExtensionSchemaPublished,)
DDL = """
CREATE TABLE version (
    tenant       text COLLATE "C" NOT NULL,
    name         text COLLATE "C" NOT NULL,
    version      int NOT NULL,
    title        text,
    published_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, name, version)
);
"""
_INSERT = """
INSERT INTO version (tenant, name, version, title, published_at) VALUES (%s, %s, %s, %s, %s)
"""
_LIST = """
SELECT DISTINCT ON (name) name, version, title, published_at
  FROM extension_schemas.version WHERE tenant = %s AND name > %s
 ORDER BY name, version DESC LIMIT %s
"""

Connection = AsyncConnection[TupleRow]


async def apply(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Take in published versions."""
    rows = [
        (recorded.tenant, event.name, recorded.version, event.title, recorded.recorded_at)
        for recorded in events
        if isinstance(event := recorded.event, ExtensionSchemaPublished)
    ]
    async with connection.cursor() as cursor:
        await cursor.executemany(_INSERT, rows)


async def newest_versions(
    connection: Connection, tenant: str, after: str, limit: int
) -> list[dict[str, Any]]:
    """Return the newest version of each schema, by name, from the first name after ``after``."""
    cursor = await connection.execute(_LIST, (tenant, after, limit))
    return [
        {"name": name, "version": version, "title": title, "publishedAt": published_at}
        for name, version, title, published_at in await cursor.fetchall()
    ]
