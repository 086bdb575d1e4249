"""What the figures were measured on."""

import os
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

from benchmarks.bench import Bench

_COMMITS = 300


def describe(bench: Bench) -> list[tuple[str, str]]:
    """Return names and values; measures how long a commit takes to be durable."""
    with bench.admin() as connection:
        settings = {
            name: str((connection.execute(f"SHOW {name}").fetchone() or ("?",))[0])
            for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes")
        }
    memory = psutil.virtual_memory().total / 2**30
    load = ", ".join(f"{part:.1f}" for part in os.getloadavg())
    return [
        ("CPU", f"{_cpu()}, {os.cpu_count()} cores"),
        ("memory", f"{memory:.0f} GiB"),
        ("system", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        (
            "PostgreSQL",
            f"{settings.pop('server_version')} (the embedded one), "
            + ", ".join(f"{name} {value}" for name, value in settings.items()),
        ),
        ("a commit of one row by one client", f"{_commit_ms(bench):.2f} ms (median)"),
        ("load average before the run", load),
        ("date", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
    ]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit_ms(bench: Bench) -> float:
    with (
        bench.database(migrated=False) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        connection.execute("CREATE TABLE commits (at timestamptz)")
        times = []
        for _ in range(_COMMITS):
            start = time.perf_counter()
            connection.execute("INSERT INTO commits VALUES (now())", prepare=True)
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000
