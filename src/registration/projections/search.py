"""The search read model: which patients there are, and what their names are found by.

Four tables, each led by ``tenant``:

``patient``     one row a patient; ``document`` is what a search answers with, as JSON
``name_pair``   one row for any two words of a name, in either order, so that each query of two
                words is one walk along the primary key, in the order of the ranking
``identifier``  live identifiers only
``spelling``    the dictionary: every word that a patient is found by now, under its looser keys
                (see ``search_keys``); per distinct word, so it stays small as patients grow

A record that was merged away keeps its rows, as inactive; those of the survivor hold what the merge
made known of it as well: its identifiers, and the names that the survivor has not itself.

The rows depend on the log alone, not on how it was cut into batches. A word goes from ``spelling``
with the last row of ``name_pair`` that holds it: a rare name names somebody by itself, and once its
bearer was erased nothing tells any more that it was theirs, not even the log.

Who was erased has no rows. Events of theirs may come blank or whole, as it happens; either way the
rows go with ``PatientErased``, which is the last of them.
What a patient's rows are is in ``search_patient``, queries are in ``search_query``.
"""

from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain import search_keys
from registration.domain.events import EVENTS as ALL
from registration.domain.events import Event, PatientErased, PatientEvent, PatientRegistered
from registration.eventstore.records import RecordedEvent
from registration.projections.search_patient import Patient, Row

NAME = "search"
VERSION = 3
EVENTS: tuple[type[Event], ...] = tuple(kind for kind in ALL if issubclass(kind, PatientEvent))

DDL = """
CREATE TABLE patient (
    tenant     text COLLATE "C" NOT NULL,
    id         uuid NOT NULL,
    version    bigint NOT NULL,
    active     boolean NOT NULL,
    gender     text COLLATE "C" NOT NULL,
    birth_date text COLLATE "C",
    facility   text COLLATE "C",
    document   text NOT NULL,
    absorbed   text,
    PRIMARY KEY (tenant, id)
) WITH (fillfactor = 90);
CREATE INDEX patient_birth_date ON patient (tenant, birth_date, id);
CREATE INDEX patient_facility ON patient (tenant, facility, id) WHERE facility IS NOT NULL;

CREATE TABLE name_pair (
    tenant     text COLLATE "C" NOT NULL,
    word       text COLLATE "C" NOT NULL,
    role       text COLLATE "C" NOT NULL,
    other      text COLLATE "C" NOT NULL,
    patient_id uuid NOT NULL,
    birth_date text COLLATE "C",
    PRIMARY KEY (tenant, word, role, other, patient_id) INCLUDE (birth_date)
);

CREATE TABLE identifier (
    tenant     text COLLATE "C" NOT NULL,
    system     text COLLATE "C" NOT NULL,
    value      text COLLATE "C" NOT NULL,
    patient_id uuid NOT NULL,
    PRIMARY KEY (tenant, system, value, patient_id)
);

CREATE TABLE spelling (
    tenant text COLLATE "C" NOT NULL,
    key    text COLLATE "C" NOT NULL,
    word   text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, key, word)
);
"""

Connection = AsyncConnection[TupleRow]


