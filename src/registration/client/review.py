"""What a person has to look at: what the service refused, and what hangs on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registration.client.cache import Cache, Record
from registration.client.mutation import Mutation, State
from registration.client.outbox import Outbox
from registration.client.parts import subject_of, version_of


@dataclass(frozen=True, slots=True)
class Difference:
    """A member of which the record and the change say different things, by JSON Pointer."""

    path: str
    base: Any
    theirs: Any
    mine: Any


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """A refused mutation as a person sees it.

    ``kind`` is ``conflict``, ``rejected``, ``confirmation`` or ``blocked``; ``code`` and ``detail``
    say why. ``fields`` shows base, theirs and mine. ``base_version`` is the version that *theirs*
    is of: a change that is sent again is made on that. ``blocked`` builds on this one.
    """

    mutation: Mutation
    kind: str
    code: str
    detail: str
    fields: tuple[Difference, ...] = field(repr=False)
    base_version: int | None
    problem: Mapping[str, Any] = field(repr=False)
    blocked: tuple["ReviewItem", ...] = ()

    @property
    def number(self) -> int:
        """The number of the mutation."""
        return self.mutation.number


def review(outbox: Outbox, cache: Cache, subject: str) -> list[ReviewItem]:
    """Return what waits for a person, what is blocked below what it builds on."""
    waiting = outbox.in_review(subject)
    ids = {mutation.id for mutation in waiting}
    below: dict[Any, list[Mutation]] = {}
    for mutation in waiting:
        hangs = mutation.state is State.BLOCKED and mutation.after in ids
        below.setdefault(mutation.after if hangs else None, []).append(mutation)

    def item(mutation: Mutation) -> ReviewItem:
        return _item(mutation, cache, tuple(map(item, below.get(mutation.id, ()))))

    return [item(mutation) for mutation in below.get(None, ())]


def dependents(outbox: Outbox, mutation: Mutation) -> list[Mutation]:
    """Return all that builds on a mutation and is not settled, in the order of the ids."""
    found: dict[int, Mutation] = {}
    heads = [mutation]
    while heads:
        for each in outbox.depending(heads.pop().id):
            if each.number not in found:
                found[each.number] = each
                heads.append(each)
    return sorted(found.values(), key=lambda each: each.id)


def _item(mutation: Mutation, cache: Cache, blocked: tuple[ReviewItem, ...]) -> ReviewItem:
    problem = mutation.problem or {}
    record = cache.get(mutation.kind, mutation.aggregate_id)
    seen = None if record is None else version_of(mutation.operation, mutation.entry, record)
    told = problem.get("currentVersion")
    if told is not None and (seen is None or told >= seen):
        fields, version = _told(problem), told
    else:
        fields, version = _computed(mutation, record), seen
    return ReviewItem(
        mutation=mutation,
        kind=mutation.state.value,
        code=str(problem.get("code", "")),
        detail=str(problem.get("detail", "")),
        fields=tuple(fields),
        base_version=version,
        problem=problem,
        blocked=blocked,
    )


def _told(problem: Mapping[str, Any]) -> Sequence[Difference]:
    return [
        Difference(each["path"], each.get("base"), each.get("theirs"), each.get("yours"))
        for each in problem.get("fields", ())
    ]


def _computed(mutation: Mutation, record: Record | None) -> Sequence[Difference]:
    """Return the members of the payload in which the pulled record says something else."""
    body: Mapping[str, Any] = {}
    if record is not None:
        body = subject_of(mutation.operation, mutation.entry, record.body)
    mine = dict(mutation.payload)
    if "to" in mine:
        mine = {"status": mine["to"]}
    for chosen_here in ("id", "at"):
        mine.pop(chosen_here, None)
    told = {each.path: each.base for each in _told(mutation.problem or {})}
    return [
        Difference(f"/{name}", told.get(f"/{name}"), body.get(name), value)
        for name, value in mine.items()
        if body.get(name) != value
    ]
