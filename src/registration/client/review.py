"""What a person has to look at: what the service refused, and what hangs on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from registration.client.cache import PATIENT, Cache, Record
from registration.client.merging import CODE, survivor_for
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

    ``survivor`` is the record that the patient was merged into, as far as is known here: then
    *theirs* is what that says, and ``base_version`` its version.
    """

    mutation: Mutation
    kind: str
    code: str
    detail: str
    fields: tuple[Difference, ...] = field(repr=False)
    base_version: int | None
    problem: Mapping[str, Any] = field(repr=False)
    blocked: tuple["ReviewItem", ...] = ()
    survivor: UUID | None = None

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
    """Return all that builds on a mutation and is not settled, in the order of the ids.

    What was about somebody who was erased builds on nothing: each is given up by itself.
    """
    found: dict[int, Mutation] = {}
    heads = [mutation]
    while heads:
        for each in outbox.depending(heads.pop().id):
            if each.number not in found and not each.is_erased:
                found[each.number] = each
                heads.append(each)
    return sorted(found.values(), key=lambda each: each.id)


def _item(mutation: Mutation, cache: Cache, blocked: tuple[ReviewItem, ...]) -> ReviewItem:
    problem = mutation.problem or {}
    survivor = survivor_for(cache, mutation)
    fields: Sequence[Difference]
    if mutation.is_erased:
        fields, version = (), None
    elif survivor is None:
        fields, version = _beside_itself(mutation, cache, problem)
    else:
        fields, version = _beside_survivor(mutation, cache, problem, survivor)
    return ReviewItem(
        mutation=mutation,
        kind=mutation.state.value,
        code=str(problem.get("code", "")),
        detail=str(problem.get("detail", "")),
        fields=tuple(fields),
        base_version=version,
        problem=problem,
        blocked=blocked,
        survivor=survivor,
    )


def _beside_itself(
    mutation: Mutation, cache: Cache, problem: Mapping[str, Any]
) -> tuple[Sequence[Difference], int | None]:
    record = cache.get(mutation.kind, mutation.aggregate_id)
    seen = None if record is None else version_of(mutation.operation, mutation.entry, record)
    told = problem.get("currentVersion")
    if told is not None and (seen is None or told >= seen):
        return _told(problem), int(told)
    return _computed(mutation, record), seen


def _beside_survivor(
    mutation: Mutation, cache: Cache, problem: Mapping[str, Any], survivor: UUID
) -> tuple[Sequence[Difference], int | None]:
    if mutation.kind != PATIENT:
        return _computed(mutation, None), None
    record = cache.get(PATIENT, survivor)
    told = _survivor_told(problem, survivor)
    if told is not None and (record is None or told.version >= record.version):
        fields = _told(problem) if "fields" in problem else _computed(mutation, told)
        return fields, version_of(mutation.operation, mutation.entry, told)
    if record is None:
        return (), None
    return _computed(mutation, record), version_of(mutation.operation, mutation.entry, record)


def _survivor_told(problem: Mapping[str, Any], survivor: UUID) -> Record | None:
    """Return the survivor as the refusal showed it, if it is that one still."""
    if problem.get("code") != CODE or problem.get("survivorId") != str(survivor):
        return None
    if "current" not in problem:
        return None
    return Record(PATIENT, str(survivor), problem["survivorVersion"], 0, problem["current"])


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
