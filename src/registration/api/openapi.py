"""The OpenAPI 3.1 document: FastAPI's for the queries, the command table's for the commands."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from registration.api.command_table import COMMAND_ROUTES, IMAGES, CommandRoute
from registration.api.mpi_wire import MatchQuery
from registration.api.problems import PROBLEM_JSON, PROBLEMS
from registration.api.purpose import PARAMETERS, SCHEMAS
from registration.api.push import Push, QueuedMutation
from registration.api.wire import Deceased, ProblemDetails, Receipt, ShownEncounter, Unmerged
from registration.domain.aggregate import Aggregate
from registration.domain.candidate import Dismissal
from registration.domain.contract import Operation, Resource, rules_for
from registration.domain.encounter import Encounter
from registration.domain.erasure import Erasure, ErasureResource
from registration.domain.extension_schema import ExtensionSchema, SchemaVersion
from registration.domain.handlers import HANDLERS
from registration.domain.merge import Merge, MergeResource
from registration.domain.patient_resource import Patient, PatientResource
from registration.domain.resources import Consent, ExtensionInstance

_REF = "#/components/schemas/"
_UUID = {"type": "string", "format": "uuid"}
_KEY_PATTERN = r'^([!#-\[\]-~]{1,255}|"([ !#-\[\]-~]|\\["\\]){1,255}")$'
_NAME = {"type": "string", "pattern": "^[a-z][a-z0-9]*(-[a-z0-9]+)*$", "maxLength": 64}
_TAGS = (
    "patients",
    "consents",
    "portraits",
    "extensions",
    "encounters",
    "mpi",
    "erasures",
    "sync",
    "audit",
    "reports",
    "operations",
)
_TAG_OF = {
    Resource.CONSENT: "consents",
    Resource.PORTRAIT: "portraits",
    Resource.EXTENSION: "extensions",
    Resource.EXTENSION_SCHEMA: "extensions",
    Resource.ENCOUNTER: "encounters",
    Resource.MERGE_DECISION: "mpi",
    Resource.ERASURE: "erasures",
}
_ANSWERS: dict[Operation, type[BaseModel]] = {
    Operation.SET_CONSENT: Consent,
    Operation.SET_EXTENSION: ExtensionInstance,
    Operation.RECORD_DEATH: Deceased,
    Operation.OPEN_ENCOUNTER: ShownEncounter,
    Operation.TRANSITION_ENCOUNTER: ShownEncounter,
    Operation.PUBLISH_SCHEMA: SchemaVersion,
    Operation.PROPOSE_MERGE: MergeResource,
    Operation.APPROVE_MERGE: MergeResource,
    Operation.REJECT_MERGE: MergeResource,
    Operation.UNMERGE: Unmerged,
    Operation.DISMISS_CANDIDATE: Dismissal,
    Operation.REQUEST_ERASURE: ErasureResource,
    Operation.APPROVE_ERASURE: ErasureResource,
    Operation.REFUSE_ERASURE: ErasureResource,
}
"""What a command answers with, where that is not the patient."""
_ABOUT_SOMEBODY = ("/v1/patients/{id}", "/v1/encounters/{id}", "/v1/mpi/merges/{id}")
"""What answers ``ERASED`` once somebody whom it is about is erased."""
_OUTLIVES = "/access"
"""But for who saw a record: that goes on to be told."""
_COMMON = (
    "MALFORMED_REQUEST",
    "UNAUTHENTICATED",
    "FORBIDDEN",
    "PAYLOAD_TOO_LARGE",
    "UNSUPPORTED_MEDIA_TYPE",
    "VALIDATION_FAILED",
    "IDEMPOTENCY_KEY_REUSED",
    "TOO_MANY_REQUESTS",
    "INTERNAL_ERROR",
    "UNAVAILABLE",
)


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return ``responses=`` for these codes: one entry a status, naming its codes."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in codes:
        by_status[PROBLEMS[code].status].append(code)
    return {
        status: {
            "description": " · ".join(f"`{code}`: {PROBLEMS[code].title}" for code in found),
            "content": {PROBLEM_JSON: {"schema": {"$ref": f"{_REF}ProblemDetails"}}},
        }
        for status, found in sorted(by_status.items())
    }


def document(app: FastAPI, queries: Iterable[BaseRoute]) -> dict[str, Any]:
    """Return the whole document; made once, then kept by the application."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=[{"name": name} for name in _TAGS],
        )
        components = made.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas.update(_schemas() | SCHEMAS)
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        }
        for path, item in made["paths"].items():
            for method, operation in item.items():
                _settle(operation, path, reads=method == "get")
        for query in queries:
            if isinstance(query, APIRoute) and query.path.startswith("/v1/"):
                for method in query.methods or ():
                    operation = made["paths"][query.path][method.lower()]
                    operation.setdefault("x-required-scope", _scope_of(query))
        for route in COMMAND_ROUTES:
            made["paths"].setdefault(route.path, {})[route.method.lower()] = _command(route)
        for path, kind, model in (
            ("/v1/patients/{id}", Patient, PatientResource),
            ("/v1/encounters/{id}", Encounter, ShownEncounter),
            ("/v1/mpi/merges/{id}", Merge, MergeResource),
            ("/v1/erasures/{id}", Erasure, ErasureResource),
        ):
            made["paths"].setdefault(path, {})["get"] = _get_one(path, kind, model)
        app.openapi_schema = made
    return app.openapi_schema


