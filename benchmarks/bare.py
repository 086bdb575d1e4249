"""What HTTP alone costs here: one uvicorn worker that parses a registration and answers it.

No token, no decision, no store. The service's own rate is to be read against this one as well as
against L: both are taken in the same run, and a machine may be slow at one and quick at the other.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.service import PATIENCE, environment
from registration.domain.commands import RegisterPatient


async def _echo(request: Request) -> Response:
    patient = RegisterPatient.model_validate_json(await request.body(), strict=True)
    headers = {"Location": "/v1/patients/01a203b4-bfc5-7699-8c54-7949ac1dba7a"}
    return Response(
        patient.model_dump_json(by_alias=True), 201, headers, media_type="application/json"
    )


app = Starlette(routes=[Route("/v1/patients", _echo, methods=["POST"])])


@contextmanager
def serving() -> Iterator[int]:
    """Run the bare application for the length of the block; yields its port on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.bare:app", "--port", str(port)]
    options = ["--http=httptools", "--loop=uvloop", "--no-access-log", "--log-level=error"]
    with subprocess.Popen(command + options, env=environment()) as process:
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
