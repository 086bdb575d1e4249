"""What was asked for, what came of it, and what an export can end with."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many log positions of it are done, and how many there are."""

Body = dict[str, Any]
"""A record as the wire shows it."""

KINDS = ("patient", "next_of_kin", "consent", "encounter")
"""What may be asked for. The first three come out of a patient's record."""

DELETED = ("Bundle", "deleted")
"""Types of files that tell what was erased: of NDJSON, of Parquet."""

RECORDS_PER_FILE = 100_000


class ExportError(Exception):
    """The export cannot go on; the message tells its user why, and holds no patient data."""


class Order(NamedTuple):
    """What is to be exported: a tenant's records that changed after ``since``, of ``kinds``.

    ``per_file``: how many records of the read model make one chunk, that is one file of each type.
    """

    tenant: str
    form: str
    since: int = 0
    kinds: tuple[str, ...] = KINDS
    per_file: int = RECORDS_PER_FILE

    def said(self) -> str:
        """Return the command that asks for it, without places of this machine."""
        return (
            f"registration export --format {self.form} --since {self.since}"
            f" --tenant {self.tenant} --kinds {','.join(self.kinds)}"
            f" --records-per-file {self.per_file}"
        )

    def read_model_kinds(self) -> list[str]:
        """Return which kinds of records of the read model it takes."""
        of_patients = set(self.kinds) - {"encounter"}
        return [*(["patient"] if of_patients else []), *({"encounter"} & set(self.kinds))]


@dataclass(frozen=True, slots=True)
class Output:
    """One file: what is in it, its name, and how many of it."""

    type: str
    url: str
    count: int


class Exported(NamedTuple):
    """A whole export. ``position``: everything that the log says up to there is in it.

    ``set_aside`` streams are not, or not as they are now: the read model could not take them in.
    """

    position: int
    transaction_time: datetime
    output: tuple[Output, ...]
    set_aside: int

    def counts(self) -> dict[str, int]:
        """Return how many there are of each type, in the order in which the types first came."""
        counts: dict[str, int] = {}
        for file in self.output:
            counts[file.type] = counts.get(file.type, 0) + file.count
        return counts
