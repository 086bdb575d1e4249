"""The sync contract, as the service itself reads it."""

from typing import Any

from fastapi import APIRouter

from registration.api.openapi import problems
from registration.api.requests import AnyCaller
from registration.domain.contract import table

router = APIRouter()


@router.get(
    "/v1/sync/contract",
    operation_id="sync.contract",
    summary="The conflict table",
    responses=problems("UNAUTHENTICATED"),
    tags=["sync"],
)
async def contract(_caller: AnyCaller) -> dict[str, Any]:
    """Return each operation with its conflict policy, the version it needs and its offline rule."""
    return {"items": list(table()), "next": None}