def _scope_of(route: APIRoute) -> str | None:
    """Return the scope that a query needs; ``None``: any token will do."""
    scopes = (getattr(d.call, "scope", None) for d in route.dependant.dependencies)
    return next((scope for scope in scopes if scope), None)


def _schemas() -> dict[str, Any]:
    payloads = {
        route.payload for route in COMMAND_ROUTES if route.has_body and route.media_types != IMAGES
    }
    payloads |= {Push, QueuedMutation, MatchQuery}
    modes: list[Any] = [
        (model, "validation") for model in sorted(payloads, key=lambda m: m.__name__)
    ]
    answers: set[type[BaseModel]] = {
        PatientResource,
        Receipt,
        ProblemDetails,
        *_ANSWERS.values(),
    }
    modes += [(model, "serialization") for model in sorted(answers, key=lambda m: m.__name__)]
    _, schema = models_json_schema(modes, ref_template=_REF + "{model}")
    found: dict[str, Any] = schema["$defs"]
    return found


def _settle(operation: dict[str, Any], path: str, *, reads: bool) -> None:
    """FastAPI declares a 422 of its own shape; ours are problems, and declared by hand."""
    secured = path.startswith("/v1/")
    if path.startswith(_ABOUT_SOMEBODY) and not path.endswith(_OUTLIVES):
        operation["responses"].setdefault("410", problems("ERASED")[410])
    declared = operation.get("responses", {}).get("422", {}).get("content", {})
    if "application/json" in declared:
        operation["responses"]["422"] = problems("VALIDATION_FAILED")[422]
    if secured and reads:
        operation.setdefault("parameters", []).extend(PARAMETERS)
    if secured:
        operation["security"] = [{"bearer": []}]
        common = problems(
            "MALFORMED_REQUEST",
            "UNAUTHENTICATED",
            "LOG_BROKEN",
            "VALIDATION_FAILED",
            "TOO_MANY_REQUESTS",
            "INTERNAL_ERROR",
            "UNAVAILABLE",
        )
        for status, response in common.items():
            operation["responses"].setdefault(str(status), response)


def _parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _NAME if name in ("flag", "schema") else _UUID,
        }
        for name in names
    ]


def _header(name: str, description: str, schema: dict[str, Any], required: bool) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": description,
        "schema": schema,
    }


