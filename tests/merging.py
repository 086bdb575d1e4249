"""Merging two patients of a desk's tenant over HTTP, and undoing it."""

from tests.api.given_merges import Index, Record
from tests.service import Desk


def merged(desk: Desk, retired: Record, survivor: Record) -> Record:
    """Return the decision that merged two patients, as they are now."""
    index = Index.of(desk.service, desk.tenant)
    return index.merged(index.now(survivor), index.now(retired))


def parted(desk: Desk, decision: Record) -> Record:
    """Return a decision after the merge was undone."""
    return Index.of(desk.service, desk.tenant).unmerged(decision)
