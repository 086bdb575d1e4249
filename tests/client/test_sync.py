"""Push and pull against the service, over a network that fails as told."""

import gzip
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import httpx
import orjson
import pytest
from tests.client.given import (
    ADA_OKORO,
    CHIDI,
    Fault,
    Site,
    answer,
    lost_answer,
    lost_request,
    pulled,
    seen,
    told,
)
from tests.service import Clock

from registration.client import Client, SyncReport, Unauthorised


def counts(report: SyncReport) -> dict[str, int]:
    """Return what is not zero of a report."""
    found = {name: getattr(report, name) for name in report.__dataclass_fields__}
    return {name: value for name, value in found.items() if value and name != "position"}


def registered(site: Site) -> int:
    """Return how many patients the service has of this clinic."""
    answer = site.desk().get("/v1/sync/pull", params={"limit": 1000})
    return sum(item["kind"] == "patient" for item in answer.json()["items"])


def test_a_sync_sends_what_is_queued_and_brings_what_is_new(device: Client, site: Site) -> None:
    patient = device.register(ADA_OKORO)
    device.add_next_of_kin(patient.id, CHIDI)
    assert counts(device.sync()) == {"sent": 2, "applied": 2, "pulled": 2}  # the policy too
    assert counts(device.sync()) == {}
    seen(device, site.desk().post(f"/v1/patients/{patient.id}/next-of-kin", CHIDI))
    there = device.patient(patient.id)
    assert there is not None
    assert (there.version, len(there.body["nextOfKin"])) == (3, 2)


@pytest.mark.parametrize("losses", [1, 3])
def test_after_a_lost_answer_the_same_bytes_go_again_and_nothing_is_done_twice(
    device: Client, site: Site, losses: int
) -> None:
    device.sync()
    patient = device.register(ADA_OKORO)
    device.add_next_of_kin(patient.id, CHIDI)
    site.network.seen.clear()
    site.network.faults = [lost_answer] * losses
    assert counts(device.push()) == {"sent": 2, "applied": 2, "duplicates": 2}
    assert len(set(site.network.pushes())) == 1
    assert len(site.desk().topics({"id": patient.id})) == 2


def test_without_network_all_stays_queued_and_the_report_says_so(
    device: Client, site: Site
) -> None:
    patient = device.register(ADA_OKORO)
    site.network.down = True
    assert counts(device.sync()) == {"offline": True, "waiting": 1}
    assert device.patient(patient.id) == patient
    assert all(0 <= pause <= 30 for pause in site.slept)
    assert len(site.slept) == 4  # five attempts
    site.network.down = False
    assert counts(device.sync()) == {"sent": 1, "applied": 1, "pulled": 2}


@pytest.mark.parametrize(("status", "code"), [(429, "TOO_MANY_REQUESTS"), (503, "UNAVAILABLE")])
def test_it_waits_at_least_as_long_as_the_service_asks(
    device: Client, site: Site, status: int, code: str
) -> None:
    device.sync()
    device.register(ADA_OKORO)
    site.network.faults = [answer(status, code, retry_after="7")] * 2
    assert counts(device.push()) == {"sent": 1, "applied": 1}
    first, second = site.slept
    assert 7 <= first <= 7.5
    assert 7 <= second <= 8


def test_it_does_not_wait_for_what_takes_too_long(device: Client, site: Site) -> None:
    device.sync()
    device.register(ADA_OKORO)
    site.network.faults = [answer(503, "UNAVAILABLE", retry_after="3600")]
    assert counts(device.push()) == {"offline": True, "waiting": 1}
    assert site.slept == []


def test_a_portal_on_the_way_is_not_the_service(device: Client, site: Site) -> None:
    def portal(_request: httpx.Request, _send: Callable[[], httpx.Response]) -> httpx.Response:
        return httpx.Response(200, html="<h1>Welcome</h1>", headers={"date": "never"})

    device.register(ADA_OKORO)
    site.network.faults = [portal] * 9
    assert counts(device.push()) == {"offline": True, "waiting": 1}


