"""What is known to have been signed of a log: what its file says, and what the database says of it.

The file alone is not enough. Whoever may delete it, or cut it short, could have a log that was cut
off signed anew as if nothing had been. So its end is held against the copies in the database that
the same witness signed, and against how far the log was once verified.

A file begins anew only when people said so; its first checkpoint tells when. Copies from before
then are of the file before, and are not missed in this one. Witnesses with folders and keys of
their own may share a database: then one is ahead of another's file, and its copies say by how much.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from registration.evidence import watch
from registration.evidence.folder import CheckpointFolder, FolderError
from registration.evidence.notes import Checkpoint
from registration.evidence.watch import Connection


@dataclass(frozen=True, slots=True)
class Before:
    """What there was before a look.

    ``last`` ends the file. ``missing`` is one that should be in it, ``other`` one of another
    witness that was ahead, ``verified_to`` how far the log was verified by any.
    """

    last: Checkpoint | None
    missing: Checkpoint | None
    other: Checkpoint | None
    verified_to: int
    not_before: datetime | None = None

    @property
    def size(self) -> int:
        """How many events the file says were signed."""
        return self.last.size if self.last else 0

    @property
    def reached(self) -> int:
        """How many events the log is known to have had."""
        return max(self.size, self.verified_to, self.other.size if self.other else 0)

    @property
    def to_extend(self) -> list[Checkpoint]:
        """The checkpoints that the log has to extend."""
        return [each for each in (self.last, self.other) if each]

    def lost(self) -> str | None:
        """Say what the file lacks, if it lacks anything."""
        ahead = self.other.size if self.other else self.size
        if self.missing is None and ahead >= self.verified_to:
            return None
        signed = max(self.missing.size if self.missing else 0, self.verified_to)
        return f"{signed} events were signed, but its file of checkpoints says {self.size}"

    def anew(self) -> "Before":
        """Return what counts once people said that a new file may begin."""
        after = self.missing.at + timedelta(microseconds=1) if self.missing else None
        return Before(None, None, None, 0, after)


async def signed_before(
    connection: Connection,
    folder: CheckpointFolder,
    tenant: str,
    key: Ed25519PublicKey,
    verified_to: int,
) -> Before:
    """Return what is known to have been signed of a log, from which one goes on.

    ``key`` is the one in use. Raises ``OSError``, ``FolderError`` and ``psycopg.Error``.
    """
    keys = folder.keys()
    last, first = folder.last(tenant), folder.first(tenant)
    for which, signed in (("last", last), ("first", first)):
        if signed and not signed.verified(keys):
            raise FolderError(
                f"the {which} one in its file is not signed by a key that lies beside it"
            )
        if signed and signed.checkpoint.tenant != tenant:
            raise FolderError(f"the {which} one in its file is of another log")
    if last:
        await watch.copy(connection, last)  # in case that a crash came between the two
    own = [key, *(each for each in keys if last and last.verified([each]))]
    since = first.checkpoint.at if first else None
    size = last.checkpoint.size if last else 0
    missing, other = await _copies_beyond(connection, tenant, size, own, since, verified_to)
    return Before(
        last.checkpoint if last else None,
        missing,
        other,
        verified_to,
        last.checkpoint.at if last else None,
    )


async def _copies_beyond(
    connection: Connection,
    tenant: str,
    size: int,
    own: Collection[Ed25519PublicKey],
    since: datetime | None,
    verified_to: int,
) -> tuple[Checkpoint | None, Checkpoint | None]:
    """Return a copy that the file lacks, and another witness' that says how far it verified."""
    other = None
    async for signed in watch.each_copy(connection, tenant):
        said = signed.checkpoint
        if said.size <= size:
            break
        if not signed.verified(own):
            if said.size >= verified_to > size:
                other = said
        elif since is None or said.at >= since:
            return said, None
    return None, other
