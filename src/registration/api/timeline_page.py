"""A patient's history as a page that people can read."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any, NamedTuple

from registration.api.pages import rendered
from registration.domain.differences import Difference
from registration.domain.patient_resource import Patient
from registration.domain.timeline import Step

_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Change(NamedTuple):
    """A changed field in words; ``None``: it is not there."""

    field: str
    before: str | None
    after: str | None


class Shown(NamedTuple):
    """A step as the page shows it."""

    version: int
    instant: str
    at: str
    actor: str
    type: str
    what: str
    changes: Sequence[Change]


def timeline_page(patient: Patient, steps: Sequence[Step], following: str | None) -> str:
    """Return the page; ``following`` is the cursor of what came later, if anything did."""
    display = patient.shown().display
    default = display.get("default")
    return rendered(
        "timeline.html",
        name=default["text"] if default else "A person without a name",
        id=patient.id,
        steps=[_shown(step) for step in steps],
        following=following,
    )


def _shown(step: Step) -> Shown:
    record = step.record
    at = record.recorded_at.astimezone(UTC)
    what = (type(record.event).__doc__ or record.event.TOPIC).partition("\n")[0]
    return Shown(
        record.version,
        at.isoformat(),
        at.strftime("%Y-%m-%d %H:%M:%S"),
        record.meta["actor"],
        record.event.TOPIC,
        what.partition(";")[0].rstrip("."),
        [_changed(difference) for difference in step.differences],
    )


def _changed(difference: Difference) -> Change:
    return Change(field_of(difference.path), text_of(difference.before), text_of(difference.after))


def field_of(path: str) -> str:
    """Return a path in words: ``/nextOfKin/<id>/name`` is ``next of kin › name``."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]
    words = [parts[0], *(part for part in parts[1:] if not _UUID.fullmatch(part))]
    return " › ".join(_CAPITAL.sub(" ", word).lower() for word in words)


def text_of(value: Any) -> str | None:
    """Return a plain value in words, without the ids in it; ``None`` for what is not there."""
    if value is None or value in ([], {}):
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(filter(None, map(text_of, value)))
    if isinstance(value, dict):
        return "; ".join(_members(value))
    return str(value)


def _members(value: dict[str, Any]) -> Iterator[str]:
    for name, member in value.items():
        text = None if name == "id" else text_of(member)
        if text is not None:
            yield f"{_CAPITAL.sub(' ', name).lower()}: {text}"
