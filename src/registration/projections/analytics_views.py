"""The views of the read model ``analytics``, for BI tools: declared once, as data.

The DDL with its comments and grants, the documentation page, and the test that every column is
documented read :data:`VIEWS`. A view reads the tables with the rights of its owner; its reader
needs, and has, rights to nothing else.

No view shows a name, a number, an address or an id. A row has a key instead: the first 80 bits of
sha256 over a secret of this installation, the tenant and the id. It is the same in each view and
after each rebuild, and no id can be computed from it without the secret.

An id begins with the time at which it was made. So times are coarse here: whoever has an id finds
those who came in the same minute, not the one row of the same millisecond. They are cut in UTC by
name: hours of the time zone of the session would tell the minutes to whoever sets it to one offset
after the other.
"""

from typing import NamedTuple

ROLE = "registration_analyst"
"""The role that may read the views, and nothing else; made by a migration, where that may."""


class ViewColumn(NamedTuple):
    """A column: its expression over the view's tables, and what it means."""

    name: str
    expression: str
    definition: str


class View(NamedTuple):
    """A view over the fact tables."""

    name: str
    definition: str
    source: str
    columns: tuple[ViewColumn, ...]

    @property
    def ddl(self) -> str:
        """The statements that make it, with its comments."""
        selected = ",\n       ".join(f'{c.expression} AS "{c.name}"' for c in self.columns)
        # a barrier: a function of the reader's own is called with what is shown alone
        made = f'CREATE VIEW "{self.name}" WITH (security_barrier) AS'
        statements = [
            f"{made}\nSELECT {selected}\n  FROM {self.source}",
            f'COMMENT ON VIEW "{self.name}" IS {_quoted(self.definition)}',
            *(
                f'COMMENT ON COLUMN "{self.name}"."{c.name}" IS {_quoted(c.definition)}'
                for c in self.columns
            ),
        ]
        return ";\n".join(statements)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_SALT = "(SELECT salt FROM registration.analytics_salt)"


def _key(expression: str, tenant: str) -> str:
    salted = f"{_SALT} || {tenant} || ' ' || {expression}::text"
    return f"substr(encode(sha256(convert_to({salted}, 'UTF8')), 'hex'), 1, 20)"


def cut(instant: str, unit: str = "minute") -> str:
    """Return the expression of an instant cut to the minute, which an index can be on."""
    return f"(date_trunc('{unit}', {instant} AT TIME ZONE 'UTC') AT TIME ZONE 'UTC')"


def _minutes(since: str, until: str) -> str:
    return f"round(extract(epoch FROM {until} - {since}) / 60)::int"


def _latency(since: str, until: str) -> str:
    """Return seconds, whole minutes of them above 60: rounded up, what took longer stays longer."""
    seconds = f"extract(epoch FROM {until} - {since})"
    minutes = f"60 * ceil({seconds} / 60)"
    return f"(CASE WHEN {seconds} <= 60 THEN ceil({seconds}) ELSE {minutes} END)::bigint"


def _captured(since: str, until: str) -> str:
    """Return the minute of a capture, so that minutes and latency together tell no second."""
    minutes = f"floor(extract(epoch FROM {until} - {since}) / 60)"
    return f"{cut(until)} - interval '1 minute' * {minutes}::float8"


_TENANT = "the tenant whose record it is"
_PATIENT_KEY = (
    "key of the patient, the same in every view; see the documentation for how it is made"
)

