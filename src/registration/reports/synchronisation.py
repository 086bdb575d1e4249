"""The report about devices: how long writes wait on them, what is refused, who is not heard of."""

from typing import LiteralString

from registration.reports.declared import Chart, Column, Report, count, dimension, percentile

NOT_SEEN_DAYS = 7
"""A device that has not pushed for so many days counts as not seen."""


def _refused(outcome: str, what: str, refused: LiteralString) -> Column:
    return count(outcome, "mutations", f"mutations that push answered with {what}", refused)


SYNC_HEALTH = Report(
    name="sync-health",
    title="Synchronisation",
    definition=(
        "How synchronisation goes. The service sees what arrives: what still waits on a device is "
        "known when it comes. Refusals are counted by code: what the record stands against once, "
        "however often the device asks again, and what the mutation itself cannot do each time. "
        "Devices are those that have ever pushed, whatever the window. A mutation is about a "
        "patient: small counts are kept back here too."
    ),
    period="Arrived on a day from `from` up to, not including, `to`.",
    default_days=31,
    most_days=366,
    source="""
SELECT 'mutation' AS kind, m.facility, NULL AS code, NULL AS outcome, 1 AS number,
       extract(epoch FROM m.recorded_at - m.captured_at) AS age, NULL::boolean AS lost
  FROM analytics.mutation_fact AS m
 WHERE m.tenant = %(tenant)s
   AND m.recorded_at >= %(since)s::timestamptz AND m.recorded_at < %(until)s::timestamptz
   AND (%(facility)s::text IS NULL OR m.facility = %(facility)s)
 UNION ALL
SELECT 'refusal', nullif(r.facility, ''), r.code, r.outcome, r.count, NULL, NULL
  FROM registration.refused_mutation AS r
 WHERE r.tenant = %(tenant)s
   AND r.quarter >= %(since)s::timestamptz AND r.quarter < %(until)s::timestamptz
   AND (%(facility)s::text IS NULL OR r.facility = %(facility)s)
 UNION ALL
SELECT 'device', d.facility, NULL, NULL, 1, NULL,
       d.last_push_at < %(now)s::timestamptz - interval '7 days'
  FROM registration.device AS d
 WHERE d.tenant = %(tenant)s AND (%(facility)s::text IS NULL OR d.facility = %(facility)s)
""",
    columns=(
        dimension("facility", "facility", "facility of the device's token; null without"),
        dimension("code", "code", "the code of a refusal; null in the row of what was not refused"),
        count(
            "applied",
            "mutations",
            "mutations stored",
            "count(*) FILTER (WHERE kind = 'mutation')",
        ),
        percentile(
            "queueAgeMedian",
            "seconds",
            "median time from the capture on the device (the time in the clientMutationId, by the "
            "device's clock) to being stored",
            "applied",
            "0.5",
            "age",
        ),
        percentile(
            "queueAgeP95",
            "seconds",
            "time within which 95 of 100 were stored",
            "applied",
            "0.95",
            "age",
        ),
        percentile("queueAgeLongest", "seconds", "the longest such time", "applied", "1", "age"),
        _refused(
            "conflicts",
            "`conflict`",
            "coalesce(sum(number) FILTER (WHERE outcome = 'conflict'), 0)::bigint",
        ),
        _refused(
            "rejections",
            "`rejected`",
            "coalesce(sum(number) FILTER (WHERE outcome = 'rejected'), 0)::bigint",
        ),
        _refused(
            "blocked",
            "`blocked`",
            "coalesce(sum(number) FILTER (WHERE outcome = 'blocked'), 0)::bigint",
        ),
        count("devices", "devices", "devices known", "count(*) FILTER (WHERE kind = 'device')"),
        Column(
            "devicesNotSeen",
            "integer",
            "devices",
            f"those that have not pushed for {NOT_SEEN_DAYS} days; shown where `devices` is",
            "count(*) FILTER (WHERE lost)",
            "derived",  # one silent device of many is what this report is for, and is no person
            rests_on="devices",
        ),
    ),
    chart=Chart(("code",), ("applied", "conflicts", "rejections", "blocked")),
)
