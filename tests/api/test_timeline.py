"""A patient's history field by field, as JSON and as a page."""

from typing import Any

import pytest
from tests.api.test_pages import read
from tests.browser import BROWSER, widest_in_a_frame
from tests.service import Desk, Service, etag, new_id, place, problem, succeeded

HOSTILE = "<script>alert(1)</script><b title='x'>&amp;\""


@pytest.fixture
def patient(desk: Desk) -> dict[str, Any]:
    """Somebody whose record was changed in several ways."""
    made = desk.given_patient(
        names=[{"family": "Okoro", "given": ["Ada"]}, {"family": "أوكورو", "given": ["آدا"]}]
    )
    said = {"birthDate": "1985-01-02", "telecom": [{"system": "phone", "value": "+234 1 555"}]}
    made = succeeded(desk.patch(f"{place(made)}/demographics", said, If_Match=etag(made)))
    name = {"family": "Bello", "given": ["Ada", "Joy"]}
    made = succeeded(desk.put(f"{place(made)}/names/{made['names'][0]['id']}", name))
    kin = {"name": "Obi", "relationship": "brother"}
    made = succeeded(desk.post(f"{place(made)}/next-of-kin", kin))
    path = f"{place(made)}/next-of-kin/{made['nextOfKin'][0]['id']}/removal"
    return succeeded(desk.post(path, {"reason": "moved"}, If_Match=etag(made)))


def page(desk: Desk, patient: dict[str, Any], **asked: Any) -> str:
    answer = desk.get(f"{place(patient)}/timeline", params=asked, Accept="text/html")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


def test_each_event_comes_with_the_fields_that_it_changed(desk, patient):
    answer = succeeded(desk.get(f"{place(patient)}/timeline"))
    history = desk.history(patient)
    assert answer["next"] is None
    for step, event in zip(answer["items"], history, strict=True):
        assert {name: step[name] for name in ("version", "at", "actor", "type")} == {
            name: event[name] for name in ("version", "at", "actor", "type")
        }
    changed = [
        [(each["path"], each["before"], each["after"]) for each in step["differences"]]
        for step in answer["items"]
    ]
    name, kin = patient["names"][0]["id"], history[3]["data"]["nextOfKin"]
    assert ("/gender", None, "female") in changed[0]
    assert f"/names/{name}" in {path for path, *_ in changed[0]}
    phone = [{"system": "phone", "value": "+234 1 555"}]
    assert changed[1:] == [
        [("/birthDate", "1984-03-02", "1985-01-02"), ("/telecom", [], phone)],
        [
            (f"/names/{name}/family", "Okoro", "Bello"),
            (f"/names/{name}/given", ["Ada"], ["Ada", "Joy"]),
        ],
        [(f"/nextOfKin/{kin['id']}", None, kin)],
        [(f"/nextOfKin/{kin['id']}", kin, None)],
    ]


def test_pages_follow_each_other(desk, patient):
    whole = succeeded(desk.get(f"{place(patient)}/timeline"))["items"]
    found: list[Any] = []
    cursor = None
    while True:
        asked = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        answer = succeeded(desk.get(f"{place(patient)}/timeline", params=asked))
        found += answer["items"]
        cursor = answer["next"]
        if cursor is None:
            break
    assert found == whole
    first = read(page(desk, patient, limit=2))
    (link,) = [attrs for attrs in first.named("a") if attrs.get("rel") == "next"]
    rest = desk.get(f"{place(patient)}/timeline{link['href']}", Accept="text/html")
    assert 'id="version-3"' in rest.text
    assert 'id="version-2"' not in rest.text


def test_the_page_says_in_words_what_the_json_says(desk, patient):
    found = read(page(desk, patient))
    text = " ".join(found.text.split())
    for part in (
        "Ada Joy Bello",
        patient["id"],
        "A patient was registered with all that was known then",
        "birth date before: 1984-03-02 after: 1985-01-02",
        "names › family before: Okoro after: Bello",
        "family: أوكورو; given: آدا",
        "telecom – after: system: phone; value: +234 1 555",
        "next of kin before: name: Obi; relationship: brother –",
    ):
        assert part in text
    assert [found.values("id").count(f"version-{n}") for n in range(1, 6)] == [1] * 5


def test_what_was_recorded_is_text_and_never_markup(desk):
    kin = [{"name": HOSTILE, "relationship": HOSTILE}]
    patient = desk.given_patient(names=[{"use": "anonymous", "text": "<i>N</i>"}], nextOfKin=kin)
    schema = {"schema": {"type": "object"}}
    succeeded(
        desk.service.desk(desk.tenant, role="admin").post(
            "/v1/extension-schemas/notes/versions", schema
        )
    )
    said = {"schemaVersion": 1, "data": {HOSTILE: HOSTILE, "javascript:alert(1)": "\u202e\u2028"}}
    succeeded(desk.put(f"{place(patient)}/extensions/notes", said, If_Match='"0"'))
    found = read(page(desk, patient))
    assert {tag for tag, _ in found.tags} & {"script", "b", "i", "img", "iframe"} == set()
    assert not [attrs for _, attrs in found.tags if any(n.startswith("on") for n in attrs)]
    assert HOSTILE in found.text
    allowed = {"/", "/docs", "/problems", "/reports", "#main", "data:,"}
    assert set(found.values("href")) <= allowed


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html", "text/html; charset=utf-8"),
        (
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/html; charset=utf-8",
        ),
        ("application/json, text/html", "application/json"),
        ("application/json;q=0.5, text/html;q=0.9", "text/html; charset=utf-8"),
        ("text/html;q=0", "application/json"),
        ("text/html;q=x", "text/html; charset=utf-8"),
        (",,;;q=,text/htm", "application/json"),
    ],
)
def test_who_prefers_html_gets_the_page(desk, accept, kind):
    patient = desk.given_patient()
    headers = {} if accept is None else {"Accept": accept}
    answer = desk.get(f"{place(patient)}/timeline", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert answer.headers["vary"] == "Accept"
    kept = "no-store" if kind.startswith("text/html") else "private, no-cache"
    assert answer.headers["cache-control"] == kept


def test_it_takes_a_token_the_scope_and_the_tenant(desk, service: Service):
    patient = desk.given_patient()
    path = f"{place(patient)}/timeline"
    problem(service.http.get(path, headers={"Accept": "text/html"}), 401, "UNAUTHENTICATED")
    problem(service.desk(desk.tenant, scope="audit:read").get(path), 403, "FORBIDDEN")
    problem(service.desk().get(path, Accept="text/html"), 404, "NOT_FOUND")
    problem(desk.get(f"/v1/patients/{new_id()}/timeline"), 404, "NOT_FOUND")
    problem(desk.get(path, params={"cursor": "AA"}), 422, "VALIDATION_FAILED")


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_a_browser_shows_it_on_a_telephone_without_scrolling_sideways(desk, patient, tmp_path):
    path = f"{place(patient)}/next-of-kin"
    succeeded(desk.post(path, {"name": "x" * 200, "relationship": "a word " * 20}))
    assert widest_in_a_frame(page(desk, patient), 360, tmp_path) == "360 of 360"
