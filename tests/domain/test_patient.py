"""Every decision about a patient: given what happened, when a command comes, then these events."""

from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.domain.given import (
    CARD,
    LUHN,
    NOW,
    STAMP,
    When,
    context,
    identifier,
    kin,
    name,
    registered,
    uuid,
    when,
)

from registration.domain import events
from registration.domain.commands import Reason
from registration.domain.contract import Operation, Resource, rule_for
from registration.domain.errors import DomainError
from registration.domain.handlers import HANDLERS, claims
from registration.domain.patient import MOST_ENTRIES
from registration.domain.patient_resource import Patient
from registration.domain.patient_state import PatientState, evolve, fold
from registration.domain.resources import ContactPoint
from registration.eventstore.mapper import decode, encode


class TestRegister:
    def when(self, **said: Any) -> When:
        return when(
            operation=Operation.REGISTER_PATIENT,
            **{"names": [{"family": "Okoro"}], "gender": "female"} | said,
        )

    def test_what_is_left_out_gets_its_default_and_entries_get_ids(self) -> None:
        self.when(
            identifiers=[{"system": CARD, "value": "4711"}],
            nextOfKin=[{"name": "Obi", "relationship": "brother"}],
        ).then(
            registered(
                names=(name(1000),),
                identifiers=(identifier(1001),),
                next_of_kin=(kin(1002),),
                facility="north",
            )
        )

    def test_ids_and_facility_of_the_client_stay(self) -> None:
        self.when(names=[{"id": str(uuid(1)), "family": "Okoro"}], facility="south").then(
            registered(facility="south")
        )

    def test_a_checked_number_is_kept_compact(self) -> None:
        (event,) = self.when(identifiers=[{"system": LUHN, "value": "7992 7398 713"}]).decide()
        assert isinstance(event, events.PatientRegistered)
        assert event.identifiers[0].value == "79927398713"

    def test_a_number_with_a_wrong_check_digit_is_refused(self) -> None:
        self.when(identifiers=[{"system": LUHN, "value": "79927398710"}]).then_refused(
            "IDENTIFIER_INVALID", "/identifiers/0/value"
        )

    @pytest.mark.parametrize(
        ("said", "path"),
        [
            ({"birthDate": "2027"}, "/birthDate"),
            ({"birthDateEstimated": True}, "/birthDateEstimated"),
            ({"names": [{"family": "\u202e"}]}, "/names/0/family"),
            ({"names": [{"id": str(uuid(1)), "family": f} for f in "AB"]}, "/names"),
            ({"identifiers": [{"system": CARD, "value": "1"}] * 2}, "/identifiers"),
            (
                {"nextOfKin": [{"id": str(uuid(1)), "name": n, "relationship": "x"} for n in "AB"]},
                "/nextOfKin",
            ),
            ({"nextOfKin": [{"name": "\u202e", "relationship": "x"}]}, "/nextOfKin/0/name"),
        ],
    )
    def test_what_cannot_be_is_refused(self, said, path) -> None:
        self.when(**said).then_refused("VALIDATION_FAILED", path)

    def test_it_takes_each_number(self) -> None:
        (event,) = self.when(
            identifiers=[{"system": CARD, "value": "1"}, {"system": CARD, "value": "2"}]
        ).decide()
        assert list(claims(None, event)) == [(CARD, "1", True), (CARD, "2", True)]


class TestUpdateDemographics:
    def when(self, *history: events.Event, **said: Any) -> When:
        return when(*history, operation=Operation.UPDATE_DEMOGRAPHICS, **said)

    def test_only_what_differs_is_recorded(self) -> None:
        self.when(registered(birth_date="1984"), gender="male", birthDate="1984").then(
            events.DemographicsCorrected(changes={"gender": "male"})
        )

    def test_null_takes_a_member_away(self) -> None:
        given = registered(facility="north", telecom=(ContactPoint(system="url", value="x"),))
        said: dict[str, Any] = {"facility": None, "telecom": None}
        self.when(given, **said).then(events.DemographicsCorrected(changes=said))

    @pytest.mark.parametrize(
        "said",
        [
            {},
            {"gender": "female"},
            {"telecom": []},
            {"facility": None},
            {"addresses": None},
            {"birthDateEstimated": False},
            {"birthDateEstimated": None},
            {"birthDate": None},
        ],
    )
    def test_what_is_so_already_is_no_event(self, said) -> None:
        self.when(registered(), **said).then_nothing()

    def test_a_day_to_come_is_no_birth_date(self) -> None:
        self.when(registered(), birthDate="2026-04-01").then_refused(
            "VALIDATION_FAILED", "/birthDate"
        )

    def test_an_estimate_without_a_date_is_refused(self) -> None:
        self.when(registered(), birthDateEstimated=True).then_refused(
            "VALIDATION_FAILED", "/birthDateEstimated"
        )

    def test_a_date_and_its_estimate_can_come_and_go_together(self) -> None:
        both = {"birthDate": "1984", "birthDateEstimated": True}
        came = events.DemographicsCorrected(changes=both)
        self.when(registered(), **both).then(came)
        none: dict[str, Any] = {"birthDate": None, "birthDateEstimated": None}
        self.when(registered(), came, **none).then(events.DemographicsCorrected(changes=none))


