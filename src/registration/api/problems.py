"""Refusals on the wire: RFC 9457 problem details, and one explanation a code.

Every code of the contract stands in :data:`PROBLEMS` with its status, its title, and the page that
``type`` points to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

PROBLEM_JSON = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Problem:
    """What a code means: its HTTP status, a title, why it comes, and what to do about it."""

    status: int
    title: str
    why: str
    remedy: str
    retry_after: int | None = None


PROBLEMS: dict[str, Problem] = {
    "MALFORMED_REQUEST": Problem(
        400,
        "Malformed request",
        "The body is not JSON, names a member twice, or a header cannot be read.",
        "Mend the request; sending it again as it is will fail again.",
    ),
    "UNAUTHENTICATED": Problem(
        401,
        "No valid token",
        "The bearer token is missing, expired, or not signed by an issuer that this service knows.",
        "Get a fresh token and send it as Authorization: Bearer.",
    ),
    "FORBIDDEN": Problem(
        403,
        "Not allowed",
        "The token is valid but lacks the scope that the answer names.",
        "Ask whoever issues your tokens for that scope.",
    ),
    "NOT_FOUND": Problem(
        404,
        "Not found",
        "There is no such resource in your tenant.",
        "Check the id. Another tenant's resources look just like none.",
    ),
    "METHOD_NOT_ALLOWED": Problem(
        405,
        "Method not allowed",
        "The resource exists but does not take this method; Allow lists those that it takes.",
        "Use one of the methods in Allow.",
    ),
    "ID_TAKEN": Problem(
        409,
        "Id taken",
        "The id that you chose already names something else.",
        "Choose a fresh UUIDv7. If this is a retry, send the very same request.",
    ),
    "IDENTIFIER_CONFLICT": Problem(
        409,
        "Identifier held by another record",
        "(tenant, system, value) is unique among live identifiers; patientId, where you may see "
        "it, names the holder.",
        "Look at the other record: it may be the same person. Otherwise mend the number.",
    ),
    "PATIENT_MERGED": Problem(
        409,
        "Patient merged away",
        "This record was merged into another one, which the answer names with its version.",
        "Send the command to the surviving record after looking at it.",
    ),
    "PATIENT_DECEASED": Problem(
        409,
        "Patient deceased",
        "A death is recorded, and this is not possible after it.",
        "If the death was recorded in error, reverse it first.",
    ),
    "ENCOUNTER_TRANSITION_NOT_ALLOWED": Problem(
        409,
        "Encounter transition not allowed",
        "The state machine has no move from the encounter's state to the one asked for.",
        "Choose one of the states under allowed.",
    ),
    "CONSENT_REQUIRED": Problem(
        409,
        "Consent required",
        "The consent that this needs is not in force.",
        "Record the consent first.",
    ),
    "MERGE_NOT_ALLOWED": Problem(
        409,
        "Merge not allowed",
        "These two records cannot be merged as asked.",
        "Read the detail; some cases can be overridden with a reason.",
    ),
    "ERASURE_NOT_ALLOWED": Problem(
        409,
        "Erasure not allowed",
        "This request cannot be carried out: it is not open any more, or what it is about is not "
        "what it was.",
        "Read the detail.",
    ),
    "IDEMPOTENCY_IN_FLIGHT": Problem(
        409,
        "First request still running",
        "A request with this key is still being carried out.",
        "Send the same request again after Retry-After seconds.",
        retry_after=1,
    ),
    "LOG_BROKEN": Problem(
        409,
        "Log broken",
        "Events, keys or hashes that the answer is made of are gone, or not as written or signed.",
        "Tell whoever runs the service. GET /v1/audit/verify and `registration verify` say more.",
    ),
    "PORTRAIT_GONE": Problem(
        410,
        "Portrait gone",
        "The image was removed for good: consent was withdrawn, or its retention date passed.",
        "The history says when and why.",
    ),
    "RESYNC_REQUIRED": Problem(
        410,
        "Resync required",
        "The cursor can no longer be served.",
        "Start again without a cursor.",
    ),
    "ERASED": Problem(
        410,
        "Erased",
        "The personal data of this record was erased.",
        "Nothing brings it back; the history says who decided it.",
    ),
    "OPTIMISTIC_LOCK_CONFLICT": Problem(
        412,
        "The record changed since you saw it",
        "An event after the version that you stated touches what you want to change. changes "
        "lists the events, fields each member in which the record and your intent differ.",
        "Show both sides to a person, and send the reviewed change with If-Match: currentVersion.",
    ),
    "PAYLOAD_TOO_LARGE": Problem(
        413,
        "Payload too large",
        "The body is larger than this endpoint takes; limit says how many bytes that is, and of a "
        "push limits says how many mutations too.",
        "Send less at once.",
    ),
    "UNSUPPORTED_MEDIA_TYPE": Problem(
        415,
        "Unsupported media type",
        "The Content-Type or Content-Encoding is not one that this endpoint takes.",
        "Send the media type that the API document names.",
    ),
    "VALIDATION_FAILED": Problem(
        422,
        "Validation failed",
        "The request is well-formed but says something impossible; errors lists each place as a "
        "JSON Pointer with a message. What you sent is never repeated.",
        "Mend the members under errors.",
    ),
    "NAME_SCRIPT_MISMATCH": Problem(
        422,
        "Name is not in the stated script",
        "The text of the name is written in another script than script says.",
        "Leave script out, and the server detects it.",
    ),
    "IDENTIFIER_INVALID": Problem(
        422,
        "Identifier invalid",
        "The value fails the check that this system's numbers must pass.",
        "Look for a typing error in the number.",
    ),
    "EXTENSION_INVALID": Problem(
        422,
        "Extension invalid",
        "The data does not fit the extension schema; each violation is listed.",
        "Mend the data, or name another schema version.",
    ),
    "IDEMPOTENCY_KEY_REUSED": Problem(
        422,
        "Idempotency key reused",
        "This key was used for another request.",
        "Use a fresh key for a new intent, and the same one only for a retry.",
    ),
    "MUTATION_ID_INVALID": Problem(
        422,
        "Mutation id invalid",
        "A clientMutationId must be a UUIDv7 that lies no more than 24 hours in the future.",
        "Make a fresh UUIDv7, and check the clock of the device.",
    ),
    "VERSION_REQUIRED": Problem(
        428,
        "Version required",
        "This command needs the version that you saw, so that nobody's change is overwritten.",
        "Send If-Match with the ETag of the record.",
    ),
    "TOO_MANY_REQUESTS": Problem(
        429,
        "Too many requests",
        "More commands wait than the service will queue; yours was not tried.",
        "Send the same request again after Retry-After seconds.",
        retry_after=1,
    ),
    "INTERNAL_ERROR": Problem(
        500,
        "Internal error",
        "The service has a fault; the request id leads its operator to the log.",
        "Retry with the same Idempotency-Key: what was done is not done again.",
    ),
    "UNAVAILABLE": Problem(
        503,
        "Temporarily unavailable",
        "The database did not answer in time. Whether your command was carried out is unknown.",
        "Send the same request with the same Idempotency-Key after Retry-After seconds.",
        retry_after=2,
    ),
    "READ_MODEL_BEHIND": Problem(
        503,
        "Read model behind",
        "The read model has not reached minPosition yet.",
        "Send the same query again after Retry-After seconds.",
        retry_after=1,
    ),
    "OFFLINE_PROHIBITED": Problem(
        422,
        "Not possible offline",
        "This is safety-critical or a legal record, and is only done online (push only).",
        "Do it with a direct request.",
    ),
    "ONLINE_CONFIRMATION_REQUIRED": Problem(
        422,
        "Needs confirmation online",
        "A person has to confirm this with a direct request; confirm names it (push only).",
        "Send the request under confirm.",
    ),
    "DEPENDENCY_FAILED": Problem(
        422,
        "An earlier mutation failed",
        "What this one builds on was not applied: the mutation that it names, or the one that was "
        "to create its record (push only).",
        "Settle the earlier one first. This was not remembered: sent again, it is tried anew.",
    ),
}


def details(
    code: str, detail: str, *, instance: str, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a refusal as RFC 9457 members, ``code``, and the extra members."""
    known = PROBLEMS[code]
    return {
        "type": f"/problems/{code}",
        "title": known.title,
        "status": known.status,
        "detail": detail,
        "instance": instance,
        "code": code,
        **(extra or {}),
    }


def problem(
    code: str,
    detail: str,
    *,
    instance: str,
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the response for a code: RFC 9457 members, ``code``, and the extra members."""
    known = PROBLEMS[code]
    body = details(code, detail, instance=instance, extra=extra)
    answer = dict(headers or {})
    if known.retry_after is not None:
        answer.setdefault("Retry-After", str(known.retry_after))
    if known.status == 401:
        answer.setdefault("WWW-Authenticate", 'Bearer realm="registration"')
    return Response(orjson.dumps(body), known.status, answer, PROBLEM_JSON)
