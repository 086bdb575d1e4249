"""The checkpoints outside of the database: a file a tenant, to which notes are only ever added."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from registration.evidence import notes
from registration.key_files import private_key, write_once

logger = logging.getLogger(__name__)

KEY_FILE = "checkpoint-key.pem"
_SUFFIX = ".checkpoints"


class FolderError(RuntimeError):
    """The folder or a file of it cannot be used. The message names it."""


class CheckpointFolder:
    """Where checkpoints are written, with the public keys that verify them.

    One process at a time writes (:meth:`alone`), whichever database it looks at. A note is there
    with its last byte on disk, or it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, tenant: str) -> Path:
        """Return where the checkpoints of a tenant's log are, if there are any."""
        return self.path / f"{quote(tenant, safe='')}{_SUFFIX}"

    def files(self) -> list[Path]:
        """Return the files of all tenants."""
        return sorted(self.path.glob(f"*{_SUFFIX}"))

    def keys(self) -> list[Ed25519PublicKey]:
        """Return the public keys that lie here: of the key in use, and of those before it.

        Raises :class:`FolderError`.
        """
        found: list[Ed25519PublicKey] = []
        for path in sorted(self.path.glob("*.pem")):
            try:
                found += notes.public_keys(path.read_bytes())
            except (OSError, notes.NoteError) as error:
                raise FolderError(f"{path}: {error}") from error
        return found

    def publish(self, key: Ed25519PublicKey) -> None:
        """Put a public key beside the checkpoints. Raises ``OSError``."""
        path = self.path / f"{fingerprint(key)}.pem"
        if not path.exists():
            write_once(path, notes.pem(key))

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Be the one process that writes here; yields whether it is. Raises ``OSError``."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path / "checkpoints.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)  # which gives the lock back

    def last(self, tenant: str) -> notes.Signed | None:
        """Return the last checkpoint of a tenant's log; for who is alone here.

        What a crash left of one that was never whole is taken away. Raises ``OSError``, and
        :class:`FolderError` where what stands there is none of our checkpoints.
        """
        path = self.file(tenant)
        try:
            with path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                start = max(0, size - 2 * notes.LONGEST)
                file.seek(start)
                tail = file.read()
                whole = notes.whole_length(tail)
                if whole < len(tail):
                    logger.warning("%s ended in the midst of a checkpoint", path)
                    _truncate(file.fileno(), start + whole)
        except FileNotFoundError:
            return None
        found = list(notes.split(tail[:whole]))
        if not found:
            return None
        try:
            return notes.parse(found[-1])
        except notes.NoteError as error:
            raise FolderError(f"{path}: its end {error}") from error

    def append(self, tenant: str, note: str) -> None:
        """Add a note; for who is alone here, after :meth:`last`. Raises ``OSError``.

        What cannot be written as a whole, on a full disk, is taken back.
        """
        path = self.file(tenant)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(fd).st_size
            content = (b"\n" if size else b"") + note.encode()
            try:
                while content:  # a disk that is full takes a part, and then says so
                    content = content[os.write(fd, content) :]
                os.fsync(fd)
            except OSError:
                with suppress(OSError):  # then the next start finds it
                    _truncate(fd, size)
                raise
        finally:
            os.close(fd)
        if not size:
            _sync_folder(self.path)


def checkpoint_key(data_dir: Path) -> Ed25519PrivateKey:
    """Return the key that signs checkpoints, made on first use. Raises ``KeyFileError``."""
    return private_key(data_dir / KEY_FILE)


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return a short name of a key: the first 16 hexadecimal digits of its SHA-256."""
    return sha256(notes.raw(key)).hexdigest()[:16]


def _truncate(fd: int, size: int) -> None:
    os.ftruncate(fd, size)
    os.fsync(fd)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
