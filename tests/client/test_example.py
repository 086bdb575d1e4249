"""The example does what the documentation says, against a real service."""

import subprocess
import sys
from pathlib import Path

from tests.client.given import Site

EXAMPLE = Path(__file__).parents[2] / "examples" / "offline_clinic.py"

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
    arguments = [sys.executable, str(EXAMPLE), site.service.url, site.token()]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (SAID, "", 0)
