"""Portraits over HTTP, and the job that lets them go."""

import asyncio
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from PIL import Image
from tests.merging import merged, parted
from tests.service import Clock, Desk, Service, picture, place, problem, running, succeeded

from registration.projections.status import wait_for
from registration.retention import Swept, sweep

EVIDENCE = {"kind": "signature"}


def agrees(desk: Desk, patient: dict[str, Any], version: int = 0, **said: Any) -> None:
    said = {"decision": "granted", "evidence": EVIDENCE} | said
    succeeded(desk.put(f"{place(patient)}/consents/portrait", said, If_Match=f'"{version}"'))


def sends(desk: Desk, patient: dict[str, Any], image: bytes, **headers: Any) -> httpx.Response:
    headers = {"Content_Type": "image/png"} | headers
    return desk("PUT", f"{place(patient)}/portrait", content=image, **headers)


def portrait(desk: Desk, patient: dict[str, Any], **headers: Any) -> httpx.Response:
    return desk.get(f"{place(patient)}/portrait", **headers)


def removes(desk: Desk, patient: dict[str, Any]) -> httpx.Response:
    return desk("DELETE", f"{place(patient)}/portrait", params={"reason": "asked to"})


@pytest.fixture
def patient(desk: Desk) -> dict[str, Any]:
    """A patient who agrees to a portrait."""
    found = desk.given_patient()
    agrees(desk, found)
    return found


@pytest.mark.parametrize(
    ("form", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")]
)
def test_a_picture_comes_back_as_a_small_jpeg(desk: Desk, patient, form, media_type) -> None:
    answer = sends(desk, patient, picture((1500, 2000), form), Content_Type=media_type)
    shown = succeeded(answer)["portrait"]
    got = portrait(desk, patient)
    image = Image.open(io.BytesIO(got.content))
    assert image.format == "JPEG"
    assert 768 <= image.height <= 1024
    assert image.width * 4 == image.height * 3
    assert got.headers["content-type"] == "image/jpeg"
    assert got.headers.get_list("cache-control") == ["private, no-cache"]
    assert got.headers.get_list("x-content-type-options") == ["nosniff"]
    assert got.headers["etag"] == f'"{shown["contentHash"]}"'
    assert (shown["width"], shown["height"], shown["size"]) == (*image.size, len(got.content))
    assert shown["recordedBy"] == "desk-1"


def test_who_has_it_already_is_told_so(desk: Desk, patient) -> None:
    sends(desk, patient, picture())
    etag = portrait(desk, patient).headers["etag"]
    again = portrait(desk, patient, If_None_Match=etag)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)


def test_no_event_holds_the_bytes(desk: Desk, patient) -> None:
    sends(desk, patient, picture())
    event = desk.history(patient)[-1]
    assert event["type"] == "patient.portrait-set"
    assert event["data"].keys() == {
        "portraitId",
        "contentHash",
        "mediaType",
        "width",
        "height",
        "size",
    }


def test_without_consent_nothing_is_kept(service: Service, desk: Desk) -> None:
    patient = desk.given_patient()
    assert problem(sends(desk, patient, picture()), 409, "CONSENT_REQUIRED") == {"flag": "portrait"}
    problem(portrait(desk, patient), 404, "NOT_FOUND")
    assert stored(service, desk) == 0


