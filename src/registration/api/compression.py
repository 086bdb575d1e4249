"""Answers that are worth compressing."""

import zlib
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

_WORTHWHILE = 1024
_LEVEL = 3
"""Half the time of zlib's default for a tenth more bytes, measured on a page of patients."""


def compressed(request: Request, value: Any, headers: Mapping[str, str]) -> Response:
    """Return a value as JSON, with gzip (RFC 9110, 8.4.1.3) where the caller takes it."""
    body = orjson.dumps(value, option=orjson.OPT_UTC_Z)
    answer = {"Vary": "Accept-Encoding", **headers}
    if len(body) >= _WORTHWHILE and _takes_gzip(request.headers.get("accept-encoding", "")):
        packer = zlib.compressobj(_LEVEL, wbits=31)
        body = packer.compress(body) + packer.flush()
        answer["Content-Encoding"] = "gzip"
    return Response(body, 200, answer, "application/json")


def _takes_gzip(accepted: str) -> bool:
    for part in accepted.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
