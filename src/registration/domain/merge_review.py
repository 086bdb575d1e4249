"""What was recorded on the survivor of a merge that was undone, and whose it may be.

Nobody can tell for sure: while two records were one, people looked at the survivor and meant the
person before them. So nothing is moved. Each entry comes with the evidence that there is, and with
a guess only where all of the evidence says the same.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any, Literal, NamedTuple
from uuid import UUID

from registration.domain.aggregate import Recorded
from registration.domain.contract import Touch
from registration.domain.events import PatientAbsorbed, PatientMergedAway, PatientReleased
from registration.domain.patient_resource import Patient
from registration.domain.resources import Model

Sign = Literal["sentTo", "client", "actor", "facility", "values"]
"""``sentTo``: it was first sent to that record. ``client``, ``actor``, ``facility``: who recorded
it, and where, had written to that record alone before the merge. ``values``: members of it that
are the same in that record alone."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHORTEST = 3
"""Letters of a text that can tell two records apart; shorter ones are codes."""


class Evidence(Model):
    """Something that speaks for one of the two records; ``members`` as JSON Pointers."""

    sign: Sign
    patient_id: UUID
    members: tuple[str, ...] = ()


class ToReview(Model):
    """Something that was recorded on the survivor while it stood for both.

    ``patientId`` is where it stays, ``belongsTo`` whose it may be. An encounter has an id of its
    own and is moved by nobody either; anything else is an event of the survivor's history.
    """

    patient_id: UUID
    version: int | None = None
    encounter_id: UUID | None = None
    type: str
    at: datetime
    actor: str
    client: str | None = None
    facility: str | None = None
    fields: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    belongs_to: UUID | None = None


class Traces(NamedTuple):
    """What tells one record from another: who wrote to it, where, and its texts."""

    patient_id: UUID
    actors: frozenset[str]
    clients: frozenset[str]
    facilities: frozenset[str]
    texts: frozenset[str]


class Stay(NamedTuple):
    """A time in which a record stood for another one as well, until a merge was undone.

    ``during`` is what came to it meanwhile, merges left out; ``above`` are the records that it was
    merged into itself in that time.
    """

    during: Sequence[Recorded]
    since: datetime
    until: datetime
    undone: UUID
    above: Sequence[UUID]


def stays_of(patient_id: UUID, history: Sequence[Recorded]) -> Iterator[Stay]:
    """Yield the times in which the record of a history stood for another one, and does no more."""
    during: list[Recorded] = []
    above: list[UUID] = []
    since: datetime | None = None
    for record in history:
        match record.event:
            case PatientAbsorbed(patient_id=its_id) if its_id == patient_id:
                since = record.recorded_at
            case PatientReleased() as event if since and patient_id in event.patient_ids:
                yield Stay(during, since, record.recorded_at, event.merge_id, above)
                during, above, since = [], [], None
            case PatientMergedAway() as event if since:
                above.append(event.survivor_id)
            case event if since and Touch.MERGE not in event.TOUCHES:
                during.append(record)


def until_merged(merge_id: UUID, history: Sequence[Recorded]) -> Sequence[Recorded]:
    """Return a record's history as it was before a merge."""
    return list(
        takewhile(lambda record: getattr(record.event, "merge_id", None) != merge_id, history)
    )


def traces_of(patient_id: UUID, *histories: Sequence[Recorded]) -> Traces:
    """Return what tells a record, by its history and those of the records merged into it."""
    metas = [record.meta for history in histories for record in history]
    records = [Patient(patient_id, history).plain() for history in histories if history]
    return Traces(
        patient_id,
        frozenset(meta["actor"] for meta in metas),
        frozenset(meta["client"] for meta in metas if "client" in meta),
        frozenset(meta["facility"] for meta in metas if "facility" in meta),
        frozenset(text for record in records for _, text in _texts(record, "")),
    )


def reviewed(
    patient_id: UUID,
    record: Recorded,
    parties: tuple[Traces, Traces],
    *,
    sent_to: UUID | None = None,
    encounter_id: UUID | None = None,
) -> ToReview:
    """Return an entry with the evidence of where it belongs.

    ``sent_to``: the record that the same change was sent to before, and refused by.
    """
    meta = record.meta
    evidence = tuple(_evidence(record, parties, sent_to))
    guesses = {each.patient_id for each in evidence}
    return ToReview(
        patient_id=patient_id,
        version=None if encounter_id else record.version,
        encounter_id=encounter_id,
        type=record.event.TOPIC,
        at=record.recorded_at,
        actor=meta["actor"],
        client=meta.get("client"),
        facility=meta.get("facility"),
        fields=tuple(record.event.fields),
        evidence=evidence,
        belongs_to=guesses.pop() if len(guesses) == 1 else None,
    )


def _evidence(
    record: Recorded, parties: tuple[Traces, Traces], sent_to: UUID | None
) -> Iterator[Evidence]:
    if sent_to is not None:
        yield Evidence(sign="sentTo", patient_id=sent_to)
    one, other = parties
    for mine, theirs in ((one, other), (other, one)):
        signs: Mapping[Sign, tuple[frozenset[str], frozenset[str]]] = {
            "client": (mine.clients, theirs.clients),
            "actor": (mine.actors, theirs.actors),
            "facility": (mine.facilities, theirs.facilities),
        }
        for sign, (here, there) in signs.items():
            said = record.meta.get(sign)
            if said in here and said not in there:
                yield Evidence(sign=sign, patient_id=mine.patient_id)
        telling = mine.texts - theirs.texts
        members = [path for path, text in _texts(record.event.plain(), "") if text in telling]
        if members:
            yield Evidence(sign="values", patient_id=mine.patient_id, members=tuple(members))


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every text of JSON that can tell records apart, folded, with its JSON Pointer.

    Ids tell nothing, and the facility is a sign of its own.
    """
    if isinstance(value, str):
        if len(value) >= _SHORTEST and not _UUID.fullmatch(value):
            yield path, value.casefold()
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "facility":
                yield from _texts(inner, f"{path}/{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{path}/{number}")
