"""Push and pull, and their peers, over the same documents of about 0.4 KB with the same client.

Ours: one worker, a bearer token, read models running, every mutation durable when it is answered.
Pushes of 100 over one connection, of registrations alone and of what a visit makes (registration,
next of kin, consent, encounter); pushes of one over 8 connections; then pages of 1,000 of all that.
500 devices that sync at once are a tenant of their own.

The peers, one after the other, get the same documents in batches of 100, one by one over 8
connections, and give them back in pages of 1,000. See ``sync_peers`` for what each promises.
"""

from collections.abc import Sequence

from benchmarks import limit, sync_devices
from benchmarks.bench import Bench
from benchmarks.http import caught_up
from benchmarks.load import Plan
from benchmarks.load import run as load
from benchmarks.results import Target, at_least, at_most
from benchmarks.service import Service, serving
from benchmarks.sync_peers import PEERS, Peer
from benchmarks.sync_workloads import (
    PULL,
    Follow,
    Send,
    creates,
    documents,
    pulled,
    push,
    visits,
)

_GROUP = "sync"
_BATCH = 100
_SINGLES = 8
_BATCHED = f"writes, {_BATCH} at a time, one connection"
_ALONE = f"writes, one at a time, {_SINGLES} connections"
_READ = "reads, 1,000 a page"


def run(bench: Bench) -> None:
    """Measure ours, then each peer that is installed, and hold ours against it."""
    if not bench.results.limits:
        limit.run(bench, "before sync")
    bench.say("sync")
    bodies = documents(2000)
    ours = _ours(bench, bodies)
    _devices(bench)
    for peer in PEERS:
        if not peer.is_installed:
            note = "not installed; see python -m benchmarks --install-peers"
            bench.add(_GROUP, peer.name, None, "documents/s", note=note)
            continue
        for name, rate in _peer(bench, peer, bodies).items():
            times = ours[name] / rate if rate else None
            bench.add(_GROUP, f"ours over {peer.name}: {name}", times, "times")


def _ours(bench: Bench, bodies: Sequence[bytes]) -> dict[str, float]:
    tenant = "sync"
    size = sum(map(len, bodies)) // len(bodies)
    with serving(bench.data_dir, tenant=tenant) as service:
        to = (service.host, service.port)

        def pushes(name: str, texts: Sequence[bytes], bound: int, *, each: int = 1) -> float:
            work = push(service.token, texts, 1 if name == _ALONE else _BATCH, each=each)
            return _rate(bench, f"push: {name}", to, work, at_least(bound), ratio=True)

        found = {_BATCHED: pushes(_BATCHED, creates(bodies), 5000)}
        pushes(f"visits, four mutations each, {_BATCH} at a time", visits(bodies), 5000, each=4)
        found[_ALONE] = pushes(_ALONE, creates(bodies), 1500)
        behind = caught_up(bench, "changes", tenant)
        bench.add(_GROUP, "the changes feed is level again after", behind, "s")
        pages = Follow(f"Bearer {service.token}", PULL, pulled)
        found[_READ] = _rate(bench, f"pull: {_READ}", to, pages, at_least(20_000))
        pages = Follow(f"Bearer {service.token}", PULL, pulled, gzip=True)
        _rate(bench, f"pull: {_READ}, gzip", to, pages, at_least(20_000))
        bench.add(_GROUP, "memory of the worker afterwards", service.rss_mb(), "MB")
    bench.say(f"  (documents of {size} bytes)")
    return found


def _peer(bench: Bench, peer: Peer, bodies: Sequence[bytes]) -> dict[str, float]:
    note = "" if peer.is_durable else "answers before anything is on disk"
    with peer.running(bench) as running:
        to = ("127.0.0.1", running.port)
        workloads: dict[str, Send | Follow] = {
            _BATCHED: running.batch(bodies, _BATCH),
            _ALONE: running.single(bodies),
            _READ: running.pages,
        }
        return {
            name: _rate(bench, f"{peer.name}: {name}", to, work, note="" if name == _READ else note)
            for name, work in workloads.items()
        }


def _rate(
    bench: Bench,
    name: str,
    to: tuple[str, int],
    workload: Send | Follow,
    target: Target | None = None,
    *,
    ratio: bool = False,
    note: str = "",
) -> float:
    """Add how many documents a second go through, and return it."""
    bench.settle()
    seconds = bench.scaled(10, 2)
    connections = _SINGLES if _ALONE in name else 1
    report = load(Plan(*to, workload, connections, seconds, warm_up=seconds / 5))
    answers = report.statuses.total()
    rate = report.rate * report.workload.documents / answers
    said = [f"p50 {report.ms(0.5):.1f} ms, p99 {report.ms(0.99):.1f} ms a request"]
    if isinstance(report.workload, Follow):
        said.append(f"{report.workload.received // answers // 1000:,} KB a page")
    if note:
        said.append(note)
    bench.add(_GROUP, name, rate, "documents/s", target, ratio=ratio, note="; ".join(said))
    return rate


def _devices(bench: Bench) -> None:
    """Let many devices sync at once: all is pushed, found again, and nothing went wrong."""
    with serving(bench.data_dir, tenant="fleet") as service:
        fleet = _fleet(bench, service)
        bench.settle()
        found = sync_devices.run(fleet)
    name = f"{fleet.devices} devices at once"
    waits = ", ".join(f"{count:,} x {why}" for why, count in sorted(found.waits.items()))
    each = f"{fleet.batches} pushes of {fleet.size} each; sent away: {waits or 'never'}"
    rate = found.pushed / (found.pushed_after or found.seconds)
    bench.add(_GROUP, f"{name}: all pushed, a second", rate, "mutations/s", note=each)
    bench.add(
        _GROUP,
        f"{name}: have pushed all and pulled their facility",
        found.drained,
        "devices",
        at_least(fleet.devices),
        note=f"in {found.seconds:.1f} s; {found.pulled:,} documents pulled",
    )
    wrong = ", ".join(f"{count} x {why}" for why, count in found.wrong.most_common(5))
    errors = found.wrong.total()
    bench.add(_GROUP, f"{name}: what else they were told", errors, "errors", at_most(0), note=wrong)


def _fleet(bench: Bench, service: Service) -> sync_devices.Fleet:
    return sync_devices.Fleet(
        service.host,
        service.port,
        service.token,
        devices=bench.scaled(500, 40),
        facilities=bench.scaled(50, 4),
        batches=bench.scaled(4, 2),
        size=20,
        seconds=180,
    )
