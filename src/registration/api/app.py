"""The composition root of the HTTP service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

import jwt
import psycopg
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from psycopg_pool import PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from registration import __version__
from registration.access import AccessLog
from registration.api import (
    audit,
    candidates,
    consents,
    encounters,
    erasures,
    evidence,
    extensions,
    keys,
    matching,
    merges,
    operations,
    patients,
    portraits,
    report_page,
    reports,
    sync,
    timeline,
    vital_status,
)
from registration.api.auth import Authenticator
from registration.api.command_table import COMMAND_ROUTES, CommandRoute
from registration.api.commands import endpoint_of
from registration.api.metrics import Metrics
from registration.api.observe import Observed, stderr_log
from registration.api.openapi import document
from registration.api.parameters import parameters_of
from registration.api.problems import PROBLEMS, problem
from registration.api.pull import policy_of
from registration.api.push import push
from registration.api.reading import reader_of
from registration.api.requests import (
    Services,
    note_read,
    saw,
    services,
    subjects,
    utc_now,
)
from registration.api.shortcut import Shortcut
from registration.api.stopping import told_to_stop
from registration.command import Refusal
from registration.domain.contract import Operation
from registration.domain.erasure import Erasure
from registration.domain.errors import DomainError
from registration.domain.merge import Merge
from registration.domain.patient_resource import Patient
from registration.domain.validation import validation_failed
from registration.eventstore import database
from registration.eventstore.sealing import MasterKeyError, SealBrokenError
from registration.eventstore.store import (
    EventStore,
    StoreOverloadedError,
    StoreUnavailableError,
)
from registration.gate import Gate
from registration.master_keys import unlock
from registration.memory import collect_seldom
from registration.portraits import Portraits
from registration.projections import matching_model
from registration.settings import Settings
from registration.sync.devices import Devices
from registration.sync.positions import Positions
from registration.sync.push import Pusher

_TIDY_SECONDS = 600.0
_IN_A_PATH = "/:@!$&'()*+,;="
_DESCRIPTION = """\
Who a patient is: an event-sourced patient registration service.

