"""The limit L: what this PostgreSQL does for ``pgbench`` with the same three rows.

One function call inserts an event, a stored outcome and an identifier claim into tables of the
same shape and with the same keys as the service's; positions come from a sequence. There is no
lock, no check and no hash chain. The body is a parameter, keys are random, fsync is on. A
registration stores a fourth row, the patient's key; L stays what it was before there were any.
"""

import re
import statistics
import subprocess
from urllib.parse import parse_qs, urlsplit

import psycopg

from benchmarks.bench import Bench
from benchmarks.sample import registrations

CLIENTS = 32

_SCHEMA = """
CREATE SEQUENCE position CACHE 32;
CREATE TABLE event (
    tenant      text NOT NULL,
    position    bigint NOT NULL,
    stream_id   uuid NOT NULL,
    version     int NOT NULL,
    topic       text NOT NULL,
    data        bytea NOT NULL,
    metadata    bytea NOT NULL,
    recorded_at timestamptz NOT NULL,
    hash        bytea NOT NULL,
    PRIMARY KEY (tenant, position),
    UNIQUE (tenant, stream_id, version)
);
CREATE TABLE outcome (
    tenant      text NOT NULL,
    key         uuid NOT NULL,
    fingerprint uuid NOT NULL,
    status      smallint NOT NULL,
    stream_id   uuid NOT NULL,
    version     int NOT NULL,
    position    bigint NOT NULL,
    body        bytea,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX outcome_refused ON outcome (recorded_at) WHERE body IS NOT NULL;
CREATE TABLE identifier_claim (
    tenant    text NOT NULL,
    system    text NOT NULL,
    value     text NOT NULL,
    stream_id uuid NOT NULL,
    PRIMARY KEY (tenant, system, value)
);
CREATE FUNCTION three_rows(p_body bytea) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    at bigint := nextval('position');
    stream uuid := uuidv7();
    moment timestamptz := clock_timestamp();
BEGIN
    INSERT INTO event VALUES (
        'default', at, stream, 1, 'PatientRegistered', p_body,
        '{"actor":"desk","operation":"patient.register",'
        '"idempotencyKey":"0190c7a8-6f6e-7b3e-9a55-2f1f0a7a9d10"}',
        moment, '\\x0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0');
    INSERT INTO outcome VALUES (
        'default', gen_random_uuid(), gen_random_uuid(), 201, stream, 1, at, NULL, moment);
    INSERT INTO identifier_claim VALUES (
        'default', 'https://registration.example/mrn', gen_random_uuid()::text, stream);
    RETURN at;
END
$$;
"""
_SCRIPT = "SELECT three_rows(:body);\n"
_TPS = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)


def run(bench: Bench, when: str = "") -> None:
    """Measure L, once more where it was measured before."""
    first = not bench.results.limits
    bench.say(f"limit {when}")
    with bench.database(migrated=False) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_SCHEMA)
        if first:
            for clients in (1, 8):
                rate = _pgbench(bench, url, clients, bench.scaled(5, 1))
                bench.add("limit", f"pgbench, {clients} client(s)", rate, "commands/s", ratio=True)
        rates = [
            _pgbench(bench, url, CLIENTS, bench.scaled(8, 2)) for _ in range(bench.scaled(3, 1))
        ]
    limit = statistics.median(rates)
    bench.results.limits.append(limit)
    name = f"**L**: pgbench, {CLIENTS} clients{', ' + when if when else ''}"
    note = f"{len(rates)} runs: " + " / ".join(f"{rate:,.0f}" for rate in sorted(rates))
    bench.add("limit", name, limit, "commands/s", ratio=True, note=note)


def _pgbench(bench: Bench, url: str, clients: int, seconds: int) -> float:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE event, outcome, identifier_claim")
    bench.settle()
    script = bench.data_dir.parent / "three_rows.sql"
    script.write_text(_SCRIPT)
    parts = urlsplit(url)
    where = parse_qs(parts.query)
    output = subprocess.run(
        [
            str(bench.program("pgbench")),
            *("-h", where["host"][0], "-p", where["port"][0], "-U", parts.username or ""),
            *("-n", "-M", "prepared", "-f", str(script), "-D", f"body={_body()}"),
            *("-c", str(clients), "-j", str(min(clients, 2)), "-T", str(seconds)),
            parts.path[1:],
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = _TPS.search(output)
    if found is None:
        raise RuntimeError(f"pgbench says nothing of its rate: {output}")
    return float(found[1])


def _body() -> str:
    """Return a body of the usual length; plain text is a valid bytea literal as it is."""
    (stored,) = registrations(1)
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else "_" for byte in stored)
