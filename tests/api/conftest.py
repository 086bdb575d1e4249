"""One service for all tests of this folder."""

from collections.abc import Iterator

import pytest
from tests.service import Clock, Desk, Service, running


@pytest.fixture(scope="session")
def service(
    _databases, _migrated_template, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service and its read models, on a database that all tests of the session share."""
    name, url = _databases.create(_migrated_template)
    with running(url, tmp_path_factory.mktemp("service")) as found:
        yield found
    _databases.drop(name)


@pytest.fixture
def desk(service: Service) -> Desk:
    """A registration desk in a tenant of its own."""
    return service.desk()


@pytest.fixture
def clock(service: Service) -> Iterator[Clock]:
    """The service's time; what a test moved is put right after it."""
    yield service.clock
    service.clock.ahead -= service.clock.ahead
