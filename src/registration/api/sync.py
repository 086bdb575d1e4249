"""Offline devices over HTTP: the conflict table, push, pull and stream."""

from typing import Any

from fastapi import APIRouter

from registration.api.openapi import problems
from registration.api.push import push
from registration.api.requests import AnyCaller
from registration.api.wire import PushAnswer
from registration.domain.contract import table

router = APIRouter(tags=["sync"])


@router.get(
    "/v1/sync/contract",
    operation_id="sync.contract",
    summary="The conflict table",
    responses=problems("UNAUTHENTICATED"),
)
async def contract(_caller: AnyCaller) -> dict[str, Any]:
    """Return each operation with its conflict policy, the version it needs and its offline rule."""
    return {"items": list(table()), "next": None}


router.add_api_route(
    "/v1/sync/push",
    push,
    methods=["POST"],
    operation_id="sync.push",
    summary="Replay queued writes",
    response_model=PushAnswer,
    responses=problems(
        "MALFORMED_REQUEST",
        "FORBIDDEN",
        "PAYLOAD_TOO_LARGE",
        "UNSUPPORTED_MEDIA_TYPE",
        "VALIDATION_FAILED",
        "TOO_MANY_REQUESTS",
    ),
    openapi_extra={
        "x-required-scope": "sync",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Push"}}},
        },
    },
)
