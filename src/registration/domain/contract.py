"""The sync contract's conflict table, as data: the one place that says what rule a command has.

The command gate, the HTTP routes, the OpenAPI document, ``GET /v1/sync/contract``, the
documentation page and the tests read :data:`RULES`; nothing else in the code repeats it.

Source: the sync contract, section 1 (conflict policy per aggregate) and section 2 (offline-first
considerations); rows marked ``house`` are this project's decision where the contract is silent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Resource(StrEnum):
    """The record kinds of the sync contract, by the contract's own names."""

    PATIENT = "PatientAggregate"
    IDENTIFIER = "PatientIdentifier"
    NAME = "PatientName"
    NEXT_OF_KIN = "NextOfKinEntry"
    CONSENT = "ConsentFlag"
    ENCOUNTER = "EncounterAggregate"
    PORTRAIT = "PatientPortrait"
    EXTENSION = "PatientExtensionInstance"
    MERGE_DECISION = "MPI merge decisions"
    EXTENSION_SCHEMA = "extension schema registry"
    ERASURE = "erasure request"


class Touch(StrEnum):
    """The parts of a stream that an event changes; two commands collide when they share one.

    ``NEXT_OF_KIN``, ``CONSENT`` and ``EXTENSION`` are held per entry, flag and instance: there the
    key of the event and the key of the command have to agree as well.
    """

    DEMOGRAPHICS = "demographics"
    IDENTIFIERS = "identifiers"
    NAMES = "names"
    NEXT_OF_KIN = "nextOfKin"
    CONSENT = "consent"
    PORTRAIT = "portrait"
    EXTENSION = "extension"
    VITAL_STATUS = "vitalStatus"
    ENCOUNTER = "encounter"
    MERGE = "merge"
    SCHEMA = "schema"
    ERASURE = "erasure"


class Policy(StrEnum):
    """How a conflict on a resource is settled."""

    SERVER_AUTHORITATIVE = "server_authoritative"
    SERVER_AUTHORITATIVE_LOCK = "server_authoritative + optimistic lock"
    APPEND_ONLY = "append_only"


class Offline(StrEnum):
    """What becomes of a command that arrives through ``POST /v1/sync/push``."""

    PERMITTED = "permitted"
    PERMITTED_WITH_VERSION = "permitted with version"
    VALIDATED_ON_SYNC = "permitted, validated on sync"
    ONLINE_CONFIRMATION = "needs online confirmation"
    PROHIBITED = "online only"


class Version(StrEnum):
    """Which version a command has to state (``If-Match``, or ``baseVersion`` in a push)."""

    NONE = "no"
    STREAM = "yes, of the stream"
    CONSENT_FLAG = "yes, of that consent flag"
    EXTENSION_INSTANCE = "yes, of that extension instance"
    BOTH_PATIENTS = "yes, of both patients"


class Source(StrEnum):
    """Who demands a rule."""

    SEED = "seed"
    HOUSE = "house"
    BOTH = "seed / house"


