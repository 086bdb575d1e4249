"""Extension instances of a patient, and the registry of the schemas that they follow."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from registration.api.cursors import decode_cursor, encode_cursor
from registration.api.openapi import problems
from registration.api.reading import (
    AggregateId,
    Page,
    from_view,
    json_answer,
    loaded_aggregate,
    versioned,
)
from registration.api.requests import AnyCaller, Reader, path_key
from registration.api.wire import ExtensionList, SchemaList, SchemaVersions
from registration.domain.errors import invalid, not_found
from registration.domain.extension_schema import (
    ExtensionSchema,
    SchemaState,
    SchemaVersion,
    schema_id,
)
from registration.domain.patient_resource import Patient
from registration.domain.resources import ExtensionInstance
from registration.projections.extension_schemas import NAME, newest_versions

router = APIRouter(tags=["extensions"])

SchemaName = Annotated[str, Path(alias="schema", max_length=64)]
_PROBLEMS = problems("FORBIDDEN", "NOT_FOUND", "VALIDATION_FAILED")


@router.get(
    "/v1/patients/{id}/extensions",
    operation_id="extension.list",
    summary="All extensions of a patient",
    response_model=ExtensionList,
    responses=_PROBLEMS,
)
async def extensions(request: Request, caller: Reader, patient_id: AggregateId) -> Response:
    """Return every extension instance of a patient, each with the schema version it follows."""
    patient = await loaded_aggregate(request, caller, Patient, patient_id)
    items = [instance.plain() for instance in patient.state.extensions.values()]
    return json_answer({"items": items, "next": None}, {"ETag": f'"{patient.version}"'})


@router.get(
    "/v1/patients/{id}/extensions/{schema}",
    operation_id="extension.read",
    summary="One extension of a patient",
    response_model=ExtensionInstance,
    responses=_PROBLEMS,
)
async def extension(
    request: Request, caller: Reader, patient_id: AggregateId, _schema: SchemaName
) -> Response:
    """Return an instance as it was accepted, whatever became of its schema since."""
    name = path_key(request, "schema", "extension")
    patient = await loaded_aggregate(request, caller, Patient, patient_id)
    instance = patient.state.extensions.get(name)
    if instance is None:
        raise not_found("extension")
    return versioned(request, instance.version, instance.plain())


@router.get(
    "/v1/extension-schemas",
    operation_id="extension_schema.list",
    summary="The extension schemas that there are",
    response_model=SchemaList,
    responses=problems("VALIDATION_FAILED", "READ_MODEL_BEHIND"),
)
async def schemas(request: Request, caller: AnyCaller, page: Annotated[Page, Query()]) -> Response:
    """Return the newest version of each schema, by name, without the schema itself."""
    after = "" if page.cursor is None else decode_cursor(page.cursor)
    if not isinstance(after, str):
        raise invalid("/cursor", "is no cursor of this list")
    found = await from_view(
        request,
        NAME,
        caller.tenant,
        page.min_position,
        lambda view: newest_versions(view, caller.tenant, after, page.limit + 1),
    )
    items = found[: page.limit]
    more = len(found) > page.limit
    return json_answer({"items": items, "next": encode_cursor(items[-1]["name"]) if more else None})


@router.get(
    "/v1/extension-schemas/{schema}",
    operation_id="extension_schema.read",
    summary="One extension schema with all its versions",
    response_model=SchemaVersions,
    responses=problems("NOT_FOUND"),
)
async def schema(request: Request, caller: AnyCaller, _schema: SchemaName) -> Response:
    """Return every version of a schema, oldest first."""
    found = await _published(request, caller)
    items = [version.plain() for version in found.versions]
    return json_answer({"items": items, "next": None}, {"ETag": f'"{len(items)}"'})


@router.get(
    "/v1/extension-schemas/{schema}/versions/{version}",
    operation_id="extension_schema.version",
    summary="One version of an extension schema",
    response_model=SchemaVersion,
    responses=problems("NOT_FOUND"),
)
async def schema_version(
    request: Request,
    caller: AnyCaller,
    _schema: SchemaName,
    version: Annotated[int, Path(ge=1, le=1_000_000)],
) -> Response:
    """Return one version, which never changes."""
    found = (await _published(request, caller)).version(version)
    if found is None:
        raise not_found("version of the extension schema")
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return versioned(request, version, found.plain(), headers)


async def _published(request: Request, caller: AnyCaller) -> SchemaState:
    name = path_key(request, "schema", "extension schema")
    found: SchemaState = (
        await loaded_aggregate(request, caller, ExtensionSchema, schema_id(name))
    ).state
    return found
