"""A request to erase somebody, folded: while its patient is known, and once the patient is not."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from tests.domain.given import NOW, uuid

from registration.domain import events
from registration.domain.aggregate import Stamp
from registration.domain.erasure import Erasure
from registration.domain.personal import PUBLIC, public_members, said_when_erased
from registration.eventstore.mapper import decode, encode, encode_parted

ADA, REQUEST = uuid(501), uuid(700)
REQUESTED = events.ErasureRequested(
    patient_id=ADA, patient_ids=(ADA,), basis="gdpr-17-1-b", reason="Ada asked for it"
)
REFUSED = events.ErasureRefused(reason="the law demands that Ada's record be kept")
APPROVED = events.ErasureApproved()
SHREDDED = events.ErasureShredded(patient_ids=(ADA,))

HISTORIES: dict[str, Sequence[events.Event]] = {
    "requested": [REQUESTED],
    "refused": [REQUESTED, REFUSED],
    "carried out": [REQUESTED, APPROVED, SHREDDED],
}


def folded(history: Sequence[events.Event]) -> Erasure:
    """Return a request of which priya asked, and lee did the rest."""
    erasure = Erasure(REQUEST)
    for version, event in enumerate(history, 1):
        at = NOW + timedelta(seconds=version)
        erasure.apply(event, Stamp(version, at, "priya" if version == 1 else "lee"))
    return erasure


def blank(event: events.Event) -> events.Event:
    """Return an event as it reads once its patient was erased."""
    if type(event) not in PUBLIC:
        return decode(event.TOPIC, encode(event))
    public, _ = encode_parted(event, public_members(event))
    return decode(event.TOPIC, said_when_erased(event.TOPIC, public))


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_what_is_left_of_a_request_is_what_is_read_of_it_afterwards(
    history: Sequence[events.Event],
) -> None:
    """So that a read model that saw the erasure holds what a rebuild makes."""
    left = folded(history).without_reasons()
    assert left.shown() == folded([blank(event) for event in history]).shown()
    assert "Ada" not in left.shown().encoded().decode()


@pytest.mark.parametrize(
    ("history", "known", "afterwards"),
    [("requested", "requested", "shredded"), ("refused", "refused", "refused"),
     ("carried out", "shredded", "shredded")],
)  # fmt: skip
def test_nothing_waits_for_approval_once_its_patient_is_erased(
    history: str, known: str, afterwards: str
) -> None:
    erasure = folded(HISTORIES[history])
    assert (erasure.shown().status, erasure.without_reasons().shown().status) == (
        known,
        afterwards,
    )


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_nothing_of_a_request_is_lost_on_the_wire(history: Sequence[events.Event]) -> None:
    erasure = folded(history)
    assert Erasure.from_shown(erasure.shown()).shown() == erasure.shown()
