"""A patient's history field by field: as JSON for programs, as a page for people."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from registration.api.cursors import decode_cursor, encode_cursor
from registration.api.openapi import problems
from registration.api.pages import HEADERS
from registration.api.reading import AggregateId, Page, json_answer, reached
from registration.api.requests import Reader, saw, services
from registration.api.timeline_page import timeline_page
from registration.api.wire_audit import Timeline
from registration.domain.errors import invalid, not_found
from registration.domain.patient_resource import Patient
from registration.domain.timeline import Step, steps
from registration.erased import refuse_erased
from registration.eventstore.store import LoadRequest

router = APIRouter(tags=["audit"])


@router.get(
    "/v1/patients/{id}/timeline",
    operation_id="patient.timeline",
    summary="Every event of a patient with the fields that it changed, oldest first",
    response_model=Timeline,
    responses={
        200: {"content": {"text/html": {"schema": {"type": "string"}}}},
        **problems("FORBIDDEN", "NOT_FOUND", "VALIDATION_FAILED", "READ_MODEL_BEHIND"),
    },
)
async def timeline(
    request: Request, caller: Reader, patient_id: AggregateId, page: Annotated[Page, Query()]
) -> Response:
    """Return the history field by field; as a page to whoever prefers `text/html` (`Accept`)."""
    await reached(request, caller.tenant, page.min_position)
    after = 0
    if page.cursor is not None:
        after = decode_cursor(page.cursor)
        if type(after) is not int or not 0 <= after < 2**31:
            raise invalid("/cursor", "is no cursor of this list")
    until = min(after + page.limit + 1, 2**31 - 1)
    loaded = await services(request).store.load(LoadRequest(caller.tenant, patient_id, until=until))
    refuse_erased(Patient, loaded.events)
    patient = Patient.of(patient_id, loaded.events)
    if patient is None:
        raise not_found("patient")
    saw(request, patient.patient_ids)
    found = list(steps(Patient, patient_id, loaded.events, after))
    shown = found[: page.limit]
    following = encode_cursor(shown[-1].record.version) if len(found) > page.limit else None
    if _prefers_html(request.headers.get("accept", "")):
        html = timeline_page(patient, shown, following)
        return HTMLResponse(html, headers=HEADERS | {"Vary": "Accept"})
    return json_answer(
        {"items": [_shown(step) for step in shown], "next": following}, {"Vary": "Accept"}
    )


def _shown(step: Step) -> dict[str, Any]:
    record = step.record
    return {
        "version": record.version,
        "at": record.recorded_at,
        "actor": record.meta["actor"],
        "type": record.event.TOPIC,
        "differences": [difference._asdict() for difference in step.differences],
    }


def _prefers_html(accept: str) -> bool:
    """Whether an Accept header (RFC 9110, 12.5.1) names HTML, and JSON not or with less weight."""
    weights = {"text/html": 0.0, "application/json": 0.0}
    for part in accept.lower().split(","):
        media, _, parameters = part.partition(";")
        match = _WEIGHT.search(parameters)
        if media.strip() in weights:
            weights[media.strip()] = float(match[1]) if match else 1.0
    return weights["text/html"] > weights["application/json"]


_WEIGHT = re.compile(r"(?:^|;)\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*(?:$|;)", re.ASCII)
