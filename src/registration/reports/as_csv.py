"""A report as CSV (RFC 4180), for spreadsheets and ``pandas.read_csv``."""

import csv
import io
from datetime import date, datetime
from typing import Any

from registration.reports.counting import Counted

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_csv(counted: Counted) -> bytes:
    """Return a header and the rows, in UTF-8 with CRLF; what is null is an empty cell.

    Text that a spreadsheet could take for a formula has an apostrophe before it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    names = [column.name for column in counted.columns]
    writer.writerow(names)
    writer.writerows([_cell(row[name]) for name in names] for row in counted.rows)
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case str() if value.startswith(_FORMULA):
            return f"'{value}"
    return value
