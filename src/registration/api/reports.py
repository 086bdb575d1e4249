"""Reports over HTTP: what there is, and each as JSON or CSV."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Path, Query
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from registration.api.auth import Caller
from registration.api.openapi import problems
from registration.api.reading import from_view, instant, json_answer
from registration.api.requests import Analyst, services
from registration.api.wire import Answer
from registration.domain.errors import invalid, not_found
from registration.domain.resources import Facility
from registration.reports.as_csv import as_csv
from registration.reports.catalogue import REPORTS
from registration.reports.counting import Asked, Counted, Instant, count
from registration.reports.declared import Column, Report

router = APIRouter(tags=["reports"])

CSV = "text/csv"
SEES_ALL = frozenset({"patient:read", "audit:read"})
"""Whoever has one of these scopes sees single records anyway: nothing is kept back from them."""

_DAY = r"^(19|20|21)\d\d-\d\d-\d\d$"
Day = Annotated[str | None, Field(pattern=_DAY, json_schema_extra={"format": "date"})]


class ReportColumn(Answer):
    """A column of a report; `unit` is null where it has none."""

    name: str
    type: Literal["string", "date", "instant", "integer", "number", "boolean"]
    unit: str | None
    definition: str


class ReportDescription(Answer):
    """What a report says, and how it can be asked."""

    name: str
    title: str
    definition: str
    period: Annotated[str, Field(description="What `from` and `to` choose")]
    default_days: Annotated[
        int | None, Field(description="Without `from`: so many days up to `to`; null: all time")
    ]
    most_days: Annotated[int | None, Field(description="The longest window; null: any")]
    dimensions: Annotated[list[str], Field(description="What `by` may name")]
    filters: list[str]
    columns: list[ReportColumn]


class ReportList(Answer):
    """All reports."""

    items: list[ReportDescription]
    next: None


class ReportAnswer(Answer):
    """A report, counted.

    `position` is how far in the log it goes, `suppressed` whether figures are kept back because
    they are about too few; those are null. `from` and `to` are null for all time.
    """

    name: str
    as_of: datetime
    position: int
    time_zone: str
    since: Annotated[date | None, Field(alias="from")]
    until: Annotated[date | None, Field(alias="to")]
    facility: str | None
    suppressed: bool
    columns: list[ReportColumn]
    items: list[dict[str, str | int | float | bool | None]]


@router.get(
    "/v1/reports",
    operation_id="report.list",
    summary="Which reports there are, with every column's unit and definition",
    response_model=ReportList,
    responses=problems("FORBIDDEN"),
)
async def report_list(_caller: Analyst) -> Response:
    """Return what each report says and how it can be asked."""
    items = [_described(report) for report in REPORTS.values()]
    return json_answer({"items": items, "next": None})


class ReportQuery(BaseModel):
    """What is asked of a report. The window is half-open: `from` belongs to it, `to` does not."""

    model_config = ConfigDict(alias_generator=to_camel, hide_input_in_errors=True)

    since: Annotated[Day, Field(alias="from", description="First day")] = None
    until: Annotated[Day, Field(alias="to", description="The day after the last one")] = None
    facility: Facility | None = None
    by: Annotated[
        str | None,
        Field(
            max_length=200,
            description="Dimensions to group by, separated by commas; all, if absent; "
            "none, if empty. `hour` of `encounter-census` and `flag` of `consent-coverage` are "
            "grouped by in any case",
        ),
    ] = None
    at: Annotated[
        str | None, Field(description="An instant, for a report that is about one; now, if absent")
    ] = None
    form: Annotated[
        Literal["json", "csv"] | None,
        Field(alias="format", description="By the Accept header, if absent"),
    ] = None
    min_position: Annotated[
        int | None,
        Field(ge=0, lt=2**63, description="Wait up to 2 s until the answer includes this position"),
    ] = None


class Window(NamedTuple):
    """Days, in the installation's time zone, half-open; ``None``: without end."""

    since: date | None
    until: date | None

    def instants(self, zone: ZoneInfo) -> tuple[Instant, Instant]:
        """Return when it begins and ends."""
        return (
            "-infinity" if self.since is None else _midnight(self.since, zone),
            "infinity" if self.until is None else _midnight(self.until, zone),
        )


