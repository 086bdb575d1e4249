"""Proofs about a log as documents that hold all it takes to check them, without any database.

No patient data is in them, unless an event's own bytes are asked for.
"""

from base64 import b64encode
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, Literal
from uuid import UUID

from psycopg import DataError
from psycopg.rows import TupleRow
from pydantic import (
    AwareDatetime,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from registration.eventstore.merkle import leaf_hash, verify_consistency, verify_inclusion
from registration.eventstore.records import event_digest
from registration.eventstore.verify import START
from registration.evidence import tree
from registration.evidence.notes import Checkpoint
from registration.evidence.tree import Connection

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256, hexadecimal")]
Path = Annotated[list[Hash], Field(max_length=128, description="hashes, in the order of RFC 9162")]
Size = Annotated[int, Field(ge=1, lt=2**62)]

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_EVENT = """
SELECT e.stream_id, e.version, e.topic, e.recorded_at, e.metadata, e.data, e.hash, b.hash
  FROM registration.event e
  LEFT JOIN registration.event b ON b.tenant = e.tenant AND b.position = e.position - 1
 WHERE e.tenant = %s AND e.position = %s
"""
_POSITION = """
SELECT position FROM registration.event WHERE tenant = %s AND stream_id = %s AND version = %s
"""


class ProofError(Exception):
    """The proof does not hold. The message says what is wrong with it."""


class _Document(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, extra="forbid", hide_input_in_errors=True
    )


class ProvedEvent(_Document):
    """An event as the chain has it: ``hash`` follows from the other three and the position."""

    stream_id: UUID
    version: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
    type: str
    at: AwareDatetime
    digest: Annotated[Hash, Field(description="SHA-256 over the event's canonical bytes")]
    previous_hash: Hash
    hash: Hash
    metadata: Annotated[
        Base64Bytes | None, Field(description="the event's own bytes, where they were asked for")
    ] = None
    data: Base64Bytes | None = None


class InclusionProof(_Document):
    """The event at a position is in the tree of ``size`` events that has this root."""

    kind: Literal["inclusion"] = "inclusion"
    tenant: str
    position: Size
    size: Size
    event: ProvedEvent
    path: Path
    root_hash: Hash


class ConsistencyProof(_Document):
    """The tree of ``to`` events is that of ``from`` events with others after them."""

    kind: Literal["consistency"] = "consistency"
    tenant: str
    from_size: Annotated[Size, Field(alias="from")]
    to_size: Annotated[Size, Field(alias="to")]
    from_root_hash: Hash
    to_root_hash: Hash
    path: Path


Proof = InclusionProof | ConsistencyProof
PROOF: TypeAdapter[Proof] = TypeAdapter(Annotated[Proof, Field(discriminator="kind")])


def as_json(proof: Proof) -> dict[str, Any]:
    """Return a proof as it is written and sent."""
    return proof.model_dump(mode="json", by_alias=True, exclude_none=True)


async def position_of(connection: Connection, tenant: str, stream: UUID, version: int) -> int:
    """Return where an event is in the log. Raises :class:`ProofError` where it is not."""
    row = await (await connection.execute(_POSITION, (tenant, stream, version))).fetchone()
    if row is None:
        raise ProofError("there is no such event")
    return int(row[0])


async def inclusion(
    connection: Connection, tenant: str, position: int, size: int, *, whole: bool = False
) -> InclusionProof:
    """Prove that the event at a position is in the tree of ``size`` events.

    ``whole``: with the event's own bytes, which are patient data. Raises :class:`ProofError` where
    there is no such event, and :class:`~registration.evidence.tree.TreeError`.
    """
    if position > size:
        raise ProofError("the event is not among so many")
    cursor = await connection.execute(_EVENT, (tenant, position), binary=True)
    try:
        row = await cursor.fetchone()
        event = None if row is None else _event(tenant, row, whole=whole)
    except (AttributeError, TypeError, DataError, ValidationError):
        # columns that are empty, a time that is none: somebody was at it
        raise ProofError("the event is damaged") from None
    if event is None:
        raise ProofError("there is no such event")
    path, root = await tree.inclusion(connection, tenant, position - 1, size)
    return InclusionProof(
        tenant=tenant,
        position=position,
        size=size,
        event=event,
        path=[step.hex() for step in path],
        root_hash=root.hex(),
    )


def _event(tenant: str, row: TupleRow, *, whole: bool) -> ProvedEvent:
    stream, version, topic, at, metadata, data, digest, previous = row
    return ProvedEvent(
        stream_id=stream,
        version=version,
        type=topic,
        at=at,
        digest=event_digest(tenant, stream, version, topic, metadata, data).hex(),
        previous_hash=(previous or START).hex(),
        hash=digest.hex(),
        metadata=b64encode(metadata) if whole else None,
        data=b64encode(data) if whole else None,
    )


async def consistency(
    connection: Connection, tenant: str, before: int, after: int
) -> ConsistencyProof:
    """Prove that the tree of ``after`` events extends the one of ``before``.

    Raises :class:`ProofError` unless ``before <= after``, and
    :class:`~registration.evidence.tree.TreeError`.
    """
    if before > after:
        raise ProofError("a log does not shrink")
    path, old, new = await tree.consistency(connection, tenant, before, after)
    return ConsistencyProof(
        tenant=tenant,
        from_size=before,
        to_size=after,
        from_root_hash=old.hex(),
        to_root_hash=new.hex(),
        path=[step.hex() for step in path],
    )


async def check_against(
    connection: Connection, tenant: str, roots: dict[int, bytes], signed: Checkpoint
) -> None:
    """Hold what a proof stands on against a verified checkpoint that is not smaller.

    What is kept of the tree may be damaged; then a proof that was made from it is worth nothing.
    Raises :class:`ProofError` and :class:`~registration.evidence.tree.TreeError`.
    """
    for size, root in roots.items():
        path, _, _ = await tree.consistency(connection, tenant, size, signed.size)
        if not verify_consistency(size, signed.size, path, root, signed.root):
            raise ProofError("the tree is not the one that was signed")


def check(proof: Proof) -> dict[int, bytes]:
    """Check a proof by itself, and return the roots that it stands on, by size.

    They are what has to be compared with signed checkpoints. Raises :class:`ProofError`.
    """
    if isinstance(proof, InclusionProof):
        return _check_inclusion(proof)
    path = [bytes.fromhex(step) for step in proof.path]
    old, new = bytes.fromhex(proof.from_root_hash), bytes.fromhex(proof.to_root_hash)
    if not verify_consistency(proof.from_size, proof.to_size, path, old, new):
        raise ProofError("the one root does not extend the other")
    return {proof.from_size: old, proof.to_size: new}


def check_signed(tenant: str, roots: dict[int, bytes], checkpoints: Iterable[Checkpoint]) -> None:
    """Hold what a proof stands on against verified checkpoints. Raises :class:`ProofError`."""
    signed = {found.size: found.root for found in checkpoints if found.tenant == tenant}
    for size, root in roots.items():
        if size not in signed:
            raise ProofError(f"there is no signed checkpoint of {size} events")
        if signed[size] != root:
            raise ProofError(f"the signed checkpoint of {size} events has another root")


def _check_inclusion(proof: InclusionProof) -> dict[int, bytes]:
    event = proof.event
    if (event.data is None) != (event.metadata is None):
        raise ProofError("the event's bytes are not all there: data and metadata go together")
    if event.data is not None and event.metadata is not None:
        digest = event_digest(
            proof.tenant, event.stream_id, event.version, event.type, event.metadata, event.data
        )
        if digest.hex() != event.digest:
            raise ProofError("the event's bytes are not those of its digest")
    made = sha256(
        bytes.fromhex(event.previous_hash)
        + proof.position.to_bytes(8, "big")
        + _as_hashed(event.at)
        + bytes.fromhex(event.digest)
    ).digest()
    if made.hex() != event.hash:
        raise ProofError("the event's hash is not made of what is said of it")
    root = bytes.fromhex(proof.root_hash)
    path = [bytes.fromhex(step) for step in proof.path]
    if not verify_inclusion(leaf_hash(made), proof.position - 1, proof.size, path, root):
        raise ProofError("the path does not lead from the event to the root")
    return {proof.size: root}


def _as_hashed(at: datetime) -> bytes:
    """Return an instant as PostgreSQL sends it: microseconds since 2000, 8 bytes."""
    return ((at - _EPOCH) // timedelta(microseconds=1)).to_bytes(8, "big", signed=True)
