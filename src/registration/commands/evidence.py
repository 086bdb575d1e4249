"""What the commands about tamper evidence share: checkpoints in files, and public keys."""

from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from registration.commands import CommandError
from registration.evidence.folder import KEY_FILE, CheckpointFolder, FolderError, checkpoint_key
from registration.evidence.notes import NoteError
from registration.evidence.notes import public_keys as read_keys
from registration.settings import Settings

CheckpointFile = Annotated[
    Path | None,
    typer.Option(help="A file of signed checkpoints, as the service writes them.", dir_okay=False),
]
PublicKeys = Annotated[
    list[Path] | None,
    typer.Option(
        help="A PEM file with the public key that signed them; may stand more than once. "
        "[default: that of the data folder]",
        show_default=False,
    ),
]


def public_keys(settings: Settings, paths: list[Path] | None) -> list[Ed25519PublicKey]:
    """The keys of these files; without any, the one of the data folder, which is not made here.

    Raises `CommandError`.
    """
    if not paths:
        if not (settings.data_dir / KEY_FILE).exists():
            raise CommandError(f"{settings.data_dir} has no key of checkpoints: name --public-key")
        return [checkpoint_key(settings.data_dir).public_key()]
    found = []
    for path in paths:
        try:
            found += read_keys(path.read_bytes())
        except OSError as error:
            raise CommandError(f"cannot read {path}: {error.strerror}") from error
        except NoteError as error:
            raise CommandError(f"{path} {error}") from error
    return found


def folder_keys(folder: CheckpointFolder) -> list[Ed25519PublicKey]:
    """The public keys that lie beside the checkpoints of a folder. Raises `CommandError`."""
    try:
        return folder.keys()
    except FolderError as error:
        raise CommandError(str(error)) from error


def checkpoint_folder(settings: Settings) -> CheckpointFolder:
    """The folder that the settings name."""
    return CheckpointFolder(settings.checkpoints)