def test_pushes_of_many_are_cut_to_what_the_service_takes(device: Client, site: Site) -> None:
    for _ in range(501):
        device.register(ADA_OKORO)
    assert counts(device.push()) == {"sent": 501, "applied": 501}
    pushes = [request for request in site.network.seen if request.method == "POST"]
    assert [push.headers.get("content-encoding") for push in pushes] == ["gzip", None]


def test_after_413_it_sends_half_and_puts_what_is_too_large_alone_to_the_review(
    device: Client, site: Site
) -> None:
    device.sync()
    for given in "ABCDE":
        device.register({"names": [{"given": [given]}], "gender": "female"})

    def sizes(request: httpx.Request) -> list[str]:
        body = orjson.loads(said_in(request))
        return [m["payload"]["names"][0]["given"][0] for m in body["mutations"]]

    def narrow(request: httpx.Request, send: Callable[[], httpx.Response]) -> httpx.Response:
        if "C" in sizes(request):
            return answer(413, "PAYLOAD_TOO_LARGE")(request, send)
        return send()

    site.network.seen.clear()
    faults: list[Fault | None] = [narrow] * 20
    site.network.faults = faults
    assert counts(device.push()) == {"sent": 5, "applied": 4, "rejected": 1}
    pushes = [r for r in site.network.seen if r.url.path == "/v1/sync/push"]
    assert ["".join(sizes(push)) for push in pushes] == ["ABCDE", "AB", "CD", "C", "D", "E"]
    [item] = device.review()
    assert (item.kind, item.code) == ("rejected", "PAYLOAD_TOO_LARGE")


def said_in(request: httpx.Request) -> bytes:
    """Return the JSON of a push."""
    body = request.content
    zipped = request.headers.get("content-encoding") == "gzip"
    return gzip.decompress(body) if zipped else body


def test_a_token_that_has_run_out_ends_it_and_loses_nothing(device: Client, site: Site) -> None:
    device.register(ADA_OKORO)
    device.sign_in(site.token(exp=1_000_000_000))
    with pytest.raises(Unauthorised, match="401 UNAUTHENTICATED"):
        device.sync()
    device.sign_in(site.token())
    assert counts(device.sync()) == {"sent": 1, "applied": 1, "pulled": 2}


def test_a_token_without_the_scope_ends_it_and_loses_nothing(device: Client, site: Site) -> None:
    device.register(ADA_OKORO)
    device.sign_in(site.token(scope="patient:write patient:read"))
    with pytest.raises(Unauthorised, match="403 FORBIDDEN"):
        device.push()
    assert told(device.history()) == [("register", "queued")]


def test_what_was_made_by_a_clock_far_ahead_gets_new_ids_in_the_same_order(
    device: Client, site: Site
) -> None:
    site.clock.ahead = timedelta(days=30)
    patient = device.register(ADA_OKORO)
    device.add_next_of_kin(patient.id, CHIDI)
    encounter = device.open_encounter(patient.id, {"class": "AMB"})
    device.transition(encounter.id, "arrived")
    before = [m.id for m in device.history()]
    assert counts(device.sync()) == {"sent": 4, "applied": 4, "rekeyed": 4, "pulled": 3}
    after = device.history()
    assert [m.id for m in after] == sorted(m.id for m in after)
    assert all(new.id < old for new, old in zip(after, before, strict=True))
    assert [m.after for m in after] == [None, after[0].id, after[0].id, after[2].id]
    site.clock.ahead = timedelta()
    device.register(ADA_OKORO)
    assert counts(device.push()) == {"sent": 1, "applied": 1}


def test_the_services_word_on_an_id_is_enough_for_a_new_one(
    device: Client, site: Site, clock: Clock
) -> None:
    device.sync()
    site.clock.ahead = timedelta(days=3)  # after the device learned how far its clock is off
    patient = device.register(ADA_OKORO)
    device.add_next_of_kin(patient.id, CHIDI)
    assert counts(device.push()) == {"sent": 2, "applied": 2, "rekeyed": 2}


def test_what_may_be_in_keeps_its_id(device: Client, site: Site) -> None:
    device.sync()
    site.clock.ahead = timedelta(hours=20)
    patient = device.register(ADA_OKORO)
    site.network.faults = [lost_answer] * 5
    assert device.push().offline
    kept = device.history()[0].id
    site.clock.ahead = timedelta(days=-2)
    device.pull()
    device.add_next_of_kin(patient.id, CHIDI)
    assert counts(device.push()) == {"sent": 2, "applied": 2, "duplicates": 1}
    assert device.history()[0].id == kept
    assert registered(site) == 1


