"""The views for BI tools: what they show, how exactly, and what their reader cannot get at."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow
from tests.api.given_merges import Index
from tests.api.given_reports import HOUR, MONDAY, Clinic, captured, set_clock
from tests.service import ADA, CARD, Service, etag, new_id, place, succeeded
from tests.sync.given import push, queued

from registration.projections import analytics, rebuild
from registration.projections.analytics_views import ROLE, VIEWS


@pytest.fixture
def clinic(service: Service, clock) -> Clinic:
    """A clinic with a bit of everything."""
    set_clock(clock, MONDAY)
    index = Index.of(service)
    clinic = Clinic.of(service, index.desk.tenant)
    one, other = index.patient(1, birthDate="1970-01-01"), index.patient(2)
    index.merged(one, other)
    said = {"patientId": one["id"], "class": "AMB", "status": "in-progress"}
    succeeded(clinic.north.post("/v1/encounters", said))
    consent = {"decision": "granted", "evidence": {"kind": "signature"}}
    succeeded(clinic.north.put(f"{place(one)}/consents/research", consent, If_Match='"0"'))
    clinic.asks(clinic.admin, "registrations")
    return clinic


@contextmanager
def analyst_of(service: Service) -> Iterator[psycopg.Connection]:
    """Connect as somebody whom the role was granted."""
    with psycopg.connect(service.database_url, autocommit=True) as connection:
        connection.execute(f"SET ROLE {ROLE}")
        yield connection


def shown(connection: psycopg.Connection, tenant: str) -> dict[str, list[TupleRow]]:
    """Return all rows of all views of a tenant."""
    statement = sql.SQL("SELECT * FROM analytics.{} WHERE tenant = %s ORDER BY 2, 3, 4, 5")
    return {
        view.name: connection.execute(
            statement.format(sql.Identifier(view.name)), (tenant,)
        ).fetchall()
        for view in VIEWS
    }


def test_the_views_show_what_there_is_and_the_same_after_a_rebuild(
    service: Service, clinic: Clinic
) -> None:
    with analyst_of(service) as connection:
        before = shown(connection, clinic.tenant)
        assert {name: len(rows) for name, rows in before.items()} == {
            "patient": 2,
            "encounter": 1,
            "encounter_status": 1,
            "consent_decision": 1,
            "mutation": 0,
        }
        # the same patient has the same key everywhere
        keys = {row[1] for row in before["patient"]}
        assert before["encounter"][0][2] == before["consent_decision"][0][1]
        assert before["encounter"][0][2] in keys
        assert service.settings.database_url is not None
        asyncio.run(rebuild.rebuild(service.settings.database_url, "analytics"))
        assert shown(connection, clinic.tenant) == before
        clinic.patient()
        clinic.asks(clinic.admin, "registrations")
        assert len(shown(connection, clinic.tenant)["patient"]) == 3


def test_the_views_lead_to_nobody(service: Service, clinic: Clinic) -> None:
    patient = clinic.patient(
        names=[{"family": "Quxley", "given": ["Zebedee"]}],
        identifiers=[{"system": CARD, "value": "zz-4711"}],
        telecom=[{"system": "phone", "value": "0800-4711"}],
        birthDate="1984-03-02",
    )
    clinic.asks(clinic.admin, "registrations")
    with analyst_of(service) as connection:
        text = str(shown(connection, clinic.tenant))
    for secret in ("Quxley", "Zebedee", "4711", patient["id"], "1984-03", "1984, 3", "desk-1"):
        assert secret not in text
    assert "1984" in text


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM analytics.patient_fact",
        "SELECT * FROM analytics.mutation_fact",
        "SELECT * FROM registration.event",
        "SELECT * FROM registration.analytics_salt",
        "SELECT * FROM search.patient",
        "INSERT INTO analytics.mutation (tenant) VALUES ('a')",
        "DELETE FROM analytics.patient",
        "CREATE TABLE analytics.mine (a int)",
        "CREATE SCHEMA mine",
    ],
)
def test_the_role_may_read_the_views_and_nothing_else(
    service: Service, clinic: Clinic, statement: Any
) -> None:
    assert clinic.head() > 0
    with (
        analyst_of(service) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


def test_every_view_and_column_has_its_comment_in_the_database(
    service: Service, clinic: Clinic
) -> None:
    assert clinic.head() > 0
    found: dict[str, dict[str | None, str | None]] = {}
    with psycopg.connect(service.database_url) as connection:
        rows = connection.execute(
            "SELECT c.relname, a.attname, col_description(c.oid, a.attnum), obj_description(c.oid)"
            "  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0"
            " WHERE c.relnamespace = 'analytics'::regnamespace AND c.relkind = 'v'"
        )
        for view, column, comment, of_view in rows:
            found.setdefault(view, {None: of_view})[column] = comment
    assert found == {
        view.name: {None: view.definition} | {c.name: c.definition for c in view.columns}
        for view in VIEWS
    }


SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def pushed(*moments: datetime) -> list[dict[str, Any]]:
    """Return registrations that a device captured at these moments."""
    return [
        queued("patient.register", new_id(), ADA, id=captured(moment, number))
        for number, moment in enumerate(moments)
    ]


@pytest.fixture
def odd_times(service: Service, clinic: Clinic) -> Clinic:
    """The clinic, and what happened at no whole minute."""
    with clinic.at(MONDAY + 17.25 * SECOND):
        push(clinic.south, *pushed(MONDAY - 2 * HOUR + 10.123 * SECOND))
        said = {"patientId": clinic.patient()["id"], "class": "AMB", "status": "arrived"}
        said |= {"at": (MONDAY - 20 * MINUTE + 20.5 * SECOND).isoformat()}  # 9:10:20
        opened = succeeded(clinic.north.post("/v1/encounters", said))
        started = {
            "to": "in-progress",
            "at": (MONDAY - 5 * MINUTE + 45.5 * SECOND).isoformat(),  # 9:25:45
        }
        path = f"/v1/encounters/{opened['id']}/transitions"
        succeeded(clinic.north.post(path, started, If_Match=etag(opened)))
    clinic.asks(clinic.admin, "registrations")
    return clinic


# a view that cut hours in the time zone of the session would tell minutes in the last ones
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "<x>00:31"])
def test_no_time_is_told_to_the_second(service: Service, odd_times: Clinic, zone: str) -> None:
    shown_times = {
        (view.name, c.name, "hour" if c.name == "registered_at" else "minute")
        for view in VIEWS
        for c in view.columns
        if c.name.endswith("_at") or c.name in ("planned_start", "valid_until", "since", "until")
    }
    assert len(shown_times) == 13
    with analyst_of(service) as connection:
        connection.execute("SELECT set_config('TimeZone', %s, false)", (zone,))
        for view, column, unit in shown_times:
            name = sql.Identifier(column)
            statement = sql.SQL(
                "SELECT {0} AT TIME ZONE 'UTC', date_trunc({1}, {0} AT TIME ZONE 'UTC')"
                "  FROM analytics.{2} WHERE tenant = %s AND {0} IS NOT NULL"
            ).format(name, unit, sql.Identifier(view))
            found = connection.execute(statement, (odd_times.tenant,)).fetchall()
            assert found or column in ("planned_start", "valid_until", "superseded_at", "ended_at")
            assert all(told == coarse for told, coarse in found), (view, column)


def test_waiting_is_right_to_the_minute(service: Service, odd_times: Clinic) -> None:
    with analyst_of(service) as connection:
        found = connection.execute(
            "SELECT arrived_at, started_at, waiting_minutes FROM analytics.encounter"
            " WHERE tenant = %s AND started_at > arrived_at",
            (odd_times.tenant,),
        ).fetchall()
    assert found == [(MONDAY - 20 * MINUTE, MONDAY - 5 * MINUTE, 15)]


def test_who_came_in_one_minute_is_not_told_apart(service: Service, clinic: Clinic) -> None:
    with clinic.at(MONDAY + 20 * SECOND):
        begin = MONDAY - 2 * HOUR
        push(clinic.south, *pushed(begin + 2.1 * SECOND, begin + 7.9 * SECOND, begin + 9 * SECOND))
    clinic.asks(clinic.admin, "registrations")
    with analyst_of(service) as connection:
        mutations = shown(connection, clinic.tenant)["mutation"]
        latencies = connection.execute(
            "SELECT latency_seconds FROM analytics.patient"
            " WHERE tenant = %s AND latency_seconds IS NOT NULL",
            (clinic.tenant,),
        ).fetchall()
    assert len(mutations) == 3
    assert len(set(mutations)) == 1
    assert latencies == [(7260,)] * 3


@pytest.mark.parametrize(
    ("seconds", "latency", "minutes"),
    [(0, 0, 0), (0.004, 1, 0), (59.2, 60, 0), (60, 60, 1), (60.001, 120, 1), (3599, 3600, 59)],
)
def test_a_latency_is_rounded_up_and_tells_no_second_of_the_capture(
    database_url: str, seconds: float, latency: int, minutes: int
) -> None:
    stored = MONDAY + 3 * SECOND
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE SCHEMA analytics")
        connection.execute("SET search_path = analytics, registration")
        connection.execute(analytics.DDL.encode())
        connection.execute(
            "INSERT INTO mutation_fact VALUES ('a', gen_random_uuid(), 'b', 'c', 'd', %s, %s)",
            (stored - seconds * SECOND, stored),
        )
        found = connection.execute(
            "SELECT captured_at, recorded_at, latency_seconds FROM mutation"
        ).fetchall()
    assert found == [(MONDAY - minutes * MINUTE, MONDAY, latency)]


def test_a_function_of_the_reader_sees_only_what_the_view_shows(
    service: Service, clinic: Clinic
) -> None:
    about = {"patientId": clinic.patient()["id"], "class": "AMB", "status": "arrived"}
    said = about | {"facility": "nowhere"}
    succeeded(clinic.north.post("/v1/encounters", about | {"facility": "somewhere"}))
    mistaken = succeeded(clinic.north.post("/v1/encounters", said))
    wrong = {"to": "entered-in-error", "reason": "because"}
    path = f"/v1/encounters/{mistaken['id']}/transitions"
    succeeded(clinic.north.post(path, wrong, If_Match=etag(mistaken)))
    clinic.asks(clinic.admin, "registrations")
    heard: list[str | None] = []
    with analyst_of(service) as connection:
        connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        connection.execute(
            "CREATE FUNCTION pg_temp.tell(text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
        )
        connection.execute("SELECT FROM analytics.encounter WHERE pg_temp.tell(facility)")
        connection.execute("SELECT FROM analytics.encounter_status WHERE pg_temp.tell(tenant)")
        rows = shown(connection, clinic.tenant)
    assert "somewhere" in heard
    assert "nowhere" not in heard
    assert heard.count(clinic.tenant) == len(rows["encounter_status"])


def test_every_view_is_a_barrier_and_a_window_is_still_found_by_its_index(
    service: Service, clinic: Clinic
) -> None:
    assert clinic.head() > 0
    with psycopg.connect(service.database_url) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'analytics'::regnamespace"
            "   AND relkind = 'v' AND reloptions @> '{security_barrier=true}'"
        )
        assert {name for (name,) in rows} == {view.name for view in VIEWS}
        connection.execute("SET enable_seqscan = off")
        connection.execute("SET enable_bitmapscan = off")
        plan = connection.execute(
            "EXPLAIN SELECT count(*) FROM analytics.mutation WHERE tenant = 'a'"
            "   AND recorded_at >= '2031-03-03' AND recorded_at < '2031-03-04'"
        ).fetchall()
    text = " ".join(line for (line,) in plan)
    assert "mutation_fact_minute" in text
    assert text.count("2031-03-0") == 2
    assert "Index Cond" in text
    assert "Filter" not in text
