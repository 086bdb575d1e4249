"""For operators: is it alive, is it ready, how does it do; and the pages for people."""

import asyncio
from typing import Any

import psycopg
from fastapi import APIRouter
from psycopg_pool import PoolTimeout
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from registration.api import pages
from registration.api.metrics import Metrics
from registration.api.problems import PROBLEMS
from registration.api.requests import detached, services
from registration.domain.errors import not_found
from registration.evidence import watch
from registration.projections import status as progress

router = APIRouter(tags=["operations"])

_PATIENCE = 1.0
"""Seconds that a probe waits for the database before it says that there is none."""


@router.get("/livez", operation_id="livez", summary="Whether this process answers")
async def livez() -> dict[str, str]:
    """Answer whenever the process can; looks at nothing else."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Whether the service can work",
    responses={503: {"description": "The database is away: nothing can be done."}},
)
async def readyz(request: Request) -> Response:
    """Say whether the database answers, how far each read model is, and whether a log is broken.

    Commands work without read models, so a stopped one makes the service degraded, not unready. So
    does a log that is not what was signed, or that cannot be signed, and an access log that this
    process cannot write: people have to look at it.
    """
    found = await _looked_up(request)
    if found is None:
        return JSONResponse({"status": "unavailable", "database": "unreachable"}, 503)
    read_models, logs = found
    access = services(request).access
    degraded = (
        any(not row["running"] or row["deadLetters"] for row in read_models)
        or logs.broken
        or logs.unwritten
        or access.is_stuck
    )
    return JSONResponse(
        {
            "status": "degraded" if degraded else "ok",
            "database": "ok",
            "readModels": read_models,
            "logs": {"broken": logs.broken, "unwritten": logs.unwritten},
            "accessLog": {"unwritten": len(access), "stuck": access.is_stuck},
        }
    )


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Measurements for Prometheus",
    response_class=Response,
)
async def metrics(request: Request) -> Response:
    """Return this process's measurements and how far the read models are."""
    measured: Metrics = request.app.state.metrics
    its = services(request)
    read_models, logs = await _looked_up(request) or ([], None)
    page = measured.render(
        queued=its.store.queued,
        unwritten=len(its.access),
        read_models=read_models,
        logs=logs,
    )
    return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _looked_up(request: Request) -> tuple[list[dict[str, Any]], watch.Summary] | None:
    """Return a row a read model, and how the logs are, over all tenants.

    ``None`` when the database is away.
    """

    async def query() -> tuple[list[dict[str, Any]], watch.Summary]:
        async with services(request).views.connection() as connection:
            rows = [_row(status) for status in await progress.status(connection)]
            return rows, await watch.summary(connection)

    try:
        return await asyncio.wait_for(detached(query()), _PATIENCE)
    except (psycopg.OperationalError, PoolTimeout, TimeoutError):
        return None


def _row(status: progress.ReadModelStatus) -> dict[str, Any]:
    """Sum up a read model over all tenants: which tenants there are is nobody's business here."""
    return {
        "name": status.name,
        "running": status.leader,
        "behind": status.behind,
        "deadLetters": status.dead_letters,
    }


@router.get("/", include_in_schema=False)
async def index(request: Request) -> HTMLResponse:
    """Say what runs here, and where to go on."""
    return HTMLResponse(pages.index(request.app.version))


@router.get("/problems", include_in_schema=False)
async def problem_list() -> HTMLResponse:
    """List every code."""
    return HTMLResponse(pages.problem_list())


@router.get("/problems/{code}", include_in_schema=False)
async def problem_page(code: str) -> HTMLResponse:
    """Explain one code."""
    if code not in PROBLEMS:
        raise not_found("problem")
    return HTMLResponse(pages.problem(code))


@router.get("/docs", include_in_schema=False)
async def api_docs(request: Request) -> HTMLResponse:
    """Show the OpenAPI document to people."""
    return HTMLResponse(pages.api_docs(request.app.openapi()))
