"""What speaks against holding two records for one person's, which a human may override."""

from collections.abc import Iterator

from registration.domain.context import Context
from registration.domain.patient_state import PatientState
from registration.domain.resources import Identifier, Obstacle

_WITHOUT_WEIGHT = frozenset({"old", "temp", "secondary"})
"""Uses of an identifier (FHIR) of which a person may well have several in one system."""


def obstacles(
    survivor: PatientState, retired: PatientState, context: Context
) -> Iterator[Obstacle]:
    """Yield what speaks against holding two records for one person's."""
    if (survivor.deceased is None) != (retired.deceased is None):
        yield Obstacle(kind="deceased")
    ours, theirs = _by_system(survivor, context), _by_system(retired, context)
    for system in sorted(ours.keys() & theirs.keys()):
        if ours[system].isdisjoint(theirs[system]):
            yield Obstacle(kind="identifier", system=system)


def _by_system(state: PatientState, context: Context) -> dict[str, set[str]]:
    """Return the values that a person has one of, as far as the record tells."""
    found: dict[str, set[str]] = {}
    for held in _identifiers(state):
        if held.use not in _WITHOUT_WEIGHT and held.system not in context.plural_systems:
            found.setdefault(held.system, set()).add(held.value)
    return found


def _identifiers(state: PatientState) -> Iterator[Identifier]:
    yield from state.identifiers
    for absorbed in state.absorbed.values():
        yield from absorbed.identifiers
