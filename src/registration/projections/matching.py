"""The read model of the master patient index: which records may be one person's.

Four tables, each led by ``tenant``:

``patient``    one row a patient: what matching compares (``record``), what a list shows, and under
               which record the patient is found now (``current_id``, through all merges)
``block``      the keys of each record; only records that share one are compared
``candidate``  one row for each pair that reaches a grade, with its comparison; ``evidence`` is a
               digest of the levels by field, ``current_one`` and ``current_other`` the pair that a
               merge would be of now
``dismissal``  what was said last of a pair that was found to be two persons. It outlives the row
               of the pair, and holds while the evidence is the same; ``said_of`` are the two whom
              it was said of, where the pair is two other faces of them

A record that was merged away stays a further face of its survivor: it is still compared.

Who was erased has no rows, nor has any pair of theirs; and of other pairs that were dismissed by
undoing a merge of theirs, the reason is blank. Events of theirs may come blank or whole, as it
happens. Blank ones say nothing to compare, so they make no pair and change none; but they do say
who was found under whom, of which the faces follow. All goes with ``PatientErased``, the last.

Each event is taken in by itself, in the order of the log: so the rows depend on the log alone, not
on how it was cut into batches. What one event may cost is bounded by ``MOST_COMPARED`` and
``MOST_RAISED``, and by the pairs that a record is of already. The matcher is part of what the rows
depend on: ``_ROWS`` is raised when it changes, and another model makes another ``VERSION``.
Who was erased meanwhile took a place of those bounded ones, and does not in a rebuild: there, a
pair may come up that was one too many before.

Queries are in ``matching_query`` and ``matching_queue``.
"""

from collections.abc import Container, Iterable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from registration.domain.aggregate import Stamp
from registration.domain.candidate import candidate_id, ordered
from registration.domain.events import EVENTS as ALL
from registration.domain.events import (
    CandidateDismissed,
    DemographicsCorrected,
    Event,
    IdentifierAdded,
    IdentifierRetired,
    MergeReversed,
    NameAdded,
    NameReplaced,
    NameRetired,
    PatientErased,
    PatientEvent,
    PatientMergedAway,
    PatientRegistered,
    PatientRestored,
)
from registration.domain.patient_state import PatientState, evolve
from registration.eventstore.records import RecordedEvent
from registration.mpi.blocking import block_keys
from registration.mpi.model import Comparison
from registration.mpi.record import MatchRecord, encode, record_of
from registration.projections.matching_model import in_use, version_of
from registration.projections.matching_tables import (
    Connection,
    Dismissed,
    Said,
    Seen,
    Tables,
    patient_row,
)

NAME = "matching"
VERSION: int  # follows the model that is in use: see __getattr__
_ROWS = 3
EVENTS: tuple[type[Event], ...] = (
    *(kind for kind in ALL if issubclass(kind, PatientEvent)),
    MergeReversed,
    CandidateDismissed,
)
_CHANGES = (
    PatientRegistered,
    DemographicsCorrected,
    NameAdded,
    NameReplaced,
    NameRetired,
    IdentifierAdded,
    IdentifierRetired,
)
"""What may change how a patient compares, or what a list shows."""

MOST_COMPARED = 200
"""Records that one is compared with: those that share most keys; of equals, and of all that share
one key, the first by id."""
MOST_RAISED = 20
"""Persons that one event makes new candidates with: the likeliest, with all their faces."""


