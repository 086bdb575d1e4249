"""Offline devices over HTTP: the conflict table, push, pull and stream."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from registration.api.openapi import problems
from registration.api.pull import PullQuery, follow, page
from registration.api.push import push
from registration.api.requests import AnyCaller, Syncer
from registration.api.wire import PullAnswer, PushAnswer
from registration.domain.contract import table

router = APIRouter(tags=["sync"])
_EVENTS: dict[str, Any] = {
    "description": "Server-sent events: how far pull would get, and nothing else.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


@router.get(
    "/v1/sync/contract",
    operation_id="sync.contract",
    summary="The conflict table",
    responses=problems("UNAUTHENTICATED"),
)
async def contract(_caller: AnyCaller) -> dict[str, Any]:
    """Return each operation with its conflict policy, the version it needs and its offline rule."""
    return {"items": list(table()), "next": None}


@router.get(
    "/v1/sync/pull",
    operation_id="sync.pull",
    summary="What changed since a cursor",
    response_model=PullAnswer,
    responses=problems("FORBIDDEN", "VALIDATION_FAILED", "RESYNC_REQUIRED", "READ_MODEL_BEHIND"),
)
async def pull(request: Request, caller: Syncer, query: Annotated[PullQuery, Query()]) -> Response:
    """Return records of the caller's scope as they are now, the longest unchanged first."""
    return await page(request, caller, query)


@router.get(
    "/v1/sync/stream",
    operation_id="sync.stream",
    summary="That something changed",
    response_class=StreamingResponse,
    responses={200: _EVENTS, **problems("FORBIDDEN", "TOO_MANY_REQUESTS")},
)
async def stream(request: Request, caller: Syncer) -> Response:
    """Tell how far pull gets, now and whenever there is more; ``Last-Event-ID`` goes on."""
    return follow(request, caller)


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
