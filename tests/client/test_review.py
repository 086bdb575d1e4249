"""What a person decides about what the service refused; every change ends somewhere."""

from collections.abc import Callable
from uuid import UUID

import pytest
from tests.client.given import ADA_OKORO, CHIDI, GRANTED, Site, lost_answer, pulled, seen, told

from registration.client import Client, Difference, NotConfirmed, ReviewError, ServiceAway


@pytest.fixture
def conflict(device: Client, site: Site) -> UUID:
    """A patient whose birth date was corrected here and there, and more was done here."""
    patient = pulled(device, site)
    device.update_demographics(patient, {"birthDate": "1984-03-03"})
    device.add_next_of_kin(patient, CHIDI)
    device.set_consent(patient, "research", GRANTED)
    patch = {"birthDate": "1985"}
    answer = site.desk().patch(f"/v1/patients/{patient}/demographics", patch, If_Match='"1"')
    assert answer.is_success
    device.sync()
    return patient


def test_a_conflict_shows_both_sides_and_what_is_blocked_below_it(
    device: Client, conflict: UUID
) -> None:
    [item] = device.review()
    assert (item.kind, item.code, item.base_version) == ("conflict", "OPTIMISTIC_LOCK_CONFLICT", 2)
    assert item.fields == (Difference("/birthDate", "1984-03-02", "1985", "1984-03-03"),)
    [below] = item.blocked
    [deepest] = below.blocked
    assert [(b.mutation.operation, b.kind) for b in (below, deepest)] == [
        ("patient.add_next_of_kin", "blocked"),
        ("patient.set_consent", "blocked"),
    ]
    view = device.patient(conflict)
    assert view is not None
    assert (view.body["birthDate"], view.body["nextOfKin"], view.pending) == ("1985", [], ())


def test_a_change_that_is_sent_again_takes_what_it_blocked_with_it(
    device: Client, site: Site, conflict: UUID
) -> None:
    [item] = device.review()
    made = device.resubmit(item, {"birthDate": "1985-03"})
    assert (made.base_version, made.supersedes) == (2, item.mutation.id)
    assert device.sync().applied == 3
    assert told(device.history()) == [
        ("update_demographics", "discarded"),
        ("add_next_of_kin", "discarded"),
        ("set_consent", "discarded"),
        ("update_demographics", "applied"),
        ("add_next_of_kin", "applied"),
        ("set_consent", "applied"),
    ]
    history = device.history()
    assert [m.superseded_by for m in history[:3]] == [m.id for m in history[3:]]
    assert [m.supersedes for m in history[3:]] == [m.id for m in history[:3]]
    view = device.patient(conflict)
    assert view is not None
    assert view.body == site.desk().get(f"/v1/patients/{conflict}").json()
    assert (view.body["birthDate"], len(view.body["nextOfKin"])) == ("1985-03", 1)


def test_what_builds_on_a_discarded_change_goes_with_it_or_without_it(
    device: Client, conflict: UUID
) -> None:
    [item] = device.review()
    with pytest.raises(ReviewError, match="build on it: 2"):
        device.discard(item, "theirs is right")
    with pytest.raises(ReviewError, match="a reason is needed"):
        device.discard(item, " ", "detach")
    device.discard(item, "theirs is right", "detach")
    assert device.sync().applied == 2
    assert device.review() == []
    history = device.history()
    assert (history[0].state, history[0].reason) == ("discarded", "theirs is right")
    with pytest.raises(ReviewError, match="settled"):
        device.discard(item, "again")


def test_a_chain_is_discarded_for_one_reason(device: Client, conflict: UUID) -> None:
    [item] = device.review()
    device.discard(item, "another person", "discard")
    assert [(str(m.state), m.reason) for m in device.history()] == [
        ("discarded", "another person")
    ] * 3
    assert device.sync().sent == 0


