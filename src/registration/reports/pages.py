"""The documentation page of the reports and of the views, as the parts of a document."""

from collections.abc import Callable, Iterable, Sequence

from registration.projections.analytics_views import ROLE, VIEWS, View
from registration.reports.catalogue import REPORTS
from registration.reports.declared import SUPPRESSED, Column, Report

Table = Callable[[Sequence[str], Iterable[Sequence[str]]], str]
"""Makes a table of a head and rows."""

_ASKING = """\
Figures for analysts. `GET /v1/reports` lists them with every column's unit and definition, as here;
`GET /v1/reports/{name}` counts one. Both need the scope `report:read`, which
`registration token --role analyst` has alone. `/reports` draws them for people. BI tools read
[views](#views-for-bi-tools). No report holds a name, a number or an id of a patient.

```console
$ curl -sG "$SERVICE/v1/reports/registrations" -H "Authorization: Bearer $TOKEN" \\
    -d from=2026-03-01 -d to=2026-04-01 -d by=day,facility -d format=csv
```

| parameter | what it does |
|---|---|
| `from`, `to` | days of `REGISTRATION_TIME_ZONE`; `from` belongs to the window, `to` does not |
| `facility` | that facility alone |
| `by` | dimensions to group by, with commas between: all, if absent; none, if empty |
| `at` | an instant, for a report that is about one |
| `format` | `json` or `csv`; if absent, by the `Accept` header |
| `minPosition` | wait up to 2 s until the answer includes this position of the log |

`hour` of the census and `flag` of consents are grouped by in any case: without them, who stays for
eight hours or answers about five flags would count as so many.

The JSON has `name`, `asOf`, `position` (how far in the log it goes), `timeZone`, `from`, `to`,
`facility`, `suppressed`, `columns` and `items`. The CSV (RFC 4180, UTF-8) has the same rows;
null is an empty cell, and text that a spreadsheet could take for a formula (`=`, `+`, `-`, `@`)
has an apostrophe before it.

```python
import io
import httpx
import pandas

answer = httpx.get(
    "http://127.0.0.1:8000/v1/reports/registrations",
    params={"from": "2026-03-01", "to": "2026-04-01", "format": "csv"},
    headers={"Authorization": f"Bearer {token}"},
)
frame = pandas.read_csv(io.StringIO(answer.text), parse_dates=["day"])
frame.pivot_table(index="day", columns="gender", values="registrations", aggfunc="sum")
```

Nothing is counted beforehand. A read model keeps a row for each record, encounter and decision, and
a report counts the rows when it is asked: so corrections, merges, their undoing, deaths and
mistakes change every figure that they should, of past days too. Keep a copy of what you publish."""

_SMALL = """\
## Small counts

A count from 1 to `REGISTRATION_REPORT_THRESHOLD` - 1 (threshold 5, unless set) is kept back
from callers with neither `patient:read` nor `audit:read`: it is null, and its row says
`suppressed`. With it go, in the same row, what would give it away:

- the smallest part that would be shown, where what is left of the whole without the parts shown is
  small: 98 of 100 says 2 as well, and of 11 patients of whom 5 granted, 5 refused and 1 withdrew,
  `withdrawn` would follow from the others;
- a count that is a part of one that is kept back, unless it is a part of another that is not;
- every share, median and count that rests on one that is kept back.

Where one person may count several times, the persons decide: `encounters` are shown where
`patients` are, `openPairs` where `recordsInOpenPairs` are, `decisions` where `recordsDecided` are.

These are the parts that anybody can subtract from their whole. Those in one line exclude each
other:

{parts}

Zero is shown. No answer has totals of its rows among them. `sync-health` counts mutations and
devices: five mutations may all be about one patient.

**What this does not protect.** It guards one answer, not what follows from several: whoever asks
with and without a dimension, for windows that differ by a day, or again after one more
registration, can subtract. That a row is there at all says that there is somebody. What is kept
back lies in a range that the others of its row leave; with a threshold of 2 it is 1. Percentiles
are of real people, if of enough of them. Nobody should get `report:read` who may not be trusted
with that; publish tables, not access."""

_ERASED = """\
## Patients who were erased

What happened is still counted, and nothing is known of whom it happened to. The record counts as
registered at its time and facility, of unknown gender and age; its encounters count in the census.
Where a correction had moved the record to another facility, it belongs again to the one where it
was registered. What is about what is known of persons leaves the erased out: completeness, consents
(the decisions are gone), and records that may be one person's twice. So figures of past days change
with an erasure, and a count that others were part of may become too small to be shown."""

