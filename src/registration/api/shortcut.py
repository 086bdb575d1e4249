"""The short way for the hottest routes: past FastAPI's middleware, which they have no use for.

FastAPI knows the same routes (it answers 405 and documents them); a request that matches one
exactly never gets there. Measured in ``docs/decisions/0003``.
"""

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
ExceptionHandler = Callable[[Request, Any], Awaitable[Response]]


class Shortcut:
    """Serves ``routes`` itself and leaves the rest to ``app``; errors end in the same handlers."""

    def __init__(
        self,
        app: FastAPI,
        routes: Iterable[Route],
        handlers: Mapping[type[Exception], ExceptionHandler],
    ) -> None:
        self._app = app
        self._handlers = handlers
        self._expected = tuple(kind for kind in handlers if kind is not Exception)
        self._endpoints: dict[str, list[tuple[re.Pattern[str], Endpoint]]] = defaultdict(list)
        for route in routes:
            for method in route.methods or ():
                self._endpoints[method].append((route.path_regex, route.endpoint))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass it on."""
        if scope["type"] == "http":
            path = scope["path"]
            for pattern, endpoint in self._endpoints.get(scope["method"], ()):
                match = pattern.fullmatch(path)
                if match:
                    scope["app"] = self._app
                    scope["path_params"] = match.groupdict()
                    request = Request(scope, receive, send)
                    response = await self._response(endpoint, request)
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    async def _response(self, endpoint: Endpoint, request: Request) -> Response:
        try:
            return await endpoint(request)
        except self._expected as error:
            kind = next(kind for kind in type(error).__mro__ if kind in self._handlers)
            return await self._handlers[kind](request, error)
