"""Who works in a simulated clinic at devices that are offline most of the time."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from registration.client import (
    Client,
    Mutation,
    NotConfirmed,
    ReviewError,
    ReviewItem,
    ServiceAway,
    SyncReport,
)
from registration.domain.contract import Operation
from registration.domain.errors import DomainError
from registration.simulation.known import (
    CARD,
    FLAGS,
    Known,
    Reviewed,
    consent_of,
    correction,
    fresh_id,
    identity,
)
from registration.simulation.network import Crash, Network
from registration.simulation.world import World, token_of


class DeviceUser:
    """Somebody at a device that is offline most of the time."""

    def __init__(
        self, world: World, known: Known, folder: Path, tenant: str, name: str, random: Random
    ) -> None:
        """Open the device; ``random`` decides all that its person and its network do."""
        self.name = name
        self.random = random
        # a chance of its own for each: how often the program draws depends on the milliseconds
        self._programs = Random(random.getrandbits(64))  # noqa: S311
        self.network = Network(world, Random(random.getrandbits(64)))  # noqa: S311
        self.clock_off = timedelta(0)
        self.seen: dict[int, Any] = {}
        """By the number of a mutation, what its author saw of that which it changes."""
        self._world = world
        self.known = known
        self._folder = folder
        self._tenant = tenant
        self.facility = random.choice((None, "north", "south"))
        self.subject = f"user-of-{name}"
        self.client = self._opened()

    def _clock(self) -> datetime:
        return self._world.now() + self.clock_off

    def _opened(self) -> Client:
        return Client.open(
            self._folder / f"{self.name}.db",
            url=self._world.url,
            token=token_of(
                self._world, subject=self.subject, tenant=self._tenant, facility=self.facility
            ),
            client_id=self.name,
            clock=self._clock,
            transport=self.network,
            sleep=lambda _seconds: None,
            random=self._programs,
            attempts=3,
        )

    def close(self) -> None:
        """Switch the device off."""
        self.client.close()

    def crash(self) -> str:
        """Kill the program and start it again."""
        self.client.close()
        self.network = self.network.anew()
        self.client = self._opened()
        return "crashes"

    def change(self) -> str:
        """Make a random change, offline."""
        patients = [i for i in self.known.patients if self.client.patient(i) is not None]
        rarely = 0.35 if len(patients) < 3 else 0.08
        made = _new_patient if not patients or self.random.random() < rarely else _any_change
        return made(self, patients)

    def submit(
        self,
        operation: str,
        its_id: UUID,
        payload: Mapping[str, Any],
        entry: str | None = None,
        seen: Any = None,
    ) -> str:
        """Queue a change, and remember what its author saw; returns what the trace says of it."""
        try:
            mutation = self.client.submit(operation, its_id, payload, entry)
        except DomainError as error:
            return f"{operation} {self.known.called(its_id)}: {error.code} at the device"
        self.seen[mutation.number] = seen
        return f"{operation} {self.known.called(its_id)}: queued as {mutation.number}"

    def sync(self, how: str = "sync") -> str:
        """Meet the service as far as the network lets it, or crash on the way."""
        try:
            report = getattr(self.client, how)()
        except Crash:
            self.crash()
            report = None
        if self.network.killed:
            # what the service did before it died is unknown: find out before anybody goes on
            self.network.killed = False
            self.settle_quietly()
            return f"{how}: the service is killed"
        return f"{how}: crashes on the way" if report is None else f"{how}: {_told(report)}"

    def settle_quietly(self) -> SyncReport:
        """Push and pull without any fault."""
        bad, self.network.bad = self.network.bad, False
        try:
            self._world.settle(self._tenant)
            self.client.push()
            return self.client.pull(self._world.settle(self._tenant))
        finally:
            self.network.bad = bad

    def look_at_review(self) -> str:
        """Settle one thing that waits for a person."""
        waiting = self.client.review()
        if not waiting:
            return "has nothing to review"
        item = waiting[self.random.randrange(len(waiting))]
        return self.settle(item)

    def settle(self, item: ReviewItem, *, for_good: bool = False) -> str:
        """Confirm, send again or give up; ``for_good``: do not send again."""
        before = {mutation.number for mutation in self.client.history()}
        told = self._settled(item, for_good=for_good)
        for mutation in self.client.history():
            if mutation.number not in before:
                self.seen[mutation.number] = self._seen_again(mutation, item)
        return told

    def _settled(self, item: ReviewItem, *, for_good: bool) -> str:
        what = f"{item.kind} {item.number} ({item.code})"
        chance = self.random.random()
        if item.survivor is not None and not for_good and chance < 0.75:
            return self._merged(item, what, keep=chance > 0.5)
        # one whose answer got lost may be done, and cannot be given up before that is known
        if item.kind == "confirmation" and (chance < 0.7 or item.mutation.doubtful):
            try:
                self.client.confirm(item)
            except (NotConfirmed, ServiceAway) as error:
                return f"confirms {what}: {type(error).__name__}"
            except Crash:
                self.crash()
                return f"confirms {what}: crashes"
            return f"confirms {what}"
        try:
            if item.kind == "conflict" and not item.survivor and chance < 0.6 and not for_good:
                return f"sends {what} again as {self.client.resubmit(item).number}"
            if self.random.random() < 0.5:
                with suppress(ReviewError):
                    self.client.discard(item, "not needed", "detach")
                    return f"gives {what} up, and sends what builds on it without it"
            self.client.discard(item, "not needed", "discard")
        except (DomainError, ReviewError) as error:
            return f"cannot settle {what}: {error}"
        return f"gives {what} up, and all that builds on it"

    def _merged(self, item: ReviewItem, what: str, *, keep: bool) -> str:
        """Decide on a change of a record that was merged away."""
        if keep:
            return f"keeps {what} for later"
        try:
            made = self.client.apply_to_survivor(item)
        except ReviewError as error:
            return f"cannot settle {what}: {error}"
        return f"sends {what} to the survivor as {made.number}"

    def _seen_again(self, made: Mutation, item: ReviewItem) -> Any:
        """Return what its author saw of what a change that was sent again changes."""
        if made.supersedes == item.mutation.id:
            return Reviewed(item.base_version)
        old = next(each for each in self.client.history() if each.id == made.supersedes)
        if made.operation is Operation.UPDATE_DEMOGRAPHICS:
            return Reviewed(made.base_version)
        if (made.aggregate_id, made.operation, made.entry) == (
            item.mutation.aggregate_id,
            item.mutation.operation,
            item.mutation.entry,
        ):
            return Reviewed(None)
        return self.seen.get(old.number)


def _told(report: SyncReport) -> str:
    """Say what a sync did; a duplicate is an applied one whose answer was lost."""
    return (
        f"applied {report.applied}, conflicts {report.conflicts}, rejected {report.rejected}, "
        f"blocked {report.blocked}, to confirm {report.confirmations}, waiting {report.waiting}"
    )


def _new_patient(user: DeviceUser, _patients: list[UUID]) -> str:
    random = user.random
    its_id = fresh_id(random)
    user.known.patients.append(its_id)
    number = len(user.known.patients)
    payload: dict[str, Any] = {
        "names": [{"family": f"Okoro{number}", "given": ["Ada"]}],
        "gender": random.choice(("female", "male", "unknown")),
        "birthDate": f"19{random.randrange(10, 99)}",
    }
    if random.random() < 0.4:
        payload["identifiers"] = [{"system": CARD, "value": str(random.randrange(12))}]
    return user.submit("patient.register", its_id, payload)


def _any_change(user: DeviceUser, patients: list[UUID]) -> str:
    (change,) = user.random.choices(_CHANGES, weights=_WEIGHTS)
    return change(user, _now(user, user.random.choice(patients)))


def _now(user: DeviceUser, its_id: UUID) -> UUID:
    """Return the record that a patient is found under now, or the retired one: people err."""
    view = user.client.current(its_id)
    if view is None or view.id == its_id or user.random.random() < 0.3:
        return its_id
    return view.id


def _correct(user: DeviceUser, its_id: UUID) -> str:
    view = user.client.patient(its_id)
    seen = None if view is None else identity(view.body)
    payload = correction(user.random)
    return user.submit("patient.update_demographics", its_id, payload, seen=seen)


def _add_kin(user: DeviceUser, its_id: UUID) -> str:
    payload = {"name": f"Kin {user.random.randrange(1000)}", "relationship": "cousin"}
    return user.submit("patient.add_next_of_kin", its_id, payload)


def _add_name(user: DeviceUser, its_id: UUID) -> str:
    payload = {"use": "nickname", "given": [f"Nick {user.random.randrange(1000)}"]}
    return user.submit("patient.add_name", its_id, payload)


def _add_identifier(user: DeviceUser, its_id: UUID) -> str:
    payload = {"system": CARD, "value": str(user.random.randrange(12))}
    return user.submit("patient.add_identifier", its_id, payload)


def _retire_identifier(user: DeviceUser, its_id: UUID) -> str:
    view = user.client.patient(its_id)
    held = [] if view is None else view.body.get("identifiers", [])
    if not held:
        return _add_identifier(user, its_id)
    entry = user.random.choice(sorted(held, key=lambda each: str(each["value"])))["id"]
    return user.submit("patient.retire_identifier", its_id, {"reason": "lost"}, str(entry))


def _consent(user: DeviceUser, its_id: UUID) -> str:
    flag = user.random.choice(FLAGS)
    view = user.client.patient(its_id)
    seen = None if view is None else consent_of(view.body, flag)
    payload = {
        "decision": user.random.choice(("granted", "refused", "withdrawn")),
        "evidence": {"kind": "verbal", "reference": str(user.random.randrange(10**6))},
    }
    return user.submit("patient.set_consent", its_id, payload, flag, seen=seen)


def _open_encounter(user: DeviceUser, its_id: UUID) -> str:
    encounter_id = fresh_id(user.random)
    user.known.encounters.append(encounter_id)
    return user.submit(
        "encounter.open",
        encounter_id,
        {"patientId": str(its_id), "class": "AMB", "status": "planned"},
    )


def _transition(user: DeviceUser, its_id: UUID) -> str:
    views = [user.client.encounter(i) for i in user.known.encounters]
    movable = [view for view in views if view is not None and view.body["allowed"]]
    if not movable:
        return _open_encounter(user, its_id)
    view = user.random.choice(movable)
    to = user.random.choice(list(view.body["allowed"]))
    return user.submit(
        "encounter.transition", view.id, {"to": to, "reason": "so"}, seen=view.body["status"]
    )


_CHANGES: tuple[Callable[[DeviceUser, UUID], str], ...] = (
    _correct,
    _add_kin,
    _add_name,
    _add_identifier,
    _retire_identifier,
    _consent,
    _open_encounter,
    _transition,
)
_WEIGHTS = (30, 14, 8, 10, 5, 14, 12, 16)
