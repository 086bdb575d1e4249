"""One simulation: random steps of everybody, then quiet, then the checks."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from random import Random
from uuid import uuid4

from registration.simulation.actors import DeviceUser
from registration.simulation.check import check
from registration.simulation.known import Known
from registration.simulation.online import DirectUser, Index
from registration.simulation.world import World

DEVICES = 3
_MOST_ROUNDS = 12
"""Rounds of sync and review after which everything has to be settled."""


class Broken(AssertionError):
    """What has to hold does not; the message says what, and the trace how it came to that."""

    def __init__(self, seed: int, what: str, trace: list[str]) -> None:
        super().__init__(f"seed {seed}: {what}")
        self.trace = trace


def simulate(world: World, seed: int, steps: int) -> list[str]:
    """Run one simulation in a tenant of its own; returns its trace, the same for the same seed.

    Raises :class:`Broken`.
    """
    random = Random(seed)  # noqa: S311  (to be repeated, not to be kept secret)
    trace: list[str] = []
    tenant = f"simulated-{uuid4().hex[:12]}"
    known = Known()
    world.begin()
    with _people(world, known, tenant, random) as (devices, direct, index):
        try:
            trace.extend(
                f"{number:4} {_step(world, tenant, devices, direct, index, random)}"
                for number in range(1, steps + 1)
            )
            _quiet(world, tenant, devices, trace)
            wrong = check(world, tenant, known, devices, direct)
        except Exception as error:
            raise Broken(seed, f"{type(error).__name__}: {error}", trace) from error
    if wrong:
        raise Broken(seed, "; ".join(wrong), trace)
    return trace


@contextmanager
def _people(
    world: World, known: Known, tenant: str, random: Random
) -> Iterator[tuple[list[DeviceUser], DirectUser, Index]]:
    with tempfile.TemporaryDirectory(prefix="registration-simulation-") as folder:
        direct = DirectUser(world, known, tenant, random)
        index = Index(world, known, tenant, random)
        devices: list[DeviceUser] = []
        try:
            devices.extend(
                DeviceUser(world, known, Path(folder), tenant, f"tablet-{number}", random)
                for number in range(1, DEVICES + 1)
            )
            yield devices, direct, index
        finally:
            for device in devices:
                device.close()
            direct.close()
            index.close()


def _step(
    world: World,
    tenant: str,
    devices: list[DeviceUser],
    direct: DirectUser,
    index: Index,
    random: Random,
) -> str:
    device = random.choice(devices)
    device.network.bad = random.random() < 0.7
    # how far the read models are must not be left to chance
    world.settle(tenant)
    (what,) = random.choices(tuple(_STEPS), weights=tuple(_STEPS.values()))
    if what == "direct":
        return f"direct {direct.change()}"
    if what == "index":
        index.network.bad = device.network.bad
        return f"index {index.work()}"
    if what == "time":
        hours = random.choice((1, 25, 24 * 30, 24 * 400))
        world.wait(timedelta(hours=hours))
        for line in (index.network, *(each.network for each in devices)):
            line.forget_late()
        return f"{hours} hours pass"
    if what == "projector":
        world.kill_projector()
        return "the read models are killed"
    return f"{device.name} {_at_device(what, device, random)}"


_STEPS = {
    "change": 52,
    "sync": 16,
    "push": 4,
    "pull": 4,
    "direct": 12,
    "index": 12,
    "review": 8,
    "late": 3,
    "clock": 3,
    "crash": 3,
    "time": 2,
    "projector": 0.2,
}


def _at_device(what: str, device: DeviceUser, random: Random) -> str:
    does: dict[str, Callable[[], str]] = {
        "change": device.change,
        "sync": device.sync,
        "push": lambda: device.sync("push"),
        "pull": lambda: device.sync("pull"),
        "review": device.look_at_review,
        "crash": device.crash,
        "late": lambda: f"has a request arrive late: {device.network.arrive_late()}",
    }
    if what == "clock":
        device.clock_off = timedelta(days=random.choice((0, 1, -1, 400, -400, 1200)))
        return f"has its clock off by {device.clock_off.days} days"
    return does[what]()


def _quiet(world: World, tenant: str, devices: list[DeviceUser], trace: list[str]) -> None:
    """End all faults; let queues drain, first without and then with the help of people."""
    for device in devices:
        device.network.bad = False
        device.network.forget_late()
    for device in devices:
        device.settle_quietly()
        unsent = device.client.status().unsent
        if unsent:
            raise AssertionError(f"{device.name} still holds {unsent} back")
    for number in range(_MOST_ROUNDS):
        waiting = [(device, item.number) for device in devices for item in device.client.review()]
        for device, item_number in waiting:
            trace.extend(_settled(device, item_number, for_good=number > 2))
        for device in devices:
            device.settle_quietly()
        if not waiting:
            break
    for device in devices:  # what the last one pushed
        device.client.pull(world.settle(tenant))


def _settled(device: DeviceUser, number: int, *, for_good: bool) -> list[str]:
    """Settle an item, unless one that was settled before it took it along."""
    items = [item for item in device.client.review() if item.number == number]
    return [f"     {device.name} {device.settle(item, for_good=for_good)}" for item in items]
