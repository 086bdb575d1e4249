"""The examples do what the documentation says, against a real service."""

import subprocess
import sys
from pathlib import Path
from uuid import UUID

from tests.client.given import Index, Site, pulled

EXAMPLES = Path(__file__).parents[2] / "examples"

SAID = """\
refused offline: VALIDATION_FAILED
unsent: 3
applied: 3
the desk finds: ['Ada Okoro']
/birthDate: was 1984-03-02, theirs 1984-02-03, mine 1984-03-20
applied after the review: 1
to confirm: finished
1 patient.register applied
2 patient.add_next_of_kin applied
3 encounter.open applied
4 patient.update_demographics discarded
5 patient.update_demographics applied
6 encounter.transition applied
7 encounter.transition applied
"""


def test_the_offline_clinic(site: Site) -> None:
    arguments = [
        sys.executable,
        str(EXAMPLES / "offline_clinic.py"),
        site.service.url,
        site.token(),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (SAID, "", 0)


def test_a_laboratory_moves_its_orders_with_a_merge_and_back(site: Site) -> None:
    """Given orders by patient, when merges come by pull and are undone, then the orders follow."""
    watching = site.device()
    first, second, last = (str(pulled(watching, site)) for _ in range(3))
    index = Index(site)
    token = site.token(sub="laboratory", scope="sync patient:read")
    arguments = [sys.executable, str(EXAMPLES / "downstream.py"), site.service.url, token]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None

        def told(command: str, until: str) -> list[str]:
            program.stdin.write(command + "\n")  # type: ignore[union-attr]
            lines: list[str] = []
            while not lines or not lines[-1].startswith(until):
                lines.append(program.stdout.readline().strip())  # type: ignore[union-attr]
                assert lines[-1], "the program ended"
            return lines

        def pull() -> list[str]:
            watching.pull(index.position)
            return told("pull", "pulled")[:-1]

        assert told(f"order 1 {first}", "order") == [f"order 1 for {first}"]
        assert pull() == []
        merge = index.merge(UUID(second), UUID(first))
        above = index.merge(UUID(last), UUID(second))
        assert pull() == [f"order 1: {first} -> {last}"]
        assert told(f"order 2 {second}", "order") == [f"order 2 for {last}"]
        index.unmerge(merge)
        assert pull() == [f"order 1: {last} -> {first}"]
        index.unmerge(above)
        assert pull() == [f"order 2: {last} -> {second}"]
        assert told("list", "2") == [
            f"1: {first}, recorded for {first}",
            f"2: {second}, recorded for {second}",
        ]
        program.stdin.close()
    assert program.returncode == 0
