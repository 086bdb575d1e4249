"""The OpenAPI 3.1 document: FastAPI's for the queries, the command table's for the commands."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from registration.api.commands import COMMAND_ROUTES, CommandRoute
from registration.api.problems import PROBLEM_JSON, PROBLEMS
from registration.api.wire import ProblemDetails, Receipt
from registration.domain.contract import rules_for
from registration.domain.handlers import HANDLERS
from registration.domain.patient_resource import PatientResource

_REF = "#/components/schemas/"
_UUID = {"type": "string", "format": "uuid"}
_KEY_PATTERN = r'^([!#-\[\]-~]{1,255}|"([ !#-\[\]-~]|\\["\\]){1,255}")$'
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


def document(app: FastAPI) -> dict[str, Any]:
    """Return the whole document; made once, then kept by the application."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=[{"name": "patients"}, {"name": "sync"}, {"name": "operations"}],
        )
        components = made.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas.update(_schemas())
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        }
        for path, item in made["paths"].items():
            for operation in item.values():
                _settle(operation, secured=path.startswith("/v1/"))
        for route in COMMAND_ROUTES:
            made["paths"].setdefault(route.path, {})[route.method.lower()] = _command(route)
        made["paths"].setdefault("/v1/patients/{id}", {})["get"] = _get_patient()
        app.openapi_schema = made
    return app.openapi_schema


def _schemas() -> dict[str, Any]:
    payloads = {HANDLERS[route.operation].payload for route in COMMAND_ROUTES}
    modes: list[Any] = [
        (model, "validation") for model in sorted(payloads, key=lambda m: m.__name__)
    ]
    modes += [(model, "serialization") for model in (PatientResource, Receipt, ProblemDetails)]
    _, schema = models_json_schema(modes, ref_template=_REF + "{model}")
    found: dict[str, Any] = schema["$defs"]
    return found


def _settle(operation: dict[str, Any], *, secured: bool) -> None:
    """FastAPI declares a 422 of its own shape; ours are problems, and declared by hand."""
    declared = operation.get("responses", {}).get("422", {}).get("content", {})
    if "application/json" in declared:
        operation["responses"]["422"] = problems("VALIDATION_FAILED")[422]
    if secured:
        operation["security"] = [{"bearer": []}]
        common = problems("UNAUTHENTICATED", "TOO_MANY_REQUESTS", "INTERNAL_ERROR", "UNAVAILABLE")
        for status, response in common.items():
            operation["responses"].setdefault(str(status), response)


def _parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": n, "in": "path", "required": True, "schema": _UUID} for n in names]


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
                {"type": "string", "pattern": '^"[1-9][0-9]{0,8}"$', "example": '"1"'},
                required=False,
            )
        )
    codes = [*_COMMON, *_refusals(route)]
    return {
        "operationId": route.operation.value,
        "summary": route.summary,
        "description": (handler.payload.__doc__ or "").strip(),
        "tags": ["patients"],
        "security": [{"bearer": []}],
        "x-conflict-policy": rule.policy.value,
        "x-offline": rule.offline.value if len(rules) == 1 else [r.offline.value for r in rules],
        "x-required-scope": rule.scope,
        "x-version-required": rule.needs_version,
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {
                media: {"schema": {"$ref": _REF + handler.payload.__name__}}
                for media in sorted(route.media_types)
            },
        },
        "responses": _success(handler.makes) | _keyed(problems(*codes)),
    }


def _refusals(route: CommandRoute) -> Iterable[str]:
    handler, rule = HANDLERS[route.operation], rules_for(route.operation)[0]
    if not handler.creates:
        yield from ("NOT_FOUND", "OPTIMISTIC_LOCK_CONFLICT", "PATIENT_MERGED")
    if rule.needs_version:
        yield "VERSION_REQUIRED"
    yield from ("IDEMPOTENCY_IN_FLIGHT",)
    if handler.makes:
        yield "ID_TAKEN"
    if "names" in handler.payload.model_fields or "given" in handler.payload.model_fields:
        yield "NAME_SCRIPT_MISMATCH"
    if "identifiers" in handler.payload.model_fields or "value" in handler.payload.model_fields:
        yield from ("IDENTIFIER_CONFLICT", "IDENTIFIER_INVALID")
    if handler.creates:
        yield "MUTATION_ID_INVALID"


def _success(made: bool) -> dict[str, Any]:
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
            "description": "The patient as it is now; its id and version without patient:read.",
            "headers": headers,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [{"$ref": _REF + "PatientResource"}, {"$ref": _REF + "Receipt"}]
                    }
                }
            },
        }
    }


def _keyed(responses: dict[int | str, dict[str, Any]]) -> dict[str, Any]:
    return {str(status): response for status, response in responses.items()}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _get_patient() -> dict[str, Any]:
    responses = _success(made=False)
    responses["200"]["description"] = "The patient, now or as it stood."
    responses["200"]["content"] = {
        "application/json": {"schema": {"$ref": _REF + "PatientResource"}}
    }
    responses["200"]["headers"] = {"ETag": responses["200"]["headers"]["ETag"]}
    responses["304"] = {"description": "You have this version."}
    return {
        "operationId": "patient.read",
        "summary": "One patient, now or as it stood",
        "description": "Folds the patient's own history, so it always shows what was stored last.",
        "tags": ["patients"],
        "security": [{"bearer": []}],
        "parameters": [
            *_parameters("/v1/patients/{id}"),
            _query(
                "asOf",
                {"type": "string", "format": "date-time"},
                "The patient as recorded at this instant.",
            ),
            _query(
                "version",
                {"type": "integer", "minimum": 1, "maximum": 999999999},
                "The patient at this version; not together with asOf.",
            ),
            _query(
                "minPosition",
                {"type": "integer", "minimum": 0, "maximum": 999999999999999999},
                "A position that the answer must include; 503 where the log is not there.",
            ),
            _header("If-None-Match", "Versions you have.", {"type": "string"}, required=False),
        ],
        "responses": responses
        | _keyed(
            problems(
                "UNAUTHENTICATED",
                "FORBIDDEN",
                "NOT_FOUND",
                "VALIDATION_FAILED",
                "UNAVAILABLE",
                "READ_MODEL_BEHIND",
                "TOO_MANY_REQUESTS",
                "INTERNAL_ERROR",
            )
        ),
    }
