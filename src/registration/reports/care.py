"""Reports about encounters: who is there, hour by hour."""

from registration.reports.declared import Chart, Report, count, dimension, percentile

CENSUS = Report(
    name="encounter-census",
    title="Encounter census",
    definition=(
        "Who was there at each full hour, by status: encounters that were `arrived`, `triaged`, "
        "`in-progress` or `onleave` at that very moment, as is known now. Hours that have not "
        "come are not shown, nor hours at which nobody was there. What was entered in error does "
        "not count. Encounters of a record that was merged away or erased do: the person was "
        "there."
    ),
    period="Hours of the days from `from` up to, not including, `to`.",
    default_days=1,
    most_days=31,
    source="""
SELECT h.hour, e.facility, e.patient_id, s.status,
       greatest(0, extract(epoch FROM
           least(coalesce(e.started_at, h.hour), h.hour) - e.arrived_at)) / 60 AS waited,
       extract(epoch FROM h.hour - e.arrived_at) / 60 AS stayed
  FROM analytics.status_fact AS s
  JOIN analytics.encounter_fact AS e ON e.tenant = s.tenant AND e.id = s.encounter_id
 CROSS JOIN LATERAL (
    SELECT %(since)s::timestamptz + interval '1 hour' * n AS hour
      FROM generate_series(
           ceil(extract(epoch FROM greatest(s.since - %(since)s::timestamptz, '0')) / 3600)::int,
           ceil(extract(epoch FROM least(coalesce(s.until, 'infinity'), %(until)s::timestamptz,
                                         %(now)s::timestamptz + interval '1 microsecond')
                                   - %(since)s::timestamptz) / 3600)::int - 1) AS n
  ) AS h
 WHERE s.tenant = %(tenant)s
   AND s.status IN ('arrived', 'triaged', 'in-progress', 'onleave')
   AND tstzrange(s.since, s.until) && tstzrange(%(since)s::timestamptz, %(until)s::timestamptz)
   AND e.status <> 'entered-in-error'
   AND (%(facility)s::text IS NULL OR e.facility = %(facility)s)
""",
    columns=(
        dimension(
            "hour",
            "hour",
            "the full hour, as an instant in UTC; always grouped by, as who stays is there at "
            "several",
            "instant",
            always=True,
        ),
        dimension("facility", "facility", "where the encounter takes place; null without"),
        dimension("status", "status", "FHIR R4 EncounterStatus at that moment"),
        count(
            "patients",
            "patients",
            "patients of these encounters: one may have several",
            "count(DISTINCT patient_id)",
        ),
        count(
            "encounters",
            "encounters",
            "encounters that were in that status",
            rests_on="patients",
        ),
        percentile(
            "waitingMedian",
            "minutes",
            "median time that these patients had waited by then, from the arrival to the first "
            "start of care, or to that moment where care had not begun",
            "encounters",
            "0.5",
            "waited",
        ),
        percentile(
            "waitingP90",
            "minutes",
            "time that 90 of 100 had waited at most",
            "encounters",
            "0.9",
            "waited",
        ),
        percentile(
            "stayMedian",
            "minutes",
            "median time since the arrival",
            "encounters",
            "0.5",
            "stayed",
        ),
        percentile(
            "stayP90",
            "minutes",
            "time since the arrival that 90 of 100 had stayed at most",
            "encounters",
            "0.9",
            "stayed",
        ),
    ),
    chart=Chart(("hour",), ("encounters",), upright=True),
)
