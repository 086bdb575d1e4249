"""Birth dates as FHIR ``date``: a year, a month or a day, whichever is known."""

import re
from datetime import UTC, date, datetime, timedelta

from registration.domain.errors import invalid

_PARTIAL = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)
OLDEST_YEARS = 150
_EASTMOST = timedelta(hours=14)
"""In UTC+14 it may be tomorrow already: a child born there today is not born in the future."""


def confirm_birth_date(said: str, now: datetime, path: str = "/birthDate") -> str:
    """Return the date if it can be a birth date at ``now``.

    Raises ``VALIDATION_FAILED``: not ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD``, no such day, in the
    future, or more than 150 years back.
    """
    match = _PARTIAL.fullmatch(said)
    if match is None:
        raise invalid(path, "must be YYYY, YYYY-MM or YYYY-MM-DD")
    year, month, day = (int(part) if part is not None else None for part in match.groups())
    try:
        earliest = date(year or 0, 1 if month is None else month, 1 if day is None else day)
    except ValueError:
        raise invalid(path, "is no day of the calendar") from None
    today = (now + _EASTMOST).date()
    if earliest > today:
        raise invalid(path, "lies in the future")
    # a date that is known in part may be the last day of its year or month
    latest = (earliest.year, month or 12, day or 31)
    if latest < (today.year - OLDEST_YEARS, today.month, today.day):
        raise invalid(path, f"lies more than {OLDEST_YEARS} years back")
    return said


def is_before_birth(instant: datetime, birth_date: str | None) -> bool:
    """Whether somebody with this birth date, as far as it is known, cannot have lived yet."""
    if birth_date is None:
        return False
    earliest = datetime.fromisoformat(birth_date + "-01-01"[3 * birth_date.count("-") :])
    # in UTC+14 that day begins 14 hours before it does in UTC
    return instant < earliest.replace(tzinfo=UTC) - _EASTMOST


def confirm_past(instant: datetime, now: datetime, path: str) -> datetime:
    """Return the instant in UTC. Raises ``VALIDATION_FAILED`` where it lies in the future."""
    if instant > now:
        raise invalid(path, "lies in the future")
    return instant.astimezone(UTC)


def utc(instant: datetime | None) -> datetime | None:
    """Return the instant in UTC."""
    return None if instant is None else instant.astimezone(UTC)
