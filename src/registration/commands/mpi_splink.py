"""Splink on the pairs that this program compares: the yardstick of `registration mpi evaluate`."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from registration.commands import CommandError
from registration.mpi.comparing import ADDRESS_FIELDS
from registration.mpi.record import MatchRecord

_SEED = 1
_COLUMNS = ("family", "given", "birthDate", "gender", "identifier", "telecom", *ADDRESS_FIELDS)
_TRAINED_ON = (("birthDate",), ("family", "given"), ("street", "postalCode"))
_RANDOM_PAIRS = 2_000_000


class Splink:
    """A Splink model, trained on records without labels; it weighs pairs of these or of others.

    Its comparisons are those of Splink's own library for such fields. Raises `CommandError` where
    the extra is not installed.
    """

    def __init__(self, records: Sequence[MatchRecord]) -> None:
        try:
            import splink
        except ImportError as error:
            raise CommandError(
                "the yardstick is splink; pip install 'registration[mpi]', or leave it out with "
                "--no-splink"
            ) from error
        self._splink = splink
        rows = [_row(index, record) for index, record in enumerate(records)]
        known = [column for column in _COLUMNS if _teaches([row[column] for row in rows])]
        settings = splink.SettingsCreator(
            link_type="dedupe_only",
            comparisons=[_comparison(column) for column in known],
            blocking_rules_to_generate_predictions=[splink.block_on("birthDate")],
        )
        _, linker = self._linker(rows, settings)
        training = linker.training
        training.estimate_u_using_random_sampling(max_pairs=_RANDOM_PAIRS, seed=_SEED)
        sessions = [columns for columns in _TRAINED_ON if set(columns) <= set(known)]
        if not sum(_session(training, splink.block_on(*columns)) for columns in sessions):
            raise CommandError("Splink cannot be trained on this data; leave it out: --no-splink")
        self._model = linker.misc.save_model_to_json()

    def weigh(
        self, records: Sequence[MatchRecord], pairs: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], float]:
        """Return Splink's weight of each pair of indexes, in bits."""
        rows = [_row(index, record) for index, record in enumerate(records)]
        api, linker = self._linker(rows, self._model)
        blocked = [
            {"match_key": "0", "join_key_l": one, "join_key_r": other} for one, other in pairs
        ]
        linker.table_management.register_blocked_pairs_for_predict(api.register(_table(blocked)))
        found = linker.inference.predict().as_record_list()
        return {(row["unique_id_l"], row["unique_id_r"]): row["match_weight"] for row in found}

    def _linker(self, rows: list[dict[str, Any]], settings: Any) -> tuple[Any, Any]:
        api = self._splink.DuckDBAPI()
        table = api.register(_table(rows))
        return api, self._splink.Linker(table, settings, log_level=logging.ERROR)


def _teaches(values: list[str | None]) -> bool:
    """Whether some values of a column agree and some do not; Splink fails where m would be 0."""
    counted = Counter(filter(None, values))
    return len(counted) > 1 and counted.most_common(1)[0][1] > 1


def _session(training: Any, rule: Any) -> bool:
    """Estimate m on the pairs of a rule; whether Splink could.

    It gives up where an m falls to 0, as in made-up data without a typing error in some field. The
    other rules then have to do.
    """
    try:
        training.estimate_parameters_using_expectation_maximisation(rule)
    except ValueError:
        return False
    return True


def _comparison(column: str) -> Any:
    from splink import comparison_library as library

    if column in {"family", "given"}:
        return library.NameComparison(column).configure(term_frequency_adjustments=True)
    if column == "birthDate":
        return library.DateOfBirthComparison(
            column, input_is_string=True, invalid_dates_as_null=False
        )
    if column == "gender":
        return library.ExactMatch(column)
    if column in {"street", "place", "city"}:
        return library.JaroWinklerAtThresholds(column, [0.92, 0.8]).configure(
            term_frequency_adjustments=True
        )
    return library.DamerauLevenshteinAtThresholds(column, [1])


def _row(index: int, record: MatchRecord) -> dict[str, Any]:
    """Return a record as Splink takes it: one value a column, the first that it has."""
    family, given = record.names[0] if record.names else ("", "")
    born = record.birth_date
    numbers = next(iter(record.identifiers.values()), [])
    values = {
        "family": family,
        "given": given,
        "birthDate": f"{born[:4]}-{born[4:6]}-{born[6:]}" if len(born) == 8 else "",
        "gender": record.gender,
        "identifier": numbers[0] if numbers else "",
        "telecom": record.telecom[0] if record.telecom else "",
    }
    address = record.addresses[0] if record.addresses else [""] * len(ADDRESS_FIELDS)
    values.update(zip(ADDRESS_FIELDS, address, strict=True))
    return {"unique_id": index, **{name: value or None for name, value in values.items()}}


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows)
