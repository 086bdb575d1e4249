"""The service without sealing, to hold the service against: nobody has a key, events are plain.

``python -m benchmarks.unsealed serve`` is `registration serve` but for that, with one worker.
"""

from collections.abc import Collection
from unittest.mock import patch
from uuid import UUID

from registration import sealer
from registration.api import app
from registration.cli import main
from registration.eventstore.records import AppendRequest, Verdict
from registration.eventstore.sealing import NEVER_SEALED, Keyring
from registration.eventstore.store import EventStore


class NoKeys(Keyring):
    """Gives new patients no key, as before events were sealed."""

    def new(self, tenant: str, subject: UUID) -> bytes:
        """Return what stands for the key of somebody whose events are not sealed."""
        return NEVER_SEALED


class UnsealedStore(EventStore):
    """A store in which nobody has a key: the gate takes all patients for ones of before."""

    async def append(self, tenant: str, request: AppendRequest) -> Verdict:
        """Append without a key for whom it registers."""
        return await super().append(tenant, request._replace(new_key=None))

    async def keys(self, tenant: str, subjects: Collection[UUID]) -> dict[UUID, bytes]:
        """Return that none of these people was ever sealed."""
        return dict.fromkeys(subjects, NEVER_SEALED)


if __name__ == "__main__":
    with patch.object(sealer, "KEYRING", NoKeys()), patch.object(app, "EventStore", UnsealedStore):
        main()
