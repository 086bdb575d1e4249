"""The model that this process compares by: the one that ships, unless the settings name another.

The rows of the read model depend on it. So its content is part of the read model's version: where a
process feeds with another model than made the rows, the runner makes them anew.
"""

from pathlib import Path
from zlib import crc32

from registration.mpi.model import Model

_in_use = [Model.default()]


def in_use() -> Model:
    """Return the model."""
    return _in_use[0]


def use(path: Path | None) -> None:
    """Compare by the model of a file from now on; ``None``: by the one that ships.

    For the start of a process. Raises ``ModelError`` where the file cannot be used.
    """
    _in_use[0] = Model.default() if path is None else Model.load(path)


def version_of(rows: int) -> int:
    """Return the version of a read model whose rows are of this version and follow the model."""
    return rows + (crc32(in_use().dump()) & 0x3FFFFFFF) if in_use() != Model.default() else rows
