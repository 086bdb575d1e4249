"""For auditors: whether the log is what was written, its signed checkpoints, and proofs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import APIRouter, Query
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from pydantic import AwareDatetime, Field
from starlette.requests import Request
from starlette.responses import Response

from registration.api.cursors import decode_cursor, encode_cursor
from registration.api.openapi import problems
from registration.api.reading import Part, json_answer
from registration.api.requests import AuditReader, detached, services
from registration.api.wire import Answer
from registration.domain.errors import DomainError, invalid
from registration.evidence import proofs, tree, watch
from registration.evidence.folder import CheckpointFolder, FolderError
from registration.evidence.notes import Checkpoint, Signed
from registration.evidence.watch import NEWEST

router = APIRouter(tags=["audit"])

Result = TypeVar("Result")
Connection = AsyncConnection[TupleRow]
Number = Annotated[int, Field(ge=1, lt=2**62)]

_HEAD = "SELECT position, hash FROM registration.log_head WHERE tenant = %s"


class SignedCheckpoint(Answer):
    """A checkpoint of the log; ``note`` is the whole of it, with its signature."""

    size: int
    root_hash: str
    head_hash: str
    at: AwareDatetime
    key_id: Annotated[str, Field(description="as the note names the key, hexadecimal")]
    note: Annotated[str, Field(description="a signed note: https://c2sp.org/tlog-checkpoint")]


class SignedCheckpoints(Answer):
    """A page of checkpoints, the newest first."""

    items: list[SignedCheckpoint]
    next: str | None


class FirstBroken(Answer):
    """The first link that does not hold, and why."""

    position: int
    stream_id: str | None
    version: int | None
    reason: str


class LogStatus(Answer):
    """What the process that signs checkpoints found when it last looked at the log."""

    status: Annotated[
        str,
        Field(
            pattern="^(whole|broken|unknown)$",
            description="unknown: nobody has looked at this log yet",
        ),
    ]
    events: Annotated[int, Field(description="how many the log has now")]
    head_hash: str | None
    verified_to: Annotated[
        int, Field(description="every event up to here was recomputed before it was signed")
    ]
    looked_at: AwareDatetime | None
    reviewed_to: Annotated[
        int, Field(description="how far the pass is that recomputes all of them again")
    ]
    whole_at: Annotated[
        AwareDatetime | None, Field(description="when such a pass last came to the end")
    ]
    broken: FirstBroken | None
    unwritten: Annotated[
        bool, Field(description="whether the last checkpoint could not be written")
    ]
    checkpoint: Annotated[SignedCheckpoint | None, Field(description="the newest")]


@router.get(
    "/v1/audit/verify",
    operation_id="audit.verify",
    summary="Whether the log is what was written",
    response_model=LogStatus,
    responses=problems("FORBIDDEN", "UNAVAILABLE"),
)
async def verify(request: Request, caller: AuditReader) -> Response:
    """Report what was found when the log was last looked at; nothing is recomputed for the asking.

    To recompute all of it takes minutes, and is what ``registration verify`` does.
    """
    keys = await _keys(request)

    async def query(connection: Connection) -> dict[str, Any]:
        head = await (await connection.execute(_HEAD, (caller.tenant,))).fetchone()
        found = await watch.read(connection, caller.tenant)
        newest = await watch.copies(connection, caller.tenant, keys)
        return _status(head, found, newest)

    return json_answer(await _asked(request, query))


@router.get(
    "/v1/audit/checkpoints",
    operation_id="audit.checkpoints",
    summary="Signed checkpoints of the log",
    response_model=SignedCheckpoints,
    responses=problems("FORBIDDEN", "VALIDATION_FAILED", "UNAVAILABLE"),
)
async def checkpoints(
    request: Request, caller: AuditReader, page: Annotated[Part, Query()]
) -> Response:
    """List copies of the checkpoints, the newest first; those in the folder are what counts."""
    before = NEWEST
    if page.cursor is not None:
        before = decode_cursor(page.cursor)
        if type(before) is not int or not 0 < before <= NEWEST:
            raise invalid("/cursor", "is no cursor of this list")
    keys = await _keys(request)
    found = await _asked(
        request, lambda db: watch.copies(db, caller.tenant, keys, before, page.limit + 1)
    )
    more = len(found) > page.limit
    last = found[page.limit - 1].checkpoint.size if more else 0
    return json_answer(
        {
            "items": [_checkpoint(signed) for signed in found[: page.limit]],
            "next": encode_cursor(last) if more else None,
        }
    )


@router.get(
    "/v1/audit/proofs/inclusion",
    operation_id="audit.prove_inclusion",
    summary="A proof that an event is in the log",
    response_model=proofs.InclusionProof,
    response_model_exclude_none=True,
    responses=problems("FORBIDDEN", "VALIDATION_FAILED", "LOG_BROKEN", "UNAVAILABLE"),
)
async def prove_inclusion(
    request: Request,
    caller: AuditReader,
    position: Annotated[Number, Query(description="The event's position.")],
    size: Annotated[
        Number | None, Query(description="Events of the tree; without, of the newest checkpoint.")
    ] = None,
) -> Response:
    """Prove it against a tree that is not larger than the newest checkpoint's (RFC 9162)."""
    keys = await _keys(request)

    async def query(connection: Connection) -> proofs.Proof:
        signed = await _signed(connection, caller.tenant, keys, size, "/size")
        until = size or signed.size
        if position > until:
            raise invalid("/position", f"must be one of the {until} events of the tree")
        made = proofs.inclusion(connection, caller.tenant, position, until)
        return await _checked(connection, made, signed)

    return json_answer(proofs.as_json(await _asked(request, query)))


