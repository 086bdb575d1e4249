"""A Merkle tree over a log, and its proofs: RFC 6962, section 2.1 (RFC 9162 has the same tree).

``leaf = sha256(0x00 || data)``, ``node = sha256(0x01 || left || right)``, and the root of nothing
is ``sha256("")``. Leaves count from 0. A subtree is *complete* when it has 2^level leaves; a
complete one never changes again, however much the log grows.

Where hashes come from is the caller's business: a proof is first a list of ranges of leaves whose
roots it consists of, and :func:`subtrees` says which complete subtrees make up a range.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256

EMPTY = sha256(b"").digest()

Subtree = tuple[int, int]
"""A complete subtree: its level (0 is a leaf), and how many of that level are before it."""
Range = tuple[int, int]
"""Leaves from the first on and before the second."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node above two others."""
    return sha256(b"\1" + left + right).digest()


class Frontier:
    """The roots of the complete subtrees that a growing log consists of, the largest first.

    Its size is that of the log's binary digits, so following a log needs no memory to speak of.
    """

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Take the hash of the next leaf."""
        roots, size = self._roots, self.size
        while size & 1:
            leaf = sha256(b"\1" + roots.pop() + leaf).digest()
            size >>= 1
        roots.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """Return the root of the tree over all leaves so far."""
        return fold(self._roots)


def fold(roots: Sequence[bytes]) -> bytes:
    """Return the root over neighbouring subtrees, the largest first."""
    if not roots:
        return EMPTY
    found = roots[-1]
    for left in reversed(roots[:-1]):
        found = node_hash(left, found)
    return found


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over 2^k nodes of one level."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
    return hashes[0]


def subtrees(part: Range) -> Iterator[Subtree]:
    """Yield the complete subtrees that a range consists of, from left to right.

    The range is one of those that proofs name: it starts where a subtree of its size may start.
    """
    start, end = part
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """Return the ranges whose roots prove that a leaf is in the tree of ``size``, in their order.

    RFC 6962, 2.1.1. Raises ``ValueError`` unless ``0 <= index < size``.
    """
    if not 0 <= index < size:
        raise ValueError("the leaf is not in the tree")
    found: list[Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    return found[::-1]


def consistency_ranges(before: int, after: int) -> list[Range]:
    """Return the ranges whose roots prove that the tree of ``after`` leaves extends an earlier one.

    RFC 6962, 2.1.2. Raises ``ValueError`` unless ``0 < before <= after``.
    """
    if not 0 < before <= after:
        raise ValueError("the one tree is not in the other")
    found: list[Range] = []
    start, end = 0, after
    while before != end:
        middle = start + _split(end - start)
        if before <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    if start:  # otherwise it is the earlier tree itself, whose root is known
        found.append((start, end))
    return found[::-1]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Whether ``proof`` shows that the leaf with this hash is in the tree with this root.

    RFC 9162, 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for other in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(other, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, other)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(
    before: int, after: int, proof: Sequence[bytes], root_before: bytes, root_after: bytes
) -> bool:
    """Whether ``proof`` shows that the tree of ``after`` leaves extends the one of ``before``.

    RFC 9162, 2.1.4.2.
    """
    if not 0 < before <= after:
        return False
    if before == after:
        return not proof and root_before == root_after
    if before & (before - 1) == 0:  # complete: its root is not part of the proof
        proof = [root_before, *proof]
    if not proof:
        return False
    at, last = before - 1, after - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = proof[0]
    for other in proof[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(other, old), node_hash(other, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, other)
        at, last = at >> 1, last >> 1
    return last == 0 and (old, new) == (root_before, root_after)


def roots_of(ranges: Iterable[Range], hash_of: Callable[[Subtree], bytes]) -> list[bytes]:
    """Return the root of each range."""
    return [fold([hash_of(subtree) for subtree in subtrees(part)]) for part in ranges]


def _split(size: int) -> int:
    """Return the largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1
