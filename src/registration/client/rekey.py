"""New ids for what the service cannot have, where the device's clock was ahead."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from registration.client.device import Device
from registration.client.ids import milliseconds_of
from registration.client.mutation import Mutation
from registration.client.outbox import Outbox
from registration.client.payload import instant

_TOO_FAR = timedelta(hours=24) - timedelta(minutes=1)
"""What the service refuses, less what the two clocks may differ by."""


def is_ahead(its_id: UUID, now: datetime) -> bool:
    """Whether the service would refuse the id for its time."""
    return milliseconds_of(its_id) > (now + _TOO_FAR).timestamp() * 1000


def rekey(device: Device, outbox: Outbox, queue: Sequence[Mutation]) -> int:
    """Give the mutations of a queue ids of corrected time, in their order; returns how many.

    To be called in a transaction. What may be in keeps its id, and then so does all that is queued
    after it, since the ids are the order.
    """
    if any(mutation.doubtful for mutation in queue):
        return 0
    now = device.now()
    everyone = outbox.history()
    renamed = {mutation.number for mutation in queue}
    sound = [m.id for m in everyone if m.number not in renamed and not is_ahead(m.id, now)]
    device.start_ids_after(max(sound, default=None))
    for mutation in queue:
        outbox.rename(mutation, device.next_mutation_id())
    return len(queue)


def redate(device: Device, outbox: Outbox) -> None:
    """Correct the instants of what was made before the device knew how far its clock is off.

    To be called in a transaction. What may be in stays as it was sent.
    """
    skew = device.skew
    if skew is None:
        return
    for mutation in outbox.uncertain():
        if mutation.doubtful:
            continue
        made_at = mutation.made_at + skew
        payload = dict(mutation.payload)
        if mutation.own_at:
            payload["at"] = instant(made_at)
        outbox.retime(mutation, made_at, payload)
