"""Taking in what changed at the service, page by page, each with its cursor in one transaction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from registration.client.cache import Cache, Place
from registration.client.device import Device
from registration.client.line import Away, Line, Patience, accepted, problem_of
from registration.client.report import SyncReport
from registration.client.store import Store

_BEHIND = "READ_MODEL_BEHIND"

Changed = Sequence[tuple[str, str]]
"""Kind and id of records."""


class Pull:
    """One call of :meth:`run` pulls every page.

    ``took_in`` is told, inside the transaction of each page, which records changed, and at the end
    up to which position everything is here. ``erased`` is told the same way of each record that
    nobody is to know any longer: its kind and id.
    """

    def __init__(
        self,
        store: Store,
        device: Device,
        cache: Cache,
        line: Line,
        facility: str | None,
        took_in: Callable[[Changed, int | None], None],
        erased: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._device = device
        self._cache = cache
        self._line = line
        self._facility = facility
        self._took_in = took_in
        self._erased = erased
        self.report = SyncReport(position=cache.place().position)

    def run(self, patience: Patience, min_position: int | None) -> SyncReport:
        """Pull until there is no more, or patience ends. Raises what :meth:`Line.ask` does.

        Where the service does not get as far as ``min_position`` in time, it shows what it has.
        """
        while True:
            try:
                if not self._step(min_position):
                    return self.report
                patience.renew()
            except _Behind as behind:
                if not patience.lasts(behind.retry_after):
                    min_position = None
                    patience.renew()
                    self.report = replace(self.report, behind=True)
            except Away as away:
                if not patience.lasts(away.retry_after):
                    self.report = replace(self.report, offline=True)
                    return self.report

    def _step(self, min_position: int | None) -> bool:
        """Pull one page; returns whether there is more."""
        place = self._cache.place()
        params: dict[str, str | int] = {}
        if place.cursor is not None:
            params["cursor"] = place.cursor
        if self._facility is not None:
            params["facility"] = self._facility
        if min_position is not None and not place.resyncing:
            params["minPosition"] = min_position
        try:
            answer = self._line.ask("GET", "/v1/sync/pull", params=params)
        except Away as away:
            raise _Behind.of(away) if away.code == _BEHIND else away from None
        if answer.status_code == 410 and problem_of(answer).get("code") == "RESYNC_REQUIRED":
            self._begin_anew(place)
            return True
        page = accepted(answer, "items", "cursor", "more", "position")
        self._keep(page, place)
        return bool(page["more"])

    def _begin_anew(self, place: Place) -> None:
        """Pull everything from here on; what is here stays until all of it came."""
        with self._store.transaction():
            self._cache.move(
                place._replace(cursor=None, generation=place.generation + 1, resyncing=True)
            )
        self.report = replace(self.report, resynced=True)

    def _keep(self, page: Mapping[str, Any], place: Place) -> None:
        complete = not page["more"]
        with self._store.transaction():
            changed = []
            for item in page["items"]:
                changed.append((item["kind"], item["id"]))
                if item.get("erased"):
                    self._erased(item["kind"], item["id"])
                elif item.get("deleted"):
                    self._cache.drop(item["kind"], item["id"])
                else:
                    self._cache.put(item, place.generation)
            if complete and place.resyncing:
                changed += self._drop_what_did_not_come(place.generation)
            place = place._replace(cursor=page["cursor"])
            if complete:
                place = place._replace(
                    resyncing=False,
                    position=page["position"],
                    synced_at=self._device.now().isoformat(),
                )
            self._cache.move(place)
            self._took_in(changed, page["position"] if complete else None)
        gone = sum(bool(item.get("deleted")) for item in page["items"])
        self.report = replace(
            self.report.plus(pulled=len(page["items"]) - gone, deleted=gone),
            position=place.position,
        )

    def _drop_what_did_not_come(self, generation: int) -> list[tuple[str, str]]:
        gone = self._cache.older_than(generation)
        for kind, its_id in gone:
            self._cache.drop(kind, its_id)
        self.report = self.report.plus(deleted=len(gone))
        return gone


class _Behind(Exception):
    """The service has not got as far as it was asked for."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__(_BEHIND)
        self.retry_after = retry_after

    @classmethod
    def of(cls, away: Away) -> "_Behind":
        return cls(away.retry_after)
