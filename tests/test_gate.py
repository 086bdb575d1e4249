"""The gate on a real store: one command, one effect, one answer, whatever happens in between."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
import uuid_utils.compat as uuids
from tests.eventstore.given import TENANT, open_store

from registration.command import Command, Refusal, Reply
from registration.domain.context import Context
from registration.domain.contract import Operation
from registration.domain.handlers import HANDLERS
from registration.eventstore.records import AppendRequest, Verdict
from registration.eventstore.store import EventStore, LoadRequest
from registration.gate import Gate

ADA: dict[str, Any] = {"names": [{"family": "Okoro"}], "gender": "female"}
KIN = {"name": "Obi", "relationship": "brother"}


class Desk:
    """Sends commands through one gate."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.gate = Gate(store)

    async def __call__(
        self,
        operation: Operation,
        said: dict[str, Any],
        patient: UUID | None = None,
        *,
        actor: str = "desk-1",
        scopes: frozenset[str] = frozenset({"patient:write", "patient:read"}),
        **more: Any,
    ) -> Reply:
        command = Command(
            operation,
            HANDLERS[operation].payload.model_validate_json(orjson.dumps(said)),
            said,
            patient,
            **more,
        )
        context = Context(
            now=datetime.now(UTC), new_id=uuids.uuid7, tenant=TENANT, actor=actor, scopes=scopes
        )
        return await self.gate.handle(command, context)

    async def register(self, **more: Any) -> Reply:
        return await self(Operation.REGISTER_PATIENT, ADA, **more)

    async def edit(self, patient: UUID, gender: str, version: int | None, **more: Any) -> Reply:
        return await self(
            Operation.UPDATE_DEMOGRAPHICS, {"gender": gender}, patient, version=version, **more
        )

    async def topics(self, patient: UUID) -> list[str]:
        loaded = await self.store.load(LoadRequest(TENANT, patient))
        return [record.topic for record in loaded.events]


def with_a_desk(test: Callable[..., Awaitable[None]]) -> Callable[[str], None]:
    """Run a test with a desk on a database of its own."""

    def run(database_url: str) -> None:
        async def steps() -> None:
            async with open_store(database_url) as store:
                await test(Desk(store))

        asyncio.run(steps())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def refused(work: Awaitable[Reply]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await work
    return caught.value


@with_a_desk
async def test_a_scope_that_is_missing_is_named_before_anything_else(desk: Desk) -> None:
    refusal = await refused(desk.edit(UUID(int=1), "male", None, scopes=frozenset()))
    assert (refusal.error.code, refusal.error.extra) == ("FORBIDDEN", {"scope": "patient:write"})


@with_a_desk
async def test_a_version_that_is_missing_is_asked_for_before_the_patient_is_looked_up(
    desk: Desk,
) -> None:
    refusal = await refused(desk.edit(UUID(int=1), "male", None))
    assert refusal.error.code == "VERSION_REQUIRED"
    assert (await refused(desk.edit(UUID(int=1), "male", 1))).error.code == "NOT_FOUND"


@with_a_desk
async def test_a_refusal_is_remembered_under_its_key_alone(desk: Desk) -> None:
    for key, again in ((None, False), ("k", False), ("k", True), ("other", False)):
        refusal = await refused(desk.edit(UUID(int=1), "male", 1, key=key))
        assert (refusal.error.code, refusal.replayed) == ("NOT_FOUND", again)


@with_a_desk
async def test_a_stream_that_moves_in_between_is_decided_on_again(desk: Desk) -> None:
    """Next of kin collide with nothing, so everybody gets in, each on top of the others."""
    patient = (await desk.register()).aggregate.id
    replies = await asyncio.gather(
        *(desk(Operation.ADD_NEXT_OF_KIN, KIN, patient, actor=f"desk-{n}") for n in range(60))
    )
    assert sorted(reply.aggregate.version for reply in replies) == list(range(2, 62))


@with_a_desk
async def test_of_two_edits_at_once_with_one_version_one_wins(desk: Desk) -> None:
    patient = (await desk.register()).aggregate.id
    outcomes = await asyncio.gather(
        *(desk.edit(patient, gender, 1) for gender in ("male", "other", "unknown")),
        return_exceptions=True,
    )
    lost = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert len(lost) == 2
    assert {refusal.error.code for refusal in lost} == {"OPTIMISTIC_LOCK_CONFLICT"}
    assert await desk.topics(patient) == ["patient.registered", "patient.demographics-corrected"]


@with_a_desk
async def test_a_stream_that_never_stands_still_is_given_up_on(desk: Desk) -> None:
    patient = (await desk.register()).aggregate.id

    @asynccontextmanager
    async def always_overtaken() -> AsyncIterator[None]:
        append = desk.store.append

        async def overtaken(tenant: str, request: AppendRequest) -> Verdict:
            desk.store.append = append  # type: ignore[method-assign]
            await Desk(desk.store)(Operation.ADD_NEXT_OF_KIN, KIN, patient)  # another process
            desk.store.append = overtaken  # type: ignore[method-assign]
            return await append(tenant, request)

        desk.store.append = overtaken  # type: ignore[method-assign]
        yield
        desk.store.append = append  # type: ignore[method-assign]

    async with always_overtaken():
        refusal = await refused(desk.edit(patient, "male", 1, key="k"))
    assert (refusal.error.code, refusal.replayed) == ("UNAVAILABLE", False)
    # nothing of it was stored, the key least of all
    assert (await desk.edit(patient, "male", 1, key="k")).replayed is False


@with_a_desk
async def test_an_answer_that_was_lost_comes_with_the_retry(desk: Desk) -> None:
    """The commit went through and nobody heard of it."""
    patient = (await desk.register()).aggregate.id
    append = desk.store.append

    async def lost(tenant: str, request: AppendRequest) -> Verdict:
        await append(tenant, request)
        raise ConnectionError

    desk.store.append = lost  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        await desk.edit(patient, "male", 1, key="k")
    desk.store.append = append  # type: ignore[method-assign]
    await desk.edit(patient, "other", 2)
    reply = await desk.edit(patient, "male", 1, key="k")
    assert (reply.replayed, reply.aggregate.version) == (True, 2)
    assert reply.aggregate.plain()["gender"] == "male"
    assert len(await desk.topics(patient)) == 3


@with_a_desk
async def test_who_did_it_and_how_is_stored_with_the_event(desk: Desk) -> None:
    mutation = uuids.uuid7()
    reply = await desk.register(key=str(mutation), mutation_id=mutation, actor="ann")
    loaded = await desk.store.load(LoadRequest(TENANT, reply.aggregate.id))
    assert loaded.events[0].meta == {
        "actor": "ann",
        "operation": "patient.register",
        "clientMutationId": str(mutation),
    }


@with_a_desk
async def test_what_changes_nothing_still_uses_its_key(desk: Desk) -> None:
    patient = (await desk.register()).aggregate.id
    first = await desk.edit(patient, "female", 1, key="k")
    assert (first.aggregate.version, first.replayed) == (1, False)
    await desk.edit(patient, "male", 1)
    again = await desk.edit(patient, "female", 1, key="k")
    assert (again.aggregate.version, again.replayed, again.aggregate.encoded()) == (
        1,
        True,
        first.aggregate.encoded(),
    )
