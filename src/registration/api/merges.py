"""Merge decisions over HTTP: one, the list, what approval would store, and what to look at again.

Proposing, approving, rejecting and undoing are commands: see ``command_table``.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import orjson
import psycopg
from fastapi import APIRouter, Query
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout
from starlette.requests import Request
from starlette.responses import Response

from registration.api.auth import Caller
from registration.api.command_table import CommandRoute
from registration.api.commands import answer, carried_out
from registration.api.cursors import next_place, place_of
from registration.api.openapi import problems
from registration.api.reading import (
    AggregateId,
    Page,
    from_view,
    history_of,
    json_answer,
    loaded_aggregate,
)
from registration.api.requests import IndexReader, context_of, saw, services
from registration.api.wire import History, MergeList, MergePreview, ReviewList
from registration.command import require_scope
from registration.domain.aggregate import Aggregate, Recorded
from registration.domain.errors import DomainError
from registration.domain.events import EncounterOpened, Event
from registration.domain.merge import Merge, MergeState, MergeStatus, preview
from registration.domain.merge_review import (
    Stay,
    ToReview,
    Traces,
    reviewed,
    stays_of,
    traces_of,
    until_merged,
)
from registration.domain.patient_resource import Patient
from registration.eventstore.mapper import encode
from registration.eventstore.records import RecordedEvent, key_hash
from registration.eventstore.store import EventStore, LoadRequest
from registration.lineage import lineage
from registration.projections import encounters
from registration.projections.merges import NAME, MergeQuery, list_merges

router = APIRouter(tags=["mpi"])

_PROBLEMS = problems("FORBIDDEN", "NOT_FOUND", "VALIDATION_FAILED", "READ_MODEL_BEHIND")
_PAGE = 200
PATIENT_SCOPE = "patient:read"
"""What is shown of the records themselves needs this too."""


class MergeSearch(Page):
    """What to list; all given criteria must hold."""

    status: MergeStatus | None = None
    patient_id: UUID | None = None


@router.get(
    "/v1/mpi/merges",
    operation_id="mpi.merges",
    summary="Merge decisions, the oldest first",
    response_model=MergeList,
    responses=_PROBLEMS,
)
async def merges(
    request: Request, caller: IndexReader, query: Annotated[MergeSearch, Query()]
) -> Response:
    """Return decisions: with `status=proposed`, those that wait for approval."""
    asked = MergeQuery(
        caller.tenant,
        query.status,
        query.patient_id,
        place_of(query.cursor),
        query.limit + 1,
    )
    rows = await from_view(
        request, NAME, caller.tenant, query.min_position, lambda view: list_merges(view, asked)
    )
    items = [orjson.loads(document) for _, _, document in rows[: query.limit]]
    saw(request, (item[role] for item in items for role in ("survivorId", "retiredId")))
    return json_answer({"items": items, "next": next_place(rows, query.limit)})


@router.get(
    "/v1/mpi/merges/{id}/history",
    operation_id="mpi.merge_history",
    summary="Every event of a merge decision, oldest first",
    response_model=History,
    responses=_PROBLEMS,
)
async def history(
    request: Request, caller: IndexReader, merge_id: AggregateId, page: Annotated[Page, Query()]
) -> Response:
    """Return who decided what and when, with each event's place in the hash chain."""
    return await history_of(request, caller, Merge, merge_id, page)


@router.get(
    "/v1/mpi/merges/{id}/preview",
    operation_id="mpi.merge_preview",
    summary="The events that approval would store",
    response_model=MergePreview,
    responses=problems("FORBIDDEN", "NOT_FOUND", "MERGE_NOT_ALLOWED", "PATIENT_MERGED"),
)
async def merge_preview(request: Request, caller: IndexReader, merge_id: AggregateId) -> Response:
    """Return exactly what approval stores, on the records as they are now, in that order.

    Needs patient:read as well.

    Approve with `survivorVersion` and `retiredVersion` of this answer to have these events or
    none. `moved` lists what came since the proposal: while it is not empty, an approval that
    states no versions is refused.
    """
    its = services(request)
    require_scope(caller.scopes, PATIENT_SCOPE)
    merge: Merge = await loaded_aggregate(request, caller, Merge, merge_id)
    state = merge.state
    if state is None:
        raise ValueError("a merge decision without history was found")
    parties = await lineage(its.store, caller.tenant, (state.survivor_id, state.retired_id))
    shown = preview(state, context_of(caller, its), parties, merge_id)
    streams = [
        *(
            (its_id, parties[its_id].patient.version, made)
            for its_id, made in shown.decided.others.items()
        ),
        (merge_id, merge.version, shown.decided.own),
    ]
    return json_answer(
        {
            "mergeId": merge_id,
            "survivorVersion": parties[state.survivor_id].patient.version,
            "retiredVersion": parties[state.retired_id].patient.version,
            "events": [
                _event(its_id, version + number, event)
                for its_id, version, made in streams
                for number, event in enumerate(made, 1)
            ],
            "obstacles": [each.plain() for each in shown.against],
            "moved": shown.moved,
        }
    )


def _event(stream_id: UUID, version: int, event: Event) -> dict[str, Any]:
    return {
        "streamId": stream_id,
        "version": version,
        "type": event.TOPIC,
        "data": orjson.Fragment(encode(event)),
    }


