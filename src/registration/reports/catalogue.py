"""All reports, by name."""

from registration.reports.care import CENSUS
from registration.reports.declared import Report
from registration.reports.index import DUPLICATES
from registration.reports.patients import COMPLETENESS, CONSENT, REGISTRATIONS
from registration.reports.synchronisation import SYNC_HEALTH

REPORTS: dict[str, Report] = {
    report.name: report
    for report in (REGISTRATIONS, CENSUS, COMPLETENESS, DUPLICATES, CONSENT, SYNC_HEALTH)
}
