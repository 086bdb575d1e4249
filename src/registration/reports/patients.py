"""Reports about records: who was registered, how complete records are, what persons consent to."""

# ruff: noqa: S608  (statements are put together from constants of this module alone)

from typing import LiteralString

from registration.reports.declared import (
    Chart,
    Column,
    Parts,
    Report,
    count,
    dimension,
    percentile,
    share,
)

OFFLINE_AFTER_SECONDS = 60
"""What arrived later than this after its capture was captured offline."""

_CHOSEN: LiteralString = """
   p.tenant = %(tenant)s
   AND p.registered_at >= %(since)s::timestamptz AND p.registered_at < %(until)s::timestamptz
"""
_AT_FACILITY: LiteralString = """
   AND (%(facility)s::text IS NULL OR p.facility = %(facility)s)
"""

_LIVING: LiteralString = (
    _CHOSEN
    + _AT_FACILITY
    + """
   AND p.merged_at IS NULL AND p.erased_at IS NULL AND p.registered_at <= %(at)s
   AND (p.deceased_at IS NULL OR p.deceased_at > %(at)s)
"""
)

REGISTRATIONS = Report(
    name="registrations",
    title="Registrations",
    definition=(
        "Patients registered, by when and where, who they are, and how the registration came in. "
        "Records that were merged away since do not count; gender and age follow later "
        "corrections. A patient who was erased since counts, of unknown gender and age. Latency is "
        "known of what a device captured with a clientMutationId."
    ),
    period="Registered on a day from `from` up to, not including, `to`.",
    default_days=31,
    most_days=366,
    source="""
SELECT day, registered_facility AS facility, gender, latency,
       CASE WHEN latency > 60 THEN 'offline' ELSE 'online' END AS mode,
       CASE WHEN age IS NULL THEN 'unknown' WHEN age < 5 THEN '00 to 04'
            WHEN age < 15 THEN '05 to 14' WHEN age < 25 THEN '15 to 24'
            WHEN age < 45 THEN '25 to 44' WHEN age < 65 THEN '45 to 64' ELSE '65 and over'
       END AS age_band
  FROM (
    SELECT d.day, p.registered_facility, p.gender,
           extract(epoch FROM p.registered_at - p.captured_at) AS latency,
           extract(year FROM age(d.day::timestamp, p.born_on::timestamp)) AS age
      FROM analytics.patient_fact AS p
     CROSS JOIN LATERAL (SELECT (p.registered_at AT TIME ZONE %(zone)s)::date AS day) AS d
     WHERE """
    + _CHOSEN
    + """
       AND (%(facility)s::text IS NULL OR p.registered_facility = %(facility)s)
       AND p.merged_at IS NULL
  ) AS registered
""",
    columns=(
        dimension(
            "day", "day", "the day of the registration, in the installation's time zone", "date"
        ),
        dimension(
            "facility",
            "facility",
            "the facility that it was registered at, whatever was corrected later; null without",
        ),
        dimension("gender", "gender", "FHIR AdministrativeGender"),
        dimension(
            "ageBand",
            "age_band",
            "whole years of age on the day of the registration; a birth date known in part counts "
            "from its first day",
        ),
        dimension(
            "mode",
            "mode",
            f"`offline`: it arrived more than {OFFLINE_AFTER_SECONDS} s after a device captured "
            "it; `online`: sooner, or sent without a clientMutationId",
        ),
        count("registrations", "records", "records registered"),
        count(
            "captured",
            "records",
            "those of which the time of capture is known",
            "count(latency)",
        ),
        percentile(
            "latencyMedian",
            "seconds",
            "median time from the capture on the device (the time in its clientMutationId, by the "
            "device's clock) to the record being stored",
            "captured",
            "0.5",
            "latency",
        ),
        percentile(
            "latencyP95",
            "seconds",
            "time within which 95 of 100 were stored",
            "captured",
            "0.95",
            "latency",
        ),
    ),
    chart=Chart(("day",), ("registrations",), upright=True),
    parts=(Parts("registrations", ("captured",)),),
)


def _having(name: str, what: str, condition: LiteralString) -> tuple[Column, Column]:
    part: LiteralString = "count(*) FILTER (WHERE " + condition + ")"
    return (
        count(name, "records", f"records {what}", part),
        share(f"{name}Share", f"share of records {what}", name, part, "count(*)"),
    )


