"""What the terminal desk shows: records, lists and conflicts as tables of plain text."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from registration.client.merging import CODE, replaced
from registration.client.mutation import Mutation
from registration.client.report import Status, SyncReport
from registration.client.review import ReviewItem
from registration.client.views import View

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def name_of(patient: Mapping[str, Any]) -> str:
    """Return the name to show."""
    default = patient["display"]["default"]
    return str(default["text"]) if default else "(no name)"


def patients(found: Sequence[View]) -> Table:
    """Return a list of patients, numbered as the commands take them."""
    table = _table("", "name", "born", "gender", "unsent")
    for number, view in enumerate(found, 1):
        body = view.body
        unsent = str(len(view.pending)) if view.pending else ""
        born = body.get("birthDate", "")
        table.add_row(*_cells(number, name_of(body), born, body["gender"], unsent))
    return table


def patient(view: View, encounters: Sequence[View]) -> Iterable[Table]:
    """Return all that is worth showing of a patient."""
    body = view.body
    table = _table("", name_of(body))
    rows: list[tuple[str, str]] = [
        ("id", str(view.id)),
        ("born", body.get("birthDate", "")),
        ("gender", body["gender"]),
        *(("identifier", _identifier(each)) for each in body["identifiers"]),
        *(("reached by", f"{t['system']} {t['value']}") for t in body["telecom"]),
        *(("next of kin", f"{k['name']}, {k['relationship']}") for k in body["nextOfKin"]),
        *((f"consent {c['flag']}", c["decision"]) for c in body["consents"]),
    ]
    rows += [("also known as", str(its_id)) for its_id in replaced(body)]
    if view.replaced_by is not None:
        rows.insert(0, ("merged into", f"{view.replaced_by}; `follow` goes on with that"))
    if "deceased" in body:
        rows.append(("died", body["deceased"]["deceasedAt"]))
    if view.pending:
        rows.append(("not synchronised", f"{len(view.pending)} changes"))
    if view.misfits:
        rows.append(("does not fit any more", ", ".join(f"change {n}" for n in view.misfits)))
    for row in rows:
        table.add_row(*_cells(*row))
    yield table
    if encounters:
        listed = _table("encounter", "class", "status", "since", "may become")
        for each in encounters:
            shown = each.body
            since = shown["statusHistory"][-1]["at"]
            may = ", ".join(shown["allowed"])
            listed.add_row(*_cells(each.id, shown["class"], shown["status"], since, may))
        yield listed


def _identifier(shown: Mapping[str, Any]) -> str:
    of_another = " (of a merged record)" if "mergedFrom" in shown else ""
    return f"{shown['system']} {shown['value']}{of_another}"


def conflicts(items: Sequence[ReviewItem]) -> Iterable[Table | Text]:
    """Return each item of a review, both sides next to each other."""
    for item in items:
        yield from _item(item, "")


def _item(item: ReviewItem, indent: str) -> Iterable[Table | Text]:
    made = item.mutation
    yield Text(
        f"{indent}{item.number}  {item.kind}: {made.operation} {made.entry or ''} of {made.kind} "
        f"{made.aggregate_id}\n{indent}   {item.code}: {item.detail}"
    )
    if item.survivor is not None:
        yield Text(f"{indent}   merged into {item.survivor}: survivor, discard, or leave it")
    elif item.code == CODE:
        yield Text(f"{indent}   that was undone: resubmit or discard")
    if item.fields:
        table = _table("member", "before", "theirs now", "mine")
        for each in item.fields:
            sides = (_said(each.base), _said(each.theirs), _said(each.mine))
            table.add_row(*_cells(each.path, *sides))
        yield table
    for below in item.blocked:
        yield from _item(below, indent + "   ")


def history(mutations: Sequence[Mutation]) -> Table:
    """Return what was done at the device, and what became of it."""
    table = _table("", "by", "change", "record", "state", "why")
    for each in mutations:
        why = each.reason or each.code or ""
        record = f"{each.kind} {each.aggregate_id}"
        table.add_row(
            *_cells(each.number, each.subject, each.operation.value, record, each.state.value, why)
        )
    return table


def report(done: SyncReport) -> str:
    """Return a synchronisation in a sentence."""
    review = done.conflicts + done.rejected + done.blocked + done.confirmations
    said = [f"{done.applied} applied", f"{review} to review", f"{done.pulled} pulled"]
    if done.waiting:
        said.append(f"{done.waiting} still unsent")
    if done.others:
        said.append(f"{done.others} of others unsent")
    if done.offline:
        said.insert(0, "the service does not answer")
    return ", ".join(said)


def prompt(status: Status, now: datetime) -> str:
    """Return the status line: what is unsent, what waits, how old the last sync is."""
    last = "never synced"
    if status.last_sync is not None:
        last = f"synced {_age((now - status.last_sync).total_seconds())} ago"
    said = [f"{status.unsent} unsent", last]
    if status.in_review:
        said.insert(1, f"{status.in_review} to review")
    return f"[{', '.join(said)}]"


def _age(seconds: float) -> str:
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name}"
    return f"{max(0, int(seconds))} s"


def _said(value: Any) -> str:
    return "" if value is None else str(value)


def _cells(*values: object) -> list[Text]:
    """Return plain cells: what a record says is no markup."""
    return [Text(str(value)) for value in values]


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, highlight=False)
    for head in heads:
        table.add_column(Text(head), overflow="fold")
    return table
