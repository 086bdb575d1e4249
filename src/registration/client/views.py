"""Records as they look from this device: the service's, with one's own changes on top."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from registration.client.cache import ENCOUNTER, PATIENT, SCHEMA, Cache, Record
from registration.client.device import Device
from registration.client.merging import merged_away, patient_of, replaced_by
from registration.client.mutation import Mutation, State
from registration.client.outbox import Outbox
from registration.client.payload import confirmed, entry_of
from registration.client.session import Session
from registration.domain.aggregate import Aggregate, Stamp
from registration.domain.context import Context
from registration.domain.contract import Operation
from registration.domain.encounter import Encounter, EncounterResource
from registration.domain.errors import DomainError, not_found
from registration.domain.events import Event
from registration.domain.extension_schema import ExtensionSchema, SchemaVersion
from registration.domain.handlers import HANDLERS
from registration.domain.patient_resource import Patient, PatientResource

KIND_OF: dict[type[Aggregate[Any]], str] = {Patient: PATIENT, Encounter: ENCOUNTER}


def kind_of(operation: Operation) -> str:
    """Return the kind of record that an operation is about."""
    return KIND_OF[HANDLERS[operation].aggregate]


@dataclass(frozen=True, slots=True)
class View:
    """A record as a person at this device sees it.

    ``body`` has the members of the endpoint of one record. ``server`` is what the last pull
    brought and ``version`` its version, 0 where none did. ``pending`` are the numbers of one's own
    mutations in ``body`` that no pull brought yet; ``misfits`` of those that do not fit any more
    what the service says by now: they are not in ``body``, and are sent all the same.
    """

    kind: str
    id: UUID
    body: Mapping[str, Any] = field(repr=False)
    version: int
    server: Mapping[str, Any] | None = field(repr=False)
    pending: tuple[int, ...]
    misfits: tuple[int, ...]

    @property
    def replaced_by(self) -> UUID | None:
        """The record that this patient was merged into; ``None`` where it was not."""
        return replaced_by(self.body)


class Built(NamedTuple):
    """A record folded: the aggregate, and what it was folded from."""

    aggregate: Aggregate[Any] | None
    record: Record | None
    pending: tuple[int, ...] = ()
    misfits: tuple[int, ...] = ()


class Views:
    """What one person sees."""

    def __init__(self, device: Device, session: Session, cache: Cache, outbox: Outbox) -> None:
        self._device = device
        self._session = session
        self._cache = cache
        self._outbox = outbox

    def view(self, kind: str, its_id: UUID) -> View | None:
        """Return a record; ``None`` where there is none."""
        built = self.built(kind, its_id)
        if built.aggregate is None:
            return None
        record = built.record
        return View(
            kind=kind,
            id=its_id,
            body=record.body if record and not built.pending else built.aggregate.plain(),
            version=record.version if record else 0,
            server=record.body if record else None,
            pending=built.pending,
            misfits=built.misfits,
        )

    def current(self, patient_id: UUID) -> View | None:
        """Return the record that a patient is found under now.

        Where that is not known here it is the last one on the way that is, and says
        ``replaced_by``. ``None`` where none is.
        """
        view, seen = self.view(PATIENT, patient_id), {patient_id}
        while view is not None and view.replaced_by is not None and view.replaced_by not in seen:
            seen.add(view.replaced_by)
            above = self.view(PATIENT, view.replaced_by)
            if above is None:
                break
            view = above
        return view

    def built(self, kind: str, its_id: UUID) -> Built:
        """Return a record folded from the service's and one's own changes, in their order."""
        record = self._cache.get(kind, its_id)
        aggregate = None if record is None else _folded(record)
        pending, misfits = [], []
        for mutation in self._outbox.not_pulled(self._session.subject, its_id):
            if aggregate is not None and HANDLERS[mutation.operation].creates:
                continue  # the pull brought it, and the answer to the push did not come
            try:
                aggregate = self._apply(aggregate, mutation)
            except DomainError:
                misfits.append(mutation.number)
            else:
                pending.append(mutation.number)
        return Built(aggregate, record, tuple(pending), tuple(misfits))

    def decide(
        self,
        operation: Operation,
        aggregate: Aggregate[Any] | None,
        payload: Mapping[str, Any],
        entry: str | None,
        context: Context,
        *,
        settled: bool = False,
    ) -> list[Event]:
        """Return what a command makes of a record; raises the domain's refusal.

        ``PATIENT_MERGED`` is none of the domain's, which looks at one record alone: it is raised
        where a pull has told of the merge, unless the service has ``settled`` the command.
        """
        handler = HANDLERS[operation]
        command = confirmed(operation, payload)
        about = patient_of(operation, None if aggregate is None else aggregate.id, payload)
        if about is not None and not settled and self._is_replaced(about):
            raise merged_away(self._cache, about)
        state = None if aggregate is None else aggregate.state
        if handler.creates and state is not None:
            raise DomainError("ID_TAKEN", "The chosen id already names something else.")
        if not handler.creates and state is None:
            raise not_found(handler.aggregate.KIND)
        related = None
        if handler.related is not None:
            related = self._related(*handler.related(command, entry))
        return list(handler.events(state, command, context, entry_of(operation, entry), related))

    def context(self, now: datetime, facility: str | None, flag: str | None = None) -> Context:
        """Return what decisions may know: the policy as it was pulled.

        Before the first pull no flag is known, so the one that is asked for passes.
        """
        policy = self._cache.policy()
        return Context(
            now=now,
            new_id=self._device.fresh_id,
            tenant=self._session.tenant,
            actor=self._session.subject,
            scopes=self._session.scopes,
            facility=facility,
            client=self._device.client_id,
            identifier_systems={} if policy is None else policy["identifierSystems"],
            consent_flags={flag or "": ""} if policy is None else policy["consentFlags"],
        )

    def _apply(self, aggregate: Aggregate[Any] | None, mutation: Mutation) -> Aggregate[Any]:
        context = self.context(mutation.made_at, mutation.facility, mutation.entry)
        events = self.decide(
            mutation.operation,
            aggregate,
            mutation.payload,
            mutation.entry,
            context,
            settled=mutation.state is State.APPLIED,
        )
        if aggregate is None:
            aggregate = HANDLERS[mutation.operation].aggregate(mutation.aggregate_id)
        for event in events:
            stamp = Stamp(aggregate.version + 1, mutation.made_at, mutation.subject)
            aggregate.apply(event, stamp)
        return aggregate

    def _is_replaced(self, patient_id: UUID) -> bool:
        record = self._cache.get(PATIENT, patient_id)
        return record is not None and replaced_by(record.body) is not None

    def _related(self, kind: type[Aggregate[Any]], its_id: UUID) -> Any:
        if kind is ExtensionSchema:
            schema = self._schema(its_id)
            return None if schema is None else schema.state
        aggregate = self.built(KIND_OF[kind], its_id).aggregate
        return None if aggregate is None else aggregate.state

    def _schema(self, its_id: UUID) -> ExtensionSchema | None:
        record = self._cache.get(SCHEMA, its_id)
        if record is None:
            return None
        versions = [
            SchemaVersion.model_validate(shown, extra="ignore") for shown in record.body["versions"]
        ]
        return ExtensionSchema.from_shown(record.body["name"], versions)


def _folded(record: Record) -> Aggregate[Any]:
    # a newer service may say more than this program knows; decisions do without it
    if record.kind == PATIENT:
        return Patient.from_shown(PatientResource.model_validate(record.body, extra="ignore"))
    return Encounter.from_shown(EncounterResource.model_validate(record.body, extra="ignore"))