class TestNames:
    def test_a_name_is_added(self) -> None:
        when(registered(), operation=Operation.ADD_NAME, family="Bello").then(
            events.NameAdded(name=name(1000, "Bello"))
        )

    def test_the_same_name_with_the_same_id_is_there_already(self) -> None:
        when(
            registered(), operation=Operation.ADD_NAME, id=str(uuid(1)), family="Okoro"
        ).then_nothing()

    def test_another_name_with_a_taken_id_is_refused(self) -> None:
        when(
            registered(), operation=Operation.ADD_NAME, id=str(uuid(1)), family="Bello"
        ).then_refused("ID_TAKEN")

    def test_there_is_an_end_to_names(self) -> None:
        many = tuple(name(n) for n in range(1, MOST_ENTRIES + 1))
        when(registered(names=many), operation=Operation.ADD_NAME, family="X").then_refused(
            "VALIDATION_FAILED", ""
        )

    def test_a_name_is_replaced_under_its_id(self) -> None:
        when(registered(), operation=Operation.REPLACE_NAME, entry=uuid(1), family="Bello").then(
            events.NameReplaced(name=name(1, "Bello"))
        )

    def test_the_same_content_replaces_nothing(self) -> None:
        when(
            registered(), operation=Operation.REPLACE_NAME, entry=uuid(1), family="Okoro"
        ).then_nothing()

    def test_a_replacement_cannot_name_another_id(self) -> None:
        when(
            registered(),
            operation=Operation.REPLACE_NAME,
            entry=uuid(1),
            id=str(uuid(2)),
            family="Bello",
        ).then_refused("VALIDATION_FAILED", "/id")

    @pytest.mark.parametrize(
        ("operation", "said"),
        [
            (Operation.REPLACE_NAME, {"family": "X"}),
            (Operation.RETIRE_NAME, {"reason": "x"}),
            (Operation.RETIRE_IDENTIFIER, {"reason": "x"}),
            (Operation.REMOVE_NEXT_OF_KIN, {"reason": "x"}),
        ],
    )
    def test_what_is_not_there_is_not_found(self, operation, said) -> None:
        when(registered(), operation=operation, entry=uuid(99), **said).then_refused("NOT_FOUND")

    def test_one_of_two_names_can_be_retired(self) -> None:
        two = registered(names=(name(1), name(2)))
        when(two, operation=Operation.RETIRE_NAME, entry=uuid(2), reason="wrong").then(
            events.NameRetired(name_id=uuid(2), reason="wrong")
        )

    def test_the_last_name_stays(self) -> None:
        when(
            registered(), operation=Operation.RETIRE_NAME, entry=uuid(1), reason="wrong"
        ).then_refused("VALIDATION_FAILED", "")


