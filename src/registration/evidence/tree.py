"""The Merkle tree over a tenant's log, as far as it is kept in the database, and proofs from it.

A leaf is the hash that the chain gives an event. Kept are the roots of complete subtrees of every
eighth level; what lies between is made from at most 255 of the level below. So to extend the tree
costs what the new events cost, and a proof reads some hundred hashes whatever the size of the log.
"""

import asyncio
from collections.abc import Sequence

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.eventstore.merkle import (
    Range,
    Subtree,
    complete_root,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    roots_of,
    subtrees,
)

_STEP = 8
_WIDTH = 1 << _STEP
_BATCH = _WIDTH * _WIDTH
_LEVELS = range(_STEP, 64, _STEP)

_LEAVES = """
SELECT position - 1, hash FROM registration.event
 WHERE tenant = %s AND position = ANY(%s) AND hash IS NOT NULL
"""
_NODES = """
SELECT n.level, n.index, n.hash
  FROM unnest(%s::int2[], %s::int8[]) AS wanted (level, index)
  JOIN registration.tree_node n
    ON n.tenant = %s AND n.level = wanted.level AND n.index = wanted.index
   AND octet_length(n.hash) = 32
"""
_NEW_LEAVES = """
SELECT hash FROM registration.event
 WHERE tenant = %s AND position > %s AND position <= %s AND hash IS NOT NULL ORDER BY position
"""
_HAVE = """
SELECT coalesce(max(index) + 1, 0) FROM registration.tree_node WHERE tenant = %s AND level = %s
"""
_CHILDREN = """
SELECT hash FROM registration.tree_node
 WHERE tenant = %s AND level = %s AND index >= %s AND index < %s AND octet_length(hash) = 32
 ORDER BY index
"""
_ADD = """
INSERT INTO registration.tree_node
SELECT %s, %s::int2, new.index, new.hash FROM unnest(%s::int8[], %s::bytea[]) AS new (index, hash)
    ON CONFLICT DO NOTHING
"""

Connection = AsyncConnection[TupleRow]


class TreeError(Exception):
    """Hashes that the tree needs are not there: it is not extended so far, or damaged."""


async def extend(connection: Connection, tenant: str, size: int) -> None:
    """Keep what there is to keep of the tree over the first ``size`` events.

    Does no harm when several do it at once. Raises :class:`TreeError` where events are missing.
    """
    have = await _have(connection, tenant, _STEP)
    while have < size >> _STEP:
        until = min((have << _STEP) + _BATCH, size >> _STEP << _STEP)
        cursor = await connection.execute(_NEW_LEAVES, (tenant, have << _STEP, until), binary=True)
        leaves = [leaf_hash(row[0]) for row in await cursor.fetchall()]
        if len(leaves) != until - (have << _STEP):
            raise TreeError("events are missing")
        nodes = await asyncio.to_thread(_above, leaves)  # a tenth of a second, for others to use
        await _add(connection, tenant, _STEP, have, nodes)
        have += len(nodes)
    for level in _LEVELS[1:]:
        have = await _have(connection, tenant, level)
        if have < size >> level:
            children = (tenant, level - _STEP, have << _STEP, size >> level << _STEP)
            cursor = await connection.execute(_CHILDREN, children, binary=True)
            hashes = [row[0] for row in await cursor.fetchall()]
            if len(hashes) != ((size >> level) - have) << _STEP:
                raise TreeError("nodes are missing")
            await _add(connection, tenant, level, have, _above(hashes))


async def forget(connection: Connection, tenant: str) -> None:
    """Drop what is kept of a tenant's tree: it can be made anew."""
    await connection.execute("DELETE FROM registration.tree_node WHERE tenant = %s", (tenant,))


async def root(connection: Connection, tenant: str, size: int) -> bytes:
    """Return the root over the first ``size`` events. Raises :class:`TreeError`."""
    [found] = await _roots(connection, tenant, [(0, size)])
    return found


async def inclusion(
    connection: Connection, tenant: str, index: int, size: int
) -> tuple[list[bytes], bytes]:
    """Return the proof that a leaf is in the tree of ``size``, and that tree's root.

    Raises :class:`TreeError`, and ``ValueError`` unless ``0 <= index < size``.
    """
    *proof, found = await _roots(connection, tenant, [*inclusion_ranges(index, size), (0, size)])
    return proof, found


async def consistency(
    connection: Connection, tenant: str, before: int, after: int
) -> tuple[list[bytes], bytes, bytes]:
    """Return the proof that the tree of ``after`` extends the one of ``before``, and both roots.

    Raises :class:`TreeError`, and ``ValueError`` unless ``0 < before <= after``.
    """
    ranges = [*consistency_ranges(before, after), (0, before), (0, after)]
    *proof, old, new = await _roots(connection, tenant, ranges)
    return proof, old, new


async def _roots(connection: Connection, tenant: str, ranges: Sequence[Range]) -> list[bytes]:
    wanted = {place for part in ranges for subtree in subtrees(part) for place in _base(subtree)}
    known: dict[Subtree, bytes] = {}
    positions = [index + 1 for level, index in wanted if level == 0]
    cursor = await connection.execute(_LEAVES, (tenant, positions), binary=True)
    for index, digest in await cursor.fetchall():
        known[0, index] = leaf_hash(digest)
    nodes = [place for place in wanted if place[0]]
    levels, indexes = [level for level, _ in nodes], [index for _, index in nodes]
    cursor = await connection.execute(_NODES, (levels, indexes, tenant), binary=True)
    for level, index, digest in await cursor.fetchall():
        known[level, index] = digest
    if known.keys() != wanted:
        raise TreeError("the tree is not made so far")
    return roots_of(ranges, lambda subtree: complete_root([known[p] for p in _base(subtree)]))


def _base(subtree: Subtree) -> list[Subtree]:
    """Return what a subtree is made of among the levels that are kept."""
    level, index = subtree
    base = level - level % _STEP
    width = 1 << level - base
    return [(base, at) for at in range(index * width, (index + 1) * width)]


def _above(hashes: Sequence[bytes]) -> list[bytes]:
    """Return the roots over each 256 of these hashes."""
    return [complete_root(hashes[at : at + _WIDTH]) for at in range(0, len(hashes), _WIDTH)]


async def _have(connection: Connection, tenant: str, level: int) -> int:
    row = await (await connection.execute(_HAVE, (tenant, level))).fetchone()
    return int(row[0]) if row else 0


async def _add(
    connection: Connection, tenant: str, level: int, start: int, nodes: Sequence[bytes]
) -> None:
    indexes = list(range(start, start + len(nodes)))
    await connection.execute(_ADD, (tenant, level, indexes, list(nodes)))