def test_an_interrupted_pull_goes_on_where_it_was(site: Site) -> None:
    desk = site.desk()
    for _ in range(7):
        last = desk.register()
    device = site.device()
    real = site.network.handle_request

    def small(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/sync/pull":
            request.url = request.url.copy_add_param("limit", 2)
        return real(request)

    site.network.handle_request = small  # type: ignore[method-assign]
    site.network.faults = [None, None, *([lost_request] * 5)]
    first = device.pull(int(last.headers["x-log-position"]))
    assert (first.offline, first.pulled) == (True, 5)
    assert counts(device.pull()) == {"pulled": 3}
    assert len(device.search("okoro")) == 7


def test_a_cursor_of_no_use_brings_all_anew_and_drops_what_does_not_come(
    device: Client, site: Site
) -> None:
    stays, queued = pulled(device, site), device.register(ADA_OKORO)
    store = device._store
    store.run(
        "INSERT INTO record SELECT scope, kind, '019a0000-0000-7000-8000-000000000000', version,"
        " position, generation, patient_id, body FROM record WHERE kind = 'patient'"
    )
    site.network.faults = [answer(410, "RESYNC_REQUIRED")]
    assert counts(device.pull()) == {"resynced": True, "pulled": 2, "deleted": 1, "waiting": 1}
    assert device.patient(UUID("019a0000-0000-7000-8000-000000000000")) is None
    assert device.patient(stays) is not None
    assert device.patient(queued.id) == queued


def test_a_facility_brings_its_own_and_what_leaves_it_goes(site: Site) -> None:
    device = site.device(facility="north")
    here = pulled(device, site, facility="north")
    elsewhere = pulled(device, site, facility="south")
    assert device.patient(here) is not None
    assert device.patient(elsewhere) is None
    patch = {"facility": "south"}
    seen(device, site.desk().patch(f"/v1/patients/{here}/demographics", patch, If_Match='"1"'))
    assert device.patient(here) is None


def test_what_is_registered_for_elsewhere_leaves_after_the_sync(site: Site) -> None:
    device = site.device(facility="north")
    patient = device.register(ADA_OKORO | {"facility": "south"})
    assert device.patient(patient.id) is not None
    device.sync()
    assert device.patient(patient.id) is None


def test_a_refusal_whose_answer_got_lost_comes_again_with_its_reason(
    device: Client, site: Site
) -> None:
    card = {"system": "https://ids.example/card", "value": "7"}
    site.desk().given_patient(identifiers=[card])
    device.pull()
    patient = device.register(ADA_OKORO | {"identifiers": [card]})
    device.add_next_of_kin(patient.id, CHIDI)
    site.network.faults = [lost_answer]
    assert counts(device.push()) == {"sent": 2, "conflicts": 1, "blocked": 1, "duplicates": 1}
    [item] = device.review()
    assert (item.code, bool(item.detail)) == ("IDENTIFIER_CONFLICT", True)


def test_what_the_service_could_not_take_is_kept_and_sent_after_the_time_it_asks_for(
    device: Client, site: Site
) -> None:
    device.sync()
    first = device.register(ADA_OKORO)
    device.register(ADA_OKORO)

    def half(request: httpx.Request, send: Callable[[], httpx.Response]) -> httpx.Response:
        body = orjson.loads(said_in(request))
        ids = [m["clientMutationId"] for m in body["mutations"]]
        whole = send()
        whole.read()
        told = orjson.loads(whole.content)
        told["results"][1] = {"clientMutationId": ids[1], "status": "retry", "retryAfter": 3}
        headers = {"content-type": "application/json", "date": whole.headers["date"]}
        return httpx.Response(200, json=told, headers=headers)

    site.network.faults = [half]
    # the second one was in, which the service tells when it comes again
    assert counts(device.push()) == {"sent": 2, "applied": 2, "duplicates": 1}
    assert 3 <= site.slept[0] <= 3.5
    assert device.patient(first.id) is not None
