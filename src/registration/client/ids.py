"""UUIDv7 (RFC 9562, 5.7) from a given time and a given source of randomness."""

from random import Random
from uuid import UUID

_RANDOM_BITS = 74
_STEP_BITS = 32
_MOST_MILLISECONDS = (1 << 48) - 1


def fresh_id(milliseconds: int, random: Random) -> UUID:
    """Return an id of that time (Unix milliseconds)."""
    return _id(_clamped(milliseconds) << _RANDOM_BITS | random.getrandbits(_RANDOM_BITS))


def next_id(last: UUID | None, milliseconds: int, random: Random) -> UUID:
    """Return an id of that time that is greater than ``last``, whatever the clock did meanwhile.

    Where the clock stands still or went back, it is a little greater than ``last``.
    """
    number = _number(fresh_id(milliseconds, random))
    step = 1 + random.getrandbits(_STEP_BITS)  # drawn always: the clock must not move the dice
    if last is not None and number <= _number(last):
        number = _number(last) + step
    return _id(number)


def milliseconds_of(its_id: UUID) -> int:
    """Return the time of a UUIDv7."""
    return its_id.int >> 80


def _clamped(milliseconds: int) -> int:
    return min(max(milliseconds, 0), _MOST_MILLISECONDS)


def _id(number: int) -> UUID:
    """Lay the bits of time and randomness around those of version and variant."""
    high, low = number >> 62, number & ((1 << 62) - 1)
    return UUID(int=(high >> 12) << 80 | 7 << 76 | (high & 0xFFF) << 64 | 2 << 62 | low)


def _number(its_id: UUID) -> int:
    """Return time and randomness without version and variant: it orders as the ids do."""
    value = its_id.int
    return (value >> 80) << _RANDOM_BITS | ((value >> 64) & 0xFFF) << 62 | (value & ((1 << 62) - 1))
