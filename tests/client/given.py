"""Devices of one clinic, and networks that fail as told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import httpx
import pytest
from tests.merging import merged, parted
from tests.service import ADA, CARD, Desk, Service, new_tenant, succeeded

from registration.client import Client, DomainError, ReviewItem, View
from registration.client.mutation import Mutation

ADA_OKORO: dict[str, Any] = ADA
CHIDI = {"name": "Chidi", "relationship": "brother"}
GRANTED: dict[str, Any] = {"decision": "granted", "evidence": {"kind": "verbal"}}

A_CARD = {"system": CARD, "value": "A 7"}
ARRIVED = {"class": "AMB", "status": "arrived"}

Fault = Callable[[httpx.Request, Callable[[], httpx.Response]], httpx.Response]
"""Answers a request; the second argument sends it on to the service."""


class Network(httpx.BaseTransport):
    """The way to the service; what is in ``faults`` meets the next requests, one each."""

    def __init__(self) -> None:
        self._real = httpx.HTTPTransport()
        self.faults: list[Fault | None] = []
        self.down = False
        self.seen: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or fail as told."""
        request.read()
        self.seen.append(request)
        if self.down:
            raise httpx.ConnectError("there is no network")
        fault = self.faults.pop(0) if self.faults else None
        if fault is None:
            return self._real.handle_request(request)
        return fault(request, lambda: self._real.handle_request(request))

    def pushes(self) -> list[bytes]:
        """Return the bodies of the pushes that were sent."""
        return [r.content for r in self.seen if r.url.path == "/v1/sync/push"]

    def close(self) -> None:
        """Close the real one."""
        self._real.close()


def lost_answer(_request: httpx.Request, send: Callable[[], httpx.Response]) -> httpx.Response:
    """The service does it, and the answer gets lost."""
    send().read()
    raise httpx.ReadError("the connection broke")


def lost_request(_request: httpx.Request, _send: Callable[[], httpx.Response]) -> httpx.Response:
    """The request does not get there."""
    raise httpx.ConnectError("there is no network")


def answer(status: int, code: str, **headers: str) -> Fault:
    """Something on the way answers in place of the service."""

    def fault(_request: httpx.Request, _send: Callable[[], httpx.Response]) -> httpx.Response:
        made = {"content-type": "application/problem+json"}
        made |= {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.Response(status, json={"code": code, "status": status}, headers=made)

    return fault


@dataclass
class DeviceClock:
    """The clock of a device, which a test may move."""

    ahead: timedelta = field(default_factory=timedelta)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Site:
    """A clinic: its tenant at the service, and its devices."""

    service: Service
    folder: Path
    tenant: str = field(default_factory=new_tenant)
    network: Network = field(default_factory=Network)
    clock: DeviceClock = field(default_factory=DeviceClock)
    slept: list[float] = field(default_factory=list)
    _open: list[Client] = field(default_factory=list)

    def token(self, **claims: Any) -> str:
        """Return the token of somebody of this clinic."""
        return self.service.token(tenant=self.tenant, **claims)

    def device(self, name: str | None = "desk-1", **claims: Any) -> Client:
        """Open the device of a name; again, after it was closed, it is the same one."""
        options = {o: claims.pop(o) for o in ("passphrase", "attempts", "facility") if o in claims}
        made = Client.open(
            self.folder / f"{name or 'desk-1'}.db",
            url=self.service.url,
            token=self.token(**claims),
            client_id=name,
            clock=self.clock,
            transport=self.network,
            sleep=self.slept.append,
            random=Random(7),
            **options,
        )
        self._open.append(made)
        return made

    def desk(self, **claims: Any) -> Desk:
        """Return somebody who speaks to the service directly."""
        return self.service.desk(self.tenant, **claims)

    def close(self) -> None:
        """Close what is open."""
        for client in self._open:
            client.close()
        self.network.close()


class Index:
    """The index of a clinic, where two people merge records online, and undo it."""

    def __init__(self, site: Site) -> None:
        self._desk = site.desk()

    def merge(self, survivor_id: UUID, retired_id: UUID) -> dict[str, Any]:
        """Merge the second record into the first, as both are now; returns the decision."""
        return merged(self._desk, {"id": str(retired_id)}, {"id": str(survivor_id)})

    def unmerge(self, decision: dict[str, Any]) -> None:
        """Undo a merge."""
        parted(self._desk, decision)

    @property
    def position(self) -> int:
        """How far the log is."""
        nothing = {"clientId": "index", "mutations": []}
        return int(succeeded(self._desk.post("/v1/sync/push", nothing))["position"])


def seen(device: Client, answer: httpx.Response) -> httpx.Response:
    """Let a device pull until it has what a direct request did."""
    assert answer.is_success, answer.text
    device.pull(int(answer.headers["x-log-position"]))
    return answer


def pulled(device: Client, site: Site, **members: Any) -> UUID:
    """Return a patient that somebody registered at the service, and that the device knows."""
    return UUID(seen(device, site.desk().register(**members)).json()["id"])


def told(mutations: list[Mutation]) -> list[tuple[str, str]]:
    """Return what became of mutations: the operation without its aggregate, and the state."""
    return [(m.operation.partition(".")[2], str(m.state)) for m in mutations]


def shown(view: View | None) -> View:
    """Return a record that must be known at the device."""
    assert view is not None
    return view


def kin_of(device: Client, patient: UUID) -> list[str]:
    """Return the names of the next of kin of a patient, as the device shows them."""
    return [kin["name"] for kin in shown(device.patient(patient)).body["nextOfKin"]]


def only(items: list[ReviewItem]) -> ReviewItem:
    """Return the one thing that waits for the person."""
    [item] = items
    return item


def refused(code: str, change: Callable[[], object]) -> Any:
    """Return what the device says beside the code when it refuses a change."""
    with pytest.raises(DomainError) as caught:
        change()
    assert caught.value.code == code
    return caught.value.extra