class TestIdentifiersAndNextOfKin:
    def test_an_identifier_is_added_and_taken(self) -> None:
        wanted = when(registered(), operation=Operation.ADD_IDENTIFIER, system=CARD, value="4711")
        wanted.then(events.IdentifierAdded(identifier=identifier(1000)))
        assert list(claims(None, wanted.decide()[0])) == [(CARD, "4711", True)]

    def test_a_retired_identifier_is_given_back(self) -> None:
        given_ = registered(identifiers=(identifier(),))
        wanted = when(
            given_, operation=Operation.RETIRE_IDENTIFIER, entry=uuid(10), reason="twin's"
        )
        wanted.then(events.IdentifierRetired(identifier_id=uuid(10), reason="twin's"))
        assert list(claims(fold([given_]), wanted.decide()[0])) == [(CARD, "4711", False)]

    def test_a_next_of_kin_is_added(self) -> None:
        when(
            registered(), operation=Operation.ADD_NEXT_OF_KIN, name="Obi", relationship="brother"
        ).then(events.NextOfKinAdded(next_of_kin=kin(1000)))

    def test_a_next_of_kin_is_removed_for_a_reason(self) -> None:
        when(
            registered(next_of_kin=(kin(),)),
            operation=Operation.REMOVE_NEXT_OF_KIN,
            entry=uuid(20),
            reason="asked for it",
        ).then(events.NextOfKinRemoved(next_of_kin_id=uuid(20), reason="asked for it"))


def test_a_history_starts_with_the_registration() -> None:
    with pytest.raises(ValueError, match="starts with its registration"):
        evolve(None, events.NameAdded(name=name()), STAMP)


def test_a_history_of_nothing_is_nobody() -> None:
    assert fold([]) is None


# --- laws ---------------------------------------------------------------------------------------

_words = st.sampled_from(["Okoro", "Bello", "محمد", "Ünal", "山田", "Анна", "O'Neil"])
_ids = st.none() | st.integers(1, 6).map(lambda number: str(uuid(number)))
_names = st.fixed_dictionaries(
    {"use": st.sampled_from(["usual", "official", "maiden"])},
    optional={
        "id": _ids,
        "family": _words,
        "given": st.lists(_words, max_size=2),
        "text": _words,
        "prefix": st.just(["Dr."]),
    },
)
_numbers = st.fixed_dictionaries(
    {"system": st.sampled_from([CARD, LUHN]), "value": st.sampled_from(["18", "26", "34", "x"])},
    optional={"id": _ids, "use": st.sampled_from(["usual", None])},
)
_contacts = st.fixed_dictionaries(
    {"system": st.sampled_from(["phone", "email"]), "value": _words},
    optional={"use": st.sampled_from(["home", "work", None])},
)
_addresses = st.fixed_dictionaries(
    {}, optional={"text": _words, "line": st.lists(_words, max_size=2), "city": _words | st.none()}
)
_kin = st.fixed_dictionaries(
    {"name": _words, "relationship": st.just("x")},
    optional={
        "id": _ids,
        "telecom": st.lists(_contacts, max_size=2),
        "address": _addresses | st.none(),
    },
)
_demographics = {
    "gender": st.sampled_from(["male", "female", "other", "unknown"]),
    "birthDate": st.sampled_from(["1984", "1984-03", "1984-03-02", None]),
    "birthDateEstimated": st.booleans(),
    "telecom": st.lists(_contacts, max_size=3),
    "addresses": st.lists(_addresses, max_size=2),
    "maritalStatus": st.sampled_from(["M", "S", None]),
    "preferredLanguage": st.sampled_from(["ar", "de-AT", None]),
    "facility": st.sampled_from(["north", "south", None]),
}
_register = st.fixed_dictionaries(
    {"names": st.lists(_names, min_size=1, max_size=3), "gender": _demographics["gender"]},
    optional={
        "identifiers": st.lists(_numbers, max_size=3),
        "nextOfKin": st.lists(_kin, max_size=2),
    }
    | {name: values for name, values in _demographics.items() if name != "gender"},
)
_reasons = st.just({"reason": "a mistake"})
_SAID: dict[Operation, st.SearchStrategy[dict[str, Any]]] = {
    Operation.UPDATE_DEMOGRAPHICS: st.fixed_dictionaries({}, optional=_demographics),
    Operation.ADD_NAME: _names,
    Operation.REPLACE_NAME: _names,
    Operation.RETIRE_NAME: _reasons,
    Operation.ADD_IDENTIFIER: _numbers,
    Operation.RETIRE_IDENTIFIER: _reasons,
    Operation.ADD_NEXT_OF_KIN: _kin,
    Operation.REMOVE_NEXT_OF_KIN: _reasons,
}
_commands = st.sampled_from(list(_SAID)).flatmap(
    lambda operation: st.tuples(st.just(operation), _SAID[operation], st.integers(0, 4))
)


