"""Where reads are missing, over HTTP: the newest first, and whether that is all."""

from collections.abc import Iterator

import psycopg
import pytest
from tests.api.given_audit import Audited
from tests.service import Service, succeeded


@pytest.fixture
def audited(service: Service) -> Iterator[Audited]:
    """A tenant with more gaps than are shown at once, each of a second."""
    audited = Audited.of(service)
    with psycopg.connect(service.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO registration.access_log_gap (tenant, since, until, reason, lost)"
            " SELECT %s, at, at + interval '1 s', 'overflow', 1"
            "  FROM generate_series(timestamptz '2026-01-01 00:00:01Z',"
            "                       '2026-01-01 00:02:30Z', '1 s') AS at",
            (audited.desk.tenant,),
        )
        yield audited
        connection.execute("DELETE FROM registration.access_log_gap")


def test_the_newest_are_shown_and_whether_there_are_more(audited):
    found: list[str] = []
    asked: dict[str, str] = {}
    for count, more in ((100, True), (50, False)):
        page = succeeded(audited.auditor.get("/v1/audit/access", params=asked))
        assert (len(page["gaps"]), page["moreGaps"]) == (count, more)
        found += [gap["since"] for gap in page["gaps"]]
        asked = {"to": found[-1]}
    assert found[0] == "2026-01-01T00:02:30Z"
    assert found == sorted(set(found), reverse=True)


def test_each_says_when_why_and_how_many(audited):
    asked = {"from": "2026-01-01T00:02:30.5Z"}
    page = succeeded(audited.auditor.get("/v1/audit/access", params=asked))
    assert page["gaps"] == [
        {
            "since": "2026-01-01T00:02:30Z",
            "until": "2026-01-01T00:02:31Z",
            "reason": "overflow",
            "lost": 1,
        }
    ]
    assert page["moreGaps"] is False
