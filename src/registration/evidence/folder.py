"""The checkpoints outside of the database: a file a tenant, to which notes are only ever added."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote

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

    def tenants(self) -> list[str]:
        """Return whose checkpoints lie here. A file that none of ours is called like is told of."""
        found = []
        for path in sorted(self.path.glob(f"*{_SUFFIX}")):
            tenant = unquote(path.name.removesuffix(_SUFFIX), errors="replace")
            try:
                ours = tenant and "\0" not in tenant and self.file(tenant) == path
            except UnicodeEncodeError:  # its name is no UTF-8
                ours = False
            if ours:
                found.append(tenant)
            else:
                logger.warning("%s is named after no tenant", ascii(str(path)))
        return found

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
        """Return the last checkpoint of a tenant's log.

        What a crash left of one that was never whole does not count. Raises ``OSError``, and
        :class:`FolderError` where anything else stands there than our checkpoints.
        """
        path = self.file(tenant)
        try:
            with path.open("rb") as file:
                tail, whole = self._tail(tenant, file)
        except FileNotFoundError:
            return None
        return self._one(path, tail[:whole], -1)

    def first(self, tenant: str) -> notes.Signed | None:
        """Return the first checkpoint of a tenant's log. Raises as :meth:`last` does."""
        path = self.file(tenant)
        try:
            with path.open("rb") as file:
                head = file.read(2 * notes.LONGEST)
        except FileNotFoundError:
            return None
        return self._one(path, head[: notes.whole_length(head)], 0)

    def all(self, tenant: str) -> list[notes.Signed]:
        """Return every checkpoint of a tenant's log. Raises as :meth:`last` does."""
        path = self.file(tenant)
        try:
            with path.open("rb") as file:
                self._tail(tenant, file)
                file.seek(0)
                content = file.read()
            whole = content[: notes.whole_length(content)]
            return [notes.parse(note) for note in notes.split(whole)]
        except notes.NoteError as error:
            raise FolderError(f"{path}: something in it {error}") from error

    def _tail(self, tenant: str, file: BinaryIO) -> tuple[bytes, int]:
        """Return the end of a file, and how much of it is whole notes. Raises `FolderError`.

        Only what a crash can have left may follow on those: other bytes may be all that is left of
        checkpoints that somebody destroyed, and must not be taken for nothing.
        """
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * notes.LONGEST))
        tail = file.read()
        whole = notes.whole_length(tail)
        rest = tail[whole:].lstrip(b"\n") if whole else tail
        if rest and not notes.is_beginning(rest, tenant):
            raise FolderError(f"{self.file(tenant)}: its end is no checkpoint of this program")
        return tail, whole

    @staticmethod
    def _one(path: Path, content: bytes, which: int) -> notes.Signed | None:
        found = list(notes.split(content))
        if not found:
            return None
        try:
            return notes.parse(found[which])
        except notes.NoteError as error:
            place = "end" if which else "beginning"
            raise FolderError(f"{path}: its {place} {error}") from error

    def append(self, tenant: str, note: str) -> None:
        """Add a note; for who is alone here. Raises ``OSError`` and :class:`FolderError`.

        What a crash left of one that was never whole is taken away, and so is what cannot be
        written as a whole, on a full disk.
        """
        path = self.file(tenant)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(fd).st_size
            with open(fd, "rb", closefd=False) as file:
                tail, whole = self._tail(tenant, file)
            if whole < len(tail):
                logger.warning("%s ended in the midst of a checkpoint", path)
                size -= len(tail) - whole
                _truncate(fd, size)
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
