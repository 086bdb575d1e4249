"""A laboratory that keeps orders by patient, and learns of merges from the links of what it pulls.

Run it against a service of your own; it needs the scopes sync and patient:read alone:

    registration serve &
    python examples/downstream.py http://127.0.0.1:8000 "$(registration token --role desk)"

Each line is a command: `order ID PATIENT` takes an order in, `pull` takes in what is new and says
which orders moved, `list` says whose each order is by now.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass
class Order:
    """What was ordered for whom: ``recorded_for`` never changes, ``patient`` is who that is now."""

    id: str
    recorded_for: str
    patient: str


class Laboratory:
    """The orders, and what replaced each patient as far as pulls have told.

    A real one keeps ``cursor``, ``replaced_by`` and the orders in one database, and moves all three
    in one transaction.
    """

    def __init__(self, service: httpx.Client) -> None:
        self._service = service
        self._cursor: str | None = None
        self._replaced_by: dict[str, str] = {}
        self.orders: list[Order] = []

    def take(self, order_id: str, patient: str) -> Order:
        """Take an order in, under the record that the patient is found by now."""
        order = Order(order_id, patient, self.current(patient))
        self.orders.append(order)
        return order

    def pull(self) -> Iterator[str]:
        """Take in what changed, and say which orders moved."""
        while True:
            page = self._page()
            for item in page["items"]:
                if item["kind"] == "patient" and "body" in item:
                    self._note(item["id"], item["body"]["links"])
            self._cursor = page["cursor"]
            if not page["more"]:  # between two pages the links may not fit each other
                break
        for order in self.orders:
            now = self.current(order.recorded_for)
            if now != order.patient:
                yield f"order {order.id}: {order.patient} -> {now}"
                order.patient = now

    def current(self, patient: str) -> str:
        """Return the record that a patient is found under: the last one of a chain of merges."""
        while patient in self._replaced_by:
            patient = self._replaced_by[patient]
        return patient

    def _note(self, patient: str, links: list[dict[str, str]]) -> None:
        """Keep what a patient's links say; without the link, a merge is undone."""
        self._replaced_by.pop(patient, None)
        for link in links:
            if link["type"] == "replaced-by":
                self._replaced_by[patient] = link["patientId"]

    def _page(self) -> dict[str, Any]:
        """Return the next page; from the start again where the cursor is too old."""
        for cursor in (self._cursor, None):
            params = {"facility": "*"} | ({} if cursor is None else {"cursor": cursor})
            answer = self._service.get("/v1/sync/pull", params=params)
            if answer.status_code != 410:  # RESYNC_REQUIRED
                break
            self._replaced_by.clear()
        page: dict[str, Any] = answer.raise_for_status().json()
        return page


def main(url: str, token: str) -> None:
    """Carry out the commands on standard input."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as service:
        laboratory = Laboratory(service)
        for line in sys.stdin:
            match line.split():
                case ["order", order_id, patient]:
                    order = laboratory.take(order_id, patient)
                    say(f"order {order.id} for {order.patient}")
                case ["pull"]:
                    for moved in laboratory.pull():
                        say(moved)
                    say("pulled")
                case ["list"]:
                    for order in laboratory.orders:
                        say(f"{order.id}: {order.patient}, recorded for {order.recorded_for}")


def say(words: str) -> None:
    """Write a line, at once."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
