"""``/reports``: reports for people, rendered on the server, without scripts.

A browser sends no bearer token by itself, and this service keeps no sessions. So the page is a form
that takes a token and sends it in the body of a POST; the answer is the reports, and nothing of the
token: it is in no URL, no cookie, no storage and no page, and nothing of it may be cached.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from registration.api import pages
from registration.api.auth import Caller
from registration.api.charts import Drawing, drawn, shown, steps_of, words
from registration.api.problems import PROBLEMS
from registration.api.reports import CSV, ReportQuery, Window, counted_report, disposition
from registration.api.requests import read_body, services
from registration.command import Refusal, require_scope
from registration.domain.errors import DomainError, invalid
from registration.domain.validation import validation_failed
from registration.reports.as_csv import as_csv
from registration.reports.catalogue import REPORTS
from registration.reports.declared import Column, Report

router = APIRouter()

_FORM = frozenset({"application/x-www-form-urlencoded"})
_MOST_BYTES = 32 * 1024
_FILTERS = ("from", "to", "facility")
_OF_TIME = frozenset({"seconds", "minutes", "hours"})


class Section(NamedTuple):
    """A report on the page: drawn and as a table, or why it is not there (``trouble``)."""

    report: Report
    trouble: str | None = None
    window: Window = Window(None, None)
    drawing: Drawing | None = None
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    suppressed: bool = False
    position: int = 0


@router.get("/reports", include_in_schema=False, operation_id="report.page")
async def form() -> Response:
    """Ask which report, and for a token."""
    return _page({}, 200)


@router.post("/reports", include_in_schema=False, operation_id="report.page")
async def report_page(request: Request) -> Response:
    """Show reports to whoever the token in the form speaks for."""
    said: dict[str, str] = {}
    try:
        body = await read_body(request, _MOST_BYTES, _FORM)
        said = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=False))
        caller = await _caller(request, said)
        query = _query(said)
        chosen = REPORTS.get(said.get("report", ""))
        if said.get("show") == "csv":
            return await _file(request, caller, chosen, query)
        wanted = list(REPORTS.values()) if chosen is None else [chosen]
        sections = [await _section(request, caller, each, query) for each in wanted]
        return _page(said, 200, sections=sections)
    except (DomainError, Refusal) as error:
        refused = error.error if isinstance(error, Refusal) else error
        request.scope["observation"].code = refused.code
        return _page(said, PROBLEMS[refused.code].status, trouble=_told(refused))


async def _caller(request: Request, said: Mapping[str, str]) -> Caller:
    token = "".join(said.get("token", "").split())
    caller = await services(request).authenticator.caller(f"Bearer {token}")
    request.scope["observation"].tenant = caller.tenant
    require_scope(caller.scopes, "report:read")
    return caller


def _query(said: Mapping[str, str]) -> ReportQuery:
    try:
        return ReportQuery.model_validate({name: said[name] for name in _FILTERS if name in said})
    except ValidationError as error:
        raise validation_failed(error.errors(include_input=False, include_url=False)) from None


async def _file(
    request: Request, caller: Caller, chosen: Report | None, query: ReportQuery
) -> Response:
    if chosen is None:
        raise invalid("/report", "choose one report for a file")
    window, counted = await counted_report(request, caller, chosen, query)
    headers = pages.HEADERS | {"Content-Disposition": disposition(chosen, window)}
    return Response(as_csv(counted), 200, headers, f"{CSV}; charset=utf-8")


async def _section(request: Request, caller: Caller, report: Report, query: ReportQuery) -> Section:
    """Return a report, or why it cannot be shown: the others can all the same."""
    its = services(request)
    zone = ZoneInfo(its.settings.time_zone)
    asked = query.model_copy(update={"by": ",".join(report.chart.by)})
    try:
        window, counted = await counted_report(request, caller, report, asked)
    except DomainError as error:
        return Section(report, _told(error))
    steps: list[Any] = []
    if report.chart.upright and window.since is not None and window.until is not None:
        steps = steps_of(report, window.since, window.until, its.clock(), zone)
    return Section(
        report,
        window=window,
        drawing=drawn(report, counted.rows, steps, zone),
        head=tuple(map(_headed, counted.columns)),
        rows=tuple(
            tuple(shown(row[column.name], column, zone) for column in counted.columns)
            for row in counted.rows
        ),
        suppressed=counted.suppressed,
        position=counted.position,
    )


def _headed(column: Column) -> str:
    """Return the head of a column: with its unit where figures without one mean nothing."""
    unit = f", {column.unit}" if column.unit in _OF_TIME else ""
    return words(column.name) + unit


def _told(error: DomainError) -> str:
    """Return a refusal in words, with what each field may not be."""
    wrong = [f"{e['path'].strip('/')}: {e['message']}" for e in error.extra.get("errors", ())]
    return " ".join([PROBLEMS[error.code].title + ":", *(wrong or [error.detail])])


def _page(
    said: Mapping[str, str],
    status: int,
    *,
    sections: list[Section] | None = None,
    trouble: str | None = None,
) -> Response:
    page = pages.rendered(
        "reports.html",
        reports=REPORTS.values(),
        chosen=said.get("report", ""),
        said={name: said.get(name, "") for name in _FILTERS},
        sections=sections,
        trouble=trouble,
    )
    return HTMLResponse(page, status, pages.HEADERS)
