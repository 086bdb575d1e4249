"""Devices at one service, each with a file and a tenant of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from tests.client.given import A_CARD, Index, Site, pulled
from tests.service import Desk, Service

from registration.client import Client


@pytest.fixture
def site(service: Service, tmp_path: Path) -> Iterator[Site]:
    """A clinic of its own, whose devices keep their files in one folder."""
    made = Site(service, tmp_path)
    yield made
    made.close()


@pytest.fixture
def device(site: Site) -> Client:
    """A device that has never synchronised."""
    return site.device()


@pytest.fixture
def another(site: Site) -> Callable[[], Client]:
    """Another device of the same clinic, with another person."""
    return lambda: site.device("desk-2", sub="nurse-2")


@pytest.fixture
def desk_of(site: Site) -> Desk:
    """Somebody of the same clinic who speaks to the service directly."""
    return site.desk()


@pytest.fixture
def index(site: Site) -> Index:
    """Who merges, online."""
    return Index(site)


@pytest.fixture
def survivor(device: Client, site: Site) -> UUID:
    """The record that stays: Ada Okafor, born in 1985."""
    names = [{"family": "Okafor", "given": ["Ada"]}]
    return pulled(device, site, names=names, birthDate="1985")


@pytest.fixture
def retired(device: Client, site: Site) -> UUID:
    """The record that goes: Ada Okoro, born in March 1984, with a card."""
    return pulled(device, site, identifiers=[A_CARD])
