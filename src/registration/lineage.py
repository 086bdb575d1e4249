"""Which record a patient is found under now: the links of merges, followed in the log itself."""

import asyncio
from collections.abc import Iterable
from uuid import UUID

from registration.domain.merge import Parties, Party
from registration.domain.patient_resource import Patient
from registration.eventstore.store import EventStore, LoadRequest


async def lineage(store: EventStore, tenant: str, patient_ids: Iterable[UUID]) -> Parties:
    """Return these patients, and every record that they were merged into, by id.

    What is no patient is left out. One round trip for each link of the longest chain.
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
            if above is not None and above not in found:
                asked.add(above)
    return found
