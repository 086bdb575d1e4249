"""`registration export`, with patients written by COPY *straight into the read model's tables*.

The patients are those of `registration sample`, each with a consent; every other one has an
encounter. A part of them is folded once, and comes again under other ids. The time is that of the
program from its start to its end, the manifest included.
"""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import uuid_utils.compat as uuids

from benchmarks.bench import Bench
from benchmarks.results import at_least
from benchmarks.service import command, environment
from registration.commands.sample import AS_OF, patients
from registration.domain import events
from registration.domain.aggregate import Aggregate, Stamp
from registration.domain.commands import RegisterPatient
from registration.domain.context import Context
from registration.domain.encounter import Encounter
from registration.domain.patient import decide_register
from registration.domain.patient_resource import Patient
from registration.domain.resources import Evidence
from registration.fhir import map_patient
from registration.projections import changes
from registration.projections.rebuild import rebuild

TENANT = "analysis"
_NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
_LEAST = 1_000_000 / 300
"""1,000,000 patients in five minutes."""

_COPY = """
COPY changes.record (tenant, id, kind, version, position, facility, patient_id, absorbed,
                     body)
FROM STDIN (FORMAT BINARY)
"""
_TYPES = ["text", "uuid", "text", "int4", "int8", "text", "uuid", "uuid[]", "bytea"]
_HEAD = """
INSERT INTO registration.log_head (tenant, position, hash, recorded_at)
VALUES (%(tenant)s, %(position)s, sha256(''), now())
"""
_EVENT = """
INSERT INTO registration.event (tenant, position, stream_id, version, topic, data, metadata,
                                recorded_at, hash)
VALUES (%(tenant)s, %(position)s, gen_random_uuid(), 1, 'none', '', '', now(), sha256(''))
"""
_POSITION = """
INSERT INTO registration.read_model_position (name, tenant, position)
VALUES ('changes', %(tenant)s, %(position)s)
"""


def run(bench: Bench) -> None:
    """Fill a read model and export it in both formats, whole."""
    count = bench.scaled(1_000_000, 2000)
    bench.say(f"export of {count:,} patients")
    with bench.database() as url:
        start = time.monotonic()
        load(url, count, bench.scaled(20_000, 500))
        bench.say(f"  loaded in {time.monotonic() - start:.0f} s")
        bench.settle()
        for form in ("ndjson", "parquet"):
            _measure(bench, url, form, count)


def _measure(bench: Bench, url: str, form: str, count: int) -> None:
    with tempfile.TemporaryDirectory(dir=bench.data_dir.parent) as folder:
        start = time.perf_counter()
        exported = subprocess.run(
            command(
                *("export", "--format", form, "--tenant", TENANT),
                *("--output", f"{folder}/export", "--database-url", url),
            ),
            check=False,
            capture_output=True,
            text=True,
            env=environment(),
        )
        seconds = time.perf_counter() - start
        if exported.returncode != 0:
            raise RuntimeError(f"the export failed: {exported.stderr[-1000:]}")
        size = sum(file.stat().st_size for file in Path(folder, "export").iterdir())
    bench.add(
        "export",
        f"export of {count:,} patients as {form}",
        count / seconds,
        "patients/s",
        at_least(_LEAST),
        note=f"within {seconds:.1f} s, {size / 2**20:,.0f} MB; {exported.stdout.split(' in ')[0]}",
    )


def load(url: str, count: int, different: int) -> None:
    """Write ``count`` patients with their encounters into an empty read model."""
    asyncio.run(rebuild(url, changes.NAME))
    made = list(_folded(different))
    with psycopg.connect(url) as connection:
        position = 0
        with connection.cursor().copy(_COPY) as copy:
            copy.set_types(_TYPES)
            for records in islice(cycle(made), count):
                patient_id = uuids.uuid7()
                for number, (kind, old, version, body) in enumerate(records):
                    position += 1
                    its_id = uuids.uuid7() if number else patient_id
                    content = body.replace(_bytes(records[0][1]), _bytes(patient_id))
                    content = content.replace(_bytes(old), _bytes(its_id))
                    of = patient_id if number else None
                    copy.write_row((TENANT, its_id, kind, version, position, "", of, [], content))
        for statement in (_HEAD, _EVENT, _POSITION):
            connection.execute(statement, {"tenant": TENANT, "position": position})
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE changes.record")


def _bytes(its_id: UUID) -> bytes:
    return str(its_id).encode()


def _folded(count: int) -> Iterator[Sequence[tuple[str, UUID, int, bytes]]]:
    """Yield the records (kind, id, version, body) of each patient, the patient first."""
    context = Context(now=_NOW, new_id=uuids.uuid7, tenant=TENANT, actor="desk", scopes=frozenset())
    granted = events.ConsentGranted(flag="research", evidence=Evidence(kind="signature"))
    for number, resource in enumerate(patients(count, 1, 0.1, AS_OF.date())):
        command = RegisterPatient.model_validate(map_patient(resource).said)
        patient = Patient(uuids.uuid7())
        registered = decide_register(None, command, context)
        records = [("patient", patient.id, 2, _body(patient, *registered, granted))]
        if number % 2 == 0:
            visit = Encounter(uuids.uuid7())
            opened = events.EncounterOpened(
                patient_id=patient.id,
                encounter_class="AMB",
                status="arrived",
                at=_NOW,
                facility="north",
            )
            later = _NOW + timedelta(minutes=20)
            steps = (opened, events.EncounterStarted(at=later), events.EncounterFinished(at=later))
            records.append(("encounter", visit.id, 3, _body(visit, *steps)))
        yield records


def _body(aggregate: Aggregate[Any], *happened: events.Event) -> bytes:
    for event in happened:
        aggregate.apply(event, Stamp(aggregate.version + 1, _NOW, "desk"))
    return changes.body_of(aggregate)
