"""The offline-first client: one file, one person at a time, and all that they can do."""

import random as randomness
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx

from registration.client.bookkeeping import Bookkeeping
from registration.client.cache import ENCOUNTER, PATIENT, Cache
from registration.client.changes import Changes, encounters_of
from registration.client.device import Device
from registration.client.line import Line, Patience
from registration.client.merging import replaced
from registration.client.mutation import Mutation
from registration.client.named import NamedChanges
from registration.client.outbox import Outbox
from registration.client.pull import Pull
from registration.client.push import Push
from registration.client.report import Status, SyncReport
from registration.client.review import ReviewItem, review
from registration.client.search import Index, ranked
from registration.client.session import Session
from registration.client.settling import Dependents, Settling
from registration.client.store import Store
from registration.client.views import View, Views
from registration.domain.contract import Operation

ATTEMPTS = 5
"""Failures in a row after which a push or a pull leaves the rest for another time."""


def utc_now() -> datetime:
    """Return the instant, aware, in UTC."""
    return datetime.now(UTC)


class Client(NamedChanges):
    """A device's records and queue, for the person whose token it was opened with.

    Everything but :meth:`push`, :meth:`pull`, :meth:`sync` and :meth:`confirm` works without the
    service. What a method has done is on disk when it returns. Not to be shared between threads.
    """

    def __init__(
        self,
        store: Store,
        device: Device,
        http: httpx.Client,
        *,
        facility: str | None,
        patience: Callable[[], Patience],
    ) -> None:
        """Use :meth:`open`."""
        self._store = store
        self._device = device
        self._http = http
        self._facility = facility
        self._patience = patience
        self._outbox = Outbox(store)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        url: str,
        token: str,
        passphrase: str | None = None,
        client_id: str | None = None,
        facility: str | None = None,
        clock: Callable[[], datetime] = utc_now,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        random: Random | None = None,
        attempts: int = ATTEMPTS,
        timeout: float = 30.0,
    ) -> "Client":
        """Open a device's file, made when missing, for the person of a token.

        ``facility`` is what pulls ask for (``*``: the whole tenant), that of the token if absent.
        ``client_id`` is the device's name for good, made up if absent. The rest is for tests:
        ``clock``, ``transport``, ``sleep`` and ``random`` stand for the world.

        Raises :class:`InvalidToken`, :class:`WrongTenant`, :class:`StoreBusy` and
        :class:`CannotOpen`.
        """
        session = Session.of(token)
        chance = random or randomness.SystemRandom()
        store = Store(Path(path), passphrase)
        try:
            device = Device(store, clock, chance)
            device.claim(session, client_id)
        except BaseException:
            store.close()
            raise
        client = cls(
            store,
            device,
            httpx.Client(base_url=url, transport=transport, timeout=timeout),
            facility=facility,
            patience=lambda: Patience(sleep, chance, attempts),
        )
        client._begin(session)
        return client

    def sign_in(self, token: str) -> None:
        """Go on for the person of another token, or the same one's fresh token.

        What others queued stays theirs. Raises :class:`InvalidToken` and :class:`WrongTenant`.
        """
        session = Session.of(token)
        self._device.claim(session, None)
        self._begin(session)

    def _begin(self, session: Session) -> None:
        store, device, outbox = self._store, self._device, self._outbox
        self._session = session
        self._cache = Cache(store, session.scope(self._facility))
        self._views = Views(device, session, self._cache, outbox)
        self._index = Index(store, self._cache.scope, session.subject)
        self._books = Bookkeeping(self._cache, outbox, self._views, self._index, session.subject)
        self._changes = Changes(
            store, device, session, self._cache, outbox, self._views, self._books
        )
        self._settling = Settling(
            store, device, outbox, self._cache, self._changes, self._books, session.subject
        )
        self._line = Line(self._http, device, session)
        with store.transaction():
            self._books.catch_up()

    def close(self) -> None:
        """Give the file free."""
        self._http.close()
        self._store.close()

    def __enter__(self) -> Self:
        """Return the client; leaving closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    @property
    def client_id(self) -> str:
        """The name that the service knows the device by."""
        return self._device.client_id

    @property
    def session(self) -> Session:
        """Who works at the device."""
        return self._session

    def now(self) -> datetime:
        """Return the time as the service would tell it, as far as is known."""
        return self._device.now()

    # Changes

    def submit(
        self,
        operation: Operation | str,
        aggregate_id: UUID | None,
        payload: Mapping[str, Any],
        entry: UUID | str | None = None,
    ) -> Mutation:
        """Make a change: decided now, as the service would on what is seen here, and queued.

        ``aggregate_id`` may be left to the device on a create. Raises
        :class:`~registration.domain.errors.DomainError` with the code of the service's refusal;
        then nothing is queued.
        """
        return self._changes.submit(Operation(operation), aggregate_id, payload, entry)

    # Views

    def patient(self, patient_id: UUID) -> View | None:
        """Return a patient, own changes included; ``None`` where none is known here."""
        return self._views.view(PATIENT, patient_id)

    def current(self, patient_id: UUID) -> View | None:
        """Return the record that a patient is found under now: itself, or what replaced it.

        Where that is not known here it is the last one on the way that is; ``replaced_by`` says
        so. ``None`` where the patient is not known here.
        """
        return self._views.current(patient_id)

    def encounter(self, encounter_id: UUID) -> View | None:
        """Return an encounter, own changes included; ``None`` where none is known here."""
        return self._views.view(ENCOUNTER, encounter_id)

    def encounters(self, patient_id: UUID) -> list[View]:
        """Return the encounters of a patient, the one opened last first.

        Merged records are one patient's, whichever of them is asked for; ``patientId`` says which
        one an encounter was recorded for.
        """
        current = self.current(patient_id)
        others = () if current is None else (current.id, *replaced(current.body))
        ids = dict.fromkeys((patient_id, *others))
        found = [
            its_id
            for each in ids
            for its_id in encounters_of(self._cache, self._outbox, self._session.subject, each)
        ]
        views = [view for its_id in found if (view := self.encounter(its_id)) is not None]
        return sorted(views, key=lambda view: str(view.body["openedAt"]), reverse=True)

    def search(self, text: str, limit: int = 20) -> list[View]:
        """Return the patients that meet every word of a text, best first.

        A word is (the beginning of) a name in any script, a birth date or its beginning
        (``1984-03``), or an identifier. What a merged record is found by finds its survivor.
        """
        changed = self._outbox.changed(self._session.subject, PATIENT)
        found = self._index.find(text, frozenset(map(str, changed)))
        views: dict[UUID, View] = {}
        for its_id in ranked(self._views, found, text):
            if len(views) >= limit:
                break
            view = self.current(its_id)
            if view is not None:
                views.setdefault(view.id, view)
        return list(views.values())

    # The service

    def push(self) -> SyncReport:
        """Send what is queued, in order, as far as the service takes it now.

        Raises :class:`Unauthorised` where it wants another token and :class:`ServiceRefused` for
        an answer that should not be; what was not answered stays queued either way.
        """
        report = self._push().run(self._patience())
        return self._completed(report)

    def pull(self, min_position: int | None = None) -> SyncReport:
        """Take in what changed at the service. Raises as :meth:`push` does."""
        pull = Pull(
            self._store,
            self._device,
            self._cache,
            self._line,
            self._facility,
            self._books.took_in,
            self._books.erased,
        )
        return self._completed(pull.run(self._patience(), min_position))

    def sync(self) -> SyncReport:
        """Push, then pull until what was pushed is in. Raises as :meth:`push` does."""
        push = self._push()
        pushed = push.run(self._patience())
        if pushed.offline:
            return self._completed(pushed)
        return pushed.followed_by(self.pull(push.position))

    def _push(self) -> Push:
        return Push(
            self._store,
            self._device,
            self._outbox,
            self._line,
            self._session.subject,
            self._books.settled,
            self._books.refused_as_erased,
        )

    def _completed(self, report: SyncReport) -> SyncReport:
        status = self.status()
        return replace(
            report, waiting=status.unsent, others=status.others, position=status.position
        )

    # Review

    def review(self) -> list[ReviewItem]:
        """Return what waits for the person, oldest first; what is blocked below its cause."""
        return review(self._outbox, self._cache, self._session.subject)

    def resubmit(self, item: ReviewItem, payload: Mapping[str, Any] | None = None) -> Mutation:
        """Queue a refused change anew, on top of what the item shows; what was blocked follows.

        ``payload`` is what it shall say now, whole; as before if absent. Raises
        :class:`ReviewError`, and the domain's refusal of what is impossible: ``PATIENT_MERGED``
        for a record that is merged away, see :meth:`apply_to_survivor`.
        """
        return self._settling.resubmit(item, payload)

    def apply_to_survivor(
        self, item: ReviewItem, payload: Mapping[str, Any] | None = None
    ) -> Mutation:
        """Queue a refused change for the record that its patient was merged into.

        It is made on top of what the item shows of that. What builds on it goes along, unless that
        lays it over something: then it is an item by itself. Raises as :meth:`resubmit`.
        """
        return self._settling.apply_to_survivor(item, payload)

    def discard(self, item: ReviewItem, reason: str, dependents: Dependents | None = None) -> None:
        """Give a refused change up, for a reason that the history keeps.

        Where others build on it, say what becomes of them: ``discard`` gives up the chain,
        ``detach`` sends them without it. Raises :class:`ReviewError`.
        """
        self._settling.discard(item, reason, dependents)

    def confirm(self, item: ReviewItem) -> Mutation:
        """Do online what the service wants a person to say there; needs the service.

        What was blocked by it goes with the next push. Raises :class:`NotConfirmed`,
        :class:`ServiceAway`, :class:`Unauthorised` and :class:`ReviewError`.
        """
        return self._settling.confirm(item, self._line)

    def mutation(self, number: int) -> Mutation | None:
        """Return a mutation of this device by its number."""
        return self._outbox.numbered(number)

    def history(self) -> list[Mutation]:
        """Return every mutation of the device, everybody's, and what became of each."""
        return self._outbox.history()

    def status(self) -> Status:
        """Return where the device stands."""
        subject = self._session.subject
        place = self._cache.place()
        return Status(
            unsent=self._outbox.count(subject),
            in_review=len(self._outbox.in_review(subject)),
            others=self._outbox.count(subject, others=True),
            last_sync=datetime.fromisoformat(place.synced_at) if place.synced_at else None,
            position=place.position,
            skew=self._device.skew,
        )
