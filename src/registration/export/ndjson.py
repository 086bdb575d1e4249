"""A chunk of an export as NDJSON: one file of each resource type, one resource a line.

What was erased is told by transaction Bundles with ``DELETE`` requests, one a line.

Source: https://hl7.org/fhir/uv/bulkdata/export.html (the output files, and ``deleted``).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO, NamedTuple
from uuid import UUID

import orjson

from registration.export import fhir_out
from registration.export.fhir_out import Resource
from registration.export.order import Body

EXTENSION = "ndjson"


class _Source(NamedTuple):
    """Which kind has to be asked for, of which records the resources are made, and how."""

    kind: str
    source: str
    resources: Callable[[Body], Iterable[Resource]]


RESOURCES: dict[str, _Source] = {
    "Patient": _Source("patient", "patient", lambda body: [fhir_out.patient(body)]),
    "RelatedPerson": _Source("next_of_kin", "patient", fhir_out.related_persons),
    "Consent": _Source("consent", "patient", fhir_out.consents),
    "Encounter": _Source("encounter", "encounter", lambda body: [fhir_out.encounter(body)]),
}


class NdjsonChunk:
    """Takes records and writes resources into files that ``open_file`` gives by type."""

    def __init__(self, kinds: Sequence[str], open_file: Callable[[str], BinaryIO]) -> None:
        self.counts: Counter[str] = Counter()
        self._open = open_file
        self._files: dict[str, BinaryIO] = {}
        self._of = {
            source: [
                (name, made.resources)
                for name, made in RESOURCES.items()
                if made.source == source and made.kind in kinds
            ]
            for source in ("patient", "encounter")
        }

    def add(self, _position: int, kind: str, body: Body) -> None:
        """Take in a record, of the read model's kind ``kind``."""
        for name, resources in self._of[kind]:
            made = resources(body)
            lines = [orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in made]
            if lines:
                self._file(name).writelines(lines)
                self.counts[name] += len(lines)

    def delete(self, _position: int, kind: str, its_id: UUID) -> None:
        """Take in that a record was erased."""
        line = orjson.dumps(fhir_out.deletion(kind, its_id), option=orjson.OPT_APPEND_NEWLINE)
        self._file("Bundle").write(line)
        self.counts["Bundle"] += 1

    def _file(self, name: str) -> BinaryIO:
        if name not in self._files:
            self._files[name] = self._open(name)
        return self._files[name]

    def close(self) -> None:
        """Hand over what is left to the files."""
