"""Why somebody reads: ``X-Purpose-Of-Use`` and ``X-Break-Glass``.

Both are statements of the caller, recorded as made. Neither opens anything that the token's scopes
do not.
"""

from typing import NamedTuple

from starlette.datastructures import Headers

from registration.domain.errors import DomainError

LONGEST_REASON = 500

PURPOSES = frozenset(
    (
        *("HMARKT",),
        *("HOPERAT", "CAREMGT", "DONAT", "FRAUD", "GOV", "HACCRED", "HCOMPL", "HDECD", "HDIRECT"),
        *("HDM", "HLEGAL", "HOUTCOMS", "HPRGRP", "HQUALIMP", "HSYSADMIN", "LABELING"),
        *("METAMGT", "MEMADMIN", "MILCDM", "PATADMIN", "PATSFTY", "PERFMSR", "RECORDMGT"),
        *("SYSDEV", "HTEST", "TRAIN"),
        *("HPAYMT", "CLMATTCH", "COVAUTH", "COVERAGE", "ELIGDTRM", "ELIGVER", "ENROLLM"),
        *("MILDCRG", "REMITADV"),
        *("HRESCH", "BIORCH", "CLINTRCH", "CLINTRCHNPC", "CLINTRCHPC", "PRECLINTRCH"),
        *("DSRCH", "POARCH", "TRANSRCH"),
        *("PATRQT", "FAMRQT", "PWATRNY", "SUPNWK"),
        *("PUBHLTH", "DISASTER", "THREAT"),
        *("TREAT", "CLINTRL", "COC", "ETREAT", "BTG", "ERTREAT", "POPHLTH"),
    )
)
"""The codes of HL7 v3 PurposeOfUse (in ActReason), as FHIR R4 lists them."""


SCHEMAS = {
    "PurposeOfUse": {
        "type": "string",
        "enum": sorted(PURPOSES),
        "description": "A code of HL7 v3 PurposeOfUse.",
    }
}
PARAMETERS = (
    {
        "name": "X-Purpose-Of-Use",
        "in": "header",
        "description": "Why the data is read (HL7 v3 PurposeOfUse), for the access log.",
        "schema": {"$ref": "#/components/schemas/PurposeOfUse"},
    },
    {
        "name": "X-Break-Glass",
        "in": "header",
        "description": "The reason of whoever reads what they otherwise should not, for the access "
        "log; in any script, as UTF-8.",
        "schema": {
            "type": "string",
            "maxLength": LONGEST_REASON,
            "pattern": "^[!-~]([ -~]*[!-~])?$",
            "example": "unconscious, no relatives",
        },
    },
)
"""How the OpenAPI document declares both, for every query."""


class Why(NamedTuple):
    """Why somebody reads, as far as they say; nothing is assumed of those who do not."""

    purpose: str | None = None
    break_glass: str | None = None


UNSTATED = Why()


def why_of(headers: Headers) -> Why:
    """Return what the request says. Raises ``MALFORMED_REQUEST`` for what says nothing."""
    purposes, reasons = headers.getlist("x-purpose-of-use"), headers.getlist("x-break-glass")
    if not purposes and not reasons:
        return UNSTATED
    # several lines are one list (RFC 9110, 5.3)
    purpose = ", ".join(purposes) if purposes else None
    if purpose is not None and purpose not in PURPOSES:
        raise DomainError(
            "MALFORMED_REQUEST",
            "X-Purpose-Of-Use takes one code of HL7 v3 PurposeOfUse, such as TREAT.",
        )
    return Why(purpose, _reason(", ".join(reasons)) if reasons else None)


def _reason(said: str) -> str:
    """Return the reason of a broken glass, which may be in any script: bytes of UTF-8."""
    try:
        reason = said.encode("latin-1").decode().strip()
    except UnicodeDecodeError:
        reason = ""
    if not (0 < len(reason) <= LONGEST_REASON and reason.isprintable()):
        raise DomainError(
            "MALFORMED_REQUEST",
            f"X-Break-Glass takes the reason, in UTF-8, 1 to {LONGEST_REASON} characters.",
        )
    return reason
