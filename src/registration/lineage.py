"""Which record a patient is found under now: the links of merges, followed in the log itself.

For what has to be right at this moment; lists ask their read model.
"""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from registration.domain.events import PatientMergedAway
from registration.domain.merge import Parties, Party, survivor_of
from registration.domain.patient_resource import Patient
from registration.eventstore.store import EventStore, LoadRequest


async def lineage(
    store: EventStore, tenant: str, patient_ids: Iterable[UUID], *, whole: bool = False
) -> Parties:
    """Return these patients, and every record that they were merged into, by id.

    ``whole``: what was merged into those as well. What is no patient is left out, and who was
    erased is blank. One round trip for each link of the longest chain.
    """
    found: dict[UUID, Party] = {}
    asked = set(patient_ids)
    while asked:
        ids = list(asked)
        loaded = await asyncio.gather(*(store.load(LoadRequest(tenant, each)) for each in ids))
        asked = set()
        for its_id, read in zip(ids, loaded, strict=True):
            patient = Patient.of(its_id, read.events)
            if patient is None or patient.state is None:
                continue
            found[its_id] = Party(patient, read.events)
            above = patient.state.merged_into
            near = {above} if above is not None else set()
            if whole:
                near |= patient.state.absorbed.keys()
            asked |= near - found.keys()
    return found


class Current(NamedTuple):
    """Under which record a patient is found now; ``always``: it never was under another one."""

    patient_id: UUID
    always: bool


async def current_patient(store: EventStore, tenant: str, patient_id: UUID) -> Current:
    """Return under which record a patient is found now, which is itself unless it was merged."""
    known = await lineage(store, tenant, [patient_id])
    if patient_id not in known:
        return Current(patient_id, always=True)
    was_merged = any(
        isinstance(recorded.event, PatientMergedAway) for recorded in known[patient_id].history
    )
    return Current(survivor_of(known, patient_id), always=not was_merged)
