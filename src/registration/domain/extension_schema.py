"""The registry of extension schemas: a stream a schema, an event a version, none changed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from uuid import UUID, uuid5

from pydantic import Field

from registration.domain import commands, events
from registration.domain.aggregate import Aggregate, Stamp
from registration.domain.context import Context
from registration.domain.errors import DomainError, invalid
from registration.domain.json_schema import canonical, inadmissible, incompatibilities
from registration.domain.names import clean_text
from registration.domain.resources import Model

_NAMES = UUID("6f1a2a53-4c0e-5d0b-9d52-2f6f5f0a6f3e")
MOST_VERSIONS = 1000


def schema_id(name: str) -> UUID:
    """Return the id of the stream that holds the versions of a schema."""
    return uuid5(_NAMES, name)


class SchemaVersion(Model):
    """A published version of an extension schema."""

    name: str
    version: Annotated[int, Field(ge=1)]
    title: str | None = None
    compatibility: Literal["backward", "none"]
    definition: Annotated[Any, Field(alias="schema")]
    published_at: datetime
    published_by: str


class SchemaState(NamedTuple):
    """All versions of one schema, oldest first."""

    name: str
    versions: tuple[SchemaVersion, ...]

    def version(self, number: int) -> SchemaVersion | None:
        """Return one version, if it is published."""
        return self.versions[number - 1] if 1 <= number <= len(self.versions) else None


class ExtensionSchema(Aggregate[SchemaState]):
    """A schema of the registry; the wire shows its newest version."""

    KIND = "extension schema"
    EVENTS = events.ExtensionSchemaPublished
    READ_SCOPE = None
    ABOUT: ClassVar[frozenset[str]] = frozenset({"version", "publishedAt", "publishedBy"})

    @staticmethod
    def evolve(
        state: SchemaState | None, event: events.ExtensionSchemaPublished, stamp: Stamp
    ) -> SchemaState:
        """Return the state after one more version."""
        published = SchemaVersion.trusted(
            name=event.name,
            version=stamp.version,
            title=event.title,
            compatibility=event.compatibility,
            definition=event.definition,
            published_at=stamp.at,
            published_by=stamp.by,
        )
        return SchemaState(event.name, (*(state.versions if state else ()), published))

    @classmethod
    def from_shown(cls, name: str, versions: Sequence[SchemaVersion]) -> "ExtensionSchema":
        """Return the schema with all its versions, oldest first, as the wire shows each."""
        schema = cls(schema_id(name))
        schema.state = SchemaState(name, tuple(versions))
        schema.version = len(versions)
        schema.created_at = versions[0].published_at
        schema.last_updated = versions[-1].published_at
        return schema

    @property
    def path(self) -> str:
        """Where the newest version is."""
        newest = self.shown()
        return f"/v1/extension-schemas/{newest.name}/versions/{newest.version}"

    def shown(self) -> SchemaVersion:
        """Return the newest version."""
        if self.state is None:
            raise ValueError("a schema without a version cannot be shown")
        return self.state.versions[-1]


def decide_publish(
    state: SchemaState | None, command: commands.PublishSchema, _context: Context, name: str
) -> Sequence[events.Event]:
    """Publish a version, if it is admissible and compatible with the one before.

    The newest one again, to the letter, is not published twice.
    """
    title = command.title and clean_text(command.title, "/title")
    newest = None if state is None else state.versions[-1]
    if (
        newest is not None
        and canonical(newest.definition) == canonical(command.schema_)
        and newest.title == title
    ):
        return []
    if newest is not None and newest.version >= MOST_VERSIONS:
        raise invalid("", f"a schema has at most {MOST_VERSIONS} versions")
    found = inadmissible(command.schema_)
    if not found and newest is not None and command.compatibility == "backward":
        found = incompatibilities(newest.definition, command.schema_)
        if found:
            raise DomainError(
                "EXTENSION_INVALID",
                "The version before accepted what this one may refuse. If that is meant, say "
                'compatibility "none".',
                _errors(found),
            )
    if found:
        raise DomainError(
            "EXTENSION_INVALID", "The registry does not admit this schema.", _errors(found)
        )
    return [
        events.ExtensionSchemaPublished(
            name=name,
            title=title,
            compatibility=command.compatibility,
            definition=command.schema_,
        )
    ]


def _errors(found: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {"errors": [{"path": f"/schema{place}", "message": why} for place, why in found]}
