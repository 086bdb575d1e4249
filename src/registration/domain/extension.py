"""Extension instances: data of a clinic's own, under a published JSON Schema."""

from collections.abc import Sequence

from registration.domain import commands, events
from registration.domain.context import Context
from registration.domain.errors import DomainError, invalid, not_found
from registration.domain.extension_schema import SchemaState
from registration.domain.json_schema import canonical, violations
from registration.domain.names import clean_text
from registration.domain.patient_state import PatientState

MOST_INSTANCES = 100
"""Extensions of one patient."""


def decide_set_extension(
    state: PatientState,
    command: commands.SetExtension,
    _context: Context,
    name: str,
    schema: SchemaState | None,
) -> Sequence[events.Event]:
    """Give the data under a schema, whole, if the version that it names accepts it."""
    if schema is None:
        raise not_found("extension schema")
    published = schema.version(command.schema_version)
    if published is None:
        raise _refused([{"path": "/schemaVersion", "message": "is not published"}])
    found = violations(published.definition, command.data)
    if found:
        raise _refused([{"path": f"/data{place}", "message": message} for place, message in found])
    known = state.extensions.get(name)
    if known is None and len(state.extensions) >= MOST_INSTANCES:
        raise invalid("", f"a patient has at most {MOST_INSTANCES} extensions")
    if (
        known is not None
        and known.schema_version == command.schema_version
        and canonical(known.data) == canonical(command.data)
    ):
        return []
    return [
        events.ExtensionSet(
            schema_name=name, schema_version=command.schema_version, data=command.data
        )
    ]


def decide_remove_extension(
    state: PatientState, command: commands.RemoveExtension, _context: Context, name: str
) -> Sequence[events.Event]:
    """Take the data under a schema away."""
    if name not in state.extensions:
        raise not_found("extension")
    reason = command.reason and clean_text(command.reason, "/reason")
    return [events.ExtensionRemoved(schema_name=name, reason=reason)]


def _refused(errors: list[dict[str, str]]) -> DomainError:
    return DomainError(
        "EXTENSION_INVALID", "The data does not fit the schema that it names.", {"errors": errors}
    )
