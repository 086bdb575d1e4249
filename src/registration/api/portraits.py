"""Portraits over HTTP: a real image in, a real image out."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from registration.api.command_table import CommandRoute
from registration.api.commands import answer, command_of, no_query
from registration.api.openapi import problems
from registration.api.reading import AggregateId, has, loaded_aggregate
from registration.api.requests import (
    Reader,
    authenticated,
    context_of,
    detached,
    read_body,
    services,
)
from registration.command import require_scope
from registration.domain.commands import SetPortrait
from registration.domain.contract import rule_for
from registration.domain.errors import DomainError, invalid, not_found
from registration.domain.events import Event, PortraitSet
from registration.domain.merge import merged_away
from registration.domain.patient_resource import Patient
from registration.domain.portrait import gone, why_gone
from registration.eventstore.store import StoreOverloadedError
from registration.images import MOST_BYTES, ImageRefused, PortraitImage, portrait_of
from registration.lineage import lineage

router = APIRouter(tags=["portraits"])

_MOST_WAITING = 32


class _Studio:
    """Two threads that make portraits, and the requests that wait for them."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="portrait")
        self._waiting = 0

    async def make(self, body: bytes, media_type: str) -> PortraitImage:
        """Return the portrait of an image. Raises ``ImageRefused``; 429 where too many wait."""
        if self._waiting >= _MOST_WAITING:
            raise StoreOverloadedError
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, portrait_of, body, media_type)
        finally:
            self._waiting -= 1


_studio = _Studio()


async def set_portrait(request: Request, route: CommandRoute) -> Response:
    """Take a picture in: looked at, made anew without what it carried along, and only then kept.

    The bytes are written when the decision is made and before its event is (see
    ``registration.portraits``).
    """
    request.scope["observation"].operation = route.operation.value
    its = services(request)
    caller = await authenticated(request)
    require_scope(caller.scopes, rule_for(route.operation).scope)
    no_query(request)
    body = await read_body(request, MOST_BYTES, route.media_types)
    media_type = request.headers["content-type"].partition(";")[0].strip().lower()
    image = await _made(body, media_type)
    payload = SetPortrait(
        content_hash=image.content_hash,
        media_type=image.media_type,
        width=image.width,
        height=image.height,
        size=len(image.data),
    )
    said = {"mediaType": media_type, "sha256": sha256(body).hexdigest()}
    command = command_of(request, route, payload, said)

    async def keep(events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, PortraitSet) and command.aggregate_id is not None:
                kept = its.portraits.put(
                    caller.tenant, event.portrait_id, command.aggregate_id, image.data
                )
                await detached(kept)

    reply = await its.gate.handle(command._replace(beforehand=keep), context_of(caller, its))
    return answer(request, reply, caller)


async def _made(body: bytes, media_type: str) -> PortraitImage:
    try:
        return await _studio.make(body, media_type)
    except ImageRefused as refused:
        if refused.too_large:
            raise DomainError("PAYLOAD_TOO_LARGE", str(refused)) from None
        raise invalid("", str(refused)) from None


@router.get(
    "/v1/patients/{id}/portrait",
    operation_id="portrait.read",
    summary="The portrait",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "The picture."},
        304: {"description": "You have this picture."},
        **problems(
            "FORBIDDEN",
            "NOT_FOUND",
            "PATIENT_MERGED",
            "PORTRAIT_GONE",
            "ERASED",
            "VALIDATION_FAILED",
        ),
    },
)
async def get_portrait(request: Request, caller: Reader, patient_id: AggregateId) -> Response:
    """Return the picture, if the patient consents to it now and its time has not passed.

    None of a record that was merged away is shown: what the person says counts on the survivor.
    """
    its = services(request)
    patient = await loaded_aggregate(request, caller, Patient, patient_id)
    if patient.state.merged_into is not None:
        raise merged_away(await lineage(its.store, caller.tenant, [patient_id]), patient_id)
    portrait = patient.state.portrait
    if portrait is None:
        raise (
            gone(patient.state.portrait_gone)
            if patient.state.portrait_gone
            else not_found("portrait")
        )
    cause = why_gone(patient.state, its.clock())
    if cause is not None:
        raise gone(cause)
    headers = {
        "ETag": f'"{portrait.content_hash}"',
        # it may have to go at any time: who keeps it asks again before showing it
        "Cache-Control": "private, no-cache",
    }
    if has(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    data = await detached(its.portraits.get(caller.tenant, portrait.id))
    if data is None:  # removed between the two looks
        raise gone("requested")
    return Response(data, 200, headers, portrait.media_type)