def _decided(
    state: PatientState | None, operation: Operation, said: dict[str, Any], pick: int
) -> Any:
    """Decide on a random command; a refusal decides nothing."""
    handler = HANDLERS[operation]
    try:
        payload = handler.payload.model_validate_json(orjson.dumps(said), strict=True)
        arguments = (state, payload, _context)
        if not handler.entry:
            return handler.decide(*arguments)
        assert state is not None
        member = operation.value.removeprefix("patient.").partition("_")[2]
        entries = getattr(state, {"name": "names", "identifier": "identifiers"}.get(member, member))
        return handler.decide(*arguments, entries[pick % len(entries)].id if entries else uuid(99))
    except (DomainError, ValueError):
        return []


_context = context()


def _takes_what_is_held(state: PatientState | None, event: events.Event) -> bool:
    """Stand in for the store, which refuses a number that anybody holds, this patient included."""
    assert state is not None
    held = {(entry.system, entry.value) for entry in state.identifiers}
    return any(taken and (s, v) in held for s, v, taken in claims(state, event))


def _histories() -> st.SearchStrategy[list[events.Event]]:
    @st.composite
    def build(draw: st.DrawFn) -> list[events.Event]:
        history: list[events.Event] = []
        for _ in range(20):
            history += _decided(None, Operation.REGISTER_PATIENT, draw(_register), 0)
            if history:
                break
        else:
            history.append(registered())
        state = fold(history)
        for operation, said, pick in draw(st.lists(_commands, max_size=15)):
            for event in _decided(state, operation, said, pick):
                if _takes_what_is_held(state, event):
                    continue
                state = evolve(state, event, STAMP)
                history.append(event)
        return history

    return build()


class _Recorded:
    def __init__(self, version: int, event: events.Event) -> None:
        self.version = version
        self.recorded_at = NOW
        self.event = event
        self.meta = {"actor": "desk-1"}


def _recorded(history: Sequence[events.Event]) -> Iterator[_Recorded]:
    return (_Recorded(version, event) for version, event in enumerate(history, 1))


@settings(max_examples=60, deadline=None)
@given(_histories())
def test_what_is_decided_and_what_is_stored_fold_to_the_same(history) -> None:
    """To the byte: a replayed answer is made from the stored events, the first one was not."""
    stored = [decode(event.TOPIC, encode(event)) for event in history]
    assert fold(stored) == fold(history)
    assert [encode(event) for event in stored] == [encode(event) for event in history]
    one, other = Patient(uuid(1), _recorded(history)), Patient(uuid(1), _recorded(stored))
    assert one.encoded() == other.encoded()


@settings(max_examples=60, deadline=None)
@given(_histories())
def test_no_sequence_of_commands_breaks_what_always_holds(history) -> None:
    state: PatientState | None = None
    held: set[tuple[str, str]] = set()
    for event in history:
        for system, value, taken in claims(state, event):
            if taken:
                held.add((system, value))
            else:
                held.discard((system, value))
        state = evolve(state, event, STAMP)
        assert len(state.names) >= 1
        for entries in (state.names, state.identifiers, state.next_of_kin):
            assert len({entry.id for entry in entries}) == len(entries)
            assert len(entries) <= MOST_ENTRIES
        assert held == {(entry.system, entry.value) for entry in state.identifiers}
        assert state.birth_date is not None or not state.birth_date_estimated
        assert state.gender is not None


@settings(max_examples=50, deadline=None)
@given(_histories(), _commands)
def test_a_command_that_was_carried_out_has_nothing_left_to_change(history, command) -> None:
    """Demographics and replacements are idempotent by what they say."""
    operation, said, pick = command
    if operation not in (Operation.UPDATE_DEMOGRAPHICS, Operation.REPLACE_NAME):
        return
    state = fold(history)
    for event in _decided(state, operation, said, pick):
        state = evolve(state, event, STAMP)
    assert _decided(state, operation, said, pick) == []


_DEATH = {Operation.RECORD_DEATH, Operation.REVERSE_DEATH}


def test_every_operation_that_is_built_is_in_the_laws() -> None:
    elsewhere = {Resource.CONSENT, Resource.PORTRAIT, Resource.EXTENSION}
    about_the_person = {
        operation
        for operation, handler in HANDLERS.items()
        if handler.aggregate is Patient and rule_for(operation).resource not in elsewhere
    }
    assert set(_SAID) | {Operation.REGISTER_PATIENT} | _DEATH == about_the_person
    assert Reason(reason="x").reason == "x"
