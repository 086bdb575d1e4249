"""The decisions about who a patient is: demographics, names, identifiers, next of kin.

Each ``decide_*`` takes the state, the command and the context, and returns events or raises one
:class:`DomainError`. None of them looks at a clock, an id source or a database.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

from pydantic.alias_generators import to_camel

from registration.domain import commands, events
from registration.domain.context import Context
from registration.domain.dates import confirm_birth_date, is_before_birth
from registration.domain.errors import DomainError, invalid, not_found
from registration.domain.identifiers import confirm_identifier
from registration.domain.names import clean_text, confirm_name
from registration.domain.patient_state import DEMOGRAPHICS, PatientState
from registration.domain.resources import (
    Address,
    ContactPoint,
    Identifier,
    IdentifierInput,
    NameInput,
    NextOfKin,
    NextOfKinInput,
)

Part = TypeVar("Part", ContactPoint, Address)

MOST_ENTRIES = 200
"""Live names, identifiers or next of kin of one patient; more is a mistake of some program."""


def decide_register(
    _state: None, command: commands.RegisterPatient, context: Context
) -> Sequence[events.Event]:
    """Register a patient with everything that is known now."""
    birth_date = command.birth_date
    if birth_date is not None:
        birth_date = confirm_birth_date(birth_date, context.now)
    elif command.birth_date_estimated:
        raise invalid("/birthDateEstimated", "needs a birthDate")
    new_id = context.new_id
    names = tuple(
        confirm_name(said, said.id or new_id(), f"/names/{i}")
        for i, said in enumerate(command.names)
    )
    identifiers = tuple(
        _identifier(said, f"/identifiers/{i}", context)
        for i, said in enumerate(command.identifiers)
    )
    next_of_kin = tuple(
        _next_of_kin(said, f"/nextOfKin/{i}", context) for i, said in enumerate(command.next_of_kin)
    )
    _distinct("/names", [name.id for name in names])
    _distinct("/identifiers", [entry.id for entry in identifiers])
    _distinct("/nextOfKin", [entry.id for entry in next_of_kin])
    entries: tuple[Any, ...] = (*names, *identifiers, *next_of_kin)
    _distinct("", [entry.id for entry in entries])
    _distinct("/identifiers", [(entry.system, entry.value) for entry in identifiers])
    return [
        events.PatientRegistered.trusted(
            names=names,
            gender=command.gender,
            birth_date=birth_date,
            birth_date_estimated=command.birth_date_estimated,
            identifiers=identifiers,
            telecom=_tidied(command.telecom, "/telecom"),
            addresses=_tidied(command.addresses, "/addresses"),
            next_of_kin=next_of_kin,
            marital_status=command.marital_status,
            preferred_language=command.preferred_language,
            facility=command.facility or context.facility,
        )
    ]


def decide_update_demographics(
    state: PatientState, command: commands.UpdateDemographics, context: Context
) -> Sequence[events.Event]:
    """Give demographic members new values; what already has its value is not recorded again."""
    if command.birth_date is not None:
        confirm_birth_date(command.birth_date, context.now)
    command = command.model_copy(
        update={
            member: _tidied(parts, f"/{member}")
            for member, parts in (("telecom", command.telecom), ("addresses", command.addresses))
            if parts
        }
    )
    changes = {
        name: value
        for name, value in command.model_dump(
            mode="json", by_alias=True, exclude_unset=True
        ).items()
        if _differs(getattr(state, DEMOGRAPHICS[name]), getattr(command, DEMOGRAPHICS[name]))
    }
    if not changes:
        return []
    birth_date = changes.get("birthDate", state.birth_date)
    if birth_date is None and changes.get("birthDateEstimated", state.birth_date_estimated):
        raise invalid("/birthDateEstimated", "needs a birthDate")
    if state.deceased is not None and is_before_birth(state.deceased.deceased_at, birth_date):
        raise invalid("/birthDate", "lies after the death that is recorded")
    return [events.DemographicsCorrected(changes=changes)]


def _differs(old: Any, new: Any) -> bool:
    return bool((old or None) != (new or None))


def decide_add_name(
    state: PatientState, command: NameInput, context: Context
) -> Sequence[events.Event]:
    """Add a name; its script is detected and checked."""
    name = confirm_name(command, command.id or context.new_id(), "")
    return [events.NameAdded(name=name)] if _is_new(name, state.names, state) else []


def decide_replace_name(
    state: PatientState, command: NameInput, _context: Context, name_id: UUID
) -> Sequence[events.Event]:
    """Give a name new content under its id."""
    current = _entry(state.names, name_id, "name")
    if command.id not in (None, name_id):
        raise invalid("/id", "is not the id in the path")
    name = confirm_name(command, name_id, "")
    return [] if name == current else [events.NameReplaced(name=name)]


def decide_retire_name(
    state: PatientState, command: commands.Reason, _context: Context, name_id: UUID
) -> Sequence[events.Event]:
    """Retire a name; the last one stays, since a record without a name cannot be found."""
    _entry(state.names, name_id, "name")
    if len(state.names) == 1:
        raise invalid("", "the last name of a patient cannot be retired; replace it")
    return [events.NameRetired(name_id=name_id, reason=_reason(command))]


def decide_add_identifier(
    state: PatientState, command: IdentifierInput, context: Context
) -> Sequence[events.Event]:
    """Add an identifier; the store refuses a value that somebody holds."""
    identifier = _identifier(command, "", context)
    if not _is_new(identifier, state.identifiers, state):
        return []
    return [events.IdentifierAdded(identifier=identifier)]


def decide_retire_identifier(
    state: PatientState, command: commands.Reason, _context: Context, identifier_id: UUID
) -> Sequence[events.Event]:
    """Retire an identifier; its value is free again."""
    _entry(state.identifiers, identifier_id, "identifier")
    return [events.IdentifierRetired(identifier_id=identifier_id, reason=_reason(command))]


def decide_add_next_of_kin(
    state: PatientState, command: NextOfKinInput, context: Context
) -> Sequence[events.Event]:
    """Add a next of kin; additions accumulate and never conflict."""
    entry = _next_of_kin(command, "", context)
    return (
        [events.NextOfKinAdded(next_of_kin=entry)]
        if _is_new(entry, state.next_of_kin, state)
        else []
    )


def decide_remove_next_of_kin(
    state: PatientState, command: commands.Reason, _context: Context, next_of_kin_id: UUID
) -> Sequence[events.Event]:
    """Remove a next of kin, for a reason that stays in the history."""
    _entry(state.next_of_kin, next_of_kin_id, "next of kin")
    return [events.NextOfKinRemoved(next_of_kin_id=next_of_kin_id, reason=_reason(command))]


def _identifier(said: IdentifierInput, path: str, context: Context) -> Identifier:
    return confirm_identifier(said, said.id or context.new_id(), path, context.identifier_systems)


def _next_of_kin(said: NextOfKinInput, path: str, context: Context) -> NextOfKin:
    return NextOfKin.trusted(
        id=said.id or context.new_id(),
        name=clean_text(said.name, f"{path}/name"),
        relationship=clean_text(said.relationship, f"{path}/relationship"),
        telecom=_tidied(said.telecom, f"{path}/telecom"),
        address=said.address and _tidied((said.address,), f"{path}/address")[0],
    )


def _reason(command: commands.Reason) -> str:
    return clean_text(command.reason, "/reason")


def _tidied(parts: tuple[Part, ...], path: str) -> tuple[Part, ...]:
    """Return contact points or addresses with their texts as names have theirs: see clean_text."""
    return tuple(_tidy(part, f"{path}/{i}") for i, part in enumerate(parts))


def _tidy(part: Part, path: str) -> Part:
    tidy = {name: _clean(value, path, name) for name, value in part if value}
    if all(tidy[name] == getattr(part, name) for name in tidy):
        return part
    return part.model_copy(update=tidy)


def _clean(value: Any, path: str, member: str) -> Any:
    path = f"{path}/{_camel(member)}"
    if isinstance(value, tuple):
        return tuple(clean_text(text, path) for text in value)
    return clean_text(value, path)


_camel = cache(to_camel)


def _is_new(entry: Any, entries: Sequence[Any], state: PatientState) -> bool:
    """Whether the entry is to be added; not where it is there already, to the letter."""
    if entry in entries:
        return False
    others: tuple[Any, ...] = (*state.names, *state.identifiers, *state.next_of_kin)
    if entry.id in state.gone or any(other.id == entry.id for other in others):
        raise DomainError("ID_TAKEN", "The chosen id already names another entry.")
    if len(entries) >= MOST_ENTRIES:
        raise invalid("", f"a patient has at most {MOST_ENTRIES} of these")
    return True


def _entry(entries: Sequence[Any], entry_id: UUID, what: str) -> Any:
    for entry in entries:
        if entry.id == entry_id:
            return entry
    raise not_found(what)


def _distinct(path: str, values: Sequence[object]) -> None:
    if len(set(values)) != len(values):
        raise invalid(path, "holds the same entry twice")
