"""The page of reports: with a token in a form, without scripts, at the width of a phone."""

import os
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from tests.api.given_reports import HOUR, MONDAY, Clinic, registered, set_clock
from tests.api.test_pages import read
from tests.browser import Tab, tab
from tests.service import Service, succeeded
from tests.sync.given import push

from registration.reports.catalogue import REPORTS

PICTURES = os.environ.get("REPORT_PICTURES")
"""A folder to keep screenshots in, for whoever wants to look."""


@pytest.fixture
def clinic(service: Service, clock) -> Clinic:
    """A clinic on a Monday, with enough to see."""
    set_clock(clock, MONDAY)
    clinic = Clinic.of(service)
    for number in range(7):
        patient = clinic.patient(
            names=[{"family": "Quxley", "given": [f"Zebedee{number}"]}],
            birthDate=str(1950 + 7 * number),
        )
        arrived = {"at": (MONDAY - number * HOUR).isoformat(), "status": "arrived"}
        said = {"patientId": patient["id"], "class": "AMB"} | arrived
        succeeded(clinic.north.post("/v1/encounters", said))
    push(clinic.south, registered(MONDAY - 5 * HOUR))
    clinic.asks(clinic.admin, "duplicates")
    clinic.asks(clinic.admin, "registrations")
    return clinic


def post(clinic: Clinic, **said: str) -> httpx.Response:
    """Send the form."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return clinic.service.http.post("/reports", content=urlencode(said), headers=headers)


def insist_on_privacy(answer: httpx.Response, token: str) -> None:
    """Insist that an answer is not kept, sends nothing elsewhere, and does not hold the token."""
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    assert {"default-src 'none'", "form-action 'self'", "frame-ancestors 'none'"} <= set(
        policy.split("; ")
    )
    assert "script-src" not in policy
    assert token not in answer.text
    assert "set-cookie" not in answer.headers


def test_the_form_asks_for_a_token_and_says_what_there_is(clinic: Clinic) -> None:
    answer = clinic.service.http.get("/reports")
    assert answer.status_code == 200
    insist_on_privacy(answer, clinic.analyst.bearer)
    page = read(answer.text)
    for report in REPORTS.values():
        assert report.title in page.text
    assert not page.named("script")
    labelled = {label["for"] for label in page.named("label")}
    for field in page.named("input") + page.named("select"):
        assert field["id"] in labelled
    (form,) = page.named("form")
    assert (form["method"], form["action"]) == ("post", "/reports")


def test_all_reports_are_drawn_with_a_table_beside(clinic: Clinic) -> None:
    answer = post(clinic, token=clinic.admin.bearer)
    assert answer.status_code == 200, answer.text
    insist_on_privacy(answer, clinic.admin.bearer)
    page = read(answer.text)
    assert len(page.named("h2")) == len(page.named("table")) == len(REPORTS)
    drawings = page.named("svg")
    assert len(drawings) == len(REPORTS)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert drawing["aria-labelledby"] in ids
    assert "Zebedee" not in answer.text


def test_one_report_of_a_window_and_a_facility(clinic: Clinic) -> None:
    asked = {"from": "2031-03-03", "to": "2031-03-04", "facility": "north"}
    answer = post(clinic, token=clinic.admin.bearer, report="registrations", **asked)
    page = read(answer.text)
    text = " ".join(page.text.split())
    assert "From 2031-03-03 up to, not including, 2031-03-04" in text
    assert "2031-03-03 7" in text
    assert len(page.named("h2")) == len(page.named("svg")) == 1


def test_small_counts_are_kept_back_on_the_page_too(clinic: Clinic) -> None:
    answer = post(clinic, token=clinic.analyst.bearer, report="registrations", facility="south")
    text = " ".join(read(answer.text).text.split())
    assert "Figures about too few people are kept back." in text
    assert "2031-03-03: kept back" in text


def test_a_file_of_one_report(clinic: Clinic) -> None:
    answer = post(clinic, token=clinic.admin.bearer, report="registrations", show="csv")
    insist_on_privacy(answer, clinic.admin.bearer)
    assert answer.headers["content-disposition"].startswith('attachment; filename="registrations')
    assert answer.text.startswith("day,facility,gender,ageBand,mode,registrations")
    assert post(clinic, token=clinic.admin.bearer, show="csv").status_code == 422


@pytest.mark.parametrize(
    ("said", "status", "told"),
    [
        ({"token": "no token"}, 401, "No valid token"),
        ({}, 401, "No valid token"),
        ({"token": "of a desk"}, 403, "report:read"),
        ({"token": "of an analyst", "facility": "<b>"}, 422, "facility"),
    ],
)
def test_what_is_refused_is_told_on_the_page(
    clinic: Clinic, said: dict[str, str], status: int, told: str
) -> None:
    tokens = {"of a desk": clinic.north.bearer, "of an analyst": clinic.analyst.bearer}
    token = tokens.get(said.get("token", ""), said.get("token", ""))
    answer = post(clinic, **(said | {"token": token}))
    assert answer.status_code == status
    assert answer.headers["cache-control"] == "no-store"
    page = read(answer.text)
    assert told in page.text
    assert not page.named("b")


def test_a_window_that_one_report_cannot_have_leaves_the_others(clinic: Clinic) -> None:
    asked = {"from": "2031-01-01", "to": "2031-03-04"}
    page = read(post(clinic, token=clinic.admin.bearer, **asked).text)
    assert "must be within 31 days before to" in page.text
    assert len(page.named("table")) == len(REPORTS) - 1


def test_no_token_is_in_the_log(clinic: Clinic) -> None:
    post(clinic, token=clinic.admin.bearer)
    lines = b"".join(clinic.service.lines)
    assert b'"operation":"report.page"' in lines
    assert clinic.admin.bearer.encode() not in lines


def insist_on_fitting(page: Tab, width: int) -> None:
    """Insist that nothing makes the page scroll sideways, and that no bar leaves its chart."""
    assert page.value("document.documentElement.clientWidth") == width
    assert page.value("document.documentElement.scrollWidth") == width
    beyond = (
        "[...document.querySelectorAll('svg')].flatMap(svg => [...svg.querySelectorAll('rect')]"
        ".filter(r => r.getBoundingClientRect().right > svg.getBoundingClientRect().right + 1))"
        ".length"
    )
    assert page.value(beyond) == 0


@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (1200, False)])
def test_a_browser_without_scripts_shows_the_reports(
    clinic: Clinic, tmp_path: Path, width: int, dark: bool
) -> None:
    with tab(tmp_path / "profile", width=width, dark=dark) as page:
        page.open(f"{clinic.service.url}/reports")
        insist_on_fitting(page, width)
        page.type("#token", clinic.admin.bearer)
        with page.loading():
            page.press("button[value=page]")
        assert page.value("location.href") == f"{clinic.service.url}/reports"
        assert page.value("document.querySelectorAll('svg').length") == len(REPORTS)
        insist_on_fitting(page, width)
        page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
        insist_on_fitting(page, width)
        # text of at least 11 pixels is readable on a phone
        assert page.value("document.querySelector('svg text').getBoundingClientRect().height") > 10
        assert page.value("document.body.innerHTML").find(clinic.admin.bearer) == -1
        colour = page.value("getComputedStyle(document.body).backgroundColor")
        assert (colour == "rgb(255, 255, 255)") == (not dark)
        if PICTURES:
            (Path(PICTURES) / f"reports-{width}-{'dark' if dark else 'light'}.png").write_bytes(
                page.picture()
            )
        # the browser's own icons are data
        here = (clinic.service.url, "data:")
        assert [url for url in page.requested if not url.startswith(here)] == []
