"""Which decision answers which operation: the rows of the conflict table that are built."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from registration.domain import (
    candidate,
    commands,
    consent,
    encounter,
    erasure,
    events,
    extension,
    extension_schema,
    merge,
    patient,
    portrait,
    vital_status,
)
from registration.domain.aggregate import Aggregate, Part
from registration.domain.context import Context
from registration.domain.contract import Operation
from registration.domain.events import Event
from registration.domain.extension_schema import ExtensionSchema, schema_id
from registration.domain.patient_resource import Patient, consent_flag, extension_instance
from registration.domain.resources import Model


@dataclass(frozen=True, slots=True)
class Handler:
    """How one operation is decided.

    ``creates``: the command starts a stream; ``extends``: it does so where there is none yet.
    ``entry``: the command is about one entry of the aggregate (a name, a consent flag), which
    ``decide`` takes as its next argument. ``adds``: what it adds is an entry with an id and a
    place of its own, named like the collection it is added to. ``part`` finds that entry where it
    has a version of its own. ``related`` names another stream that the
    decision looks at: ``decide`` takes its state as the last argument, and where ``guarded`` is
    set the decision is stored only if that stream has not moved on. ``parties`` names the patients
    of a merge or an erasure: ``decide`` takes those, all that they were merged into, with ``whole``
    all that was merged into those as well, and the decision's own id, and returns events for
    several streams.
    """

    payload: type[Model]
    decide: Callable[..., Any]
    aggregate: type[Aggregate[Any]] = Patient
    creates: bool = False
    extends: bool = False
    entry: bool = False
    adds: str | None = None
    part: Callable[[Any, str], Part | None] | None = None
    related: Callable[[Any, Any], tuple[type[Aggregate[Any]], UUID]] | None = None
    guarded: bool = False
    parties: Callable[[Any, Any], Sequence[UUID]] | None = None
    whole: bool = False
    case: Callable[[Any, Any], str] | None = None

    def events(
        self, state: Any, payload: Model, context: Context, entry: Any, related: Any
    ) -> Sequence[Event]:
        """Return what the command makes of a state; raises its refusal.

        ``entry`` and ``related`` (the state of the other stream) count where they are declared.
        """
        arguments: list[Any] = [state, payload, context]
        if self.entry:
            arguments.append(entry)
        if self.related is not None:
            arguments.append(related)
        decided: Sequence[Event] = self.decide(*arguments)
        return decided

    @property
    def makes(self) -> bool:
        """Whether something new comes of it, a stream or an entry."""
        return self.creates or self.extends or self.adds is not None


def _patient_of(command: commands.OpenEncounter, _entry: None) -> tuple[type[Patient], UUID]:
    return Patient, command.patient_id


def _schema_of(_command: Model, name: str) -> tuple[type[ExtensionSchema], UUID]:
    return ExtensionSchema, schema_id(name)


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
    Operation.SET_CONSENT: Handler(
        commands.SetConsent, consent.decide_set_consent, entry=True, part=consent_flag
    ),
    Operation.SET_PORTRAIT: Handler(commands.SetPortrait, portrait.decide_set_portrait),
    Operation.REMOVE_PORTRAIT: Handler(commands.RemovePortrait, portrait.decide_remove_portrait),
    Operation.SET_EXTENSION: Handler(
        commands.SetExtension,
        extension.decide_set_extension,
        entry=True,
        part=extension_instance,
        related=_schema_of,
    ),
    Operation.REMOVE_EXTENSION: Handler(
        commands.RemoveExtension,
        extension.decide_remove_extension,
        entry=True,
        part=extension_instance,
    ),
    Operation.RECORD_DEATH: Handler(commands.RecordDeath, vital_status.decide_record_death),
    Operation.REVERSE_DEATH: Handler(commands.Reason, vital_status.decide_reverse_death),
    Operation.OPEN_ENCOUNTER: Handler(
        commands.OpenEncounter,
        encounter.decide_open,
        encounter.Encounter,
        creates=True,
        related=_patient_of,
        guarded=True,
    ),
    Operation.TRANSITION_ENCOUNTER: Handler(
        commands.TransitionEncounter,
        encounter.decide_transition,
        encounter.Encounter,
        case=lambda state, command: encounter.case_of(state.status, command.to),
    ),
    Operation.PROPOSE_MERGE: Handler(
        commands.ProposeMerge,
        merge.decide_propose,
        merge.Merge,
        creates=True,
        parties=merge.parties_of_proposal,
    ),
    Operation.APPROVE_MERGE: Handler(
        commands.ApproveMerge, merge.decide_approve, merge.Merge, parties=merge.parties_of_decision
    ),
    Operation.REJECT_MERGE: Handler(commands.Reason, merge.decide_reject, merge.Merge),
    Operation.UNMERGE: Handler(
        commands.Reason, merge.decide_unmerge, merge.Merge, parties=merge.parties_of_decision
    ),
    Operation.DISMISS_CANDIDATE: Handler(
        commands.DismissCandidate, candidate.decide_dismiss, candidate.Candidate, extends=True
    ),
    Operation.REQUEST_ERASURE: Handler(
        commands.RequestErasure,
        erasure.decide_request,
        erasure.Erasure,
        creates=True,
        parties=erasure.party_of_request,
        whole=True,
    ),
    Operation.APPROVE_ERASURE: Handler(
        commands.ApproveErasure,
        erasure.decide_approve,
        erasure.Erasure,
        parties=erasure.party_of_decision,
        whole=True,
    ),
    Operation.REFUSE_ERASURE: Handler(commands.Reason, erasure.decide_refuse, erasure.Erasure),
    Operation.PUBLISH_SCHEMA: Handler(
        commands.PublishSchema,
        extension_schema.decide_publish,
        extension_schema.ExtensionSchema,
        extends=True,
        entry=True,
    ),
}


def claims(state: Any, event: Event) -> Iterator[tuple[str, str, bool]]:
    """Yield (system, value, taken) for each identifier that the event takes or gives back.

    ``state`` is the state before the event.
    """
    if isinstance(event, events.PatientRegistered):
        for identifier in event.identifiers:
            yield identifier.system, identifier.value, True
    elif isinstance(event, events.IdentifierAdded):
        yield event.identifier.system, event.identifier.value, True
    elif isinstance(event, events.PatientErased):
        for identifier in state.identifiers:
            yield identifier.system, identifier.value, False
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
