"""What the device knows of itself: its name, its tenant, its clock, and the ids that it gives."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from random import Random
from uuid import UUID

from registration.client.errors import CannotOpen, WrongTenant
from registration.client.ids import fresh_id, next_id
from registration.client.session import Session
from registration.client.store import Store

_NOTICED = timedelta(seconds=2)
"""A service that seems further ahead by less than this is how exact the header is, no change."""
_FRESH = timedelta(minutes=1)
"""How much of the service's time may pass before it is noted again."""
_EXACT = timedelta(seconds=0.1)
"""One that seems less far ahead counts from this: an instant must not lie in its future."""


class Device:
    """The clock and the id source of a file.

    Time is the device's clock corrected by what the service's ``Date`` headers said, and never
    before the latest of them.
    """

    def __init__(self, store: Store, clock: Callable[[], datetime], random: Random) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        skew, latest = store.meta("skew"), store.meta("latest")
        self._skew = None if skew is None else timedelta(seconds=float(skew))
        self._latest = None if latest is None else datetime.fromisoformat(latest)

    @property
    def client_id(self) -> str:
        """The name that the service knows the device by."""
        return str(self._store.meta("clientId"))

    @property
    def skew(self) -> timedelta | None:
        """How far the service's clock is ahead of the device's; ``None`` before any answer."""
        return self._skew

    def claim(self, session: Session, client_id: str | None) -> None:
        """Make a new file this device's and the session's tenant's, or see that it is.

        Raises :class:`WrongTenant`, :class:`CannotOpen` for a file of another device's name.
        """
        with self._store.transaction():
            if self._store.meta("clientId") is None:
                chosen = (
                    client_id or session.client or f"device-{self._random.getrandbits(48):012x}"
                )
                self._store.remember("clientId", chosen)
                self._store.remember("tenant", session.tenant)
        if self._store.meta("tenant") != session.tenant:
            raise WrongTenant("the file belongs to another tenant than the token")
        if client_id not in (None, self.client_id):
            raise CannotOpen("the file belongs to a device of another name")

    def now(self) -> datetime:
        """Return the time as the service would tell it, as far as is known."""
        now = self._clock().astimezone(UTC) + (self._skew or timedelta())
        return now if self._latest is None else max(now, self._latest)

    def learn(self, date: str | None) -> None:
        """Take in a ``Date`` header that has just come.

        It is cut to the second, so the corrected time is never ahead of the service's.
        """
        if date is None:
            return
        try:
            told = parsedate_to_datetime(date).astimezone(UTC)
        except ValueError:
            return
        skew = told - self._clock().astimezone(UTC)
        known = self._skew is not None and -_EXACT < skew - self._skew < _NOTICED
        if known and self._latest is not None and abs(told - self._latest) < _FRESH:
            return
        self._latest = told
        if not known:
            self._skew = skew
        with self._store.transaction():
            self._store.remember("latest", told.isoformat())
            self._store.remember("skew", str((self._skew or timedelta()).total_seconds()))

    def fresh_id(self) -> UUID:
        """Return an id for something new."""
        return fresh_id(self._milliseconds(), self._random)

    def next_mutation_id(self, floor: UUID | None = None) -> UUID:
        """Return an id above every one given before, and above ``floor``.

        It is remembered with the surrounding transaction.
        """
        told = self._store.meta("lastId")
        last = max((known for known in (told and UUID(told), floor) if known), default=None)
        made = next_id(last, self._milliseconds(), self._random)
        self._store.remember("lastId", str(made))
        return made

    def start_ids_after(self, last: UUID | None) -> None:
        """Forget the ids above ``last``, which the service never took and never will."""
        if last is None:
            self._store.run("DELETE FROM meta WHERE name = 'lastId'")
        else:
            self._store.remember("lastId", str(last))

    def _milliseconds(self) -> int:
        return int(self.now().timestamp() * 1000)