def _command(route: CommandRoute) -> dict[str, Any]:
    rules = rules_for(route.operation)
    rule, handler = rules[0], HANDLERS[route.operation]
    parameters = _parameters(route.path)
    parameters.append(
        _header(
            "Idempotency-Key",
            "Makes the command safe to repeat; an RFC 9651 string, or bare.",
            {"type": "string", "pattern": _KEY_PATTERN, "example": "register-0001"},
            required=False,
        )
    )
    if not handler.creates:
        parameters.append(
            _header(
                "If-Match",
                "The version that you saw, as its ETag.",
                {"type": "string", "pattern": '^"(0|[1-9][0-9]{0,8})"$', "example": '"1"'},
                required=False,
            )
        )
    made: dict[str, Any] = {
        "operationId": route.operation.value,
        "summary": route.summary,
        "description": (route.payload.__doc__ or "").strip(),
        "tags": [_TAG_OF.get(rule.resource, "patients")],
        "security": [{"bearer": []}],
        "x-conflict-policy": rule.policy.value,
        "x-offline": rule.offline.value if len(rules) == 1 else [r.offline.value for r in rules],
        "x-required-scope": rule.scope,
        "x-version-required": rule.needs_version,
        "parameters": parameters,
        "responses": _success(route.status == 201, _ANSWERS.get(route.operation, PatientResource))
        | _keyed(problems(*_COMMON, *_refusals(route))),
    }
    if route.has_body:
        made["requestBody"] = _body(route)
    else:
        parameters.extend(_from_query(route.payload))
    return made


def _body(route: CommandRoute) -> dict[str, Any]:
    if route.media_types == IMAGES:
        schema: dict[str, Any] = {"type": "string", "format": "binary"}
    else:
        schema = {"$ref": _REF + route.payload.__name__}
    return {
        "required": not route.body_optional,
        "content": {media: {"schema": schema} for media in sorted(route.media_types)},
    }


def _from_query(payload: type[BaseModel]) -> Iterable[dict[str, Any]]:
    schema = payload.model_json_schema(by_alias=True)
    for name, member in schema["properties"].items():
        yield {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": next((s for s in member.get("anyOf", ()) if s["type"] != "null"), member),
        }


_MAY_REFUSE: dict[Operation, tuple[str, ...]] = {
    Operation.REGISTER_PATIENT: (
        "NAME_SCRIPT_MISMATCH",
        "IDENTIFIER_CONFLICT",
        "IDENTIFIER_INVALID",
    ),
    Operation.ADD_NAME: ("NAME_SCRIPT_MISMATCH",),
    Operation.REPLACE_NAME: ("NAME_SCRIPT_MISMATCH",),
    Operation.ADD_IDENTIFIER: ("IDENTIFIER_CONFLICT", "IDENTIFIER_INVALID"),
    Operation.SET_PORTRAIT: ("CONSENT_REQUIRED",),
    Operation.REMOVE_PORTRAIT: ("PORTRAIT_GONE",),
    Operation.SET_EXTENSION: ("EXTENSION_INVALID",),
    Operation.PUBLISH_SCHEMA: ("EXTENSION_INVALID",),
    Operation.RECORD_DEATH: ("PATIENT_DECEASED",),
    Operation.PROPOSE_MERGE: (
        "NOT_FOUND",
        "VERSION_REQUIRED",
        "OPTIMISTIC_LOCK_CONFLICT",
        "MERGE_NOT_ALLOWED",
        "PATIENT_MERGED",
    ),
    Operation.APPROVE_MERGE: ("MERGE_NOT_ALLOWED", "PATIENT_MERGED"),
    Operation.REJECT_MERGE: ("MERGE_NOT_ALLOWED",),
    Operation.UNMERGE: ("MERGE_NOT_ALLOWED",),
    Operation.DISMISS_CANDIDATE: ("READ_MODEL_BEHIND",),
    Operation.OPEN_ENCOUNTER: ("NOT_FOUND", "PATIENT_DECEASED", "PATIENT_MERGED"),
    Operation.TRANSITION_ENCOUNTER: ("ENCOUNTER_TRANSITION_NOT_ALLOWED",),
    Operation.REQUEST_ERASURE: ("NOT_FOUND", "PATIENT_MERGED"),
    Operation.APPROVE_ERASURE: ("ERASURE_NOT_ALLOWED", "PATIENT_MERGED"),
    Operation.REFUSE_ERASURE: ("ERASURE_NOT_ALLOWED",),
}
"""What a decision may refuse with, beside what every command may."""