_VIEWS = """\
## Views for BI tools

The PostgreSQL schema `analytics` has views over the same facts, with comments on every column. The
role `{role}` may read them and nothing else. `registration migrate` (or `serve`, on the embedded
server) makes the role where it may create roles. Where it may not, an administrator does, and then
grants take effect with the next rebuild:

```sql
CREATE ROLE {role} NOLOGIN;
```

```console
$ registration rebuild analytics
```

Give it to whom a tool connects as:

```sql
CREATE ROLE bi LOGIN PASSWORD '...' CONNECTION LIMIT 5;
GRANT {role} TO bi;
ALTER ROLE bi SET statement_timeout = '60s';
ALTER ROLE bi SET default_transaction_read_only = on;
```

What PostgreSQL lets every login do besides is taken from it in the embedded server; with an
external one, see [operations.md](operations.md#an-external-postgresql).

```sql
SELECT date_trunc('month', registered_at) AS month, gender, count(*)
  FROM analytics.patient WHERE tenant = 'default' AND NOT merged_away GROUP BY 1, 2 ORDER BY 1, 2;
```

- **Rows, not counts.** A view shows a row a patient or encounter, and small counts are not kept
  back. Names, numbers, addresses and ids are not there, of a birth date only the year; but a year
  of birth, a facility and an hour can be enough to know somebody again. The role is for people who
  may work with pseudonymous records.
- **Keys.** `patient_key` and `encounter_key` are the first 80 bits of sha256 over a secret of this
  installation (`registration.analytics_salt`), the tenant and the id, in hexadecimal. They are the
  same in every view and after a rebuild or a restore. Without the secret, which the role cannot
  read, nobody computes a key from an id, or an id from a key.
- **Times.** An id of a patient or an encounter begins with the time at which it was made, to the
  millisecond (UUID version 7). So the views show whole minutes, of a registration the whole hour of
  UTC, and latencies in whole seconds up to a minute and in whole minutes above, all rounded up.
  Waiting and stay are rounded to the minute from the exact times. What remains possible: whoever
  holds ids looks for what happened in their minute or hour, and where little happens, that is one
  row, and its key leads to all the others of the same patient. Rows that are not sorted come about
  in the order in which they were stored, as ids are sorted too. So do not give the role to somebody
  who also holds ids, or knows when a patient came.
- **All tenants.** The role sees the rows of every tenant, told apart by `tenant`. Where tenants
  must not see each other, do not give it out: let each ask for reports with a token of its own.
- **Rebuilds.** The views are made together with the tables and change places with them, so they go
  on showing what there is. A query that runs meanwhile ends on the old ones. Views of your own on
  top of these would hold on to the old ones, and are dropped with them: keep such queries in your
  tool."""

_PAGE = """\
## The page

`/reports` shows the same figures drawn and as tables. It is made on the server, loads nothing from
elsewhere and needs no scripts. A browser sends no bearer token by itself, and the service keeps no
sessions: the page is a form that takes a token and sends it in the body of a POST. It is in no URL,
no cookie and no answer, is kept nowhere, and has to be given each time. The answer may not be
cached (`Cache-Control: no-store`), and a strict Content-Security-Policy keeps the form from going
elsewhere. Serve it over TLS, as the rest."""

_COST = """\
## What it costs

A report is one pass over the facts of its window. With 300,000 patients and encounters of one year
(600,000 decisions, 300,000 mutations, 15,000 open pairs), on two cores that others used as well:

| report | window | rows | ms |
|---|---|---|---|
| `registrations` | 31 days, all dimensions | 10,059 | 283 |
| `registrations` | 366 days, all dimensions | 118,117 | 2,491 |
| `encounter-census` | 1 day | 774 | 55 |
| `encounter-census` | 31 days | 23,927 | 1,200 |
| `data-completeness` | all time | 21 | 358 |
| `duplicates` | all time | 1 | 501 |
| `consent-coverage` | all time | 105 | 1,314 |
| `sync-health` | 366 days | 21 | 749 |

It grows with the facts. A query ends after 4 s with 503 `UNAVAILABLE`: past some 800,000 patients
ask for consents by window, and for a year of registrations month by month; or ask the views, whose
time limit is yours."""

_SYNC = """\
## What `sync-health` cannot know

A device that is offline says nothing: what waits on it is seen when it arrives. Which devices push,
and what is refused to them, is no event; `push` notes it beside its answer in
`registration.device` and `registration.refused_mutation`, and what it was about to note when the
program died is lost. Clocks of devices are taken at their word, but a capture cannot lie after the
arrival. To see which devices have gone quiet:

```sql
SELECT client, facility, last_push_at FROM registration.device
 WHERE tenant = 'default' AND last_push_at < now() - interval '7 days' ORDER BY last_push_at;
```"""


def parts(table: Table) -> list[str]:
    """Return the page's parts."""
    return [
        _ASKING,
        *(_report(report, table) for report in REPORTS.values()),
        _COST,
        _SYNC,
        _SMALL.replace("{parts}", _parts(table)),
        _ERASED,
        _VIEWS.replace("{role}", ROLE),
        *(_view(view, table) for view in VIEWS),
        _PAGE,
    ]


def _report(report: Report, table: Table) -> str:
    window = "all time" if report.default_days is None else f"the last {report.default_days} days"
    if report.default_days == 1:
        window = "today"
    most = "" if report.most_days is None else f", at most {report.most_days} days"
    return "\n\n".join(
        [
            f"## `{report.name}`",
            report.definition,
            f"{report.period} Without them {window}{most}.",
            table(
                ("column", "type", "unit", "definition"), map(_row, (*report.columns, SUPPRESSED))
            ),
        ]
    )


def _parts(table: Table) -> str:
    rows = (
        (f"`{report.name}`", f"`{each.whole}`", ", ".join(f"`{name}`" for name in each.parts))
        for report in REPORTS.values()
        for each in report.parts
    )
    return table(("report", "whole", "parts"), rows)


def _row(column: Column) -> Sequence[str]:
    kind = f"{column.type} (dimension)" if column.role == "dimension" else column.type
    return f"`{column.name}`", kind, column.unit or "", column.definition


def _view(view: View, table: Table) -> str:
    rows = ((f"`{column.name}`", column.definition) for column in view.columns)
    head = f"### `analytics.{view.name}`"
    return "\n\n".join([head, view.definition, table(("column", "definition"), rows)])