async def apply(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Take a batch of the log into the tables, within the caller's transaction.

    ``events`` may be of several tenants and hold several events of a patient; each tenant's are
    in log order.
    """
    told = [recorded for recorded in events if isinstance(recorded.event, PatientEvent)]
    known = await _load(connection, told)
    old_pairs = {row for patient in known.values() for row in patient.pair_rows()}
    old_identifiers = {row for patient in known.values() for row in patient.identifier_rows()}

    patients = dict(known)
    for recorded in told:
        _take(patients, recorded)

    pairs = {row for patient in patients.values() for row in patient.pair_rows()}
    identifiers = {row for patient in patients.values() for row in patient.identifier_rows()}
    await _replace(connection, known, patients)
    await _delete(connection, _DELETE_PAIRS, old_pairs - pairs)
    await _delete(connection, _DELETE_IDENTIFIERS, old_identifiers - identifiers)
    await copy_rows(connection, "name_pair", sorted(pairs - old_pairs, key=_sort_key))
    await copy_rows(connection, "identifier", sorted(identifiers - old_identifiers))
    for tenant, words in _words(old_pairs - pairs).items():
        await _forget(connection, tenant, words)
    for tenant, words in _words(pairs - old_pairs).items():
        await _learn(connection, tenant, words)


def _take(patients: dict[tuple[str, UUID], Patient], recorded: RecordedEvent) -> None:
    """Take one event into the patients; who was erased is none of them any more."""
    key, event = (recorded.tenant, recorded.stream_id), recorded.event
    assert isinstance(event, PatientEvent)  # noqa: S101  (for the type checker; see `told`)
    if isinstance(event, PatientErased):
        patients.pop(key, None)
        return
    if recorded.is_about_the_erased:
        # says nothing of who bears it, or, on a survivor, of whom it has let go of since
        if key in patients:
            patients[key].version = recorded.version
        return
    patient = patients.setdefault(key, Patient(*key))
    patient.evolve(event)
    patient.version = recorded.version


def spelling_rows(tenant: str, words: Iterable[str]) -> list[Row]:
    """Return the rows of ``spelling`` for distinct words."""
    return [(tenant, key, word) for word in words for key in sorted(search_keys.keys_of(word))]


async def copy_rows(connection: Connection, table: str, rows: Iterable[Row]) -> None:
    """Write rows, in the order of the table's columns, by COPY."""
    text = "\n".join(["\t".join(map(_copied, row)) for row in rows])
    if text:
        async with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
            await copy.write(text)


def _copied(value: object) -> str:
    """Return a value in COPY's text format."""
    if value is None:
        return r"\N"
    text = value if type(value) is str else str(value)
    if text.isprintable() and "\\" not in text:
        return text
    return text.replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")


def _sort_key(row: Row) -> Row:
    return row[:5]


def _words(pairs: Iterable[Row]) -> dict[str, set[str]]:
    """Return the words that rows of ``name_pair`` hold, by tenant."""
    words: dict[str, set[str]] = {}
    for tenant, word, *_ in pairs:
        words.setdefault(tenant, set()).add(word)
    return words


# Each of these joins row by row through a primary key: LATERAL with OFFSET 0 leaves the planner no
# other way, so that a plan made while the tables were empty stays right when they are not.
_LOAD = """
SELECT p.tenant, p.id, p.version, p.active, p.gender, p.birth_date, p.facility, p.document,
       p.absorbed
  FROM unnest(%s::text[], %s::uuid[]) AS asked (tenant, id)
 CROSS JOIN LATERAL (
    SELECT * FROM patient WHERE patient.tenant = asked.tenant AND patient.id = asked.id OFFSET 0
 ) AS p
"""
_NEW_WORDS = """
SELECT asked.word
  FROM unnest(%s::text[]) AS asked (word)
  LEFT JOIN LATERAL (
    SELECT true AS found FROM spelling
     WHERE tenant = %s AND key = '=' || asked.word AND word = asked.word OFFSET 0
  ) AS known ON true
 WHERE known.found IS NULL
"""
_UNBORNE = """
SELECT asked.word
  FROM unnest(%s::text[]) AS asked (word)
  LEFT JOIN LATERAL (
    SELECT true AS found FROM name_pair WHERE tenant = %s AND word = asked.word LIMIT 1
  ) AS known ON true
 WHERE known.found IS NULL
"""
_UPDATE_PATIENTS = """
UPDATE patient SET version = new.version, active = new.active, gender = new.gender,
       birth_date = new.birth_date, facility = new.facility, document = new.document,
       absorbed = new.absorbed
  FROM unnest(%s::text[], %s::uuid[], %s::bigint[], %s::boolean[], %s::text[], %s::text[],
              %s::text[], %s::text[], %s::text[])
    AS new (tenant, id, version, active, gender, birth_date, facility, document, absorbed)
 WHERE patient.tenant = new.tenant AND patient.id = new.id
"""
_DELETE_PATIENTS = """
DELETE FROM patient USING unnest(%s::text[], %s::uuid[]) AS old (tenant, id)
 WHERE patient.tenant = old.tenant AND patient.id = old.id
"""
_DELETE_PAIRS = """
DELETE FROM name_pair USING unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::uuid[],
                                   %s::text[])
    AS old (tenant, word, role, other, patient_id, birth_date)
 WHERE name_pair.tenant = old.tenant AND name_pair.word = old.word AND name_pair.role = old.role
   AND name_pair.other = old.other AND name_pair.patient_id = old.patient_id
"""
_DELETE_IDENTIFIERS = """
DELETE FROM identifier USING unnest(%s::text[], %s::text[], %s::text[], %s::uuid[])
    AS old (tenant, system, value, patient_id)
 WHERE identifier.tenant = old.tenant AND identifier.system = old.system
   AND identifier.value = old.value AND identifier.patient_id = old.patient_id
"""
_DELETE_SPELLINGS = """
DELETE FROM spelling USING unnest(%s::text[], %s::text[], %s::text[]) AS old (tenant, key, word)
 WHERE spelling.tenant = old.tenant AND spelling.key = old.key AND spelling.word = old.word
"""


async def _load(
    connection: Connection, told: Sequence[RecordedEvent]
) -> dict[tuple[str, UUID], Patient]:
    """Return the state of the patients that the batch goes on with."""
    begun: set[tuple[str, UUID]] = set()
    asked: dict[tuple[str, UUID], None] = {}
    for recorded in told:
        key = (recorded.tenant, recorded.stream_id)
        if isinstance(recorded.event, PatientRegistered):
            begun.add(key)
        elif key not in begun:
            asked[key] = None
    if not asked:
        return {}
    cursor = await connection.execute(_LOAD, [list(column) for column in zip(*asked, strict=True)])
    return {(row[0], row[1]): Patient.from_row(row) for row in await cursor.fetchall()}


async def _replace(
    connection: Connection,
    known: dict[tuple[str, UUID], Patient],
    patients: dict[tuple[str, UUID], Patient],
) -> None:
    """Write the rows of ``patient``: new ones, those that there are, and those that are no more."""
    await _delete(connection, _DELETE_PATIENTS, known.keys() - patients.keys())
    changed = [patient.row() for key, patient in patients.items() if key in known]
    if changed:
        columns = [list(column) for column in zip(*changed, strict=True)]
        await connection.execute(_UPDATE_PATIENTS, columns)
    new = [patient.row() for key, patient in patients.items() if key not in known]
    await copy_rows(connection, "patient", new)


async def _delete(connection: Connection, statement: str, rows: Collection[Row]) -> None:
    if rows:
        await connection.execute(statement, [list(column) for column in zip(*rows, strict=True)])


async def _learn(connection: Connection, tenant: str, words: Collection[str]) -> None:
    """Enter words into the dictionary that are not in it yet."""
    cursor = await connection.execute(_NEW_WORDS, [sorted(words), tenant])
    new = sorted(row[0] for row in await cursor.fetchall())
    await copy_rows(connection, "spelling", spelling_rows(tenant, new))


async def _forget(connection: Connection, tenant: str, words: Collection[str]) -> None:
    """Take words out of the dictionary that no patient is found by any more."""
    cursor = await connection.execute(_UNBORNE, [sorted(words), tenant])
    gone = [row[0] for row in await cursor.fetchall()]
    await _delete(connection, _DELETE_SPELLINGS, spelling_rows(tenant, gone))