async def unmerge(request: Request, route: CommandRoute) -> Response:
    """Undo the merge; what was recorded on the survivor meanwhile stays, and is listed."""
    caller, reply = await carried_out(request, route)
    if PATIENT_SCOPE not in caller.scopes:
        return answer(request, reply, caller)
    listed: list[Any] | None
    try:
        listed = [each.plain() for each in await _to_review(request, caller, reply.aggregate)]
    except (DomainError, psycopg.OperationalError, PoolTimeout):
        listed = None  # it is undone; what to look at is not known in time
    return answer(request, reply, caller, {"toReview": listed})


@router.get(
    "/v1/mpi/merges/{id}/review",
    operation_id="mpi.merge_review",
    summary="What was recorded on the survivor of a merge that was undone",
    response_model=ReviewList,
    responses=_PROBLEMS,
)
async def review(request: Request, caller: IndexReader, merge_id: AggregateId) -> Response:
    """Return what the answer to the unmerge listed, for whoever goes through it later.

    Needs patient:read as well.

    Nothing of it was moved. Each entry has the evidence of where it belongs.
    """
    require_scope(caller.scopes, PATIENT_SCOPE)
    merge: Merge = await loaded_aggregate(request, caller, Merge, merge_id)
    items = [each.plain() for each in await _to_review(request, caller, merge)]
    return json_answer({"items": items, "next": None})


async def _to_review(
    request: Request, caller: Caller, merge: Aggregate[MergeState]
) -> list[ToReview]:
    """Return the entries of a merge that was undone; none of any other.

    Without the scope encounter:read, encounters are left out.
    """
    state = merge.state
    if state is None or state.status != "reversed":
        return []
    store, tenant = services(request).store, caller.tenant
    survivor, retired = await asyncio.gather(
        _history(store, tenant, state.survivor_id), _history(store, tenant, state.retired_id)
    )
    stays = await _stays(store, tenant, merge.id, state, survivor)
    traces = (
        await _traces(store, tenant, state.survivor_id, until_merged(merge.id, survivor)),
        await _traces(store, tenant, state.retired_id, until_merged(merge.id, retired)),
    )
    found = [
        reviewed(its_id, record, traces, sent_to=await _sent_to(request, caller, record, traces))
        for its_id, stay in stays
        for record in stay.during
    ]
    if "encounter:read" in caller.scopes:
        for its_id, stay in stays:
            found += [
                reviewed(its_id, opened, traces, encounter_id=opened.stream_id)
                for opened in await _opened(request, caller, its_id, stay)
            ]
    return sorted(found, key=lambda each: each.at)


async def _history(store: EventStore, tenant: str, its_id: UUID) -> Sequence[RecordedEvent]:
    return (await store.load(LoadRequest(tenant, its_id))).events


async def _stays(
    store: EventStore,
    tenant: str,
    merge_id: UUID,
    state: MergeState,
    survivor: Sequence[RecordedEvent],
) -> list[tuple[UUID, Stay]]:
    """Return when the survivor stood for the retired record, and what it was merged into then."""
    (first,) = (stay for stay in stays_of(state.retired_id, survivor) if stay.undone == merge_id)
    found = [(state.survivor_id, first)]
    asked = list(first.above)
    while asked:
        its_id = asked.pop()
        for stay in stays_of(state.retired_id, await _history(store, tenant, its_id)):
            within = first.since <= stay.since and stay.until <= first.until
            if (within or stay.undone == merge_id) and (its_id, stay) not in found:
                found.append((its_id, stay))
                asked += stay.above
    return found


async def _traces(
    store: EventStore, tenant: str, patient_id: UUID, history: Sequence[Recorded]
) -> Traces:
    """Return what tells a record from another, with all that had been merged into it."""
    state = Patient(patient_id, history).state
    absorbed = await asyncio.gather(
        *(_history(store, tenant, each) for each in (state.absorbed if state else ()))
    )
    return traces_of(patient_id, history, *absorbed)


async def _sent_to(
    request: Request, caller: Caller, record: Recorded, traces: tuple[Traces, Traces]
) -> UUID | None:
    """Return the record that a change was first sent to, where that was refused and sent anew."""
    superseded = record.meta.get("supersedes")
    if superseded is None:
        return None
    key = key_hash(record.meta["actor"], superseded)
    known = await services(request).store.load(LoadRequest(caller.tenant, None, key))
    sent_to = known.outcome and known.outcome.stream_id
    return next((each.patient_id for each in traces if each.patient_id == sent_to), None)


async def _opened(
    request: Request, caller: Caller, patient_id: UUID, stay: Stay
) -> list[RecordedEvent]:
    """Return how the encounters began that were opened for a record while it stood for both."""
    store = services(request).store
    position = store.reached(caller.tenant)
    asked = encounters.EncounterQuery(caller.tenant, patient_id=patient_id, limit=_PAGE)
    found: list[RecordedEvent] = []
    while True:
        rows = await from_view(
            request, encounters.NAME, caller.tenant, position, partial(_listed, asked)
        )
        loaded = await asyncio.gather(
            *(store.load(LoadRequest(caller.tenant, row[1], until=1)) for row in rows)
        )
        found += [
            opened
            for opened in (read.events[0] for read in loaded)
            if isinstance(opened.event, EncounterOpened)
            and opened.event.patient_id == patient_id
            and stay.since < opened.recorded_at < stay.until
        ]
        if len(rows) < _PAGE:
            return found
        asked = asked._replace(after=(rows[-1][0], rows[-1][1]))


async def _listed(
    asked: encounters.EncounterQuery, view: AsyncConnection[TupleRow]
) -> list[TupleRow]:
    return await encounters.list_encounters(view, asked)