class Operation(StrEnum):
    """Every command that the service knows."""

    REGISTER_PATIENT = "patient.register"
    UPDATE_DEMOGRAPHICS = "patient.update_demographics"
    ADD_IDENTIFIER = "patient.add_identifier"
    RETIRE_IDENTIFIER = "patient.retire_identifier"
    ADD_NAME = "patient.add_name"
    REPLACE_NAME = "patient.replace_name"
    RETIRE_NAME = "patient.retire_name"
    ADD_NEXT_OF_KIN = "patient.add_next_of_kin"
    REMOVE_NEXT_OF_KIN = "patient.remove_next_of_kin"
    SET_CONSENT = "patient.set_consent"
    SET_PORTRAIT = "patient.set_portrait"
    REMOVE_PORTRAIT = "patient.remove_portrait"
    SET_EXTENSION = "patient.set_extension"
    REMOVE_EXTENSION = "patient.remove_extension"
    RECORD_DEATH = "patient.record_death"
    REVERSE_DEATH = "patient.reverse_death"
    OPEN_ENCOUNTER = "encounter.open"
    TRANSITION_ENCOUNTER = "encounter.transition"
    PROPOSE_MERGE = "mpi.propose_merge"
    APPROVE_MERGE = "mpi.approve_merge"
    REJECT_MERGE = "mpi.reject_merge"
    UNMERGE = "mpi.unmerge"
    DISMISS_CANDIDATE = "mpi.dismiss_candidate"
    PUBLISH_SCHEMA = "extension_schema.publish"
    REQUEST_ERASURE = "erasure.request"
    APPROVE_ERASURE = "erasure.approve"
    REFUSE_ERASURE = "erasure.refuse"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the conflict table.

    ``case`` tells rows of one operation apart (the encounter transitions); it is empty elsewhere.
    ``collides`` are the parts whose change after the stated version makes the command stale.
    """

    operation: Operation
    resource: Resource
    policy: Policy
    version: Version
    offline: Offline
    source: Source
    scope: str
    collides: frozenset[Touch]
    case: str = ""
    note: str = ""

    @property
    def needs_version(self) -> bool:
        """Whether a command without ``If-Match`` or ``baseVersion`` is refused (428).

        Those of both patients stand in the payload.
        """
        return self.version not in (Version.NONE, Version.BOTH_PATIENTS)


def _touches(*parts: Touch) -> frozenset[Touch]:
    return frozenset(parts)


_IDENTITY = _touches(
    Touch.DEMOGRAPHICS, Touch.NAMES, Touch.IDENTIFIERS, Touch.VITAL_STATUS, Touch.MERGE
)
_LOCK = Policy.SERVER_AUTHORITATIVE_LOCK
_SERVER = Policy.SERVER_AUTHORITATIVE
_ENCOUNTER = _touches(Touch.ENCOUNTER)
_MERGE = _touches(Touch.MERGE)
_WHOLE_PATIENT = _touches(*Touch) - _touches(Touch.ENCOUNTER, Touch.SCHEMA, Touch.ERASURE)


def _identifier(operation: Operation, source: Source) -> Rule:
    return Rule(
        operation,
        Resource.IDENTIFIER,
        _SERVER,
        Version.NONE,
        Offline.PERMITTED,
        source,
        "patient:write",
        _touches(Touch.IDENTIFIERS, Touch.MERGE),
        note="uniqueness is the server's",
    )


def _name(operation: Operation, source: Source) -> Rule:
    return Rule(
        operation,
        Resource.NAME,
        _SERVER,
        Version.NONE,
        Offline.PERMITTED,
        source,
        "patient:write",
        _touches(Touch.NAMES, Touch.MERGE),
        note="client intends, server confirms",
    )


def _portrait(operation: Operation, source: Source) -> Rule:
    return Rule(
        operation,
        Resource.PORTRAIT,
        _SERVER,
        Version.NONE,
        Offline.PROHIBITED,
        source,
        "patient:write",
        _touches(Touch.PORTRAIT, Touch.MERGE),
        note="consent and retention",
    )


def _extension(operation: Operation) -> Rule:
    return Rule(
        operation,
        Resource.EXTENSION,
        _LOCK,
        Version.EXTENSION_INSTANCE,
        Offline.PERMITTED_WITH_VERSION,
        Source.SEED,
        "patient:write",
        _touches(Touch.EXTENSION, Touch.MERGE),
        note="the lock is on the instance's own version",
    )


def _vital_status(operation: Operation) -> Rule:
    return Rule(
        operation,
        Resource.PATIENT,
        _SERVER,
        Version.STREAM,
        Offline.PROHIBITED,
        Source.SEED,
        "patient:write",
        _IDENTITY,
        note="legal record",
    )


def _transition(case: str, offline: Offline, source: Source) -> Rule:
    return Rule(
        Operation.TRANSITION_ENCOUNTER,
        Resource.ENCOUNTER,
        _LOCK,
        Version.STREAM,
        offline,
        source,
        "encounter:write",
        _ENCOUNTER,
        case,
    )


def _merge(operation: Operation, scope: str, collides: frozenset[Touch], note: str) -> Rule:
    return Rule(
        operation,
        Resource.MERGE_DECISION,
        _SERVER,
        Version.BOTH_PATIENTS,
        Offline.PROHIBITED,
        Source.SEED,
        scope,
        collides,
        note=f"human-approved, server-executed; {note}",
    )


def _erasure(operation: Operation, scope: str, note: str) -> Rule:
    return Rule(
        operation,
        Resource.ERASURE,
        _SERVER,
        Version.NONE,
        Offline.PROHIBITED,
        Source.HOUSE,
        scope,
        _touches(Touch.ERASURE),
        note=note,
    )


RULES: tuple[Rule, ...] = (
    Rule(
        Operation.REGISTER_PATIENT,
        Resource.PATIENT,
        _SERVER,
        Version.NONE,
        Offline.PERMITTED,
        Source.SEED,
        "patient:write",
        _touches(),
        note="create; idempotent",
    ),
    Rule(
        Operation.UPDATE_DEMOGRAPHICS,
        Resource.PATIENT,
        _LOCK,
        Version.STREAM,
        Offline.PERMITTED_WITH_VERSION,
        Source.SEED,
        "patient:write",
        _IDENTITY,
    ),
    _identifier(Operation.ADD_IDENTIFIER, Source.SEED),
    _identifier(Operation.RETIRE_IDENTIFIER, Source.HOUSE),
    _name(Operation.ADD_NAME, Source.SEED),
    _name(Operation.REPLACE_NAME, Source.HOUSE),
    _name(Operation.RETIRE_NAME, Source.HOUSE),
    Rule(
        Operation.ADD_NEXT_OF_KIN,
        Resource.NEXT_OF_KIN,
        Policy.APPEND_ONLY,
        Version.NONE,
        Offline.PERMITTED,
        Source.SEED,
        "patient:write",
        _MERGE,
        note="never conflicts",
    ),
    Rule(
        Operation.REMOVE_NEXT_OF_KIN,
        Resource.NEXT_OF_KIN,
        _SERVER,
        Version.STREAM,
        Offline.PERMITTED_WITH_VERSION,
        Source.BOTH,
        "patient:write",
        _touches(Touch.NEXT_OF_KIN, Touch.MERGE),
        note="reason and audit",
    ),
    Rule(
        Operation.SET_CONSENT,
        Resource.CONSENT,
        _SERVER,
        Version.CONSENT_FLAG,
        Offline.PERMITTED_WITH_VERSION,
        Source.BOTH,
        "consent:write",
        _touches(Touch.CONSENT, Touch.MERGE),
        note="legal record, explicit user action",
    ),
    _portrait(Operation.SET_PORTRAIT, Source.SEED),
    _portrait(Operation.REMOVE_PORTRAIT, Source.HOUSE),
    _extension(Operation.SET_EXTENSION),
    _extension(Operation.REMOVE_EXTENSION),
    _vital_status(Operation.RECORD_DEATH),
    _vital_status(Operation.REVERSE_DEATH),
    Rule(
        Operation.OPEN_ENCOUNTER,
        Resource.ENCOUNTER,
        _SERVER,
        Version.NONE,
        Offline.PERMITTED,
        Source.HOUSE,
        "encounter:write",
        _touches(),
        note="create; idempotent",
    ),
    _transition("planned→arrived", Offline.VALIDATED_ON_SYNC, Source.SEED),
    _transition("between other non-terminal states", Offline.VALIDATED_ON_SYNC, Source.HOUSE),
    _transition("in-progress→finished", Offline.ONLINE_CONFIRMATION, Source.SEED),
    _transition(
        "to any other terminal state, and reopen", Offline.ONLINE_CONFIRMATION, Source.HOUSE
    ),
    _merge(
        Operation.PROPOSE_MERGE, "mpi:propose", _WHOLE_PATIENT, "the proposal states both versions"
    ),
    _merge(
        Operation.APPROVE_MERGE,
        "mpi:approve",
        _WHOLE_PATIENT,
        "those of the proposal, unless it states later ones",
    ),
    _merge(Operation.REJECT_MERGE, "mpi:approve", _MERGE, "those of the proposal, whatever came"),
    _merge(Operation.UNMERGE, "mpi:approve", _MERGE, "those of the merge, whatever came after"),
    _merge(
        Operation.DISMISS_CANDIDATE, "mpi:propose", _MERGE, "the evidence stands for the versions"
    ),
    Rule(
        Operation.PUBLISH_SCHEMA,
        Resource.EXTENSION_SCHEMA,
        _SERVER,
        Version.NONE,
        Offline.PROHIBITED,
        Source.HOUSE,
        "schema:write",
        _touches(Touch.SCHEMA),
    ),
    _erasure(Operation.REQUEST_ERASURE, "erasure:request", "legal record"),
    _erasure(Operation.APPROVE_ERASURE, "erasure:approve", "by another person; for good"),
    _erasure(Operation.REFUSE_ERASURE, "erasure:approve", "legal record"),
)

_BY_OPERATION: dict[Operation, tuple[Rule, ...]] = {
    operation: tuple(rule for rule in RULES if rule.operation is operation)
    for operation in Operation
}


def rules_for(operation: Operation) -> tuple[Rule, ...]:
    """All rows of one operation, in the table's order; more than one where ``case`` splits them."""
    return _BY_OPERATION[operation]


def rule_for(operation: Operation, case: str | None = None) -> Rule:
    """The row of a case, or of an operation that has one; else the first, which lends its lock."""
    rows = _BY_OPERATION[operation]
    return rows[0] if case is None else next(rule for rule in rows if rule.case == case)


def table() -> Iterator[dict[str, object]]:
    """The table as plain values, for documents and ``GET /v1/sync/contract``."""
    for rule in RULES:
        yield {
            "operation": rule.operation.value,
            "case": rule.case or None,
            "resource": rule.resource.value,
            "conflictPolicy": rule.policy.value,
            "note": rule.note or None,
            "version": rule.version.value,
            "offline": rule.offline.value,
            "scope": rule.scope,
            "collidesWith": sorted(part.value for part in rule.collides),
            "from": rule.source.value,
        }
