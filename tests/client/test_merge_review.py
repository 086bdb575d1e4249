"""What was queued for a record that was merged away meanwhile, and what a person makes of it."""

from typing import Any
from uuid import UUID

import pytest
from tests.client.given import (
    ADA_OKORO,
    ARRIVED,
    CHIDI,
    GRANTED,
    Index,
    Site,
    kin_of,
    only,
    pulled,
    refused,
    seen,
    shown,
    told,
)
from tests.service import new_id

from registration.client import Client, Difference, ReviewError


class TestConflict:
    """What was queued before the merge was known comes back for a person to look at."""

    @pytest.fixture
    def merge(self, device: Client, index: Index, survivor: UUID, retired: UUID) -> dict[str, Any]:
        """A merge that the device meets with a correction and what was built on it."""
        device.update_demographics(retired, {"birthDate": "1984-03-20"})
        device.add_next_of_kin(retired, CHIDI)
        device.set_consent(retired, "research", GRANTED)
        device.add_next_of_kin(retired, CHIDI | {"name": "Obi"})
        merge = index.merge(survivor, retired)
        report = device.push()
        assert (report.conflicts, report.blocked) == (1, 3)
        return merge

    def test_the_review_shows_all_sides_and_the_survivor(
        self, device: Client, survivor: UUID, merge: dict[str, Any]
    ) -> None:
        item = only(device.review())

        assert (item.kind, item.code, item.survivor) == ("conflict", "PATIENT_MERGED", survivor)
        assert item.fields == (Difference("/birthDate", "1984-03-02", "1985", "1984-03-20"),)
        assert item.base_version == 2
        assert item.problem["mergeId"] == merge["id"]

    @pytest.mark.usefixtures("merge")
    def test_it_goes_to_the_survivor_and_takes_along_what_lays_over_nothing(
        self, device: Client, site: Site, survivor: UUID, retired: UUID
    ) -> None:
        item = only(device.review())

        made = device.apply_to_survivor(item)

        assert (made.aggregate_id, made.base_version) == (survivor, 2)
        assert made.supersedes == item.mutation.id
        consent = only(device.review())  # a consent is each person's to look at
        assert (consent.code, consent.survivor, consent.base_version) == (
            "PATIENT_MERGED",
            survivor,
            0,
        )
        assert [b.mutation.payload["name"] for b in consent.blocked] == ["Obi"]
        assert device.sync().applied == 2
        assert shown(device.patient(survivor)).body["birthDate"] == "1984-03-20"
        assert kin_of(device, survivor) == ["Chidi"]
        device.apply_to_survivor(only(device.review()))
        assert device.sync().applied == 2
        assert kin_of(device, survivor) == ["Chidi", "Obi"]
        assert told(device.history()) == [
            ("update_demographics", "discarded"),
            ("add_next_of_kin", "discarded"),
            ("set_consent", "discarded"),
            ("add_next_of_kin", "discarded"),
            ("update_demographics", "applied"),
            ("add_next_of_kin", "applied"),
            ("set_consent", "applied"),
            ("add_next_of_kin", "applied"),
        ]
        assert all(m.reason == "superseded" and m.superseded_by for m in device.history()[:4])
        assert site.desk().topics({"id": retired}) == ["patient.registered", "patient.merged-away"]

    @pytest.mark.usefixtures("merge")
    def test_it_may_say_something_else_there(self, device: Client, survivor: UUID) -> None:
        device.apply_to_survivor(only(device.review()), {"birthDate": "1984"})
        device.sync()
        assert shown(device.patient(survivor)).body["birthDate"] == "1984"

    @pytest.mark.usefixtures("merge")
    def test_what_the_reviewer_did_not_see_of_the_survivor_is_a_conflict_again(
        self, device: Client, site: Site, survivor: UUID
    ) -> None:
        item = only(device.review())
        path = f"/v1/patients/{survivor}/demographics"
        assert site.desk().patch(path, {"birthDate": "1985-06"}, If_Match='"2"').is_success

        device.apply_to_survivor(item)

        assert device.sync().conflicts == 1
        again = device.review()[1]
        assert (again.code, again.survivor) == ("OPTIMISTIC_LOCK_CONFLICT", None)
        assert [(f.path, f.theirs) for f in again.fields] == [("/birthDate", "1985-06")]

    @pytest.mark.usefixtures("merge")
    def test_a_survivor_that_was_pulled_since_is_shown_as_it_is(
        self, device: Client, site: Site, survivor: UUID
    ) -> None:
        path = f"/v1/patients/{survivor}/demographics"
        seen(device, site.desk().patch(path, {"birthDate": "1985-06"}, If_Match='"2"'))

        item = only(device.review())

        assert (item.base_version, item.survivor) == (3, survivor)
        assert item.fields == (Difference("/birthDate", "1984-03-02", "1985-06", "1984-03-20"),)
        device.apply_to_survivor(item)
        assert device.sync().applied == 2

    @pytest.mark.usefixtures("merge")
    def test_it_is_not_sent_to_the_retired_record_again(
        self, device: Client, survivor: UUID
    ) -> None:
        item = only(device.review())
        for _ in range(2):  # by the refusal alone, and by what a pull brought
            extra = refused("PATIENT_MERGED", lambda: device.resubmit(item))
            assert extra["survivorId"] == str(survivor)
            device.pull()

    @pytest.mark.usefixtures("merge")
    def test_given_up_it_leaves_each_that_built_on_it_to_the_person(
        self, device: Client, survivor: UUID
    ) -> None:
        device.discard(only(device.review()), "theirs is right", "detach")

        item = only(device.review())

        assert (item.mutation.operation, item.survivor) == ("patient.add_next_of_kin", survivor)
        assert [b.mutation.operation for b in item.blocked] == ["patient.set_consent"]
        assert device.sync().sent == 0
        device.apply_to_survivor(item)
        device.discard(only(device.review()), "not asked", "discard")
        assert device.sync().applied == 1
        assert (device.review(), kin_of(device, survivor)) == ([], ["Chidi"])

    @pytest.mark.usefixtures("merge")
    def test_a_chain_is_given_up_for_one_reason(self, device: Client) -> None:
        device.discard(only(device.review()), "another person", "discard")
        assert {(str(m.state), m.reason) for m in device.history()} == {
            ("discarded", "another person")
        }

    def test_kept_until_the_merge_is_undone_it_goes_where_it_was_meant_for(
        self, device: Client, index: Index, survivor: UUID, retired: UUID, merge: dict[str, Any]
    ) -> None:
        device.sync()
        index.unmerge(merge)
        assert only(device.review()).survivor == survivor  # nothing has come of it yet
        device.pull(index.position)

        item = only(device.review())

        assert (item.survivor, item.base_version) == (None, 3)
        with pytest.raises(ReviewError, match="not merged into that record now"):
            device.apply_to_survivor(item)
        made = device.resubmit(item)
        assert (made.aggregate_id, made.supersedes) == (retired, item.mutation.id)
        device.sync()
        assert shown(device.patient(retired)).body["birthDate"] == "1984-03-20"
        assert shown(device.patient(survivor)).body["birthDate"] == "1985"
        while items := device.review():
            device.resubmit(items[0])
            assert device.sync().applied
        assert kin_of(device, retired) == ["Chidi", "Obi"]

    def test_that_it_was_undone_is_told_by_the_survivor_where_the_record_has_left(
        self, site: Site, index: Index, device: Client
    ) -> None:
        """Given a record that moved away once the merge was undone, then it is sent there still."""
        north = site.device("north", facility="north")
        gone, stays = (pulled(north, site, facility="north") for _ in range(2))
        north.update_demographics(gone, {"birthDate": "1984-03-20"})
        merge = index.merge(stays, gone)
        north.sync()
        index.unmerge(merge)
        path, patch = f"/v1/patients/{gone}/demographics", {"facility": "south"}
        seen(north, site.desk().patch(path, patch, If_Match='"3"'))
        assert north.patient(gone) is None

        item = only(north.review())

        assert item.survivor is None
        north.resubmit(item)
        assert north.sync().conflicts == 1  # nobody saw that it was moved
        north.resubmit(only(north.review()))
        assert north.sync().applied == 1
        device.pull(index.position)
        assert shown(device.patient(gone)).body["birthDate"] == "1984-03-20"

    def test_a_survivor_that_was_merged_itself_gives_way_to_the_last_one(
        self,
        device: Client,
        site: Site,
        index: Index,
        survivor: UUID,
        retired: UUID,
        merge: dict[str, Any],
    ) -> None:
        stale = only(device.review())
        last = pulled(device, site, names=[{"family": "Eze"}])
        index.merge(last, survivor)
        device.pull(index.position)

        with pytest.raises(ReviewError, match="look at the review again"):
            device.apply_to_survivor(stale)
        item = only(device.review())
        assert item.survivor == last
        device.apply_to_survivor(item)
        assert device.sync().applied == 2
        assert kin_of(device, last) == ["Chidi"]
        assert device.patient(retired) is not None