def test_a_registration_with_somebody_elses_number_is_mended_and_sent_again(
    device: Client, site: Site
) -> None:
    card = {"system": "https://ids.example/card", "value": "7"}
    site.desk().given_patient(identifiers=[card])
    patient = device.register(ADA_OKORO | {"identifiers": [card]})
    encounter = device.open_encounter(patient.id, {"class": "AMB", "status": "arrived"})
    assert device.sync().conflicts == 1
    assert device.patient(patient.id) is None
    [item] = device.review()
    assert (item.code, [b.mutation.operation for b in item.blocked]) == (
        "IDENTIFIER_CONFLICT",
        ["encounter.open"],
    )
    with pytest.raises(ReviewError, match="cannot be detached"):
        device.discard(item, "the same person", "detach")
    device.resubmit(item, ADA_OKORO | {"identifiers": [card | {"value": "8"}]})
    assert device.sync().applied == 2
    there = device.encounter(encounter.id)
    assert there is not None
    assert there.body["patientId"] == str(patient.id)


@pytest.fixture
def finishing(device: Client, site: Site) -> UUID:
    """An encounter that was finished here, reopened, and waits for a person to say so online."""
    patient = device.register(ADA_OKORO)
    encounter = device.open_encounter(patient.id, {"class": "AMB", "status": "in-progress"})
    device.transition(encounter.id, "finished")
    device.transition(encounter.id, "in-progress", "forgot the prescription")
    report = device.sync()
    assert (report.applied, report.confirmations, report.blocked) == (2, 1, 1)
    return encounter.id


def test_what_needs_it_is_confirmed_online_and_the_rest_follows(
    device: Client, finishing: UUID
) -> None:
    [item] = device.review()
    assert (item.kind, item.fields) == (
        "confirmation",
        (Difference("/status", None, "in-progress", "finished"),),
    )
    with pytest.raises(ReviewError, match="nothing to confirm"):
        device.confirm(item.blocked[0])
    assert device.confirm(item).state == "applied"
    assert device.sync().confirmations == 1  # reopening needs it too
    [reopening] = device.review()
    device.confirm(reopening)
    device.sync()
    there = device.encounter(finishing)
    assert there is not None
    assert [step["status"] for step in there.body["statusHistory"]] == [
        "in-progress",
        "finished",
        "in-progress",
    ]
    assert device.review() == []


def test_a_confirmation_whose_answer_got_lost_is_not_given_up_but_sent_again(
    device: Client, site: Site, finishing: UUID
) -> None:
    [item] = device.review()
    site.network.faults = [lost_answer]
    with pytest.raises(ServiceAway):
        device.confirm(item)
    with pytest.raises(ReviewError, match="confirm it again"):
        device.discard(item, "no", "discard")
    assert device.confirm(item).state == "applied"
    history = site.desk().get(f"/v1/encounters/{finishing}/history").json()["items"]
    assert [event["type"] for event in history] == ["encounter.opened", "encounter.finished"]


def test_a_confirmation_that_came_too_late_is_a_conflict(
    device: Client, site: Site, finishing: UUID
) -> None:
    moved = {"to": "onleave"}
    path = f"/v1/encounters/{finishing}/transitions"
    assert site.desk().post(path, moved, If_Match='"1"').is_success
    [item] = device.review()
    with pytest.raises(NotConfirmed, match="412 OPTIMISTIC_LOCK_CONFLICT"):
        device.confirm(item)
    device.pull()
    [item] = device.review()
    assert (item.kind, item.base_version) == ("conflict", 2)


def test_a_flag_that_somebody_else_set_is_shown_as_it_is_now(
    device: Client, site: Site, another: Callable[[], Client]
) -> None:
    patient = pulled(device, site)
    device.set_consent(patient, "research", GRANTED)
    refusal = GRANTED | {"decision": "refused"}
    path = f"/v1/patients/{patient}/consents/research"
    assert site.desk().put(path, refusal, If_Match='"0"').is_success
    device.sync()
    seen(device, site.desk().put(path, refusal, If_Match='"1"'))
    [item] = device.review()
    assert item.base_version == 2
    assert [(f.path, f.theirs, f.mine) for f in item.fields] == [
        ("/decision", "refused", "granted")
    ]
    device.resubmit(item)
    assert device.sync().applied == 1
