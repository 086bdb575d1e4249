"""A patient as the search read model knows it, and the rows that it has there."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from pydantic import TypeAdapter

from registration.domain import search_keys
from registration.domain.events import (
    DemographicsCorrected,
    IdentifierAdded,
    IdentifierRetired,
    NameAdded,
    NameReplaced,
    NameRetired,
    PatientAbsorbed,
    PatientEvent,
    PatientMergedAway,
    PatientRegistered,
    PatientReleased,
    PatientRestored,
)
from registration.domain.names import display
from registration.domain.patient_resource import former_identifiers
from registration.domain.patient_state import Absorbed
from registration.domain.resources import Identifier, Name

Row = tuple[Any, ...]
_ABSORBED = TypeAdapter(tuple[Absorbed, ...])


@dataclass(slots=True)
class Patient:
    """A patient as far as search knows: the fold of the stream's events."""

    tenant: str
    id: UUID
    version: int = 0
    gender: str = "unknown"
    birth_date: str | None = None
    facility: str | None = None
    names: dict[UUID, Name] = field(default_factory=dict)
    identifiers: dict[UUID, Identifier] = field(default_factory=dict)
    replaced_by: UUID | None = None
    absorbed: dict[UUID, Absorbed] = field(default_factory=dict)
    _text_id: str = ""

    def evolve(self, event: PatientEvent) -> None:
        """Take in the next event; those that search shows nothing of raise the version alone."""
        match event:
            case PatientRegistered():
                self.gender = event.gender
                self.birth_date = event.birth_date
                self.facility = event.facility
                self.names = {name.id: name for name in event.names}
                self.identifiers = {known.id: known for known in event.identifiers}
            case DemographicsCorrected():
                self.gender = event.changes.get("gender", self.gender) or "unknown"
                self.birth_date = event.changes.get("birthDate", self.birth_date)
                self.facility = event.changes.get("facility", self.facility)
            case NameAdded() | NameReplaced():
                self.names[event.name.id] = event.name
            case NameRetired():
                self.names.pop(event.name_id, None)
            case IdentifierAdded():
                self.identifiers[event.identifier.id] = event.identifier
            case IdentifierRetired():
                self.identifiers.pop(event.identifier_id, None)
            case _:
                self._evolve_links(event)

    def _evolve_links(self, event: PatientEvent) -> None:
        match event:
            case PatientMergedAway():
                self.replaced_by = event.survivor_id
            case PatientRestored():
                self.replaced_by = None
            case PatientAbsorbed():
                retired = Absorbed(event.patient_id, event.names, event.identifiers)
                self.absorbed[event.patient_id] = retired
            case PatientReleased():
                for its_id in event.patient_ids:
                    self.absorbed.pop(its_id, None)

    @property
    def text_id(self) -> str:
        """The id as rows hold it: most go into a COPY."""
        if not self._text_id:
            self._text_id = str(self.id)
        return self._text_id

    def row(self) -> Row:
        """Return the row of ``patient``."""
        names = list(self.names.values())
        document: dict[str, Any] = {
            "display": display(names),
            "names": [_json(name) for name in names],
            "gender": self.gender,
            "birthDate": self.birth_date,
            "identifiers": [_json(known) for known in self._all_identifiers()],
            "facility": self.facility,
        }
        if former := list(self._former_names()):
            document["formerNames"] = [
                {**name.plain(), "mergedFrom": its_id} for its_id, name in former
            ]
        if self.replaced_by is not None:
            document["replacedBy"] = self.replaced_by
        return (
            self.tenant,
            self.text_id,
            self.version,
            self.replaced_by is None,
            self.gender,
            self.birth_date,
            self.facility,
            orjson.dumps(document).decode(),
            self._absorbed_text(),
        )

    def _absorbed_text(self) -> str | None:
        """Return all that merges made known: how much of it shows depends on the own names."""
        if not self.absorbed:
            return None
        return _ABSORBED.dump_json(tuple(self.absorbed.values()), exclude_defaults=True).decode()

    def _all_identifiers(self) -> Iterator[Identifier]:
        yield from self.identifiers.values()
        yield from former_identifiers(self.absorbed.values())

    def _former_names(self) -> Iterator[tuple[UUID, Name]]:
        """Yield the names that only merged records have, each with the first that has it."""
        if not self.absorbed:
            return
        seen = {_spelt(name) for name in self.names.values()}
        for retired in self.absorbed.values():
            for name in retired.names:
                if (spelt := _spelt(name)) not in seen:
                    seen.add(spelt)
                    yield retired.patient_id, name

    def pair_rows(self) -> set[Row]:
        """Return the rows of ``name_pair``."""
        tenant, patient_id, birth_date = self.tenant, self.text_id, self.birth_date
        return {
            (tenant, word, role, other, patient_id, birth_date)
            for name in (*self.names.values(), *(name for _, name in self._former_names()))
            for word, role, other in search_keys.pairs_of(name)
        }

    def identifier_rows(self) -> set[Row]:
        """Return the rows of ``identifier``."""
        return {
            (self.tenant, known.system, known.value, self.text_id)
            for known in self._all_identifiers()
        }

    @classmethod
    def from_row(cls, row: Row) -> "Patient":
        """Rebuild the state from the row of ``patient``."""
        tenant, patient_id, version, _, gender, birth_date, facility, document, absorbed = row
        known = orjson.loads(document)
        names = map(Name.model_validate, known["names"])
        identifiers = map(Identifier.model_validate, known["identifiers"])
        replaced_by = known.get("replacedBy")
        return cls(
            tenant,
            patient_id,
            version,
            gender,
            birth_date,
            facility,
            {name.id: name for name in names},
            {its_own.id: its_own for its_own in identifiers if its_own.merged_from is None},
            None if replaced_by is None else UUID(replaced_by),
            {each.patient_id: each for each in _ABSORBED.validate_json(absorbed or "[]")},
        )


def _json(model: Name | Identifier) -> orjson.Fragment:
    return orjson.Fragment(model.encoded())


def _spelt(name: Name) -> tuple[Any, ...]:
    """Return what two names are one name by, whatever they are used for."""
    return name.family, name.given, name.prefix, name.suffix, name.text
