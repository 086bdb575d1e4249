"""The changes by their names: what each is about, and nothing but a call of ``submit``."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from registration.client.mutation import Mutation
from registration.client.views import View
from registration.domain.contract import Operation

Said = Mapping[str, Any]
"""The body of the matching endpoint, with the member names of the wire."""


class NamedChanges(ABC):
    """Each method queues one change and returns the record as it then looks here."""

    @abstractmethod
    def submit(
        self,
        operation: Operation | str,
        aggregate_id: UUID | None,
        payload: Said,
        entry: UUID | str | None = None,
    ) -> Mutation:
        """Make a change."""

    @abstractmethod
    def patient(self, patient_id: UUID) -> View | None:
        """Return a patient."""

    @abstractmethod
    def encounter(self, encounter_id: UUID) -> View | None:
        """Return an encounter."""

    def register(self, patient: Said) -> View:
        """Register a patient; the id may be chosen as ``id``."""
        return self._of_patient(Operation.REGISTER_PATIENT, None, patient)

    def update_demographics(self, patient_id: UUID, patch: Said) -> View:
        """Change demographics by a merge patch: what is absent stays, what is null goes."""
        return self._of_patient(Operation.UPDATE_DEMOGRAPHICS, patient_id, patch)

    def add_name(self, patient_id: UUID, name: Said) -> View:
        """Add a name."""
        return self._of_patient(Operation.ADD_NAME, patient_id, name)

    def replace_name(self, patient_id: UUID, name_id: UUID | str, name: Said) -> View:
        """Give a name new content."""
        return self._of_patient(Operation.REPLACE_NAME, patient_id, name, name_id)

    def retire_name(self, patient_id: UUID, name_id: UUID | str, reason: str) -> View:
        """Retire a name."""
        return self._of_patient(Operation.RETIRE_NAME, patient_id, {"reason": reason}, name_id)

    def add_identifier(self, patient_id: UUID, identifier: Said) -> View:
        """Add an identifier; whether somebody else holds it, the service knows."""
        return self._of_patient(Operation.ADD_IDENTIFIER, patient_id, identifier)

    def retire_identifier(self, patient_id: UUID, identifier_id: UUID | str, reason: str) -> View:
        """Retire an identifier."""
        said = {"reason": reason}
        return self._of_patient(Operation.RETIRE_IDENTIFIER, patient_id, said, identifier_id)

    def add_next_of_kin(self, patient_id: UUID, next_of_kin: Said) -> View:
        """Add a next of kin."""
        return self._of_patient(Operation.ADD_NEXT_OF_KIN, patient_id, next_of_kin)

    def remove_next_of_kin(self, patient_id: UUID, kin_id: UUID | str, reason: str) -> View:
        """Remove a next of kin."""
        return self._of_patient(
            Operation.REMOVE_NEXT_OF_KIN, patient_id, {"reason": reason}, kin_id
        )

    def set_consent(self, patient_id: UUID, flag: str, decision: Said) -> View:
        """Record what a person said to a consent flag."""
        return self._of_patient(Operation.SET_CONSENT, patient_id, decision, flag)

    def set_extension(self, patient_id: UUID, schema: str, version: int, data: Any) -> View:
        """Give the data under an extension schema, whole."""
        said = {"schemaVersion": version, "data": data}
        return self._of_patient(Operation.SET_EXTENSION, patient_id, said, schema)

    def remove_extension(self, patient_id: UUID, schema: str, reason: str | None = None) -> View:
        """Take the data under an extension schema away."""
        said = {} if reason is None else {"reason": reason}
        return self._of_patient(Operation.REMOVE_EXTENSION, patient_id, said, schema)

    def open_encounter(self, patient_id: UUID, encounter: Said) -> View:
        """Open an encounter of a patient, as of now unless it says ``at``."""
        said = {**encounter, "patientId": patient_id}
        return self._of_encounter(Operation.OPEN_ENCOUNTER, None, said)

    def transition(self, encounter_id: UUID, to: str, reason: str | None = None) -> View:
        """Move an encounter on, as of now."""
        said = {"to": to} if reason is None else {"to": to, "reason": reason}
        return self._of_encounter(Operation.TRANSITION_ENCOUNTER, encounter_id, said)

    def _of_patient(
        self,
        operation: Operation,
        patient_id: UUID | None,
        said: Said,
        entry: UUID | str | None = None,
    ) -> View:
        made = self.submit(operation, patient_id, said, entry)
        return _there(self.patient(made.aggregate_id))

    def _of_encounter(self, operation: Operation, encounter_id: UUID | None, said: Said) -> View:
        made = self.submit(operation, encounter_id, said)
        return _there(self.encounter(made.aggregate_id))


def _there(view: View | None) -> View:
    if view is None:
        raise RuntimeError("what was just changed cannot be shown")
    return view