class TestEntries:
    """Names, identifiers and next of kin: each belongs to one record."""

    def test_an_added_one_keeps_its_id_and_what_changes_it_follows(
        self, device: Client, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        name = device.add_name(retired, {"family": "Eze"}).body["names"][-1]["id"]
        device.replace_name(retired, name, {"family": "Ezeh"})
        index.merge(survivor, retired)
        device.push()

        device.apply_to_survivor(only(device.review()))

        assert (device.review(), device.sync().applied) == ([], 2)
        names = shown(device.patient(survivor)).body["names"]
        assert [n["family"] for n in names] == ["Okafor", "Ezeh"]
        assert names[1]["id"] == name

    def test_one_whose_id_names_another_there_gets_a_new_id(
        self, device: Client, site: Site, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        taken = str(new_id())
        seen(
            device, site.desk().post(f"/v1/patients/{survivor}/names", {"id": taken, "text": "Ay"})
        )
        device.add_name(retired, {"id": taken, "text": "Bo"})
        device.replace_name(retired, taken, {"id": taken, "text": "Boo"})
        index.merge(survivor, retired)
        device.push()

        made = device.apply_to_survivor(only(device.review()))

        assert made.payload["id"] != taken
        assert device.sync().applied == 2
        names = shown(device.patient(survivor)).body["names"]
        assert [n.get("text") for n in names[1:]] == ["Ay", "Boo"]

    def test_what_is_about_an_entry_of_the_retired_record_has_no_place_on_the_survivor(
        self, device: Client, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        card = shown(device.patient(retired)).body["identifiers"][0]["id"]
        device.add_next_of_kin(retired, CHIDI)
        device.retire_identifier(retired, card, "lost")
        index.merge(survivor, retired)
        device.push()
        device.apply_to_survivor(only(device.review()))

        item = only(device.review())

        assert (item.mutation.operation, item.survivor) == ("patient.retire_identifier", survivor)
        with pytest.raises(ReviewError, match="an entry that the survivor does not have"):
            device.apply_to_survivor(item)
        device.discard(item, "it goes on as an old one")
        assert device.sync().applied == 1


class TestEncounter:
    """An encounter that was opened for a patient who was merged away meanwhile."""

    @pytest.fixture
    def visit(self, device: Client, index: Index, survivor: UUID, retired: UUID) -> UUID:
        """An encounter that came back, and that has gone on here."""
        visit = device.open_encounter(retired, ARRIVED)
        device.transition(visit.id, "in-progress")
        index.merge(survivor, retired)
        report = device.sync()
        assert (report.conflicts, report.blocked) == (1, 1)
        return visit.id

    def test_it_is_opened_for_the_survivor_under_its_id_and_goes_on(
        self, device: Client, survivor: UUID, visit: UUID
    ) -> None:
        item = only(device.review())
        assert (item.code, item.survivor) == ("PATIENT_MERGED", survivor)
        assert device.encounters(survivor) == []

        device.apply_to_survivor(item)

        assert device.sync().applied == 2
        [there] = device.encounters(survivor)
        assert (there.id, there.body["patientId"]) == (visit, str(survivor))
        assert there.body["status"] == "in-progress"

    def test_it_is_given_up_with_what_became_of_it(self, device: Client, visit: UUID) -> None:
        item = only(device.review())
        with pytest.raises(ReviewError, match="cannot be detached"):
            device.discard(item, "another person", "detach")
        device.discard(item, "another person", "discard")
        assert (device.review(), device.encounter(visit)) == ([], None)

    def test_after_the_merge_is_undone_it_is_opened_for_whom_it_was(
        self, device: Client, index: Index, survivor: UUID, retired: UUID
    ) -> None:
        device.open_encounter(retired, ARRIVED)
        merge = index.merge(survivor, retired)
        device.sync()
        index.unmerge(merge)
        device.pull(index.position)

        device.resubmit(only(device.review()))

        assert device.sync().applied == 1
        assert len(device.encounters(retired)) == 1
        assert device.encounters(survivor) == []


def test_a_conflict_from_before_the_merge_is_settled_by_it_too(
    device: Client, site: Site, index: Index, survivor: UUID, retired: UUID
) -> None:
    """Given a correction that collided, when its record is merged away, then it may follow."""
    device.update_demographics(retired, {"gender": "other"})
    path = f"/v1/patients/{retired}/demographics"
    assert site.desk().patch(path, {"gender": "male"}, If_Match='"1"').is_success
    device.sync()
    index.merge(survivor, retired)
    device.pull(index.position)

    item = only(device.review())

    assert (item.code, item.survivor) == ("OPTIMISTIC_LOCK_CONFLICT", survivor)
    assert [(f.path, f.theirs, f.mine) for f in item.fields] == [("/gender", "female", "other")]
    device.apply_to_survivor(item)
    assert device.sync().applied == 1
    assert shown(device.patient(survivor)).body["gender"] == "other"


def test_a_survivor_outside_of_what_the_device_keeps_is_shown_by_the_refusal(
    site: Site, index: Index
) -> None:
    """Given a merge that no pull brought, then what the service said of the survivor counts."""
    device = site.device()
    retired = pulled(device, site)
    device.update_demographics(retired, {"birthDate": "1984-03-20"})
    survivor = site.desk().given_patient(**ADA_OKORO | {"birthDate": "1985"})
    index.merge(UUID(survivor["id"]), retired)
    device.push()

    item = only(device.review())

    assert (item.survivor, item.base_version) == (UUID(survivor["id"]), 2)
    device.apply_to_survivor(item, {"birthDate": "1984"})
    assert device.sync().applied == 1
    assert shown(device.current(retired)).body["birthDate"] == "1984"
