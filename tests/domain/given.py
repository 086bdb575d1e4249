"""Given what happened, when a command comes, then these events, or this refusal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import orjson
import pytest

from registration.domain import events
from registration.domain.aggregate import Stamp
from registration.domain.context import Context
from registration.domain.contract import Operation
from registration.domain.errors import DomainError
from registration.domain.handlers import HANDLERS
from registration.domain.resources import Identifier, Name, NextOfKin

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FLAGS = {"portrait": "Portrait", "research": "Research"}
LUHN = "https://ids.example/luhn"
CARD = "https://ids.example/card"


def uuid(number: int) -> UUID:
    return UUID(int=number)


def context() -> Context:
    """A context whose new ids are 1000, 1001, ..."""
    numbers = count(1000)
    return Context(
        now=NOW,
        new_id=lambda: uuid(next(numbers)),
        tenant="clinic",
        actor="desk-1",
        scopes=frozenset({"patient:write"}),
        facility="north",
        identifier_systems={LUHN: "luhn"},
        consent_flags=FLAGS,
        portrait_retention=timedelta(days=365),
    )


def name(number: int = 1, family: str = "Okoro", **members: Any) -> Name:
    return Name(id=uuid(number), family=family, script="Latn", **members)


def identifier(number: int = 10, value: str = "4711", system: str = CARD) -> Identifier:
    return Identifier(id=uuid(number), system=system, value=value)


def kin(number: int = 20, who: str = "Obi") -> NextOfKin:
    return NextOfKin(id=uuid(number), name=who, relationship="brother")


def registered(**members: Any) -> events.PatientRegistered:
    return events.PatientRegistered(**{"names": (name(),), "gender": "female"} | members)


STAMP = Stamp(1, NOW - timedelta(hours=1), "desk-1")
"""When and by whom histories in these tests were recorded, but for their versions."""


def folded(aggregate: Any, history: Sequence[events.Event]) -> Any:
    """Return the state of a history; ``None`` for none."""
    state = None
    for version, event in enumerate(history, 1):
        state = aggregate.evolve(state, event, STAMP._replace(version=version))
    return state


@dataclass
class When:
    """A command on a history; ``related`` is what happened to the other record it looks at."""

    history: Sequence[events.Event]
    operation: Operation
    said: Mapping[str, Any]
    entry: UUID | str | None = None
    related: Sequence[events.Event] = ()
    context: Context = field(default_factory=context)

    def decide(self) -> Any:
        """Return what is decided."""
        handler = HANDLERS[self.operation]
        payload = handler.payload.model_validate_json(orjson.dumps(self.said), strict=True)
        arguments: list[Any] = [folded(handler.aggregate, self.history), payload, self.context]
        if handler.entry:
            arguments.append(self.entry)
        if handler.related is not None:
            kind, _ = handler.related(payload, self.entry)
            arguments.append(folded(kind, self.related))
        return handler.decide(*arguments)

    def then(self, *expected: events.Event) -> None:
        """Insist on these events."""
        assert list(self.decide()) == list(expected)

    def then_nothing(self) -> None:
        """Insist on no event."""
        self.then()

    def then_refused(self, code: str, path: str | None = None) -> DomainError:
        """Insist on a refusal, for a member where ``path`` is given; returns it."""
        with pytest.raises(DomainError) as caught:
            self.decide()
        assert caught.value.code == code, caught.value.extra
        if path is not None:
            assert [error["path"] for error in caught.value.extra["errors"]] == [path]
        return caught.value


def when(
    *history: events.Event,
    operation: Operation,
    entry: UUID | str | None = None,
    related: Sequence[events.Event] = (),
    **said: Any,
) -> When:
    """Return a command on a history."""
    return When(history, operation, said, entry, related)
