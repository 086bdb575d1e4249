"""A log, a folder for checkpoints beside it, and somebody who changes what was written."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.eventstore.given import TENANT, fill, open_store

from registration.eventstore.verify import VerifyReport, verify_log
from registration.evidence.comparison import Compared, compare, read, sizes
from registration.evidence.folder import CheckpointFolder
from registration.evidence.watch import Watched
from registration.evidence.witness import Witness

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
STREAM = UUID(int=3)


@dataclass
class Site:
    """A database, and what is written beside it."""

    url: str
    folder: CheckpointFolder
    key: Ed25519PrivateKey = KEY
    now: datetime = datetime(2026, 11, 28, tzinfo=UTC)

    def append(self, count: int, tenant: str = TENANT) -> None:
        """Append events."""

        async def appended() -> None:
            async with open_store(self.url) as store:
                await fill(store, count, tenant=tenant)

        asyncio.run(appended())

    def look(self, accepted: str = "") -> dict[str, Watched]:
        """Let the witness look once, a minute after it last did."""
        self.now += timedelta(minutes=1)
        witness = Witness(self.url, self.folder, self.key, lambda: self.now, [accepted])
        return asyncio.run(witness.look())

    def change(self, *statements: str, parameters: Sequence[object] = ()) -> None:
        """Do what only who owns the tables may do."""
        with psycopg.connect(self.url, options="-c search_path=registration") as connection:
            for statement in statements:
                connection.execute(statement.encode(), parameters or None)

    def signed(self, tenant: str = TENANT) -> list[int]:
        """Return the sizes of which there are checkpoints."""
        path = self.folder.file(tenant)
        return [s.checkpoint.size for s in read(path)] if path.exists() else []

    def verified(self, tenant: str = TENANT) -> tuple[VerifyReport, Compared]:
        """Verify the log and hold it against the checkpoints."""
        found = read(self.folder.file(tenant))
        report = verify_log(self.url, tenant, sizes=sizes(found))
        [compared] = compare(found, [self.key.public_key()], report)
        return report, compared


def site(url: str, path: Path) -> Site:
    """Return a site whose checkpoints go into a folder that is not there yet."""
    return Site(url, CheckpointFolder(path / "checkpoints"))
