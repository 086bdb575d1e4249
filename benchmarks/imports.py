"""`registration import` of a file that `registration sample` wrote, start-up included."""

import subprocess
import time

from benchmarks.bench import Bench
from benchmarks.results import at_least
from benchmarks.service import command, environment


def run(bench: Bench) -> None:
    """Import into a tenant of its own."""
    bench.say("imports")
    patients = bench.scaled(30_000, 1000)
    file = bench.data_dir.parent / "patients.ndjson"
    name = f"import of {patients:,} FHIR patients"
    with file.open("wb") as output:
        sampled = subprocess.run(
            command("sample", str(patients), "--seed", "1"),
            check=False,
            stdout=output,
            stderr=subprocess.PIPE,
            env=environment(),
        )
    if sampled.returncode != 0:
        bench.add("imports", name, None, "patients/s", at_least(3000), note="no command `sample`")
        return
    start = time.perf_counter()
    imported = subprocess.run(
        command("import", str(file), "--tenant", "import", "--data-dir", str(bench.data_dir)),
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )
    seconds = time.perf_counter() - start
    if imported.returncode not in (0, 1):
        raise RuntimeError(f"the import failed: {imported.stderr[-1000:]}")
    with bench.admin() as connection:
        row = connection.execute(
            "SELECT count(DISTINCT stream_id) FROM registration.event WHERE tenant = 'import'"
        ).fetchone()
    stored = row[0] if row else 0
    if stored < patients * 0.95:
        raise RuntimeError(f"only {stored} of {patients} patients are in")
    size = file.stat().st_size / patients
    bench.add(
        "imports",
        name,
        stored / seconds,
        "patients/s",
        at_least(3000),
        note=f"{stored:,} in within {seconds:.1f} s; lines of {size:.0f} bytes",
    )