VIEWS: tuple[View, ...] = (
    View(
        "patient",
        "One row a record. What counts persons leaves out those that were merged away.",
        "patient_fact AS p",
        (
            ViewColumn("tenant", "p.tenant", _TENANT),
            ViewColumn("patient_key", _key("p.id", "p.tenant"), _PATIENT_KEY),
            ViewColumn(
                "registered_at",
                cut("p.registered_at", "hour"),
                "when the record was stored, to the hour of UTC",
            ),
            ViewColumn(
                "registered_facility",
                "p.registered_facility",
                "the facility that it was registered at; null without",
            ),
            ViewColumn(
                "latency_seconds",
                _latency("p.captured_at", "p.registered_at"),
                "from its capture on a device to its being stored, in seconds, rounded up to a "
                "whole one, above 60 to a whole minute; null where no device stated a "
                "clientMutationId",
            ),
            ViewColumn("facility", "p.facility", "the facility that it belongs to now"),
            ViewColumn(
                "gender", "p.gender", "FHIR AdministrativeGender: male, female, other, unknown"
            ),
            ViewColumn(
                "birth_year",
                "extract(year FROM p.born_on)::int",
                "year of birth; null where no birth date is known",
            ),
            ViewColumn(
                "birth_date_precision",
                "CASE length(p.birth_date) WHEN 4 THEN 'year' WHEN 7 THEN 'month'"
                " WHEN 10 THEN 'day' END",
                "how exactly the birth date is known: year, month or day; null: not at all",
            ),
            ViewColumn(
                "birth_date_is_january_first",
                "coalesce(p.birth_date LIKE '____-01-01', false)",
                "whether the birth date is a 1 January, given to the day",
            ),
            ViewColumn(
                "birth_date_estimated", "p.birth_estimated", "whether it is marked as estimated"
            ),
            ViewColumn(
                "age_at_registration",
                "greatest(0, extract(year FROM age(p.registered_at AT TIME ZONE 'UTC', "
                "p.born_on::timestamp)))::int",
                "whole years at the registration (day of UTC); a birth date known in part counts "
                "from its first day",
            ),
            ViewColumn(
                "identifiers",
                "p.identifiers + (SELECT coalesce(sum(a.value::int), 0)::int"
                " FROM jsonb_each_text(p.absorbed) AS a)",
                "number of identifiers in use, with those of records merged into this one",
            ),
            ViewColumn("next_of_kin", "p.next_of_kin", "number of next of kin"),
            ViewColumn("telecom", "p.telecom", "number of telephone numbers and the like"),
            ViewColumn("deceased", "p.deceased_at IS NOT NULL", "whether a death is recorded"),
            ViewColumn(
                "merged_away",
                "p.merged_at IS NOT NULL",
                "whether it was merged into another record, and stands for no person of its own",
            ),
            ViewColumn(
                "erased",
                "p.erased_at IS NOT NULL",
                "whether the patient was erased: nothing is known of the person any more",
            ),
        ),
    ),
    View(
        "encounter",
        "One row an encounter; what was entered in error is left out.",
        "encounter_fact AS e WHERE e.status <> 'entered-in-error'",
        (
            ViewColumn("tenant", "e.tenant", _TENANT),
            ViewColumn("encounter_key", _key("e.id", "e.tenant"), "key of the encounter"),
            ViewColumn("patient_key", _key("e.patient_id", "e.tenant"), _PATIENT_KEY),
            ViewColumn("facility", "e.facility", "where it takes place; null without"),
            ViewColumn("class", "e.class", "HL7 v3 ActEncounterCode, such as AMB, EMER, IMP"),
            ViewColumn("post_mortem", "e.post_mortem", "whether it is about what follows a death"),
            ViewColumn("status", "e.status", "FHIR R4 EncounterStatus, as it is now"),
            ViewColumn(
                "planned_start",
                cut("e.planned_start"),
                "when it was planned for, to the minute; null without",
            ),
            ViewColumn(
                "arrived_at",
                cut("e.arrived_at"),
                "when the patient came, to the minute; null: has not come",
            ),
            ViewColumn(
                "started_at",
                cut("e.started_at"),
                "when care first began, to the minute; null: has not begun",
            ),
            ViewColumn(
                "ended_at", cut("e.ended_at"), "when it ended, to the minute; null: it has not"
            ),
            ViewColumn(
                "waiting_minutes",
                _minutes("e.arrived_at", "coalesce(e.started_at, e.ended_at)"),
                "from the arrival to the start of care, or to the end without, in whole minutes, "
                "rounded from the exact times; null while the patient waits",
            ),
            ViewColumn(
                "stay_minutes",
                _minutes("e.arrived_at", "e.ended_at"),
                "from the arrival to the end, in whole minutes, rounded from the exact times; null "
                "while the patient is there",
            ),
        ),
    ),
    View(
        "encounter_status",
        "One row for each status that an encounter was in; none of what was entered in error.",
        "status_fact AS s JOIN encounter_fact AS e ON e.tenant = s.tenant"
        " AND e.id = s.encounter_id WHERE e.status <> 'entered-in-error'",
        (
            ViewColumn("tenant", "s.tenant", _TENANT),
            ViewColumn("encounter_key", _key("s.encounter_id", "s.tenant"), "key of the encounter"),
            ViewColumn("facility", "e.facility", "where it takes place; null without"),
            ViewColumn("status", "s.status", "FHIR R4 EncounterStatus"),
            ViewColumn("since", cut("s.since"), "when it entered this status, to the minute"),
            ViewColumn(
                "until", cut("s.until"), "when it left it, to the minute; null: it is in it"
            ),
        ),
    ),
    View(
        "consent_decision",
        "One row a decision about a consent flag. In force at an instant is the last one recorded "
        "of those that have begun by then, unless it has run out.",
        "consent_fact AS c",
        (
            ViewColumn("tenant", "c.tenant", _TENANT),
            ViewColumn("patient_key", _key("c.patient_id", "c.tenant"), _PATIENT_KEY),
            ViewColumn("flag", "c.flag", "the consent flag"),
            ViewColumn("decision", "c.decision", "granted, refused or withdrawn"),
            ViewColumn(
                "number",
                "row_number() OVER (PARTITION BY c.tenant, c.patient_id, c.flag"
                " ORDER BY c.version)",
                "which decision of this patient about this flag it is, counted from 1",
            ),
            ViewColumn("begins_at", cut("c.begins_at"), "from when it holds, to the minute"),
            ViewColumn(
                "valid_until",
                cut("c.valid_until"),
                "up to when it holds, to the minute; null: without end",
            ),
            ViewColumn(
                "superseded_at",
                cut("c.superseded_at"),
                "from when a decision that was recorded later holds instead, to the minute; null: "
                "there is none",
            ),
            ViewColumn("recorded_at", cut("c.recorded_at"), "when it was stored, to the minute"),
        ),
    ),
    View(
        "mutation",
        "One row a write that a device captured and the service stored.",
        "mutation_fact AS m",
        (
            ViewColumn("tenant", "m.tenant", _TENANT),
            ViewColumn("facility", "m.facility", "facility of the device's token; null without"),
            ViewColumn("operation", "m.operation", "what was done, such as patient.register"),
            ViewColumn(
                "captured_at",
                _captured("m.captured_at", "m.recorded_at"),
                "when the device captured it, by its clock: recorded_at less the whole minutes of "
                "the latency, so that minute or the next one",
            ),
            ViewColumn(
                "recorded_at", cut("m.recorded_at"), "when the service stored it, to the minute"
            ),
            ViewColumn(
                "latency_seconds",
                _latency("m.captured_at", "m.recorded_at"),
                "from the one to the other, in seconds, rounded up to a whole one, above 60 to a "
                "whole minute",
            ),
        ),
    ),
)

# The schema is not named: in a rebuild it has another name until it takes the place of the old one.
_GRANTS = f"""
DO $grants$
BEGIN
    IF to_regrole('{ROLE}') IS NOT NULL THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO {ROLE}', current_schema());
        GRANT SELECT ON {", ".join(f'"{view.name}"' for view in VIEWS)} TO {ROLE};
    END IF;
END
$grants$;
"""
VIEWS_DDL = ";\n".join(view.ddl for view in VIEWS) + ";\n" + _GRANTS
