"""Cutting a queue into pushes of a size that the service takes."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from registration.client.mutation import Mutation

MOST_MUTATIONS = 500
MOST_BYTES = int(1.9 * 1024 * 1024)
"""Of JSON, before gzip: a little less than the service takes."""
_WORTH_GZIP = 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """The mutations of one push, and its body."""

    mutations: tuple[Mutation, ...]
    body: bytes

    def encoded(self) -> tuple[bytes, dict[str, str]]:
        """Return the body as it is sent, with its headers; the same bytes each time."""
        headers = {"Content-Type": "application/json"}
        if len(self.body) <= _WORTH_GZIP:
            return self.body, headers
        return gzip.compress(self.body, 6, mtime=0), headers | {"Content-Encoding": "gzip"}


def first_batch(client_id: str, queue: Sequence[Mutation], most: int) -> Batch:
    """Return a push of what comes first in a queue: at most ``most``, and at least one."""
    head = orjson.dumps({"clientId": client_id})[:-1] + b',"mutations":['
    parts: list[bytes] = []
    size = len(head) + 2
    for mutation in queue[:most]:
        part = orjson.dumps(mutation.wire())
        size += len(part) + 1
        if parts and size > MOST_BYTES:
            break
        parts.append(part)
    return Batch(tuple(queue[: len(parts)]), head + b",".join(parts) + b"]}")