A query refuses (422) a parameter that it does not declare here, and one that stands twice."""


def create_app(
    settings: Settings | None = None,
    *,
    clock: Callable[[], datetime] | None = None,
    log: Callable[[bytes], None] = stderr_log,
) -> ASGIApp:
    """Return the service as an ASGI application.

    ``settings.database_url`` must be set: whoever starts a PostgreSQL does so before. ``clock``
    replaces the time of the service and of its idempotency store, for tests.
    """
    settings = settings or Settings()
    app = application(settings, clock)
    return Observed(
        Shortcut(app, _hot_routes(), _HANDLERS),
        deadline=settings.request_deadline,
        metrics=app.state.metrics,
        log=log,
    )


_OF_THEIR_OWN_SHAPE = {
    Operation.SET_PORTRAIT: portraits.set_portrait,
    Operation.RECORD_DEATH: vital_status.record_death,
    Operation.OPEN_ENCOUNTER: encounters.carry_out,
    Operation.TRANSITION_ENCOUNTER: encounters.carry_out,
    Operation.UNMERGE: merges.unmerge,
    Operation.DISMISS_CANDIDATE: candidates.dismiss,
}


def _command_route(route: CommandRoute) -> Route:
    own = _OF_THEIR_OWN_SHAPE.get(route.operation)
    endpoint = endpoint_of(route) if own is None else partial(own, route=route)
    return Route(route.path, endpoint, methods=[route.method], name=route.operation.value)


def _hot_routes() -> list[Route]:
    return [
        *map(_command_route, COMMAND_ROUTES),
        Route("/v1/patients/{id}", reader_of(Patient), methods=["GET"], name="patient.read"),
        Route("/v1/sync/push", push, methods=["POST"], name="sync.push"),
    ]


_PARTS = (
    *(patients, consents, portraits, extensions, encounters),
    *(matching, candidates, merges, erasures, sync, reports, report_page),
    *(timeline, audit, evidence, operations),
)


def application(settings: Settings, clock: Callable[[], datetime] | None = None) -> FastAPI:
    """Return the application inside; it connects to nothing before its lifespan starts."""
    app = FastAPI(
        title="registration",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=_lifespan(settings, clock),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.metrics = Metrics()
    queries = [route for part in _PARTS for route in part.router.routes]
    app.openapi = lambda: document(app, queries)  # type: ignore[method-assign]
    app.router.routes[:0] = _hot_routes()
    for part in _PARTS:
        app.include_router(part.router)
    # after the other names that stand where an id would
    app.router.routes.append(
        Route("/v1/encounters/{id}", encounters.read, methods=["GET"], name="encounter.read")
    )
    app.router.routes.append(
        Route("/v1/mpi/merges/{id}", reader_of(Merge), methods=["GET"], name="merge.read")
    )
    app.router.routes.append(
        Route("/v1/erasures/{id}", reader_of(Erasure), methods=["GET"], name="erasure.read")
    )
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app


def _lifespan(settings: Settings, clock: Callable[[], datetime] | None) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        url = settings.database_url
        if url is None:
            raise RuntimeError("the service needs a database_url")
        matching_model.use(settings.mpi_model)
        await asyncio.to_thread(unlock, settings, url)
        store = EventStore(
            url,
            ttl=timedelta(seconds=settings.idempotency_ttl),
            deadline=settings.request_deadline,
            queue_limit=settings.append_queue_limit,
            clock=clock,
        )
        views = database.pool(url, name="views", size=8)
        access = AccessLog(url, most=settings.access_log_queue, lost=app.state.metrics.lost_reads)
        await store.open()
        await views.open()
        await access.open()
        gate, positions, devices = Gate(store), Positions(views), Devices(views)
        app.state.services = Services(
            settings,
            store,
            gate,
            _authenticator(settings),
            views,
            clock or utc_now,
            Portraits(views),
            Pusher(gate),
            devices,
            positions,
            app.state.metrics,
            policy_of(settings),
            access,
        )
        app.state.parameters = parameters_of(app.openapi())
        tidying = asyncio.create_task(_tidy(store))
        collect_seldom()
        try:
            with told_to_stop(positions.close):
                yield
        finally:
            tidying.cancel()
            await devices.close()
            await access.close()
            await store.close()
            await views.close()

    return lifespan


async def _tidy(store: EventStore) -> None:
    """Delete stored refusals that are past their time to live, which may hold patient data."""
    while True:
        with suppress(StoreUnavailableError):
            await store.forget_refusals()
        await asyncio.sleep(_TIDY_SECONDS)


def _authenticator(settings: Settings) -> Authenticator:
    if settings.jwks_url is None:
        own = keys.signing_key(settings.data_dir).public
        return Authenticator(lambda _token: own, issuer=keys.ISSUER, audience=keys.AUDIENCE)
    # the set is kept for its lifespan; single keys are not, which would outlive their withdrawal
    published = jwt.PyJWKClient(settings.jwks_url, timeout=3)
    return Authenticator(
        lambda token: published.get_signing_key_from_jwt(token).key,
        issuer=settings.jwt_issuer or "",
        audience=settings.jwt_audience or "",
    )


def _answer(request: Request, error: DomainError, **headers: str) -> Response:
    seen = request.scope["observation"]
    seen.code = error.code
    if request.method != "GET" and seen.tenant is not None:
        # where the log stands as far as this process knows, so that a query can wait for it
        position = services(request).store.reached(seen.tenant)
        if position is not None:
            headers["X-Log-Position"] = str(position)
    if told := subjects(error, request.path_params.get("id")):
        # the command was refused: nothing else records that it showed the record as it is now
        saw(request, told)
        note_read(request.scope, PROBLEMS[error.code].status)
    return problem(
        error.code,
        error.detail,
        instance=quote(request.scope["path"], safe=_IN_A_PATH),
        extra=error.extra,
        headers=headers,
    )


async def _refusal(request: Request, error: Any) -> Response:
    headers = {"Idempotency-Replayed": "true"} if error.replayed else {}
    return _answer(request, error.error, **headers)


async def _domain_error(request: Request, error: Any) -> Response:
    return _answer(request, error)


async def _overloaded(request: Request, _error: Exception) -> Response:
    return _answer(request, DomainError("TOO_MANY_REQUESTS", "Too many commands are waiting."))


async def _unavailable(request: Request, _error: Exception) -> Response:
    return _answer(request, DomainError("UNAVAILABLE", "The database did not answer in time."))


async def _seal_broken(request: Request, _error: Exception) -> Response:
    detail = "What is stored about this is not what was written there."
    return _answer(request, DomainError("LOG_BROKEN", detail))


async def _fault(request: Request, _error: Exception) -> Response:
    """Answer a fault of ours; the outermost layer logs it, since Starlette raises it again."""
    return _answer(request, DomainError("INTERNAL_ERROR", "The service has a fault."))


async def _invalid(request: Request, error: Any) -> Response:
    # the first part of a location says where (path, query), which the pointer leaves out
    if any(e["loc"][:1] == ("path",) for e in error.errors()):
        return _answer(request, DomainError("NOT_FOUND", "There is no such resource."))
    return _answer(request, validation_failed(error.errors(), skip=1))


async def _http_error(request: Request, error: Any) -> Response:
    code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "MALFORMED_REQUEST")
    headers = dict(error.headers or {})
    if error.status_code == 405:  # Starlette names the methods of one route, not of the resource
        headers["Allow"] = ", ".join(_allowed(request))
    return _answer(
        request, DomainError(code, "There is nothing here by this name and method."), **headers
    )


def _allowed(request: Request) -> list[str]:
    return [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.router.routes
        )
    ]


_HANDLERS: dict[type[Exception], Any] = {
    Refusal: _refusal,
    DomainError: _domain_error,
    StoreOverloadedError: _overloaded,
    StoreUnavailableError: _unavailable,
    psycopg.OperationalError: _unavailable,
    PoolTimeout: _unavailable,
    MasterKeyError: _unavailable,  # the keys were wrapped anew, and this process was not told
    SealBrokenError: _seal_broken,
    RequestValidationError: _invalid,
    HTTPException: _http_error,
    Exception: _fault,
}
