"""Holds a log, as it was just verified, against the checkpoints of a file."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from registration.eventstore.verify import LogReport, VerifyReport
from registration.evidence import notes
from registration.evidence.notes import NoteError, Signed


@dataclass(frozen=True, slots=True)
class NotHeld:
    """A checkpoint that the log does not bear out.

    The first event that differs is behind position ``after``, which an earlier checkpoint vouches
    for, and none is known beyond ``until``. Both are ``None`` where the checkpoint itself is bad.
    """

    signed: Signed
    reason: str
    after: int | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """How the checkpoints of one log fare: how many hold, and the first that does not."""

    tenant: str
    held: int
    last: Signed
    failed: NotHeld | None


def read(path: Path) -> list[Signed]:
    """Read the checkpoints of a file; nothing is verified.

    Raises ``OSError``, and :class:`NoteError` where something in it is no checkpoint, saying what.
    """
    found = []
    for number, note in enumerate(notes.split(path.read_bytes()), 1):
        try:
            found.append(notes.parse(note))
        except NoteError as error:
            raise NoteError(f"entry {number} of {path.name} {error}") from error
    return found


def sizes(checkpoints: Iterable[Signed]) -> dict[str, set[int]]:
    """Return the sizes that a log has to have marks of, by tenant."""
    wanted: dict[str, set[int]] = {}
    for signed in checkpoints:
        wanted.setdefault(signed.checkpoint.tenant, set()).add(signed.checkpoint.size)
    return wanted


def compare(
    checkpoints: Sequence[Signed], keys: Collection[Ed25519PublicKey], report: VerifyReport
) -> list[Compared]:
    """Compare each checkpoint with the log of its tenant."""
    logs = {log.tenant: log for log in report.logs}
    return [
        _compare_log(
            [signed for signed in checkpoints if signed.checkpoint.tenant == tenant],
            keys,
            logs.get(tenant, LogReport(tenant, 0, b"", None)),
        )
        for tenant in sorted(sizes(checkpoints))
    ]


def _compare_log(
    checkpoints: Sequence[Signed], keys: Collection[Ed25519PublicKey], log: LogReport
) -> Compared:
    reasons: Mapping[int, str | None] = {
        number: _reason(signed, keys, log) for number, signed in enumerate(checkpoints)
    }
    held = [checkpoints[number] for number, reason in reasons.items() if reason is None]
    failed = None
    for number, reason in reasons.items():
        if reason is not None:
            failed = _not_held(checkpoints[number], reason, keys, held)
            break
    return Compared(log.tenant, len(held), checkpoints[-1], failed)


def _reason(signed: Signed, keys: Collection[Ed25519PublicKey], log: LogReport) -> str | None:
    said = signed.checkpoint
    if not signed.verified(keys):
        return "it is not signed with the key"
    if said.size > log.length:
        return f"the log has only {log.length} events"
    if log.marks[said.size] != (said.root, said.head):
        return "the events up to there are not those that were signed"
    return None


def _not_held(
    signed: Signed, reason: str, keys: Collection[Ed25519PublicKey], held: Iterable[Signed]
) -> NotHeld:
    if not signed.verified(keys):
        return NotHeld(signed, reason)
    size = signed.checkpoint.size
    before = [other.checkpoint.size for other in held if other.checkpoint.size < size]
    return NotHeld(signed, reason, max(before, default=0), size)
