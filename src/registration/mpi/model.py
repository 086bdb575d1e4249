"""A model: what each agreement and disagreement is worth, as a JSON file and as a scorer.

The weight of a pair is the sum, over its fields, of ``log2(m / u)``: how much likelier the level is
between two records of one person (m) than of two (u), plus the prior odds that two records are of
one person at all, in bits as well. Where both values are the same, the frequency of the value
stands for u.
"""

from functools import cache, cached_property
from math import log2
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from registration.mpi.comparing import EXACT, LEVELS, MISSING
from registration.mpi.record import MatchRecord
from registration.mpi.scoring import FIELDS, Scorer, Weighed, Weights

Grade = Literal["certain", "probable", "possible"]
Probability = Annotated[float, Field(gt=0, lt=1)]

WITH_FREQUENCIES = ("family", "given", "birthDate", "city", "postalCode", "state")
"""The fields whose common values a model knows."""
HOUSEHOLD = "household"


class ModelError(ValueError):
    """A model file cannot be used; the message says why, in one line."""


class Comparison(NamedTuple):
    """How a pair compares."""

    score: float
    """The probability that it is one person, 0 to 1."""
    weight: float
    """The same in bits of odds: the prior and what ``agreement`` adds up to."""
    grade: Grade | None
    agreement: dict[str, float]
    """Bits by field, for the fields that both have; ``household``: what is taken off again."""
    levels: dict[str, str]
    """The level by field; ``missing`` where one has no value."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Level(_Part):
    """The probabilities of a level between records of one person (m), and of two (u)."""

    m: Probability
    u: Probability

    @property
    def weight(self) -> float:
        """The Bayes factor in bits."""
        return log2(self.m / self.u)


class FieldModel(_Part):
    """One field: its levels, and how frequent its commonest values are, and any other one."""

    levels: dict[str, Level]
    frequencies: dict[str, Probability] = Field(default_factory=dict)
    otherwise: Probability | None = None

    @model_validator(mode="after")
    def _has_a_frequency_for_any_other(self) -> Self:
        if self.frequencies and self.otherwise is None:
            raise ValueError("frequencies need `otherwise`, the frequency of any other value")
        return self

    def weights(self) -> Weights:
        """Return the weights of the field's levels and of its common values."""
        by_level = {name: level.weight for name, level in self.levels.items()}
        m = self.levels[EXACT].m
        if self.otherwise is not None:
            by_level[EXACT] = log2(m / self.otherwise)
        return Weights(by_level, {value: log2(m / f) for value, f in self.frequencies.items()})


class Thresholds(_Part):
    """The least weight of each grade, in bits."""

    certain: float
    probable: float
    possible: float

    @model_validator(mode="after")
    def _descend(self) -> Self:
        if not self.certain >= self.probable >= self.possible:
            raise ValueError("certain, probable and possible must not grow in this order")
        return self

    def grade(self, weight: float) -> Grade | None:
        """Return the grade of a weight; none where it is too low for any."""
        if weight < self.possible:
            return None
        if weight < self.probable:
            return "possible"
        return "certain" if weight >= self.certain else "probable"


class Model(_Part):
    """A trained matcher. ``match`` is the probability that two records taken at random are one."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    version: Annotated[int, Field(ge=1)]
    match: Probability
    household: Annotated[float, Field(ge=0)]
    """The most that telecom and address add where given names differ, in bits."""
    thresholds: Thresholds
    fields: dict[str, FieldModel]

    @model_validator(mode="after")
    def _knows_every_field_and_level(self) -> Self:
        if set(self.fields) != set(LEVELS):
            raise ValueError(f"fields must be {', '.join(LEVELS)}")
        for name, field in self.fields.items():
            if set(field.levels) != set(LEVELS[name]):
                raise ValueError(f"levels of {name} must be {', '.join(LEVELS[name])}")
            if field.frequencies and name not in WITH_FREQUENCIES:
                raise ValueError(f"{name} takes no frequencies")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a model file. Raises :class:`ModelError` where it cannot be read or used."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ModelError(f"cannot read the model {path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ModelError(f"{path} is no model: {place}: {first['msg']}") from error

    @classmethod
    @cache
    def default(cls) -> Self:
        """Return the model that comes with the package."""
        return cls.load(Path(__file__).with_name("default.json"))

    def dump(self) -> bytes:
        """Return the model as the JSON that :meth:`load` reads."""
        return self.model_dump_json(indent=1, exclude_defaults=True).encode() + b"\n"

    @cached_property
    def scorer(self) -> Scorer:
        """The model's weights, looked up and ready."""
        weights = {name: field.weights() for name, field in self.fields.items()}
        return Scorer(weights, self.household)

    @cached_property
    def prior(self) -> float:
        """The odds that two records taken at random are one person, in bits."""
        return log2(self.match / (1 - self.match))

    def weight(self, a: MatchRecord, b: MatchRecord) -> float:
        """Return the weight alone of two records, in bits: for many pairs of which few matter."""
        weighed = self.scorer.weigh(a, b)
        return NEVER if weighed is None else self._total(weighed)

    def score(self, a: MatchRecord, b: MatchRecord) -> Comparison:
        """Compare two records; the order does not matter.

        Records that must not match (:meth:`Scorer.weigh`) have score 0, no grade and no agreement.
        """
        weighed = self.scorer.weigh(a, b)
        if weighed is None:
            return Comparison(0.0, NEVER, None, {}, dict.fromkeys(FIELDS, MISSING))
        weight = self._total(weighed)
        agreement = {
            field: round(bits, 3)
            for field, level, bits in zip(FIELDS, weighed.levels, weighed.weights, strict=True)
            if level is not MISSING
        }
        if weighed.household:
            agreement[HOUSEHOLD] = round(weighed.household, 3)
        return Comparison(
            round(probability(weight), 6),
            round(weight, 3),
            self.thresholds.grade(weight),
            agreement,
            dict(zip(FIELDS, weighed.levels, strict=True)),
        )

    def _total(self, weighed: Weighed) -> float:
        return self.prior + sum(weighed.weights) + weighed.household


NEVER = -1000.0
"""The weight of a pair that must not match: less than any sum of disagreements."""


def probability(weight: float) -> float:
    """Return the probability of odds in bits."""
    return 1.0 / (1.0 + float(2.0 ** -max(weight, NEVER)))