def _refusals(route: CommandRoute) -> Iterable[str]:
    handler, rule = HANDLERS[route.operation], rules_for(route.operation)[0]
    if not handler.creates:
        yield from ("NOT_FOUND", "OPTIMISTIC_LOCK_CONFLICT")
        if handler.aggregate is Patient:
            yield "PATIENT_MERGED"
    if rule.needs_version:
        yield "VERSION_REQUIRED"
    yield "IDEMPOTENCY_IN_FLIGHT"
    if handler.aggregate is not ExtensionSchema:
        yield "ERASED"
    if handler.makes:
        yield "ID_TAKEN"
    if handler.creates:
        yield "MUTATION_ID_INVALID"
    yield from _MAY_REFUSE.get(route.operation, ())


def _success(made: bool, model: type[BaseModel]) -> dict[str, Any]:
    headers: dict[str, Any] = {
        "ETag": {"description": "The version, quoted.", "schema": {"type": "string"}},
        "X-Log-Position": {
            "description": "Where the tenant's log stands; give it as minPosition to a query.",
            "schema": {"type": "integer"},
        },
        "Idempotency-Replayed": {
            "description": "true where an earlier request with this key did it.",
            "schema": {"type": "string", "enum": ["true"]},
        },
    }
    if made:
        headers["Location"] = {"schema": {"type": "string", "format": "uri-reference"}}
    return {
        "201" if made else "200": {
            "description": "What the command was about as it is now; without the scope to read "
            "it, its id and version.",
            "headers": headers,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [{"$ref": _REF + model.__name__}, {"$ref": _REF + "Receipt"}]
                    }
                }
            },
        }
    }


def _keyed(responses: dict[int | str, dict[str, Any]]) -> dict[str, Any]:
    return {str(status): response for status, response in responses.items()}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


_IF_NONE_MATCH = _header("If-None-Match", "Versions you have.", {"type": "string"}, required=False)
_INSTANT = {"type": "string", "format": "date-time"}
_VALID_AT = (
    "With what held at this instant, of what is known (now, or at asOf): a patient's death and "
    "consents, an encounter's status."
)


def _get_one(path: str, kind: type[Aggregate[Any]], model: type[BaseModel]) -> dict[str, Any]:
    what = kind.KIND
    responses = _success(made=False, model=model)
    responses["200"]["description"] = f"The {what}, now or as it stood."
    responses["200"]["content"] = {"application/json": {"schema": {"$ref": _REF + model.__name__}}}
    responses["200"]["headers"] = {"ETag": responses["200"]["headers"]["ETag"]}
    if not kind.OUTLIVES_ERASURE:  # what does reads otherwise after it, at the same version
        responses["304"] = {"description": "You have this version."}
    return {
        "operationId": f"{what}.read",
        "x-required-scope": kind.READ_SCOPE,
        "summary": f"One {what}, now or as it stood",
        "description": "Folds its own history, so it always shows what was stored last.",
        "tags": ["mpi" if kind is Merge else f"{what}s"],
        "security": [{"bearer": []}],
        "parameters": [
            *_parameters(path),
            _query("asOf", _INSTANT, "As it was known at this instant: by when it was recorded."),
            *([_query("validAt", _INSTANT, _VALID_AT)] if kind.HAS_VALIDITY else ()),
            _query(
                "version",
                {"type": "integer", "minimum": 1, "maximum": 999999999},
                "At this version; not together with asOf.",
            ),
            _query(
                "minPosition",
                {"type": "integer", "minimum": 0, "maximum": 999999999999999999},
                "A position that the answer must include; 503 where the log is not there.",
            ),
            *([_IF_NONE_MATCH] if "304" in responses else ()),
            *PARAMETERS,
        ],
        "responses": responses
        | _keyed(
            problems(
                "MALFORMED_REQUEST",
                "UNAUTHENTICATED",
                "FORBIDDEN",
                "NOT_FOUND",
                "ERASED",
                "VALIDATION_FAILED",
                "UNAVAILABLE",
                "READ_MODEL_BEHIND",
                "TOO_MANY_REQUESTS",
                "INTERNAL_ERROR",
            )
        ),
    }
