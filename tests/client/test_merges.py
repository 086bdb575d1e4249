"""Records that were merged away, at a device: what is shown of them, and what is refused."""

from uuid import UUID

import pytest
from tests.client.given import (
    ARRIVED,
    CHIDI,
    Index,
    Site,
    pulled,
    refused,
    shown,
)
from tests.service import new_id

from registration.client import Client


class TestShown:
    """What a pull brought of a merge."""

    def test_a_retired_record_says_what_replaced_it_and_leads_there(
        self, device: Client, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        index.merge(survivor, retired)
        device.pull(index.position)

        gone, now = shown(device.patient(retired)), shown(device.current(retired))

        assert (gone.replaced_by, gone.body["active"]) == (survivor, False)
        assert (now.id, now.replaced_by) == (survivor, None)
        assert [i["mergedFrom"] for i in now.body["identifiers"]] == [str(retired)]

    def test_a_chain_leads_to_its_end(
        self, device: Client, site: Site, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        last = pulled(device, site)
        index.merge(survivor, retired)
        index.merge(last, survivor)
        device.pull(index.position)

        assert shown(device.patient(retired)).replaced_by == survivor
        assert shown(device.current(retired)).id == last
        assert device.current(new_id()) is None

    @pytest.mark.parametrize("text", ["okoro", "a7", "ada 1984-03", "okafor"])
    def test_a_search_finds_the_survivor_by_what_either_was_found_by(
        self, device: Client, index: Index, survivor: UUID, retired: UUID, text: str
    ) -> None:
        index.merge(survivor, retired)
        device.pull(index.position)

        assert [view.id for view in device.search(text)] == [survivor]

    def test_a_search_stops_at_its_limit(
        self, device: Client, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        assert len(device.search("ada", limit=1)) == 1
        assert len(device.search("ada", limit=2)) == 2

    def test_encounters_of_the_retired_are_listed_with_the_survivor(
        self, device: Client, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        first = device.open_encounter(retired, ARRIVED)
        second = device.open_encounter(survivor, ARRIVED)
        device.sync()
        index.merge(survivor, retired)
        device.pull(index.position)

        listed = device.encounters(survivor)

        assert [(e.id, e.body["patientId"]) for e in listed] == [
            (second.id, str(survivor)),
            (first.id, str(retired)),
        ]
        assert device.encounters(retired) == listed

    def test_who_has_the_retired_record_has_the_survivor_too(
        self, site: Site, index: Index, device: Client
    ) -> None:
        """Given a device of the north, when its patient is merged into one of the south."""
        north = site.device("north", facility="north")
        gone = pulled(north, site, facility="north")
        stays = pulled(device, site, facility="south")
        merge = index.merge(stays, gone)
        north.pull(index.position)

        assert [view.id for view in north.search("okoro")] == [stays]
        index.unmerge(merge)
        north.pull(index.position)
        assert [view.id for view in north.search("okoro")] == [gone]
        assert north.patient(stays) is None

    def test_between_two_pages_links_may_lead_nowhere_or_in_a_circle(
        self, device: Client, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        index.merge(survivor, retired)
        device.pull(index.position)
        for above, known in ((new_id(), retired), (retired, survivor)):
            assert shown(device.current(retired)).id == survivor
            with device._store.transaction():
                body = {**shown(device.patient(known)).body}
                links = [{"type": "replaced-by", "patientId": str(above)}]
                item = {"kind": "patient", "id": str(known), "version": 9, "position": 99}
                device._cache.put(item | {"body": body | {"links": links}}, 0)
            assert shown(device.current(known)).id in (survivor, retired)
            refused("PATIENT_MERGED", lambda: device.add_next_of_kin(retired, CHIDI))
            with device._store.transaction():
                device._cache.put(item | {"body": body}, 0)

    def test_after_the_merge_is_undone_there_are_two_again(
        self, device: Client, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        merge = index.merge(survivor, retired)
        device.pull(index.position)
        index.unmerge(merge)
        device.pull(index.position)

        assert [view.id for view in device.search("okoro")] == [retired]
        assert shown(device.current(retired)).id == retired
        assert shown(device.patient(survivor)).body["identifiers"] == []


class TestRefusedHere:
    """A change of a record that the device knows to be merged away is not queued."""

    def test_it_names_the_survivor_as_the_service_does(
        self, device: Client, site: Site, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        index.merge(survivor, retired)
        device.pull(index.position)

        here = refused("PATIENT_MERGED", lambda: device.add_next_of_kin(retired, CHIDI))
        refused("PATIENT_MERGED", lambda: device.update_demographics(retired, {"birthDate": None}))
        refused("PATIENT_MERGED", lambda: device.retire_name(retired, new_id(), "a slip"))
        refused("PATIENT_MERGED", lambda: device.open_encounter(retired, ARRIVED))

        there = site.desk().post(f"/v1/patients/{retired}/next-of-kin", CHIDI).json()
        assert here == {name: there[name] for name in here}
        assert here.keys() == {"patientId", "survivorId", "survivorVersion"}
        assert device.history() == []

    def test_its_encounters_go_on(
        self, device: Client, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        visit = device.open_encounter(retired, ARRIVED)
        device.sync()
        index.merge(survivor, retired)
        device.pull(index.position)

        device.transition(visit.id, "in-progress")

        assert device.sync().applied == 1

    def test_what_was_queued_before_is_not_laid_on_top_any_more_and_yet_sent(
        self, device: Client, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        device.add_next_of_kin(retired, CHIDI)
        index.merge(survivor, retired)
        device.pull(index.position)

        view = shown(device.patient(retired))

        assert (view.pending, view.misfits, view.body["nextOfKin"]) == ((), (1,), [])
        assert device.push().conflicts == 1

    def test_merging_is_none_of_the_devices_calls(
        self, device: Client, survivor: UUID, retired: UUID
    ) -> None:
        for operation in ("propose_merge", "approve_merge", "reject_merge", "unmerge"):
            change = f"mpi.{operation}"
            refused("OFFLINE_PROHIBITED", lambda o=change: device.submit(o, retired, {}))  # type: ignore[misc]
