"""What is decided at the device: the service's own answers, without the service."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.client.given import ADA_OKORO, CHIDI, GRANTED, Site, pulled, seen
from tests.service import LUHN, Desk, new_id, place

from registration.client import Client, DomainError


def refused(code: str, change: Callable[[], object]) -> Any:
    with pytest.raises(DomainError) as caught:
        change()
    assert caught.value.code == code
    return caught.value.extra.get("errors")


def bases(device: Client) -> list[tuple[str, int | None, int | None]]:
    """Return of each change: what it is, its baseVersion, and the number that it comes after."""
    numbers = {m.id: m.number for m in device.history()}
    return [
        (m.operation.partition(".")[2], m.base_version, numbers[m.after] if m.after else None)
        for m in device.history()
    ]


def test_a_registration_is_there_at_once_with_ids_of_the_devices_own(device: Client) -> None:
    view = device.register(ADA_OKORO | {"nextOfKin": [CHIDI]})
    kin = view.body["nextOfKin"][0]
    assert view.body["display"]["default"]["text"] == "Ada Okoro"
    assert (view.version, view.pending, UUID(kin["id"]).version) == (0, (1,), 7)


def test_what_the_service_would_refuse_is_refused_at_once_and_not_queued(device: Client) -> None:
    nobody: dict[str, Any] = {"names": [{"given": []}], "gender": "female"}
    assert refused("VALIDATION_FAILED", lambda: device.register(nobody)) == [
        {"path": "/names/0", "message": "A name needs a family name, a given name or a text."}
    ]
    mixed = {"names": [{"family": "Okоro"}], "gender": "female"}  # the second o is Cyrillic
    refused("VALIDATION_FAILED", lambda: device.register(mixed))
    refused("VALIDATION_FAILED", lambda: device.register(ADA_OKORO | {"birthDate": "2999"}))
    refused("VALIDATION_FAILED", lambda: device.register(ADA_OKORO | {"shoeSize": 38}))
    refused("VALIDATION_FAILED", lambda: device.register(ADA_OKORO | {"birthDate": "\ud800"}))
    refused("VALIDATION_FAILED", lambda: device.register(ADA_OKORO | {"maritalStatus": "\0"}))
    refused("NOT_FOUND", lambda: device.add_next_of_kin(new_id(), CHIDI))
    assert device.history() == []


def test_check_digits_and_consent_flags_are_those_that_were_pulled(
    device: Client, site: Site
) -> None:
    patient = pulled(device, site)
    wrong = {"system": LUHN, "value": "79927398710"}
    refused("IDENTIFIER_INVALID", lambda: device.add_identifier(patient, wrong))
    refused("NOT_FOUND", lambda: device.set_consent(patient, "no-such-flag", GRANTED))
    right = device.add_identifier(patient, {"system": LUHN, "value": "7992 7398 713"})
    assert right.body["identifiers"][0]["value"] == "79927398713"


def test_what_is_never_done_offline_is_refused_at_once(device: Client) -> None:
    patient = device.register(ADA_OKORO)
    for operation in ("patient.record_death", "patient.set_portrait", "mpi.propose_merge"):
        refused("OFFLINE_PROHIBITED", lambda o=operation: device.submit(o, patient.id, {}))  # type: ignore[misc]


def test_what_the_token_does_not_allow_is_refused_at_once(site: Site) -> None:
    device = site.device(scope="sync patient:read patient:write")
    patient = device.register(ADA_OKORO)
    refused("FORBIDDEN", lambda: device.set_consent(patient.id, "research", GRANTED))


def test_a_change_of_what_was_never_pulled_names_the_change_before(device: Client) -> None:
    patient = device.register(ADA_OKORO)
    device.update_demographics(patient.id, {"birthDate": "1984"})
    device.add_next_of_kin(patient.id, CHIDI)
    device.set_consent(patient.id, "research", GRANTED)
    encounter = device.open_encounter(patient.id, {"class": "AMB"})
    device.transition(encounter.id, "arrived")
    assert bases(device) == [
        ("register", None, None),
        ("update_demographics", None, 1),
        ("add_next_of_kin", None, 2),
        ("set_consent", None, 3),
        ("open", None, 1),
        ("transition", None, 5),
    ]
    assert device.sync().applied == 6


def test_a_change_of_a_pulled_record_states_its_version_and_the_own_one_before(
    device: Client, site: Site
) -> None:
    patient = pulled(device, site)
    desk = site.desk()
    seen(device, desk.put(f"/v1/patients/{patient}/consents/research", GRANTED, If_Match='"0"'))
    device.update_demographics(patient, {"birthDate": "1984"})
    device.update_demographics(patient, {"gender": "other"})
    device.add_next_of_kin(patient, CHIDI)
    device.set_consent(patient, "research", GRANTED)
    device.set_consent(patient, "contact-email", GRANTED)
    device.open_encounter(patient, {"class": "AMB"})
    assert bases(device) == [
        ("update_demographics", 2, None),
        ("update_demographics", 2, 1),
        ("add_next_of_kin", None, 2),
        ("set_consent", 1, 3),
        ("set_consent", 0, 4),
        ("open", None, None),
    ]
    assert device.sync().applied == 6


def test_a_change_does_not_build_on_one_that_changed_nothing(device: Client, site: Site) -> None:
    patient = pulled(device, site)
    device.update_demographics(patient, {"birthDate": "1984"})
    device.update_demographics(patient, {"birthDate": "1984"})
    device.update_demographics(patient, {"birthDate": "1985"})
    assert [after for _, _, after in bases(device)] == [None, 1, 1]
    assert device.sync().applied == 3
    assert device.patient(patient).body["birthDate"] == "1985"  # type: ignore[union-attr]


def test_what_a_pull_brought_is_no_longer_named(device: Client) -> None:
    patient = device.register(ADA_OKORO)
    device.push()
    device.update_demographics(patient.id, {"birthDate": "1984"})
    device.sync()
    device.update_demographics(patient.id, {"birthDate": "1985"})
    assert bases(device)[1:] == [
        ("update_demographics", None, 1),
        ("update_demographics", 2, None),
    ]
    assert device.sync().applied == 1


def test_extensions_follow_the_schemas_that_were_pulled(device: Client, site: Site) -> None:
    schema = {"type": "object", "properties": {"rooms": {"type": "integer"}}}
    admin = site.desk(role="admin")
    admin.post("/v1/extension-schemas/housing/versions", {"schema": schema})
    patient = pulled(device, site)
    refused(
        "EXTENSION_INVALID",
        lambda: device.set_extension(patient, "housing", 1, {"rooms": "three"}),
    )
    refused("NOT_FOUND", lambda: device.set_extension(patient, "income", 1, {}))
    view = device.set_extension(patient, "housing", 1, {"rooms": 3})
    assert view.body["extensions"][0]["data"] == {"rooms": 3}
    device.sync()
    device.remove_extension(patient, "housing")
    assert device.push().applied == 1
    assert device.patient(patient).body["extensions"] == []  # type: ignore[union-attr]
    device.sync()
    assert device.patient(patient).body["extensions"] == []  # type: ignore[union-attr]


def test_own_changes_stay_on_top_of_what_others_did(device: Client, site: Site) -> None:
    patient = pulled(device, site)
    device.add_name(patient, {"family": "Eze", "use": "maiden"})
    seen(device, site.desk().post(f"/v1/patients/{patient}/next-of-kin", CHIDI))
    view = device.patient(patient)
    assert view is not None
    assert [kin["name"] for kin in view.body["nextOfKin"]] == ["Chidi"]
    assert [name["family"] for name in view.body["names"]] == ["Okoro", "Eze"]
    assert (view.version, view.pending, view.misfits) == (2, (1,), ())


def test_what_does_not_fit_any_more_is_not_shown_and_yet_sent(device: Client, site: Site) -> None:
    patient = pulled(device, site)
    name = device.add_name(patient, {"family": "Eze"}).body["names"][1]["id"]
    device.sync()
    device.retire_name(patient, name, "a slip")
    reason = {"reason": "somebody was faster"}
    seen(device, site.desk().post(f"/v1/patients/{patient}/names/{name}/retirement", reason))
    view = device.patient(patient)
    assert view is not None
    assert (len(view.body["names"]), view.pending, view.misfits) == (1, (), (2,))
    assert device.push().rejected == 1


def test_a_view_after_a_sync_is_what_the_service_shows(device: Client, site: Site) -> None:
    patient = device.register(ADA_OKORO | {"identifiers": [{"system": "urn:x", "value": "7"}]})
    device.set_consent(patient.id, "research", GRANTED)
    encounter = device.open_encounter(patient.id, {"class": "AMB", "status": "arrived"})
    device.sync()
    desk = site.desk()
    shown, there = device.patient(patient.id), device.encounter(encounter.id)
    assert shown is not None
    assert there is not None
    assert (shown.body, shown.pending) == (desk.get(place({"id": patient.id})).json(), ())
    answer = desk.get(f"/v1/encounters/{encounter.id}").json()
    assert {**there.body, "currentPatientId": str(patient.id)} == answer
    assert [view.id for view in device.encounters(patient.id)] == [encounter.id]


def test_an_encounter_begins_when_it_did_by_a_clock_that_is_put_right(
    device: Client, site: Site, desk_of: Desk
) -> None:
    site.clock.ahead = timedelta(hours=3)
    patient = device.register(ADA_OKORO)
    before = device.open_encounter(patient.id, {"class": "AMB", "status": "arrived"})
    assert device.sync().applied == 2
    after = device.open_encounter(patient.id, {"class": "AMB", "status": "arrived"})
    assert device.sync().applied == 1
    for encounter in (before, after):
        shown = desk_of.get(f"/v1/encounters/{encounter.id}").json()
        recorded = shown["statusHistory"][0]
        assert recorded["at"] <= recorded["recordedAt"]
        assert recorded["at"][:13] == recorded["recordedAt"][:13] or recorded["at"][14:16] == "59"
