"""The outermost layer: request id, deadline, one log line and one measurement a request.

Plain ASGI, since this runs on every request. Log lines and metrics carry operation, code, time and
tenant; never a path, a query or a body, which may name a patient.
"""

import asyncio
import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import orjson
import uuid_utils.compat as uuids
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registration.api.auth import Caller
from registration.api.metrics import Metrics
from registration.api.problems import PROBLEMS, problem
from registration.api.purpose import UNSTATED
from registration.api.requests import note_read

_NO_SNIFF = (b"x-content-type-options", b"nosniff")
# Patient data may be kept by the caller's own cache, which asks each time (RFC 9111).
_PRIVATE = (b"cache-control", b"private, no-cache")
_SANE = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Observation:
    """What is to be told of one request; the endpoints fill it in as they learn it."""

    __slots__ = (
        "caller",
        "code",
        "faults",
        "limit",
        "operation",
        "reading",
        "request_id",
        "shown",
        "status",
        "tenant",
        "why",
    )

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.operation = "unknown"
        self.tenant: str | None = None
        self.code: str | None = None
        self.status = 0
        self.reading = False
        self.faults: list[Exception] = []
        self.limit: asyncio.Timeout
        self.caller: Caller | None = None
        self.why = UNSTATED
        self.shown: Sequence[str | None] | None = None
        """The patients whose data a success shows; recorded before any of it is sent.

        Plain values: a callback that knows its request would be a cycle, and garbage that is only
        found by looking for it costs a read twice its time.
        """


class Observed:
    """Wraps the application; answers 503 where it does not within ``deadline`` seconds."""

    def __init__(
        self, app: ASGIApp, *, deadline: float, metrics: Metrics, log: Callable[[bytes], None]
    ) -> None:
        self._app = app
        self._deadline = deadline
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on what is none (lifespan)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        seen = scope["observation"] = Observation(_request_id(scope))
        common = [(b"x-request-id", seen.request_id.encode()), _NO_SNIFF]
        if scope["path"].startswith("/v1/"):
            common.append(_PRIVATE)

        async def observing_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = status = message["status"]
                if seen.shown is not None and (status < 300 or status == 304):
                    note_read(scope, status)
                said = {name for name, _ in message["headers"]}
                more = (header for header in common if header[0] not in said)
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            async with asyncio.timeout(self._deadline) as seen.limit:
                await self._app(scope, receive, observing_send)
        except TimeoutError:
            # a body that does not arrive is the caller's trouble, and no outage of ours
            code = "MALFORMED_REQUEST" if seen.reading else "UNAVAILABLE"
            await self._give_up(scope, receive, observing_send, seen, code)
        # a fault of ours: its kind and place are told, not what it holds
        except Exception as error:  # noqa: BLE001
            self._log(_fault(seen, error))
            await self._give_up(scope, receive, observing_send, seen, "INTERNAL_ERROR")
        finally:
            seconds = time.perf_counter() - started
            if seen.operation == "unknown":
                seen.operation = getattr(scope.get("route"), "operation_id", None) or "unknown"
            self._metrics.request(seen.operation, seen.status, seconds)
            for fault in seen.faults:  # of parts of the request, which was answered all the same
                self._log(_fault(seen, fault))
            self._log(_line(scope, seen, seconds))

    async def _give_up(
        self, scope: Scope, receive: Receive, send: Send, seen: Observation, code: str
    ) -> None:
        seen.code = code
        if seen.status:  # an answer is out, whole or in part: it cannot be taken back
            return
        why = "The body did not arrive in time." if seen.reading else PROBLEMS[code].why
        response = problem(code, why, instance=scope["path"])
        await response(scope, receive, send)


def stderr_log(line: bytes) -> None:
    """Write one line to standard error, whole."""
    sys.stderr.buffer.write(line)
    sys.stderr.buffer.flush()


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE.fullmatch(value):
            return bytes(value).decode()
    return str(uuids.uuid7())


def _line(scope: Scope, seen: Observation, seconds: float) -> bytes:
    line = {
        "at": datetime.now(UTC),
        "requestId": seen.request_id,
        "method": scope["method"],
        "operation": seen.operation,
        "status": seen.status,
        "code": seen.code or "OK",
        "ms": round(seconds * 1000, 2),
        "tenant": seen.tenant,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)


def _fault(seen: Observation, error: Exception) -> bytes:
    trace, places = error.__traceback__, []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    line = {
        "at": datetime.now(UTC),
        "requestId": seen.request_id,
        "fault": type(error).__name__,
        "places": places[-8:],
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)
