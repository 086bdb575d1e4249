"""What one synchronisation did, and where the device stands."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a push, a pull or both did.

    ``sent`` mutations were answered: ``applied``, found to be in already (``duplicates``), or put
    to the review (``conflicts``, ``rejected``, ``blocked``, ``confirmations``). ``rekeyed`` ones
    got an id of corrected time. ``waiting`` are still queued, ``others`` those of other people.
    ``pulled`` records came, ``deleted`` left; ``position`` is how far the pulls are. ``offline``:
    the service did not answer, or took nothing more; ``behind``: what it showed may be older than
    what was pushed.
    """

    sent: int = 0
    applied: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    blocked: int = 0
    confirmations: int = 0
    rekeyed: int = 0
    waiting: int = 0
    others: int = 0
    pulled: int = 0
    deleted: int = 0
    resynced: bool = False
    position: int = 0
    offline: bool = False
    behind: bool = False

    def plus(self, **more: int) -> "SyncReport":
        """Return the report with more of some counts."""
        return replace(self, **{name: getattr(self, name) + n for name, n in more.items()})

    def followed_by(self, pull: "SyncReport") -> "SyncReport":
        """Return the report of a push together with that of the pull after it."""
        return replace(
            self,
            pulled=pull.pulled,
            deleted=pull.deleted,
            resynced=pull.resynced,
            position=pull.position,
            waiting=pull.waiting,
            others=pull.others,
            offline=pull.offline,
            behind=pull.behind,
        )


@dataclass(frozen=True, slots=True)
class Status:
    """Where the device stands for the person who works at it.

    ``unsent`` are theirs and queued, ``in_review`` wait for them, ``others`` are other people's and
    queued. ``last_sync`` is when a pull last came to its end; ``skew`` how far the service's clock
    is ahead of the device's, if ever it answered.
    """

    unsent: int
    in_review: int
    others: int
    last_sync: datetime | None
    position: int
    skew: timedelta | None