COMPLETENESS = Report(
    name="data-completeness",
    title="Data completeness",
    definition=(
        "What is known of the patients, as the records are now. Records that were merged away or "
        "erased do not count; what the former knew of identifiers counts for the record that they "
        "were merged into."
    ),
    period="Registered on a day from `from` up to, not including, `to`.",
    source="""
SELECT p.facility, p.birth_date, p.birth_estimated, p.next_of_kin, p.telecom,
       CASE WHEN p.absorbed = '{}' THEN p.identifiers
            ELSE p.identifiers + (SELECT sum(a.value::int) FROM jsonb_each_text(p.absorbed) AS a)
       END AS identifiers
  FROM analytics.patient_fact AS p
 WHERE """
    + _CHOSEN
    + _AT_FACILITY
    + "   AND p.merged_at IS NULL AND p.erased_at IS NULL",
    columns=(
        dimension("facility", "facility", "the facility that the record belongs to; null without"),
        count("patients", "records", "records that stand for a person of their own"),
        *_having("birthDate", "with a birth date, if only a year", "birth_date IS NOT NULL"),
        *_having("identifier", "with an identifier in use", "identifiers > 0"),
        *_having("nextOfKin", "with a next of kin", "next_of_kin > 0"),
        *_having("telecom", "with a telephone number or the like", "telecom > 0"),
        *_having(
            "januaryFirst",
            "with a 1 January as birth date, given to the day (by chance 1 in 365: 0.0027)",
            "birth_date LIKE '____-01-01'",
        ),
        *_having("estimated", "whose birth date is marked as estimated", "birth_estimated"),
    ),
    chart=Chart(
        (),
        (
            "birthDateShare",
            "identifierShare",
            "nextOfKinShare",
            "telecomShare",
            "januaryFirstShare",
            "estimatedShare",
        ),
    ),
    parts=(
        Parts("patients", ("birthDate",)),
        Parts("patients", ("identifier",)),
        Parts("patients", ("nextOfKin",)),
        Parts("patients", ("telecom",)),
        Parts("patients", ("januaryFirst",)),
        Parts("patients", ("estimated",)),
        Parts("birthDate", ("januaryFirst",)),
        Parts("birthDate", ("estimated",)),
    ),
)


_PEOPLE: LiteralString = "coalesce(sum(people), 0)::bigint"


def _saying(decision: str, held: LiteralString) -> tuple[Column, Column]:
    return (
        count(decision, "patients", f"patients whose decision is `{decision}`", held),
        share(
            f"{decision}Share",
            f"share of patients whose decision is `{decision}`",
            decision,
            held,
            _PEOPLE,
        ),
    )


CONSENT = Report(
    name="consent-coverage",
    title="Consent coverage",
    definition=(
        "What is in force at an instant (`at`; now, if absent) for each consent flag: of the "
        "decisions that had begun by then the one recorded last, unless it has run out. As is "
        "known now: what was recorded later with an earlier beginning counts. Patients who had "
        "died by then, or whose record was merged away or erased, do not count. Who is in none "
        "of the columns said nothing that holds."
    ),
    period="Patients registered on a day from `from` up to, not including, `to`.",
    takes_at=True,
    source="""
SELECT each.flag, p.facility, p.people, NULL AS decision
  FROM unnest(%(flags)s::text[]) AS each (flag)
 CROSS JOIN (
    SELECT p.facility, count(*) AS people FROM analytics.patient_fact AS p
     WHERE """
    + _LIVING
    + """
     GROUP BY p.facility
  ) AS p
 UNION ALL
SELECT c.flag, p.facility, 0, c.decision
  FROM analytics.consent_fact AS c
  JOIN analytics.patient_fact AS p ON p.tenant = c.tenant AND p.id = c.patient_id
 WHERE c.begins_at <= %(at)s AND (c.valid_until IS NULL OR c.valid_until > %(at)s)
   AND (c.superseded_at IS NULL OR c.superseded_at > %(at)s)
   AND c.flag = ANY(%(flags)s::text[]) AND """
    + _LIVING,
    columns=(
        dimension(
            "flag",
            "flag",
            "the consent flag; always grouped by, as each patient counts for every flag",
            always=True,
        ),
        dimension("facility", "facility", "the facility that the record belongs to; null without"),
        count("patients", "patients", "patients who lived at the instant", _PEOPLE),
        *_saying("granted", "count(*) FILTER (WHERE decision = 'granted')"),
        *_saying("refused", "count(*) FILTER (WHERE decision = 'refused')"),
        *_saying("withdrawn", "count(*) FILTER (WHERE decision = 'withdrawn')"),
    ),
    chart=Chart(("flag",), ("grantedShare", "refusedShare", "withdrawnShare")),
    parts=(Parts("patients", ("granted", "refused", "withdrawn")),),
)
