"""Which decision answers which operation: the rows of the conflict table that are built."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from registration.domain import commands, events, patient
from registration.domain.contract import Operation
from registration.domain.events import Event
from registration.domain.resources import Model


@dataclass(frozen=True, slots=True)
class Handler:
    """How one operation is decided.

    ``creates``: the command starts a stream. ``entry``: the command is about one entry of the
    aggregate (a name, say), whose id ``decide`` takes as a fourth argument. ``adds``: what it adds
    is an entry with an id and a place of its own, named like the collection it is added to.
    """

    payload: type[Model]
    decide: Callable[..., Sequence[Event]]
    creates: bool = False
    entry: bool = False
    adds: str | None = None

    @property
    def makes(self) -> bool:
        """Whether something new comes of it, a stream or an entry."""
        return self.creates or self.adds is not None


HANDLERS: dict[Operation, Handler] = {
    Operation.REGISTER_PATIENT: Handler(
        commands.RegisterPatient, patient.decide_register, creates=True
    ),
    Operation.UPDATE_DEMOGRAPHICS: Handler(
        commands.UpdateDemographics, patient.decide_update_demographics
    ),
    Operation.ADD_NAME: Handler(commands.AddName, patient.decide_add_name, adds="names"),
    Operation.REPLACE_NAME: Handler(commands.ReplaceName, patient.decide_replace_name, entry=True),
    Operation.RETIRE_NAME: Handler(commands.Reason, patient.decide_retire_name, entry=True),
    Operation.ADD_IDENTIFIER: Handler(
        commands.AddIdentifier, patient.decide_add_identifier, adds="identifiers"
    ),
    Operation.RETIRE_IDENTIFIER: Handler(
        commands.Reason, patient.decide_retire_identifier, entry=True
    ),
    Operation.ADD_NEXT_OF_KIN: Handler(
        commands.AddNextOfKin, patient.decide_add_next_of_kin, adds="next-of-kin"
    ),
    Operation.REMOVE_NEXT_OF_KIN: Handler(
        commands.Reason, patient.decide_remove_next_of_kin, entry=True
    ),
}


def claims(state: patient.PatientState | None, event: Event) -> Iterator[tuple[str, str, bool]]:
    """Yield (system, value, taken) for each identifier that the event takes or gives back.

    ``state`` is the state before the event.
    """
    if isinstance(event, events.PatientRegistered):
        for identifier in event.identifiers:
            yield identifier.system, identifier.value, True
    elif isinstance(event, events.IdentifierAdded):
        yield event.identifier.system, event.identifier.value, True
    elif isinstance(event, events.IdentifierRetired) and state is not None:
        for identifier in state.identifiers:
            if identifier.id == event.identifier_id:
                yield identifier.system, identifier.value, False


def added_entry(event: Event) -> Any:
    """Return the id of the entry that the event added; ``None`` where it added none."""
    if isinstance(event, events.NameAdded):
        return event.name.id
    if isinstance(event, events.IdentifierAdded):
        return event.identifier.id
    if isinstance(event, events.NextOfKinAdded):
        return event.next_of_kin.id
    return None
