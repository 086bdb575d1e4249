"""Recording a death: like any command, but the answer also names the encounters left open."""

from typing import Any

import psycopg
from psycopg_pool import PoolTimeout
from starlette.requests import Request
from starlette.responses import Response

from registration.api.command_table import CommandRoute
from registration.api.commands import answer, carried_out
from registration.api.encounters import shown
from registration.api.reading import from_view
from registration.domain.errors import DomainError
from registration.projections.encounters import NAME, EncounterQuery, list_encounters

_OPEN = ("planned", "arrived", "triaged", "in-progress", "onleave")
_MOST = 200


async def record_death(request: Request, route: CommandRoute) -> Response:
    """Record the death; what is open stays open, for a human to look at, and is listed."""
    caller, reply = await carried_out(request, route)
    if "encounter:read" not in caller.scopes:
        return answer(request, reply, caller)
    asked = EncounterQuery(
        caller.tenant, patient_id=reply.aggregate.id, statuses=_OPEN, limit=_MOST
    )
    still_open: list[Any] | None
    try:
        rows = await from_view(
            request, NAME, caller.tenant, reply.position, lambda view: list_encounters(view, asked)
        )
        still_open = [shown(document, current) for _, _, document, current in rows]
    except (DomainError, psycopg.OperationalError, PoolTimeout):
        still_open = None  # the death is stored; what is open is not known in time
    theirs = [each["patientId"] for each in still_open or ()]
    return answer(request, reply, caller, {"openEncounters": still_open}, theirs)
