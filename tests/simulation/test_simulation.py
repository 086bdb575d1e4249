"""Devices, people and faults, all decided by a seed: the truth comes out whole."""

from collections.abc import Iterator

import pytest

from registration.simulation.run import Broken, simulate
from registration.simulation.world import World

STEPS = 50


@pytest.fixture(scope="module")
def world(
    _databases, _migrated_template, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A service that may be killed, with a database of its own."""
    name, url = _databases.create(_migrated_template)
    with World(url, tmp_path_factory.mktemp("world")).running() as found:
        yield found
    _databases.drop(name)


def hold(world: World, seeds: range) -> None:
    """Run seeds; a broken one is told with its trace, and by the command that runs it again."""
    for seed in seeds:
        try:
            simulate(world, seed, STEPS)
        except Broken as broken:
            again = f"registration simulate --seed {seed} --steps {STEPS} --trace"
            pytest.fail("\n".join([*broken.trace, str(broken), again]))


@pytest.mark.parametrize("first", range(1, 201, 10))
def test_ten_clinics_in_bad_weather(world: World, first: int):
    """Given devices and people, when everything fails that can and then stops, then all is well."""
    hold(world, range(first, first + 10))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1001, 3001, 50))
def test_two_thousand(world: World, first: int):
    hold(world, range(first, first + 50))


@pytest.mark.parametrize("seed", [7, 33, 58, 91, 104])
def test_the_same_seed_gives_the_same_trace(world: World, seed: int):
    assert simulate(world, seed, STEPS) == simulate(world, seed, STEPS)


MERGES = (
    "index proposes to merge",
    "index undoes the merge",
    "PATIENT_MERGED at the device",
    "(PATIENT_MERGED) to the survivor",
    "(PATIENT_MERGED) for later",
    "(PATIENT_MERGED) up",
    "(PATIENT_MERGED) again",
)
"""What a trace says where devices meet merges: all that people can decide, and the undoing."""


def test_queues_meet_merges_in_every_way(world: World):
    """Given clerks at the index, then before long a device has met all that they can do to it."""
    unseen = set(MERGES)
    for seed in range(1, 31):
        told = "\n".join(simulate(world, seed, STEPS))
        unseen = {what for what in unseen if what not in told}
        if not unseen:
            return
    pytest.fail(f"none of 30 clinics had {unseen}")
