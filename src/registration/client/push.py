"""Sending what is queued, in the order of the ids, and noting what became of it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from registration.client.batches import MOST_MUTATIONS, Batch, first_batch
from registration.client.device import Device
from registration.client.errors import Unauthorised
from registration.client.line import Away, Line, Patience, accepted, problem_of
from registration.client.mutation import ERASED, Mutation, State
from registration.client.outbox import Outbox
from registration.client.rekey import is_ahead, redate, rekey
from registration.client.report import SyncReport
from registration.client.store import Store

_REVIEW = {
    "conflict": (State.CONFLICT, "conflicts"),
    "rejected": (State.REJECTED, "rejected"),
    "blocked": (State.BLOCKED, "blocked"),
}
_TO_CONFIRM = "ONLINE_CONFIRMATION_REQUIRED"
_BAD_ID = "MUTATION_ID_INVALID"


class Push:
    """One call of :meth:`run` sends all that a person has queued, as far as the service takes it.

    ``settled`` is told, inside the transaction, which mutations an answer settled, ``erased`` which
    were about somebody who was erased.
    """

    def __init__(
        self,
        store: Store,
        device: Device,
        outbox: Outbox,
        line: Line,
        subject: str,
        settled: Callable[[Sequence[Mutation]], None],
        erased: Callable[[Mutation], None],
    ) -> None:
        self._store = store
        self._device = device
        self._outbox = outbox
        self._line = line
        self._subject = subject
        self._settled = settled
        self._erased = erased
        self._most = MOST_MUTATIONS
        self._rekeyed = False
        self.report = SyncReport()
        self.position: int | None = None
        """How far the log was with the last answer."""

    def run(self, patience: Patience) -> SyncReport:
        """Push until nothing is queued or patience ends.

        Raises what :meth:`Line.ask` and :func:`accepted` raise; what was not answered stays queued.
        """
        self._unblock()
        while self._outbox.count(self._subject):
            try:
                progress, wish = self._step()
            except Away as away:
                progress, wish = False, away.retry_after
            if progress:
                patience.renew()
                if wish is not None:
                    patience.lasts(wish)
            elif not patience.lasts(wish):
                self.report = replace(self.report, offline=True)
                break
        return self.report

    def _step(self) -> tuple[bool, float | None]:
        """Send one push; returns whether that settled something, and else how long to wait."""
        if self._device.skew is None:
            self._line.hear_the_time()
        with self._store.transaction():
            redate(self._device, self._outbox)
        batch = first_batch(self._device.client_id, self._next(), self._most)
        content, headers = batch.encoded()
        self._doubt(batch, doubtful=True)
        try:
            answer = self._line.ask("POST", "/v1/sync/push", content=content, headers=headers)
        except Away as away:
            if not away.doubtful:
                self._undoubt(batch)
            raise
        except Unauthorised:
            self._undoubt(batch)
            raise
        if not answer.is_success:
            self._undoubt(batch)
        if answer.status_code == 413:
            return self._smaller(batch, problem_of(answer)), None
        return self._take_in(batch, accepted(answer, "results", "position"))

    def _undoubt(self, batch: Batch) -> None:
        """Note that this push did nothing: what was in doubt before it still is."""
        with self._store.transaction():
            self._outbox.doubt([m for m in batch.mutations if not m.doubtful], doubtful=False)

    def _next(self) -> list[Mutation]:
        """Return what to send, with ids that the service can take, as far as that is ours to do.

        What may be in although its id is ahead goes alone and first: the answer tells.
        """
        last = self._outbox.last_queued(self._subject)
        if not self._rekeyed and last is not None and is_ahead(last, self._device.now()):
            doubtful = self._outbox.doubtful(self._subject)
            if doubtful:
                return doubtful
            self._rekey()
        return self._outbox.queued(self._subject, self._most)

    def _rekey(self) -> None:
        queue = self._outbox.queued(self._subject)
        with self._store.transaction():
            count = rekey(self._device, self._outbox, queue)
        self._rekeyed = count > 0  # once is enough: what is refused after that is for a person
        self.report = self.report.plus(rekeyed=count)

    def _smaller(self, batch: Batch, problem: Mapping[str, Any]) -> bool:
        """Send less at once from now on; a single mutation that is too large is for a person."""
        if len(batch.mutations) > 1:
            self._most = len(batch.mutations) // 2
            return True
        with self._store.transaction():
            self._refuse(batch.mutations[0], "rejected", {"code": "PAYLOAD_TOO_LARGE", **problem})
            self._settled(batch.mutations)
        self.report = self.report.plus(sent=1)
        return True

    def _take_in(self, batch: Batch, answer: Mapping[str, Any]) -> tuple[bool, float | None]:
        """Note an answer, in one transaction."""
        results = {result["clientMutationId"]: result for result in answer["results"]}
        told = [(m, results[str(m.id)]) for m in batch.mutations if str(m.id) in results]
        wish: float | None = None
        bad_ids = not self._rekeyed and any(_outcome(r)[1] == _BAD_ID for _, r in told)
        done: Counter[str] = Counter()
        with self._store.transaction():
            for mutation, result in told:
                status, code = _outcome(result)
                if status == "retry":
                    wish = max(wish or 0.0, float(result.get("retryAfter", 1)))
                elif bad_ids and (code == _BAD_ID or status == "blocked"):
                    self._outbox.doubt([mutation], doubtful=False)
                else:
                    self._settle(mutation, result, answer["position"])
                    done["duplicates"] += result["status"] == "duplicate"
                    done["sent"] += 1
            # last: with them goes what the same answer called blocked
            for mutation in (m for m, result in told if _outcome(result)[1] == ERASED):
                self._erased(mutation)
            self._settled(batch.mutations)
        self.position = answer["position"]
        self.report = self.report.plus(**done)
        if bad_ids:
            self._rekey()
        return bool(done["sent"]) or (bad_ids and self._rekeyed), wish

    def _settle(self, mutation: Mutation, result: Mapping[str, Any], position: int) -> None:
        status, _ = _outcome(result)
        if status == "applied":
            version = result.get("version", result.get("original", {}).get("version"))
            self._outbox.applied(mutation, version, position, self._device.now())
            self.report = self.report.plus(applied=1)
        else:
            self._refuse(mutation, status, _problem(result), position)

    def _refuse(
        self,
        mutation: Mutation,
        status: str,
        problem: Mapping[str, Any],
        position: int | None = None,
    ) -> None:
        state, counted = _REVIEW[status]
        if problem.get("code") == _TO_CONFIRM:
            state, counted = State.CONFIRMATION, "confirmations"
        self._outbox.refused(mutation, state, problem, position)
        self.report = self.report.plus(**{counted: 1})

    def _doubt(self, batch: Batch, *, doubtful: bool) -> None:
        with self._store.transaction():
            self._outbox.doubt(batch.mutations, doubtful=doubtful)

    def _unblock(self) -> None:
        """Queue again what was blocked by what is not in the way any more."""
        with self._store.transaction():
            for mutation in self._outbox.in_review(self._subject):
                if mutation.state is not State.BLOCKED:
                    continue
                before = self._outbox.find(mutation.after)
                if before is not None and before.state in (State.APPLIED, State.QUEUED):
                    self._outbox.queue_again(mutation)


def _outcome(result: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return what became of a mutation, now or when it was answered before, and the code."""
    told = result["original"] if result["status"] == "duplicate" else result
    return told["status"], told.get("code", result.get("problem", {}).get("code"))


def _problem(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return why a mutation was refused, with the request that confirms it where there is one."""
    original = result.get("original", {})
    problem = dict(result.get("problem") or original.get("problem") or {})
    problem.setdefault("code", _outcome(result)[1])
    confirm = result.get("confirm") or original.get("confirm")
    return problem if confirm is None else {**problem, "confirm": confirm}
