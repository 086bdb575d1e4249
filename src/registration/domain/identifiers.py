"""Identifiers: their one spelling, and the check digits of the systems that have some.

Sources: FHIR R4 Identifier; ``python-stdnum`` for the algorithms and national numbers.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from stdnum.exceptions import ValidationError
from stdnum.util import clean

from registration.domain.errors import DomainError, invalid
from registration.domain.names import clean_text
from registration.domain.resources import Identifier, IdentifierInput

_CHECK_NAME = re.compile(r"[a-z_]+[0-9]*(?:\.[a-z_][a-z0-9_]*)?")
_PLAIN = re.compile(r"[!-~]+(?: [!-~]+)*")


@dataclass(frozen=True, slots=True)
class _Check:
    """A number format of ``python-stdnum``: ``compact`` gives the one spelling of a number."""

    compact: Callable[[str], str]
    validate: Callable[[str], str]


def confirm_identifier(
    said: IdentifierInput, identifier_id: UUID, path: str, systems: Mapping[str, str]
) -> Identifier:
    """Return the identifier as the server holds it: NFC, single spaces, compact where checked.

    ``systems`` maps the URI of a system to the name of its check (see :func:`check_systems`);
    a system that is not in it takes any text. Confirming a confirmed identifier gives it again.

    Raises ``VALIDATION_FAILED`` for a blank text or one with controls or invisible characters,
    ``IDENTIFIER_INVALID`` where the system's check fails; neither holds the input.
    """
    system = _plain(said.system, f"{path}/system")
    value = _plain(said.value, f"{path}/value")
    name = systems.get(system)
    if name is not None:
        value = _checked(value, _check(name), f"{path}/value")
    return Identifier(id=identifier_id, system=system, value=value, type=said.type, use=said.use)


def check_systems(systems: Mapping[str, str]) -> None:
    """Raise ``ValueError``, naming the system, where the name of a check is not known.

    A name is a module of ``python-stdnum`` below ``stdnum``: ``luhn``, ``verhoeff``, ``damm``,
    ``iso7064.mod_97_10``, ``gb.nhs``, ``nl.bsn``, ``us.ssn`` …
    """
    for system, name in systems.items():
        try:
            _check(name)
        except ValueError as error:
            raise ValueError(f"identifier system {system!r}: {error}") from error


def _plain(text: str, path: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    text = clean_text(text, path)
    if "\u200c" in text or "\u200d" in text:
        raise invalid(path, "The text holds a control, invisible or unassigned character.")
    return text


def _checked(value: str, check: _Check, path: str) -> str:
    try:
        check.validate(value)
    except ValidationError as error:
        # The error's own text names the kind of fault; its arguments are never the number.
        message = f"The value does not pass its system's check ({type(error).__name__})."
        raise DomainError(
            "IDENTIFIER_INVALID",
            "The identifier is not a valid number of its system.",
            {"errors": [{"path": path, "message": message}]},
        ) from None
    return check.compact(value)


@lru_cache(maxsize=256)
def _check(name: str) -> _Check:
    """Return the check of that name, or raise ``ValueError``."""
    if not _CHECK_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a check")
    try:
        module = importlib.import_module(f"stdnum.{name}")
    except ModuleNotFoundError as error:
        raise ValueError(f"python-stdnum knows no check {name!r}") from error
    validate = getattr(module, "validate", None)
    if validate is None:
        raise ValueError(f"python-stdnum has no validate() for {name!r}")
    compact = getattr(module, "compact", None)
    if compact is None:
        return _Check(_compact, lambda value: str(validate(_compact(value))))
    return _Check(compact, validate)


def _compact(value: str) -> str:
    """Take away the separators people write, where an algorithm has no format of its own."""
    return str(clean(value, " -./")).strip().upper()
