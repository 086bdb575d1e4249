"""Reading consent: what a person says now, said before, and what was in force at an instant."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from registration.api.auth import Caller
from registration.api.openapi import problems
from registration.api.reading import (
    AggregateId,
    instant,
    json_answer,
    loaded_aggregate,
    versioned,
)
from registration.api.requests import AnyCaller, Reader, path_key, services
from registration.api.wire import ConsentFlags, ConsentHistory, Consents, ShownConsent
from registration.domain.consent import in_force, last_begun
from registration.domain.errors import not_found
from registration.domain.patient_resource import Patient
from registration.domain.resources import Consent

router = APIRouter(tags=["consents"])

AsOf = Annotated[
    str | None, Query(alias="asOf", description="What was known then: recorded by this instant")
]
ValidAt = Annotated[
    str | None,
    Query(alias="validAt", description="What held then; at asOf, or now, if absent"),
]
Flag = Annotated[str, Path(alias="flag", max_length=64)]
_PROBLEMS = problems("FORBIDDEN", "NOT_FOUND", "VALIDATION_FAILED")


@router.get(
    "/v1/consent-flags",
    operation_id="consent_flag.list",
    summary="The consent flags that there are",
    response_model=ConsentFlags,
    responses=problems("UNAUTHENTICATED"),
)
async def flags(request: Request, _caller: AnyCaller) -> dict[str, Any]:
    """Return each flag with its title, as this installation is set up."""
    known = services(request).settings.consent_flags
    return {"items": [{"flag": f, "title": title} for f, title in known.items()], "next": None}


@router.get(
    "/v1/patients/{id}/consents",
    operation_id="consent.list",
    summary="What a patient says to each flag",
    response_model=Consents,
    responses=_PROBLEMS,
)
async def consents(
    request: Request,
    caller: Reader,
    patient_id: AggregateId,
    as_of: AsOf = None,
    valid_at: ValidAt = None,
) -> Response:
    """Return for each flag the decision that holds at an instant; flags that have none are absent.

    A decision holds from its ``validFrom``, or from when it was recorded; of those that have begun
    the one recorded last holds. ``inForce`` says whether that is a consent, not yet run out.
    ``asOf`` leaves out what was recorded later: what a form that came in since changed is not
    known then.
    """
    known = instant(as_of, "/asOf")
    moment = instant(valid_at, "/validAt") or known or services(request).clock()
    patient = await loaded_aggregate(request, caller, Patient, patient_id, known)
    shown = [
        _shown(request, said, decisions, moment)
        for decisions in patient.state.consents.values()
        if (said := last_begun(decisions, moment)) is not None
    ]
    return json_answer(
        {"items": shown, "asOf": known, "validAt": moment, "next": None},
        {"ETag": f'"{patient.version}"'},
    )


@router.get(
    "/v1/patients/{id}/consents/{flag}",
    operation_id="consent.read",
    summary="What a patient last said to a flag",
    response_model=ShownConsent,
    responses=_PROBLEMS,
)
async def consent(
    request: Request, caller: Reader, patient_id: AggregateId, _flag: Flag
) -> Response:
    """Return the last decision about a flag; its ETag is what the next one states as If-Match.

    Where a decision about the flag states a `validFrom` or a `validUntil`, the answer is never 304:
    `inForce` changes with the time, and no version with it.
    """
    decisions = await _decisions(request, caller, patient_id)
    last = decisions[-1]
    # what is recorded has begun, whatever the clock of this process says of that of the log
    shown = _shown(request, last, decisions, max(services(request).clock(), last.recorded_at))
    if any(said.valid_from or said.valid_until for said in decisions):
        return json_answer(shown, {"ETag": f'"{last.version}"'})
    return versioned(request, last.version, shown)


@router.get(
    "/v1/patients/{id}/consents/{flag}/history",
    operation_id="consent.history",
    summary="Everything a patient ever said to a flag",
    response_model=ConsentHistory,
    responses=_PROBLEMS,
)
async def consent_history(
    request: Request, caller: Reader, patient_id: AggregateId, _flag: Flag
) -> Response:
    """Return every decision about a flag, oldest first."""
    decisions = await _decisions(request, caller, patient_id)
    return json_answer({"items": [said.plain() for said in decisions], "next": None})


async def _decisions(request: Request, caller: Caller, patient_id: UUID) -> tuple[Consent, ...]:
    flag = path_key(request, "flag", "consent flag")
    patient = await loaded_aggregate(request, caller, Patient, patient_id)
    decisions: tuple[Consent, ...] = patient.state.consents.get(flag, ())
    if not decisions:
        raise not_found("decision about this flag")
    return decisions


def _shown(
    request: Request, said: Consent, decisions: tuple[Consent, ...], at: datetime
) -> dict[str, Any]:
    holds = in_force(decisions, at)
    title = services(request).settings.consent_flags.get(said.flag, said.flag)
    granted = holds is said and said.decision == "granted"
    return {**said.plain(), "title": title, "inForce": granted}
