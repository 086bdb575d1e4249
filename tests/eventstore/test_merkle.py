"""The tree and its proofs, against what RFC 6962 says in so many words."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registration.eventstore.merkle import (
    EMPTY,
    Frontier,
    complete_root,
    consistency_ranges,
    fold,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    roots_of,
    subtrees,
    verify_consistency,
    verify_inclusion,
)

SIZES = range(1, 71)
DATA = [b"event %d" % n for n in range(max(SIZES))]


def split(n: int) -> int:
    """The largest power of two smaller than n (RFC 6962, 2.1)."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(data: list[bytes]) -> bytes:
    """RFC 6962, 2.1: the Merkle Tree Hash."""
    if not data:
        return sha256(b"").digest()
    if len(data) == 1:
        return sha256(b"\x00" + data[0]).digest()
    k = split(len(data))
    return sha256(b"\x01" + mth(data[:k]) + mth(data[k:])).digest()


def path(m: int, data: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1: the audit path."""
    if len(data) == 1:
        return []
    k = split(len(data))
    if m < k:
        return [*path(m, data[:k]), mth(data[k:])]
    return [*path(m - k, data[k:]), mth(data[:k])]


def subproof(m: int, data: list[bytes], whole: bool) -> list[bytes]:
    """RFC 6962, 2.1.2: SUBPROOF, of which PROOF(m, D) is SUBPROOF(m, D, true)."""
    if m == len(data):
        return [] if whole else [mth(data)]
    k = split(len(data))
    if m <= k:
        return [*subproof(m, data[:k], whole), mth(data[k:])]
    return [*subproof(m - k, data[k:], False), mth(data[:k])]  # noqa: FBT003  (as in the RFC)


def frontier(data: list[bytes]) -> Frontier:
    made = Frontier()
    for item in data:
        made.append(leaf_hash(item))
    return made


def roots(ranges, data=DATA) -> list[bytes]:
    leaves = [leaf_hash(item) for item in data]
    return roots_of(ranges, lambda s: complete_root(leaves[s[1] << s[0] : (s[1] + 1) << s[0]]))


def inclusion(index: int, size: int) -> list[bytes]:
    return roots(inclusion_ranges(index, size))


def consistency(before: int, after: int) -> list[bytes]:
    return roots(consistency_ranges(before, after))


def test_known_roots() -> None:
    """Test vectors that certificate transparency logs are tested with."""
    data = [
        bytes.fromhex(text)
        for text in (
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        )
    ]
    known = {
        0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    assert {n: frontier(data[:n]).root().hex() for n in known} == known


@pytest.mark.parametrize("size", [0, *SIZES])
def test_the_root_of_every_size(size: int) -> None:
    assert frontier(DATA[:size]).root() == mth(DATA[:size])
    assert frontier(DATA[:size]).size == size
    if size:
        assert roots([(0, size)]) == [mth(DATA[:size])]


@pytest.mark.parametrize("size", SIZES)
def test_every_inclusion_proof(size: int) -> None:
    root = mth(DATA[:size])
    for index in range(size):
        proof = inclusion(index, size)
        assert proof == path(index, DATA[:size])
        assert verify_inclusion(leaf_hash(DATA[index]), index, size, proof, root)


@pytest.mark.parametrize("after", SIZES)
def test_every_consistency_proof(after: int) -> None:
    for before in range(1, after + 1):
        proof = consistency(before, after)
        assert proof == subproof(before, DATA[:after], True)  # noqa: FBT003
        assert verify_consistency(before, after, proof, mth(DATA[:before]), mth(DATA[:after]))


def test_what_no_tree_has() -> None:
    for index, size in ((0, 0), (5, 5), (-1, 5)):
        with pytest.raises(ValueError, match="not in the tree"):
            inclusion_ranges(index, size)
        assert not verify_inclusion(leaf_hash(b""), index, size, [], EMPTY)
    for before, after in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match="not in the other"):
            consistency_ranges(before, after)
        assert not verify_consistency(before, after, [], EMPTY, EMPTY)
    assert fold([]) == EMPTY


@given(st.data())
def test_a_forged_inclusion_proof_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    leaf, proof, root = leaf_hash(DATA[index]), inclusion(index, size), mth(DATA[:size])
    forged = forge(data, proof)
    assert not verify_inclusion(leaf, index, size, forged, root)
    other = data.draw(st.integers(0, 70).filter(lambda n: n != index))
    assert not verify_inclusion(leaf, other, size, proof, root)
    assert not verify_inclusion(leaf_hash(b"another"), index, size, proof, root)
    assert not verify_inclusion(leaf, index, size, proof, leaf_hash(b"another"))


@given(st.data())
def test_a_forged_consistency_proof_is_refused(data: st.DataObject) -> None:
    after = data.draw(st.integers(2, 70))
    before = data.draw(st.integers(1, after - 1))
    proof, old, new = consistency(before, after), mth(DATA[:before]), mth(DATA[:after])
    assert not verify_consistency(before, after, forge(data, proof), old, new)
    assert not verify_consistency(before, after, proof, leaf_hash(b"another"), new)
    assert not verify_consistency(before, after, proof, old, leaf_hash(b"another"))
    # the same log with one event changed does not extend it
    changed = list(DATA[:after])
    changed[data.draw(st.integers(0, before - 1))] = b"another"
    forged = subproof(before, changed, True)  # noqa: FBT003
    assert not verify_consistency(before, after, forged, old, mth(changed))


def forge(data: st.DataObject, proof: list[bytes]) -> list[bytes]:
    """A proof that is not this one: a bit is flipped, a step left out, added or moved."""
    ways = ["add", *(["flip", "drop"] if proof else [])]
    way = data.draw(st.sampled_from(ways))
    at = data.draw(st.integers(0, max(0, len(proof) - 1)))
    if way == "add":
        return [*proof[:at], leaf_hash(b"added"), *proof[at:]]
    if way == "drop":
        return proof[:at] + proof[at + 1 :]
    bit = data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(proof[at], "big") ^ 1 << bit).to_bytes(32, "big")
    return [*proof[:at], flipped, *proof[at + 1 :]]


@given(st.integers(1, 10_000), st.data())
def test_the_subtrees_of_a_range_cover_it_once(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    for start, end in [*inclusion_ranges(index, size), (0, size)]:
        covered = [
            n for level, at in subtrees((start, end)) for n in range(at << level, (at + 1) << level)
        ]
        assert covered == list(range(start, end))


def test_a_leaf_is_no_node() -> None:
    """What RFC 6962 puts before each is what keeps a node from being passed off as a leaf."""
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)
