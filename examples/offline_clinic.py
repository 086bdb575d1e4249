"""A morning at a clinic whose network comes and goes, with the offline-first client.

Run it against a service of your own:

    registration serve &
    python examples/offline_clinic.py http://127.0.0.1:8000 "$(registration token --role desk)"
"""

import sys
import tempfile
from pathlib import Path

from registration.client import Client, DomainError


def main(url: str, token: str, folder: Path) -> None:
    """Work offline, synchronise, meet a conflict, and settle it."""
    tablet = Client.open(folder / "tablet.db", url=url, token=token)
    desk = Client.open(folder / "desk.db", url=url, token=token)

    # The tablet is out of reach of the service. A slip is told at once all the same.
    try:
        tablet.register({"names": [{"family": "Okoro"}], "gender": "female", "birthDate": "2984"})
    except DomainError as refusal:
        say("refused offline:", refusal.code)
    ada = tablet.register(
        {
            "names": [{"family": "Okoro", "given": ["Ada"]}],
            "gender": "female",
            "birthDate": "1984-03-02",
        }
    )
    tablet.add_next_of_kin(ada.id, {"name": "Chidi", "relationship": "brother"})
    visit = tablet.open_encounter(ada.id, {"class": "AMB", "status": "arrived"})
    say("unsent:", tablet.status().unsent)

    # Back in reach: what is queued goes in its order, what is new comes.
    say("applied:", tablet.sync().applied)
    desk.pull(tablet.status().position)
    say("the desk finds:", [view.body["display"]["default"]["text"] for view in desk.search("oko")])

    # Two people correct the same birth date, one of them without network.
    desk.update_demographics(ada.id, {"birthDate": "1984-02-03"})
    tablet.update_demographics(ada.id, {"birthDate": "1984-03-20"})
    desk.sync()
    tablet.sync()
    (conflict,) = tablet.review()
    for field in conflict.fields:
        say(f"{field.path}: was {field.base}, theirs {field.theirs}, mine {field.mine}")
    tablet.resubmit(conflict, {"birthDate": "1984-03-20"})
    say("applied after the review:", tablet.sync().applied)

    # What a person has to say online waits until they do.
    tablet.transition(visit.id, "in-progress")
    tablet.transition(visit.id, "finished")
    tablet.sync()
    (waiting,) = tablet.review()
    say("to confirm:", waiting.mutation.payload["to"])
    tablet.confirm(waiting)
    tablet.sync()
    for mutation in tablet.history():
        say(mutation.number, mutation.operation, mutation.state)
    tablet.close()
    desk.close()


def say(*words: object) -> None:
    """Write a line."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(sys.argv[1], sys.argv[2], Path(made))
