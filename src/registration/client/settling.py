"""What a person decides in the review: send it again, discard it, or confirm it online.

Each mutation ends once, as applied or as discarded with a reason. One that is sent again is
discarded as superseded, and a new one with an id of its own stands in its place.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import httpx
import orjson

from registration.client.bookkeeping import Bookkeeping
from registration.client.cache import PATIENT, Cache
from registration.client.changes import Changes
from registration.client.device import Device
from registration.client.errors import NotConfirmed, ReviewError, Unauthorised
from registration.client.line import Away, Line, problem_of, refusal
from registration.client.merging import merged_away, patient_of, survivor_for
from registration.client.moving import SUPERSEDED, Moving, names_an_entry
from registration.client.mutation import ERASED, IN_REVIEW, Mutation, State
from registration.client.outbox import Outbox
from registration.client.review import ReviewItem, dependents
from registration.client.store import Store
from registration.domain.handlers import HANDLERS

_VERSION = re.compile(r'"(\d+)"')

Dependents = Literal["discard", "detach"]
"""What becomes of what builds on a discarded mutation."""


class Settling:
    """The decisions of one person."""

    def __init__(
        self,
        store: Store,
        device: Device,
        outbox: Outbox,
        cache: Cache,
        changes: Changes,
        bookkeeping: Bookkeeping,
        subject: str,
    ) -> None:
        self._store = store
        self._device = device
        self._outbox = outbox
        self._cache = cache
        self._changes = changes
        self._bookkeeping = bookkeeping
        self._subject = subject
        self._moving = Moving(device, outbox, cache, changes, bookkeeping)

    def resubmit(self, item: ReviewItem, payload: Mapping[str, Any] | None) -> Mutation:
        """Queue the change anew, made on what the item shows, and what builds on it after it.

        ``payload`` is what it shall say now, whole; as before if absent. Raises the domain's
        refusal of a payload that is impossible, ``PATIENT_MERGED`` where the record is merged away
        still, and :class:`ReviewError`.
        """
        old = self._certain(item)
        if old.is_erased:
            raise ReviewError("this was about somebody who was erased: it can only be discarded")
        self._refuse_merged(old)
        said = old.payload if payload is None else payload
        # of a record that has left nothing is shown: what was done since the service tells
        base = old.base_version if item.base_version is None else item.base_version
        with self._store.transaction():
            hanging = dependents(self._outbox, old)
            for each in (old, *hanging):  # all first: nothing new builds on what goes
                self._outbox.discarded(each, SUPERSEDED, self._device.now())
            made = self._changes.again(old, said, base, checked=payload is not None)
            self._outbox.discarded(old, SUPERSEDED, self._device.now(), made.id)
            self._follow(hanging)
        return made

    def apply_to_survivor(self, item: ReviewItem, payload: Mapping[str, Any] | None) -> Mutation:
        """Queue the change for the record that its patient was merged into.

        It is made on the version of that which the item shows. What builds on it goes along, or is
        put to the person by itself (:mod:`registration.client.moving`). Raises the domain's
        refusal of a payload that is impossible, and :class:`ReviewError`.
        """
        old = self._certain(item)
        survivor = survivor_for(self._cache, old)
        if survivor is None or survivor != item.survivor:
            raise ReviewError("this is not merged into that record now: look at the review again")
        if names_an_entry(old):
            raise ReviewError("this is about an entry that the survivor does not have")
        said = old.payload if payload is None else payload
        # what a device does not know it cannot check
        checked = payload is not None and self._cache.get(PATIENT, survivor) is not None
        with self._store.transaction():
            return self._moving.move(old, survivor, said, item.base_version, checked=checked)

    def discard(self, item: ReviewItem, reason: str, depending: Dependents | None) -> None:
        """Give a change up. Raises :class:`ReviewError`.

        Where others build on it, ``depending`` has to say what becomes of them: ``discard`` gives
        the chain up, for the same reason; ``detach`` sends them without it, which cannot be where
        it was to create their record. Where the patient was merged away nothing can be sent: then
        each is put to the person by itself.
        """
        old = self._certain(item)
        if not reason.strip():
            raise ReviewError("a reason is needed")
        hanging = dependents(self._outbox, old)
        if hanging and depending is None:
            raise ReviewError(
                f"changes that build on it: {len(hanging)}; say whether to discard or detach them"
            )
        if hanging and depending == "detach" and HANDLERS[old.operation].creates:
            raise ReviewError("what builds on a record that will not be cannot be detached")
        survivor = survivor_for(self._cache, old)
        with self._store.transaction():
            self._outbox.discarded(old, reason, self._device.now())
            if depending == "detach" and survivor is not None:
                self._moving.part(old, survivor, hanging)
                hanging = []
            for each in hanging:
                kept = SUPERSEDED if depending == "detach" else reason
                self._outbox.discarded(each, kept, self._device.now())
            if depending == "detach":
                self._follow(hanging)
            self._bookkeeping.settled([old, *hanging])

    def confirm(self, item: ReviewItem, line: Line) -> Mutation:
        """Send the request that a person confirms; what builds on it is queued again.

        Raises :class:`NotConfirmed` where the service refuses it (the item then says why),
        :class:`ServiceAway` where it does not answer, :class:`ReviewError`.
        """
        old = self._open(item)
        request = (old.problem or {}).get("confirm")
        if old.state is not State.CONFIRMATION or request is None:
            raise ReviewError("this is nothing to confirm")
        if not str(request["href"]).startswith("/"):
            raise ReviewError("the request does not go to the service")
        answer = self._ask(old, request, line)
        if not answer.is_success:
            self._refused(old, answer)
        with self._store.transaction():
            position = int(answer.headers.get("x-log-position", 0))
            self._outbox.applied(old, _version(answer), position, self._device.now())
            for each in dependents(self._outbox, old):
                if each.state is State.BLOCKED:
                    self._outbox.queue_again(each)
            self._bookkeeping.settled([old])
        return self._outbox.by_id(old.id)

    def _ask(self, old: Mutation, request: Mapping[str, Any], line: Line) -> httpx.Response:
        """Send the request; until an answer comes it may be done, and cannot be given up."""
        body = request.get("body")
        self._doubt(old, doubtful=True)
        try:
            answer = line.ask(
                request["method"],
                request["href"],
                content=None if body is None else orjson.dumps(body),
                headers={**request.get("headers", {}), "Content-Type": "application/json"},
            )
        except (Away, Unauthorised) as error:
            # whether an earlier request did it, this answer does not say
            again = isinstance(error, Away) and error.doubtful
            self._doubt(old, doubtful=old.doubtful or again)
            raise
        return answer

    def _doubt(self, old: Mutation, *, doubtful: bool) -> None:
        with self._store.transaction():
            self._outbox.doubt([old], doubtful=doubtful)

    def _refused(self, old: Mutation, answer: httpx.Response) -> None:
        status, code, request_id = refusal(answer)
        state = State.CONFLICT if status in (409, 412) else State.REJECTED
        with self._store.transaction():
            self._outbox.refused(old, state, problem_of(answer) | {"code": code})
            if code == ERASED:
                self._bookkeeping.refused_as_erased(old)
        raise NotConfirmed(status, code, request_id)

    def _open(self, item: ReviewItem) -> Mutation:
        """Return the item's mutation as it is now. Raises :class:`ReviewError` where it is done."""
        now = self._outbox.numbered(item.number)
        if now is None or now.state not in IN_REVIEW or now.state != item.kind:
            raise ReviewError("this is settled, or not what it was: look at the review again")
        if now.subject != self._subject:
            raise ReviewError("this is another person's")
        return now

    def _certain(self, item: ReviewItem) -> Mutation:
        """Return the item's mutation, unless it may be done for all that is known here."""
        old = self._open(item)
        if old.doubtful:
            raise ReviewError("the answer to its confirmation got lost: confirm it again first")
        return old

    def _refuse_merged(self, old: Mutation) -> None:
        survivor = survivor_for(self._cache, old)
        patient_id = patient_of(old.operation, old.aggregate_id, old.payload)
        if survivor is not None and patient_id is not None:
            raise merged_away(self._cache, patient_id, survivor)

    def _follow(self, hanging: list[Mutation]) -> None:
        """Queue anew, in order, what built on a mutation that is discarded by now.

        Each keeps the base that it had. What the person looked at showed what the discarded one
        changes, and not what these change: what others did there since is theirs to be told.
        """
        for each in hanging:
            made = self._changes.again(each, each.payload, _base(each), checked=False)
            self._outbox.discarded(each, SUPERSEDED, self._device.now(), made.id)


def _base(mutation: Mutation) -> int:
    """Return the version that a change was made on: without one its record was made here."""
    if mutation.base_version is not None:
        return mutation.base_version
    return 1 if HANDLERS[mutation.operation].part is None else 0


def _version(answer: httpx.Response) -> int | None:
    found = _VERSION.fullmatch(answer.headers.get("etag", ""))
    return int(found[1]) if found else None