@router.get(
    "/v1/audit/proofs/consistency",
    operation_id="audit.prove_consistency",
    summary="A proof that the log only grew",
    response_model=proofs.ConsistencyProof,
    responses=problems("FORBIDDEN", "VALIDATION_FAILED", "LOG_BROKEN", "UNAVAILABLE"),
)
async def prove_consistency(
    request: Request,
    caller: AuditReader,
    before: Annotated[Number, Query(alias="from", description="Events of the earlier tree.")],
    after: Annotated[
        Number | None,
        Query(alias="to", description="Of the later one; without, of the newest checkpoint."),
    ] = None,
) -> Response:
    """Prove that the later tree is the earlier one with events added to its end (RFC 9162)."""
    keys = await _keys(request)

    async def query(connection: Connection) -> proofs.Proof:
        signed = await _signed(connection, caller.tenant, keys, after, "/to")
        until = after or signed.size
        if before > until:
            raise invalid("/from", f"must not be more than the {until} events of the later tree")
        made = proofs.consistency(connection, caller.tenant, before, until)
        return await _checked(connection, made, signed)

    return json_answer(proofs.as_json(await _asked(request, query)))


async def _keys(request: Request) -> list[Ed25519PublicKey]:
    """Return the keys by which checkpoints are told from what somebody put beside them.

    None where the folder is on another machine, that of the process which signs: then whatever is
    well-formed is shown, and who receives it verifies it anyway.
    """
    folder = CheckpointFolder(services(request).settings.checkpoints)
    try:
        return await asyncio.to_thread(folder.keys)
    except FolderError:
        return []


async def _signed(
    connection: Connection,
    tenant: str,
    keys: list[Ed25519PublicKey],
    asked: int | None,
    path: str,
) -> Checkpoint:
    """Return the newest checkpoint, which a tree of the size that is asked for is part of.

    Raises ``VALIDATION_FAILED``.
    """
    newest = await watch.copies(connection, tenant, keys)
    if not newest:
        raise invalid(path, "cannot be had: there is no checkpoint of the log yet")
    signed = newest[0].checkpoint
    if asked is not None and asked > signed.size:
        limit = f"the {signed.size} events of the newest checkpoint"
        raise invalid(path, f"must not be more than {limit}")
    return signed


async def _checked(
    connection: Connection, made: Awaitable[proofs.Proof], signed: Checkpoint
) -> proofs.Proof:
    """Return a proof that holds, and against what was signed."""
    proof = await made
    await proofs.check_against(connection, signed.tenant, proofs.check(proof), signed)
    return proof


async def _asked(request: Request, query: Callable[[Connection], Awaitable[Result]]) -> Result:
    async def answer() -> Result:
        try:
            async with services(request).views.connection() as connection:
                return await query(connection)
        except (proofs.ProofError, tree.TreeError):
            detail = "What the proof is made of is not there, or not what was signed."
            raise DomainError("LOG_BROKEN", detail) from None

    return await detached(answer())


def _status(
    head: TupleRow | None, found: watch.Watched | None, newest: list[Signed]
) -> dict[str, Any]:
    broken = found.broken if found else None
    return {
        "status": "unknown" if found is None else "broken" if broken else "whole",
        "events": head[0] if head else 0,
        "headHash": head[1].hex() if head else None,
        "verifiedTo": found.verified_to if found else 0,
        "lookedAt": found.looked_at if found else None,
        "reviewedTo": found.reviewed_to if found else 0,
        "wholeAt": found.whole_at if found else None,
        "broken": broken
        and {
            "position": broken.position,
            "streamId": broken.stream_id,
            "version": broken.version,
            "reason": broken.reason,
        },
        "unwritten": found is not None and found.unwritten is not None,
        "checkpoint": _checkpoint(newest[0]) if newest else None,
    }


def _checkpoint(signed: Signed) -> dict[str, Any]:
    said = signed.checkpoint
    return {
        "size": said.size,
        "rootHash": said.root.hex(),
        "headHash": said.head.hex(),
        "at": said.at,
        "keyId": signed.key_id.hex(),
        "note": signed.note,
    }
