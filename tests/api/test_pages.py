"""The pages for people: well-formed, complete, and on their own."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from tests.browser import BROWSER, widest_in_a_frame

from registration.api import pages
from registration.api.app import application
from registration.api.problems import PROBLEMS
from registration.settings import Settings

VOID = {"meta", "link", "br", "hr", "img", "input"}
SERVED = {"/", "/docs", "/openapi.json", "/problems", "/reports", "/v1/sync/contract"}
SERVED |= {"/livez", "/readyz", "/metrics"} | {f"/problems/{code}" for code in PROBLEMS}


class Reader(HTMLParser):
    """Reads a page and complains about tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), f"{tag} has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def values(self, name: str) -> list[str]:
        return [
            value for _, attrs in self.tags for n, value in attrs.items() if n == name and value
        ]

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def openapi():
    return application(Settings.model_construct()).openapi()


@pytest.fixture(scope="module")
def every_page(openapi) -> dict[str, str]:
    found = {
        "/": pages.index("1.2.3"),
        "/problems": pages.problem_list(),
        "/docs": pages.api_docs(openapi),
    }
    return found | {f"/problems/{code}": pages.problem(code) for code in PROBLEMS}


NAMES = ["/", "/problems", "/docs", *(f"/problems/{code}" for code in PROBLEMS)]


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_well_formed_and_accessible(every_page, name):
    page = read(every_page[name])
    assert every_page[name].startswith("<!doctype html>")
    assert page.named("html") == [{"lang": "en"}]
    assert len(page.named("h1")) == len(page.named("main")) == len(page.named("title")) == 1
    assert len(page.named("header")) == 1
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("name", NAMES)
def test_every_page_loads_nothing_and_links_to_what_is_there(every_page, name):
    page = read(every_page[name])
    assert not page.named("script")
    assert not page.values("src")
    assert "@import" not in every_page[name]
    assert "url(" not in every_page[name]
    ids = {f"#{value}" for value in page.values("id")}
    for href in page.values("href"):
        assert href in SERVED | ids | {"data:,"}


def test_the_front_page_says_the_version_and_how_to_begin(every_page):
    text = read(every_page["/"]).text
    assert "version 1.2.3" in text
    assert "registration token --role desk" in text


@pytest.mark.parametrize("code", list(PROBLEMS))
def test_every_problem_has_a_page_and_is_in_the_list(every_page, code):
    text = read(every_page[f"/problems/{code}"]).text
    known = PROBLEMS[code]
    for part in (code, str(known.status), known.title, known.why, known.remedy):
        assert part in text
    assert f"/problems/{code}" in read(every_page["/problems"]).values("href")


def test_what_is_no_code_has_no_page():
    with pytest.raises(KeyError):
        pages.problem("NO_SUCH_CODE")


def test_the_api_page_shows_every_operation_with_its_rules(every_page, openapi):
    page = read(every_page["/docs"])
    for path, item in openapi["paths"].items():
        for method, operation in item.items():
            assert operation["operationId"] in page.values("id")
            assert f"{method.upper()} {path}" in page.text
            assert operation["summary"] in page.text
    for name in openapi["components"]["schemas"]:
        assert f"schema-{name}" in page.values("id")


def test_an_operation_comes_with_scope_policy_offline_rule_parameters_body_and_answers(openapi):
    path = "/v1/patients/{id}/demographics"
    alone = {**openapi, "paths": {path: openapi["paths"][path]}}
    text = " ".join(read(pages.api_docs(alone)).text.split())
    for part in (
        "scope patient:write",
        "conflict policy server_authoritative + optimistic lock",
        "version (If-Match) needed yes",
        "offline permitted with version",
        "If-Match header",
        "application/json or application/merge-patch+json",
        "birthDate",
        "412",
        "OPTIMISTIC_LOCK_CONFLICT",
    ):
        assert part in text


def test_what_a_document_says_is_escaped():
    hostile = {
        "info": {"title": "t", "version": "<b>1</b>", "description": "<script>x</script>"},
        "paths": {
            "/<i>": {
                "get": {
                    "operationId": 'a"b',
                    "summary": "<u>",
                    "description": "`<em>` and <em>",
                    "responses": {"200": {"description": "`NOT_FOUND`<img>"}},
                }
            }
        },
    }
    page = read(pages.api_docs(hostile))
    assert not {"script", "b", "i", "u", "em", "img"} & {tag for tag, _ in page.tags}
    assert "/problems/NOT_FOUND" in page.values("href")


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_the_pages_without_scrolling_sideways(every_page, tmp_path, width):
    """The widest element, measured inside the page: a frame of the given width."""
    for name in ("/", "/problems", "/docs"):
        unfolded = every_page[name].replace("<details>", "<details open>")
        assert widest_in_a_frame(unfolded, width, tmp_path) == f"{width} of {width}", name
