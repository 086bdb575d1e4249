"""The report about the master patient index: how many records may be one person's twice."""

from typing import LiteralString

from registration.reports.declared import Chart, Parts, Report, count, percentile, share

_RECORD: LiteralString = "count(*) FILTER (WHERE kind = 'record')"
_OWN: LiteralString = "count(*) FILTER (WHERE kind = 'record' AND own)"
_IN_PAIR: LiteralString = "count(*) FILTER (WHERE kind = 'record' AND own AND in_pair)"
_MERGED: LiteralString = "count(*) FILTER (WHERE kind = 'record' AND merged)"

DUPLICATES = Report(
    name="duplicates",
    title="Possible duplicates",
    definition=(
        "How many records may be one person's twice, as it stands now, and how fast that is "
        "decided. One row: `facility` chooses whose records count, and a pair counts where one of "
        "its records does, so the pairs of two facilities may be counted at both."
    ),
    period="Records registered on a day from `from` up to, not including, `to`, and their pairs.",
    reads=("analytics", "matching"),
    source="""
WITH chosen AS (
    SELECT p.id, p.merged_at IS NOT NULL AS merged,
           p.merged_at IS NULL AND p.erased_at IS NULL AS own
      FROM analytics.patient_fact AS p
     WHERE p.tenant = %(tenant)s
       AND p.registered_at >= %(since)s::timestamptz AND p.registered_at < %(until)s::timestamptz
       AND (%(facility)s::text IS NULL OR p.facility = %(facility)s)
), pair AS (
    SELECT DISTINCT c.current_one, c.current_other FROM matching.candidate AS c
     WHERE c.tenant = %(tenant)s AND c.status = 'open'
), paired AS (
    SELECT current_one AS id FROM pair UNION SELECT current_other FROM pair
), made AS (
    SELECT c.one, c.other, d.dismissed_at - c.raised_at AS took
      FROM matching.candidate AS c
      JOIN matching.dismissal AS d ON d.tenant = c.tenant AND d.candidate_id = c.id
     WHERE c.tenant = %(tenant)s AND c.status = 'dismissed'
     UNION ALL
    SELECT c.one, c.other, m.executed_at - c.raised_at
      FROM analytics.merge_fact AS m
      JOIN matching.candidate AS c ON c.tenant = m.tenant AND c.id = m.pair
     WHERE m.tenant = %(tenant)s AND m.reversed_at IS NULL
), decided AS (
    SELECT one, other, took FROM made WHERE took >= '0'
), settled AS (
    SELECT one AS id FROM decided UNION SELECT other FROM decided
)
SELECT 'record' AS kind, chosen.merged, chosen.own, paired.id IS NOT NULL AS in_pair,
       settled.id IS NOT NULL AS is_decided, NULL::numeric AS hours
  FROM chosen LEFT JOIN paired ON paired.id = chosen.id LEFT JOIN settled ON settled.id = chosen.id
 UNION ALL
SELECT 'pair', NULL, NULL, NULL, NULL, NULL FROM pair
  LEFT JOIN chosen AS one ON one.id = current_one
  LEFT JOIN chosen AS other ON other.id = current_other
 WHERE one.id IS NOT NULL OR other.id IS NOT NULL
 UNION ALL
SELECT 'decision', NULL, NULL, NULL, NULL, extract(epoch FROM took) / 3600 FROM decided
  LEFT JOIN chosen AS one ON one.id = decided.one
  LEFT JOIN chosen AS other ON other.id = decided.other
 WHERE one.id IS NOT NULL OR other.id IS NOT NULL
""",
    columns=(
        count("registered", "records", "records registered, merged away, erased, or not", _RECORD),
        count(
            "confirmed",
            "records",
            "those that were merged away: duplicates, as a person confirmed",
            _MERGED,
        ),
        share(
            "confirmedShare",
            "confirmed / registered",
            "confirmed",
            _MERGED,
            _RECORD,
        ),
        count(
            "records",
            "records",
            "records that stand for a person of their own: registered, not merged away or erased",
            _OWN,
        ),
        count(
            "recordsInOpenPairs",
            "records",
            "those of them that are in a pair that nobody has decided about",
            _IN_PAIR,
        ),
        share(
            "rate",
            "recordsInOpenPairs / records",
            "recordsInOpenPairs",
            _IN_PAIR,
            _OWN,
        ),
        count(
            "openPairs",
            "pairs",
            "pairs of records that may be one person's and that nobody has decided about",
            "count(*) FILTER (WHERE kind = 'pair')",
            rests_on="recordsInOpenPairs",
        ),
        count(
            "recordsDecided",
            "records",
            "records registered of which some pair was decided, as `decisions` counts them",
            "count(*) FILTER (WHERE kind = 'record' AND is_decided)",
        ),
        count(
            "decisions",
            "pairs",
            "pairs found by matching that were decided: dismissed, or merged and not undone",
            "count(*) FILTER (WHERE kind = 'decision')",
            rests_on="recordsDecided",
        ),
        percentile(
            "decisionMedian",
            "hours",
            "median time from a pair being found to its decision",
            "decisions",
            "0.5",
            "hours",
        ),
        percentile(
            "decisionP90",
            "hours",
            "time within which 90 of 100 were decided",
            "decisions",
            "0.9",
            "hours",
        ),
    ),
    chart=Chart((), ("rate", "confirmedShare")),
    parts=(
        Parts("registered", ("confirmed", "records")),
        Parts("registered", ("recordsDecided",)),
        Parts("records", ("recordsInOpenPairs",)),
    ),
)
