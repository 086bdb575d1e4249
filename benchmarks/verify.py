"""How fast the log is verified: the chain, the tree, and the checkpoints of a file with it.

Beside it, in the same run, what PostgreSQL takes to send the same rows to a client that looks at
none of them: no verification can be faster than that. Then what a checkpoint costs while the log
is long and little is new, and a proof.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.append import Caller
from benchmarks.bench import Bench, connect
from benchmarks.results import at_least, at_most
from benchmarks.sample import Requests, registrations
from registration.eventstore import database
from registration.eventstore.verify import verify_log
from registration.evidence import proofs, watch
from registration.evidence.comparison import compare, read, sizes
from registration.evidence.folder import CheckpointFolder
from registration.evidence.witness import Witness

_SENT = """
COPY (SELECT position, stream_id, version, topic, data, metadata, recorded_at, hash
        FROM event WHERE tenant = %s ORDER BY position)
  TO STDOUT (FORMAT BINARY)
"""
_MINUTE = 60
_NEW = 1000


def run(bench: Bench) -> None:
    """Fill a log, sign it ten times on the way, verify it; then sign a little and prove."""
    bench.say("verify")
    events = bench.scaled(1_000_000, 10_000)
    requests = Requests(registrations(bench.scaled(5000, 1000)))
    key = Ed25519PrivateKey.generate()
    with bench.database() as url, tempfile.TemporaryDirectory() as path:
        witness = Witness(url, CheckpointFolder(Path(path)), key)
        with connect(url) as connection:
            caller = Caller(connection, requests)
            for _ in range(10):
                caller.of_requests(events // 10, 256)
                asyncio.run(witness.look())
        bench.settle()
        found = read(CheckpointFolder(Path(path)).file(requests.tenant))
        length = found[-1].checkpoint.size
        sent = _seconds(lambda: _receive(url, requests.tenant))
        spent = _seconds(lambda: _verify(url, found, key))
        bench.add(
            "verify",
            f"{length:,} events with {len(found)} checkpoints: chain, streams, tree, signatures",
            length / spent,
            "events/s",
            at_least(1_000_000 / _MINUTE),
            note=f"{spent:.1f} s",
        )
        bench.add(
            "verify",
            "its rate over that of PostgreSQL sending the same rows",
            sent / spent,
            "",
            note=f"which takes {sent:.1f} s",
        )
        with connect(url) as connection:
            Caller(connection, requests).of_requests(_NEW, 256)
        signed = _seconds(lambda: asyncio.run(witness.look()))
        bench.add(
            "verify",
            f"a look at that log with {_NEW:,} new events: verify, sign, review 50,000 old ones",
            signed,
            "s",
            at_most(spent / 4),
        )
        bench.add(
            "verify", "an inclusion proof", asyncio.run(_prove(url, requests.tenant, key)), "ms"
        )


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _receive(url: str, tenant: str) -> None:
    with (
        connect(url) as connection,
        connection.transaction(),
        connection.cursor() as cursor,
    ):
        cursor.execute("SET LOCAL statement_timeout = 0")
        with cursor.copy(_SENT, (tenant,)) as copy:
            for _ in copy:
                pass


def _verify(url: str, found: list[Any], key: Ed25519PrivateKey) -> None:
    report = verify_log(url, sizes=sizes(found))
    [compared] = compare(found, [key.public_key()], report)
    if not report.ok or compared.failed:
        raise RuntimeError("the log does not hold")


async def _prove(url: str, tenant: str, key: Ed25519PrivateKey) -> float:
    """Return milliseconds a proof, over a hundred of them."""
    async with await database.connect(url, name="benchmark") as connection:
        [newest] = await watch.copies(connection, tenant, [key.public_key()])
        size = newest.checkpoint.size
        start = time.perf_counter()
        for number in range(100):
            await proofs.inclusion(connection, tenant, 1 + number * 97, size)
        return (time.perf_counter() - start) * 10
