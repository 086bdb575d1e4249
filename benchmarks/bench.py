"""What every benchmark works with: one PostgreSQL, databases on it, the results."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
from rich.console import Console

from benchmarks.results import Figure, Results, Target
from registration.eventstore import database
from registration.eventstore.embedded import EmbeddedPostgres
from registration.eventstore.migrations import migrate
from registration.master_keys import unlock
from registration.settings import Settings


@dataclass
class Bench:
    """One run. ``quick`` is a smoke test: everything runs, no figure means anything."""

    data_dir: Path
    postgres: EmbeddedPostgres
    console: Console
    quick: bool
    results: Results = field(default_factory=Results)
    _numbers: "count[int]" = field(default_factory=count)

    def scaled(self, whole: int, quick: int) -> int:
        """Return a size or a number of seconds that depends on whether this is a smoke test."""
        return quick if self.quick else whole

    def say(self, text: str) -> None:
        """Tell how far the run is."""
        self.console.print(text, style="dim", highlight=False)

    def add(
        self,
        group: str,
        name: str,
        value: float | None,
        unit: str,
        target: Target | None = None,
        *,
        ratio: bool = False,
        note: str = "",
    ) -> None:
        """Take in a figure, and tell it."""
        self.results.add(Figure(group, name, value, unit, target, ratio, note))
        shown = "not measured" if value is None else f"{value:,.2f} {unit}"
        self.say(f"  {name}: {shown}" + (f" ({note})" if note else ""))

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """Yield the URL of a fresh database on the server; dropped afterwards."""
        name = f"bench_{next(self._numbers)}"
        with self.admin() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = urlunsplit(urlsplit(self.postgres.url)._replace(path=f"/{name}"))
        if migrated:
            migrate(url)
        try:
            yield url
        finally:
            with self.admin() as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def admin(self) -> psycopg.Connection:
        """Return an autocommit connection to the service's own database."""
        return psycopg.connect(self.postgres.url, autocommit=True)

    def settle(self) -> None:
        """Write out what earlier measurements left in memory, so that none pays for another."""
        with self.admin() as connection:
            connection.execute("CHECKPOINT")
        time.sleep(0 if self.quick else 1)

    def program(self, name: str) -> Path:
        """Return one of PostgreSQL's own programs, of the very server that runs here."""
        if self.postgres.pid is None:
            raise RuntimeError("the server is gone")
        return Path(psutil.Process(self.postgres.pid).exe()).with_name(name)


def connect(url: str) -> psycopg.Connection:
    """Return an autocommit connection with the settings that the service's own have."""
    return psycopg.connect(url, autocommit=True, **database.parameters("benchmark"))


@contextmanager
def started(console: Console, *, quick: bool) -> Iterator[Bench]:
    """Yield a run with a PostgreSQL in a temporary folder, both gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="registration-bench-"))
    try:
        data_dir = folder / "data"
        with EmbeddedPostgres(data_dir) as postgres:
            migrate(postgres.url)
            # what is loaded here is sealed like what the service stores, with the same master key
            unlock(Settings(data_dir=data_dir, database_url=None, master_key=None), postgres.url)
            yield Bench(data_dir, postgres, console, quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
