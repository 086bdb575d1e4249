"""Which query parameters an operation takes: those that the OpenAPI document declares, no others.

What is not understood is not left out: whoever asks for the past and is shown the present, because
the name of a parameter was misspelt or another route takes it, has no way to notice.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from registration.domain.errors import invalid

Parameters = Mapping[str, Mapping[str, bool]]
"""By operation, and by name: whether a parameter may stand more than once."""


def parameters_of(document: Mapping[str, Any]) -> Parameters:
    """Return the query parameters of each operation of an OpenAPI document."""
    return {
        operation["operationId"]: {
            each["name"]: _is_list(each["schema"])
            for each in operation.get("parameters", ())
            if each["in"] == "query"
        }
        for item in document["paths"].values()
        for operation in item.values()
    }


def _is_list(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "array" or any(map(_is_list, schema.get("anyOf", ())))


def refuse_undeclared(request: Request, operation: str) -> None:
    """Raise ``VALIDATION_FAILED`` where a parameter is none of the operation's, or stands twice."""
    if not request.scope["query_string"]:
        return
    known = request.app.state.parameters[operation]
    query = request.query_params
    for name in query:
        if name not in known:
            raise invalid(f"/{name}", "is no parameter of this query")
        if not known[name] and len(query.getlist(name)) > 1:
            raise invalid(f"/{name}", "stands twice")