DDL = """
CREATE TABLE patient (
    tenant      text COLLATE "C" NOT NULL,
    id          uuid NOT NULL,
    version     int NOT NULL,
    current_id  uuid NOT NULL,
    merged_into uuid,
    changed_at  timestamptz NOT NULL,
    display     text NOT NULL,
    birth_date  text COLLATE "C",
    gender      text COLLATE "C" NOT NULL,
    facility    text COLLATE "C",
    record      bytea NOT NULL,
    PRIMARY KEY (tenant, id)
) WITH (fillfactor = 90);
CREATE INDEX patient_merged ON patient (tenant, merged_into) WHERE merged_into IS NOT NULL;

CREATE TABLE block (
    tenant     text COLLATE "C" NOT NULL,
    key        bigint NOT NULL,
    patient_id uuid NOT NULL,
    PRIMARY KEY (tenant, key, patient_id)
);

CREATE TABLE candidate (
    tenant        text COLLATE "C" NOT NULL,
    id            uuid NOT NULL,
    one           uuid NOT NULL,
    other         uuid NOT NULL,
    current_one   uuid NOT NULL,
    current_other uuid NOT NULL,
    status        text COLLATE "C" NOT NULL,
    raised_at     timestamptz NOT NULL,
    facilities    text[] COLLATE "C" NOT NULL,
    score         float8 NOT NULL,
    weight        float8 NOT NULL,
    grade         text COLLATE "C" NOT NULL,
    agreement     text NOT NULL,
    levels        text NOT NULL,
    evidence      text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, id)
) WITH (fillfactor = 90);
CREATE INDEX candidate_queue ON candidate (tenant, status, (-score), raised_at, id);
CREATE INDEX candidate_one ON candidate (tenant, one);
CREATE INDEX candidate_other ON candidate (tenant, other);
CREATE INDEX candidate_current ON candidate (tenant, current_one, current_other);
CREATE INDEX candidate_current_other ON candidate (tenant, current_other);

CREATE TABLE dismissal (
    tenant       text COLLATE "C" NOT NULL,
    candidate_id uuid NOT NULL,
    one          uuid NOT NULL,
    other        uuid NOT NULL,
    said_of      uuid[] NOT NULL,
    evidence     text COLLATE "C" NOT NULL,
    reason       text NOT NULL,
    dismissed_by text NOT NULL,
    dismissed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, candidate_id)
);
CREATE INDEX dismissal_one ON dismissal (tenant, one);
CREATE INDEX dismissal_other ON dismissal (tenant, other);
CREATE INDEX dismissal_said_of ON dismissal USING gin (said_of);
"""


def __getattr__(name: str) -> int:
    """Return ``VERSION``: that of the rows with this program, and with the model in use."""
    if name != "VERSION":
        raise AttributeError(name)
    return version_of(_ROWS)


def match_record(state: PatientState) -> MatchRecord:
    """Return what matching compares of a patient."""
    return record_of(
        state.names,
        state.gender,
        state.birth_date,
        state.birth_date_estimated,
        state.identifiers,
        state.telecom,
        state.addresses,
    )


def evidence_of(comparison: Comparison) -> str:
    """Return the digest of a pair's evidence: what was compared, with which result."""
    said = orjson.dumps(comparison.levels, option=orjson.OPT_SORT_KEYS)
    return blake2b(said, digest_size=12).hexdigest()


class _Pair(NamedTuple):
    """Two records, compared; ``partner`` is the one that the other was compared with."""

    one: UUID
    other: UUID
    partner: Seen
    made: Comparison

    @property
    def id(self) -> UUID:
        """The id of the candidate that they are, or would be."""
        return candidate_id(self.one, self.other)

    def row(self, at: datetime) -> dict[str, Any]:
        """Return the members of a candidate's row that follow from the comparison."""
        return {
            "id": self.id,
            "one": self.one,
            "other": self.other,
            "at": at,
            "score": self.made.score,
            "weight": self.made.weight,
            "grade": self.made.grade,
            "agreement": orjson.dumps(self.made.agreement).decode(),
            "levels": orjson.dumps(self.made.levels).decode(),
            "evidence": evidence_of(self.made),
        }


def _compared(mine: Seen, partners: Iterable[Seen]) -> list[_Pair]:
    model, record = in_use(), mine.record
    return [
        _Pair(*ordered(mine.id, each.id), each, model.score(record, each.record))
        for each in partners
    ]