@router.get(
    "/v1/reports/{name}",
    operation_id="report.read",
    summary="One report, as JSON or CSV",
    response_model=ReportAnswer,
    responses=problems("FORBIDDEN", "NOT_FOUND", "VALIDATION_FAILED", "READ_MODEL_BEHIND")
    | {200: {"content": {CSV: {"schema": {"type": "string"}}}}},
)
async def report(
    request: Request,
    caller: Analyst,
    name: Annotated[str, Path(json_schema_extra={"enum": list(REPORTS)})],
    query: Annotated[ReportQuery, Query()],
) -> Response:
    """Return what a report says of the caller's tenant.

    Callers with neither `patient:read` nor `audit:read` do not see counts below the
    installation's threshold: such figures are null, and the row says `suppressed`.
    """
    chosen = REPORTS.get(name)
    if chosen is None:
        raise not_found("report")
    window, counted = await counted_report(request, caller, chosen, query)
    headers = {"Vary": "Accept"}
    if query.form == "csv" or (query.form is None and _prefers_csv(request)):
        headers["Content-Disposition"] = disposition(chosen, window)
        return Response(as_csv(counted), 200, headers, f"{CSV}; charset=utf-8")
    its = services(request)
    shown = {
        "name": chosen.name,
        "asOf": its.clock(),
        "position": counted.position,
        "timeZone": its.settings.time_zone,
        "from": window.since,
        "to": window.until,
        "facility": query.facility,
        "suppressed": counted.suppressed,
        "columns": [_column(column) for column in counted.columns],
        "items": counted.rows,
    }
    return json_answer(shown, headers)


async def counted_report(
    request: Request, caller: Caller, chosen: Report, query: ReportQuery
) -> tuple[Window, Counted]:
    """Return a report as the caller may see it, and the window that it is about.

    Raises ``VALIDATION_FAILED`` and ``READ_MODEL_BEHIND``.
    """
    its = services(request)
    zone, now = ZoneInfo(its.settings.time_zone), its.clock()
    window = _window(chosen, query, now.astimezone(zone).date())
    if query.at is not None and not chosen.takes_at:
        raise invalid("/at", "is no parameter of this report")
    since, until = window.instants(zone)
    asked = Asked(
        tenant=caller.tenant,
        by=_by(chosen, query.by),
        since=since,
        until=until,
        zone=its.settings.time_zone,
        now=now,
        at=instant(query.at, "/at") or now,
        flags=list(its.settings.consent_flags),
        threshold=1 if caller.scopes & SEES_ALL else its.settings.report_threshold,
        facility=query.facility,
    )
    for name in chosen.reads[1:]:
        await from_view(request, name, caller.tenant, query.min_position, _nothing)
    counted = await from_view(
        request,
        chosen.reads[0],
        caller.tenant,
        query.min_position,
        lambda view: count(view, chosen, asked),
    )
    return window, counted


async def _nothing(_view: AsyncConnection[TupleRow]) -> None:
    """Ask nothing: waiting for the read model was all."""


def disposition(chosen: Report, window: Window) -> str:
    """Return the Content-Disposition of a report as a file."""
    parts = [chosen.name, *(str(day) for day in window if day is not None)]
    return f'attachment; filename="{"_".join(parts)}.csv"'


def _window(chosen: Report, query: ReportQuery, today: date) -> Window:
    since, until = _day(query.since, "/from"), _day(query.until, "/to")
    if chosen.default_days is not None:
        until = until or today + timedelta(days=1)
        since = since or until - timedelta(days=chosen.default_days)
    if since is not None and until is not None:
        if since >= until:
            raise invalid("/to", "must be a later day than from")
        if chosen.most_days is not None and (until - since).days > chosen.most_days:
            raise invalid("/from", f"must be within {chosen.most_days} days before to")
    return Window(since, until)


def _day(said: str | None, path: str) -> date | None:
    try:
        return None if said is None else date.fromisoformat(said)
    except ValueError:
        raise invalid(path, "is no day of the calendar") from None


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _by(chosen: Report, said: str | None) -> tuple[str, ...]:
    if said is None:
        return chosen.dimensions
    names = said.split(",") if said else []
    if not set(names) <= set(chosen.dimensions):
        raise invalid("/by", f"names dimensions: {', '.join(chosen.dimensions) or 'it has none'}")
    return tuple(names)


def _prefers_csv(request: Request) -> bool:
    """Whether the Accept header names CSV, and no JSON before it."""
    named = [
        part.partition(";")[0].strip() for part in request.headers.get("accept", "").split(",")
    ]
    return next((n for n in named if n in (CSV, "application/json", "*/*")), None) == CSV


def _described(chosen: Report) -> dict[str, Any]:
    filters = ["from", "to", "facility", "by", *(["at"] if chosen.takes_at else [])]
    return {
        "name": chosen.name,
        "title": chosen.title,
        "definition": chosen.definition,
        "period": chosen.period,
        "defaultDays": chosen.default_days,
        "mostDays": chosen.most_days,
        "dimensions": chosen.dimensions,
        "filters": filters,
        "columns": [_column(column) for column in chosen.shown(chosen.dimensions)],
    }


def _column(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type,
        "unit": column.unit,
        "definition": column.definition,
    }
