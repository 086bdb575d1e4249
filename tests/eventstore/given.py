"""What the tests of the store and of the read models start from."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import orjson

from registration.domain.events import Event, NextOfKinAdded, PatientRegistered
from registration.domain.resources import Name, NextOfKin
from registration.eventstore.embedded import EmbeddedPostgres
from registration.eventstore.mapper import encode
from registration.eventstore.migrations import migrate
from registration.eventstore.records import (
    AppendRequest,
    Claim,
    NewEvent,
    Stored,
    event_digest,
)
from registration.eventstore.store import EventStore

TENANT = "clinic-a"
TTL = timedelta(hours=24)
META = orjson.dumps({"actor": "desk-1"})


def registered(family: str = "Okoro") -> PatientRegistered:
    """A first event."""
    return PatientRegistered(
        names=(Name(id=UUID(int=7), family=family, given=("Ada",), script="Latn"),),
        gender="female",
    )


def next_of_kin(name: str = "Obi") -> NextOfKinAdded:
    """A further event, which any state takes."""
    return NextOfKinAdded(next_of_kin=NextOfKin(id=UUID(int=8), name=name, relationship="brother"))


def request(
    *events: Event,
    stream: UUID | None = None,
    version: int = 0,
    key: UUID | None = None,
    fingerprint: UUID | None = None,
    take: Sequence[tuple[str, str]] = (),
    give: Sequence[tuple[str, str]] = (),
    tenant: str = TENANT,
    **more: Any,
) -> AppendRequest:
    """A request to append ``events`` to a stream that is at ``version``."""
    stream = stream or uuid4()
    new = []
    for number, event in enumerate(events, version + 1):
        data = encode(event)
        digest = event_digest(tenant, stream, number, event.TOPIC, META, data)
        new.append(NewEvent(stream, number, event.TOPIC, data, META, digest))
    return AppendRequest(
        stream_id=stream,
        version=version + len(events),
        status=more.pop("status", 201),
        events=new,
        claims=[
            *(Claim(system, value, stream, take=True) for system, value in take),
            *(Claim(system, value, stream, take=False) for system, value in give),
        ],
        key=key,
        fingerprint=fingerprint or (UUID(int=1) if key else None),
        **more,
    )


@contextmanager
def server_of_its_own() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL with the current schema that a test may freeze and crash."""
    # Not under tmp_path: each pytest that starts closes that folder to the server's own user.
    with (
        TemporaryDirectory(prefix="registration-tests-") as folder,
        EmbeddedPostgres(Path(folder) / "data") as server,
    ):
        migrate(server.url)
        yield server


@asynccontextmanager
async def open_store(url: str, **settings: Any) -> AsyncIterator[EventStore]:
    """An open store, closed at the end."""
    store = EventStore(url, **{"ttl": TTL} | settings)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def stored(store: EventStore, *events: Event, tenant: str = TENANT, **more: Any) -> Stored:
    """Append and insist that it went in."""
    verdict = await store.append(tenant, request(*events, tenant=tenant, **more))
    assert isinstance(verdict, Stored), verdict
    return verdict


async def fill(store: EventStore, count: int, *, tenant: str = TENANT, call: int = 200) -> None:
    """Append ``count`` streams of one event each, ``call`` in a call."""
    for start in range(0, count, call):
        verdicts = await store._append(
            tenant,
            [
                request(registered(f"Family{n}"), tenant=tenant)
                for n in range(start, min(count, start + call))
            ],
        )
        assert all(isinstance(verdict, Stored) for verdict in verdicts)