async def apply(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Take in events of one tenant."""
    tables = Tables(connection, events[0].tenant)
    await tables.read_by_keys()
    states = await tables.states_before(events, [kind.TOPIC for kind in _CHANGES])
    versions: dict[UUID, int] = {}
    for recorded in events:
        event, its_id = recorded.event, recorded.stream_id
        if isinstance(event, PatientEvent):
            versions[its_id] = recorded.version
        if isinstance(event, _CHANGES) and not _is_blank(recorded):
            states[its_id] = evolve(states.get(its_id), event, Stamp.of(recorded))
            await _changed(tables, recorded, states[its_id])
            del versions[its_id]  # written with the rest
        else:
            await _decided(tables, recorded, event)
    await tables.write_versions(versions)


def _is_blank(recorded: RecordedEvent) -> bool:
    """Whether a change says nothing any more; that somebody was there is said all the same."""
    return recorded.is_about_the_erased and not isinstance(recorded.event, PatientRegistered)


async def _changed(tables: Tables, recorded: RecordedEvent, state: PatientState) -> None:
    """Take in a patient as it is now, and compare it anew if matching sees another one."""
    its_id, at = recorded.stream_id, recorded.recorded_at
    before = None if recorded.version == 1 else await tables.patient(its_id)
    record = match_record(state)
    mine = Seen(its_id, before.current_id if before else its_id, encode(record))
    row = patient_row(tables.tenant, its_id, recorded.version, at, state, mine.data)
    if before is not None and before.data == mine.data:
        await tables.write_patient(row)
        await _settle(tables, await tables.candidates_of([its_id]), at)
        return
    old = block_keys(before.record) if before else ()
    around = await tables.write_and_look_around(row, old, block_keys(record))
    near = {each.id: each for each in around}
    known = {each.id: each for each in await tables.partners(its_id)} if before else {}
    pairs = _compared(mine, (near | known).values())
    gone = [pair for pair in pairs if pair.made.grade is None and pair.partner.id in known]
    await tables.remove([pair.id for pair in gone])
    standing = _worth_a_look(mine, [pair for pair in pairs if pair.made.grade], known)
    await tables.write_candidates([pair.row(at) for pair in standing])
    await _settle(tables, [pair.id for pair in standing], at)


def _worth_a_look(mine: Seen, pairs: Iterable[_Pair], known: Container[UUID]) -> list[_Pair]:
    """Keep what is a candidate already, and of what is not yet the likeliest persons'."""
    chosen = []
    persons: set[UUID] = set()
    for pair in sorted(pairs, key=lambda pair: (-pair.made.weight, pair.partner.id)):
        person = pair.partner.current_id
        if pair.partner.id in known:
            chosen.append(pair)
        elif person in persons or (len(persons) < MOST_RAISED and person != mine.current_id):
            persons.add(person)
            chosen.append(pair)
    return chosen


async def _decided(tables: Tables, recorded: RecordedEvent, event: Event) -> None:
    """Take in what somebody decided about records that may be one person's."""
    its_id = recorded.stream_id
    match event:
        case PatientMergedAway():
            await _moved(tables, recorded, event.survivor_id)
        case PatientRestored():
            await _moved(tables, recorded, None)
        case CandidateDismissed():
            pair = Dismissed(its_id, *ordered(*event.patient_ids), event.evidence)
            await _dismissed(tables, recorded, [pair], event.patient_ids, event.reason)
        case MergeReversed():
            await _separated(tables, recorded, event)
        case PatientErased():
            seen = await tables.patient(its_id)
            await tables.erase(its_id, block_keys(seen.record) if seen else [])


async def _moved(tables: Tables, recorded: RecordedEvent, survivor_id: UUID | None) -> None:
    """Take in that a record, with all its faces, is found under another one now, or by itself.

    The survivor of a merge is in use, so it is found under itself.
    """
    faces = await tables.move(recorded.stream_id, survivor_id)
    await _settle(tables, await tables.candidates_of(faces), recorded.recorded_at)


async def _separated(tables: Tables, recorded: RecordedEvent, event: MergeReversed) -> None:
    """Take in that somebody has just found two persons where one was.

    All pairs of faces of the two are dismissed as they stand: else they would be back in the queue.
    """
    survivor = await tables.patient(event.survivor_id)
    retired = await tables.patient(event.retired_id)
    if survivor is None or retired is None or survivor.current_id == retired.current_id:
        return  # one of them was parked
    (pair,) = _compared(survivor, [retired])
    pairs = await tables.of_current_pair(survivor.current_id, retired.current_id)
    pairs.append((pair.one, pair.other, evidence_of(pair.made)))
    found = {candidate_id(one, other): (one, other, on) for one, other, on in pairs}
    await _dismissed(
        tables,
        recorded,
        [Dismissed(its_id, *which) for its_id, which in found.items()],
        (survivor.id, retired.id),
        event.reason,
    )


async def _dismissed(
    tables: Tables,
    recorded: RecordedEvent,
    pairs: Sequence[Dismissed],
    of: tuple[UUID, UUID],
    reason: str,
) -> None:
    """Remember pairs as found to be two persons, each on its evidence; it was said ``of`` two."""
    said = Said(list(of), reason, recorded.meta["actor"], recorded.recorded_at)
    await tables.write_dismissals(pairs, said)
    await _settle(tables, [pair.id for pair in pairs], said.at)


async def _settle(tables: Tables, ids: Iterable[UUID], at: datetime) -> None:
    """Bring pairs up to date with merges, dismissals and facilities; ``at`` is when that was."""
    moved = []
    for pair in await tables.standings(ids):
        current = ordered(pair.one_now, pair.other_now)
        status, raised_at = "open", pair.raised_at
        if pair.one_now == pair.other_now:
            status = "merged"
        elif pair.dismissed == pair.evidence:
            status = "dismissed"
        elif pair.status == "dismissed":
            raised_at = at  # something speaks for it that nobody has looked at
        now = (current, status, raised_at, pair.facilities_now)
        if now != (pair.current, pair.status, pair.raised_at, pair.facilities):
            moved.append((*current, *now[1:], pair.id))
    await tables.move_candidates(moved)