def stored(service: Service, desk: Desk) -> int:
    """Return how many pictures of the tenant there are bytes of."""
    with psycopg.connect(service.database_url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM registration.portrait_image WHERE tenant = %s", (desk.tenant,)
        ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    ("image", "headers", "status", "code"),
    [
        (b"", {}, 422, "VALIDATION_FAILED"),
        (b"no picture", {}, 422, "VALIDATION_FAILED"),
        (picture(form="JPEG"), {}, 422, "VALIDATION_FAILED"),
        (picture(), {"Content_Type": "image/gif"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        (picture(), {"Content_Type": "application/json"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        (picture() + b"\0" * 2 * 1024 * 1024, {}, 413, "PAYLOAD_TOO_LARGE"),
        (picture((20_000, 20_000)), {}, 413, "PAYLOAD_TOO_LARGE"),
    ],
    ids=["empty", "text", "another format", "gif", "json", "too many bytes", "a bomb"],
)
def test_what_is_no_picture_of_ours_is_refused(
    desk: Desk, patient, image, headers, status, code
) -> None:
    problem(sends(desk, patient, image, **headers), status, code)
    assert "patient.portrait-set" not in desk.topics(patient)


def test_the_same_upload_twice_is_one_event(desk: Desk, patient) -> None:
    for _ in range(2):
        sends(desk, patient, picture(), Idempotency_Key="k")
    sends(desk, patient, picture())
    assert desk.topics(patient).count("patient.portrait-set") == 1
    other = sends(desk, patient, picture((50, 50)), Idempotency_Key="k")
    problem(other, 422, "IDEMPOTENCY_KEY_REUSED")


class TestGone:
    def test_when_somebody_asks_for_it(self, desk: Desk, patient) -> None:
        sends(desk, patient, picture())
        assert "portrait" not in succeeded(removes(desk, patient))
        assert problem(portrait(desk, patient), 410, "PORTRAIT_GONE") == {"cause": "requested"}
        problem(removes(desk, patient), 410, "PORTRAIT_GONE")
        assert desk.history(patient)[-1]["data"]["reason"] == "asked to"

    def test_with_a_reason_or_not_at_all(self, desk: Desk, patient) -> None:
        sends(desk, patient, picture())
        answer = desk("DELETE", f"{place(patient)}/portrait")
        problem(answer, 422, "VALIDATION_FAILED")

    def test_the_moment_its_consent_is_withdrawn(self, desk: Desk, patient) -> None:
        sends(desk, patient, picture())
        agrees(desk, patient, 1, decision="withdrawn")
        assert problem(portrait(desk, patient), 410, "PORTRAIT_GONE") == {"cause": "consent-ended"}
        assert desk.topics(patient)[-2:] == [
            "patient.consent-withdrawn",
            "patient.portrait-removed",
        ]

    def test_the_moment_its_consent_runs_out(self, desk: Desk, patient, clock: Clock) -> None:
        end = datetime.now(UTC) + timedelta(hours=1)
        agrees(desk, patient, 1, validUntil=end.isoformat())
        sends(desk, patient, picture())
        assert portrait(desk, patient).is_success
        clock.ahead = timedelta(hours=2)
        assert problem(portrait(desk, patient), 410, "PORTRAIT_GONE") == {"cause": "consent-ended"}

    def test_a_new_one_may_follow(self, desk: Desk, patient) -> None:
        sends(desk, patient, picture())
        removes(desk, patient)
        sends(desk, patient, picture())
        assert portrait(desk, patient).is_success


class TestOfAMergedRecord:
    def test_it_is_not_shown_until_the_merge_is_undone(self, desk: Desk, patient) -> None:
        sends(desk, patient, picture())
        etag = portrait(desk, patient).headers["etag"]
        survivor = desk.given_patient()
        decision = merged(desk, patient, survivor)
        for headers in ({}, {"If_None_Match": etag}):
            told = problem(portrait(desk, patient, **headers), 409, "PATIENT_MERGED")
            assert (told["survivorId"], told["mergeId"]) == (survivor["id"], decision["id"])
        problem(portrait(desk, survivor), 404, "NOT_FOUND")
        parted(desk, decision)
        assert portrait(desk, patient).headers["etag"] == etag

    def test_it_names_the_end_of_a_chain(self, desk: Desk, patient) -> None:
        middle, survivor = desk.given_patient(), desk.given_patient()
        merged(desk, patient, middle)
        merged(desk, middle, survivor)
        told = problem(portrait(desk, patient), 409, "PATIENT_MERGED")
        assert told["survivorId"] == survivor["id"]


class TestTheRetentionJob:
    @pytest.fixture
    def kept_for_a_day(self, database_url: str, tmp_path: Path) -> Any:
        with running(database_url, tmp_path, portrait_retention={"*": 1, "archive": 1000}) as found:
            yield found

    def sweep(self, service: Service, desk: Desk, **ahead: Any) -> Swept:
        """Run the job some time from now, when its read model is level."""

        async def steps() -> Swept:
            async with await psycopg.AsyncConnection.connect(service.database_url) as connection:
                position = int(desk.register().headers["x-log-position"])
                assert await wait_for(connection, "portraits", desk.tenant, position, 10)
            return await sweep(service.database_url, lambda: datetime.now(UTC) + timedelta(**ahead))

        return asyncio.run(steps())

    def a_portrait(self, desk: Desk, **said: Any) -> dict[str, Any]:
        patient = desk.given_patient()
        agrees(desk, patient, **said)
        succeeded(sends(desk, patient, picture()))
        return patient

    def age(self, service: Service) -> None:
        with psycopg.connect(service.database_url) as connection:
            connection.execute(
                "UPDATE registration.portrait_image SET stored_at = stored_at - interval '1 hour'"
            )

    def test_what_is_not_due_stays(self, kept_for_a_day: Service) -> None:
        desk = kept_for_a_day.desk()
        patient = self.a_portrait(desk)
        self.age(kept_for_a_day)
        assert self.sweep(kept_for_a_day, desk, hours=23) == Swept()
        assert portrait(desk, patient).is_success

    def test_what_has_passed_its_date_goes_and_the_history_says_so(
        self, kept_for_a_day: Service
    ) -> None:
        desk = kept_for_a_day.desk()
        patient = self.a_portrait(desk)
        assert self.sweep(kept_for_a_day, desk, hours=25) == Swept(removed=1, deleted=1)
        assert stored(kept_for_a_day, desk) == 0
        event = desk.history(patient)[-1]
        assert (event["type"], event["actor"]) == (
            "patient.portrait-removed",
            "system:retention",
        )
        assert event["data"]["cause"] == "retention-passed"
        assert problem(portrait(desk, patient), 410, "PORTRAIT_GONE") == {
            "cause": "retention-passed"
        }
        assert self.sweep(kept_for_a_day, desk, hours=25) == Swept()

    def test_each_tenant_has_a_policy_of_its_own(self, kept_for_a_day: Service) -> None:
        archive = kept_for_a_day.desk("archive")
        patient = self.a_portrait(archive)
        assert self.sweep(kept_for_a_day, archive, days=999) == Swept()
        assert portrait(archive, patient).is_success
        assert self.sweep(kept_for_a_day, archive, days=1001).removed == 1

    def test_a_consent_that_ran_out_takes_its_portrait_along(self, kept_for_a_day: Service) -> None:
        desk = kept_for_a_day.desk()
        end = datetime.now(UTC) + timedelta(hours=1)
        patient = self.a_portrait(desk, validUntil=end.isoformat())
        assert self.sweep(kept_for_a_day, desk, hours=2) == Swept(removed=1, deleted=1)
        assert desk.history(patient)[-1]["data"]["cause"] == "consent-ended"

    def test_a_consent_withdrawn_on_the_survivor_takes_the_merged_ones_along(
        self, kept_for_a_day: Service
    ) -> None:
        """Given a chain, when the person withdraws on its end, then nothing of it is kept."""
        desk = kept_for_a_day.desk()
        first, second, last = self.a_portrait(desk), self.a_portrait(desk), self.a_portrait(desk)
        other = self.a_portrait(desk)
        merged(desk, first, second)
        decision = merged(desk, second, last)
        assert self.sweep(kept_for_a_day, desk) == Swept()
        agrees(desk, last, 1, decision="withdrawn")

        assert self.sweep(kept_for_a_day, desk) == Swept(removed=2, deleted=2)

        event = desk.history(first)[-1]
        assert (event["type"], event["actor"]) == ("patient.portrait-removed", "system:retention")
        assert event["data"]["cause"] == "consent-ended"
        parted(desk, decision)
        gone = problem(portrait(desk, second), 410, "PORTRAIT_GONE")
        assert gone == {"cause": "consent-ended"}
        assert portrait(desk, other).is_success
        assert self.sweep(kept_for_a_day, desk) == Swept()

    def test_what_was_said_on_the_survivor_before_the_merge_counts_there_alone(
        self, kept_for_a_day: Service
    ) -> None:
        desk = kept_for_a_day.desk()
        patient, survivor = self.a_portrait(desk), desk.given_patient()
        agrees(desk, survivor, decision="refused")
        decision = merged(desk, patient, survivor)
        assert self.sweep(kept_for_a_day, desk) == Swept()
        parted(desk, decision)
        assert portrait(desk, patient).is_success

    def test_a_consent_that_ran_out_on_the_survivor_does_too(self, kept_for_a_day: Service) -> None:
        desk = kept_for_a_day.desk()
        patient, survivor = self.a_portrait(desk), desk.given_patient()
        end = datetime.now(UTC) + timedelta(hours=1)
        agrees(desk, survivor, validUntil=end.isoformat())
        merged(desk, patient, survivor)
        assert self.sweep(kept_for_a_day, desk) == Swept()
        assert self.sweep(kept_for_a_day, desk, hours=2) == Swept(removed=1, deleted=1)

    def test_bytes_that_nothing_shows_are_deleted_once_they_are_old_enough(
        self, kept_for_a_day: Service
    ) -> None:
        """Of a replaced, a withdrawn and a removed portrait, and of an upload cut off midway."""
        desk = kept_for_a_day.desk()
        replaced = self.a_portrait(desk)
        succeeded(sends(desk, replaced, picture((70, 70))))
        withdrawn = self.a_portrait(desk)
        agrees(desk, withdrawn, 1, decision="withdrawn")
        removes(desk, self.a_portrait(desk))
        with psycopg.connect(kept_for_a_day.database_url) as connection:
            connection.execute(
                "INSERT INTO registration.portrait_image"
                " SELECT %s, gen_random_uuid(), %s, 'x', clock_timestamp()",
                (desk.tenant, replaced["id"]),
            )
        assert stored(kept_for_a_day, desk) == 5
        assert self.sweep(kept_for_a_day, desk) == Swept()
        self.age(kept_for_a_day)
        assert self.sweep(kept_for_a_day, desk) == Swept(deleted=4)
        assert stored(kept_for_a_day, desk) == 1
        assert portrait(desk, replaced).is_success
