"""What a pair is worth under a model, and what a model file may say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.mpi.given import name, patient

from registration.mpi.comparing import LEVELS
from registration.mpi.model import NEVER, Model, ModelError

DEFAULT = Model.default()
ANN = patient(
    "Smith, Ann",
    born="1956-04-09",
    gender="female",
    phone="0170 1234567",
    street="12 High Street",
    city="York",
    code="AB1",
)


def test_a_comparison_says_what_it_rests_on() -> None:
    found = DEFAULT.score(ANN, patient("Smyth, Ann", born="1956-09-04", gender="female"))
    assert found.levels == {
        "family": "close",
        "given": "exact",
        "birthDate": "swapped",
        "gender": "exact",
        **dict.fromkeys([field for field in LEVELS if field not in _KNOWN], "missing"),
    }
    assert list(found.agreement) == ["family", "given", "birthDate", "gender"]
    assert found.weight == pytest.approx(DEFAULT.prior + sum(found.agreement.values()), abs=0.01)
    assert found.score == pytest.approx(1 / (1 + 2**-found.weight), abs=1e-5)
    assert found.grade == "probable"


_KNOWN = ("family", "given", "birthDate", "gender")


@pytest.mark.parametrize(
    ("other", "grade"),
    [
        (ANN, "certain"),
        (patient("Ann Smith", born="1956-04-09", phone="+44 170 1234567"), "certain"),
        (patient("Ann, Smith", born="1956-04-09", gender="female"), "probable"),
        (patient("Smith, Ann", phone="0170 1234567"), "probable"),
        (patient("Smith, Ann", born="1956-04-09"), "probable"),
        (patient("Smith, Jane", born="1956-04-09", phone="0170 1234567"), "possible"),
        (patient("Smith, Ann", born="1956-04-08", gender="female"), "possible"),
        (patient("Smith, Ann", born="1957"), None),
        (patient("Smith, Ann"), None),
        (patient("Jones, Peter", born="1956-04-09", gender="male"), None),
    ],
)
def test_the_more_that_is_rare_agrees_the_higher_the_grade(other: Any, grade: str | None) -> None:
    assert DEFAULT.score(ANN, other).grade == grade


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Haddad, Mohammed", "حداد, محمد"),
        ("Ivanova, Mariya", "Иванова, Мария"),
        ("Smith, William", "Smith, Bill"),
        ("Smith, William", "William, Smith"),
        ("Smith, William", "William Smith"),
        ("Garcia Lopez, Ana Maria", "Garcia, Ana"),
    ],
)
def test_names_match_in_other_scripts_orders_and_forms(one: str, other: str) -> None:
    born = "1956-04-09"
    found = DEFAULT.score(
        patient(one, born=born, phone="01701234567"), patient(other, born=born, phone="1701234567")
    )
    assert found.grade == "certain"
    assert found.agreement["family"] > 0


def test_one_of_several_names_is_enough() -> None:
    married = patient("Jones, Ann", name("Smith, Ann", use="maiden"), born="1956-04-09")
    found = DEFAULT.score(married, patient("Smith, Ann", born="1956-04-09"))
    assert (found.levels["family"], found.levels["given"]) == ("exact", "exact")


def test_a_common_name_says_less_than_a_rare_one() -> None:
    common = max(DEFAULT.fields["family"].frequencies.items(), key=lambda item: item[1])[0]
    agreement = [
        DEFAULT.score(patient(f"{family}, Ann"), patient(f"{family}, Ann")).agreement["family"]
        for family in (common, "Featherstonehaugh")
    ]
    assert agreement[0] + 1 < agreement[1]


def test_missing_is_neutral() -> None:
    without = patient("Smith, Ann", born="1956-04-09", gender="female")
    assert DEFAULT.score(without, without).weight == pytest.approx(
        DEFAULT.score(ANN, without).weight
    )


def test_twins_share_a_household_and_a_birthday_and_are_not_taken_for_one() -> None:
    home: dict[str, Any] = {
        "born": "2019-04-09",
        "phone": "0170 1234567",
        "street": "12 High Street",
        "city": "York",
        "code": "AB1",
    }
    found = DEFAULT.score(patient("Smith, Tom", **home), patient("Smith, Emily", **home))
    assert found.agreement["household"] < -30
    assert found.grade in {"possible", None}
    assert DEFAULT.score(patient("Smith, Tom", **home), patient("Smith, Tim", **home)).grade
    sister = home | {"born": "2012-11-30"}
    assert (
        DEFAULT.score(patient("Smith, Tom", **home), patient("Smith, Emily", **sister)).grade
        is None
    )


def test_two_unnamed_never_match_but_by_an_identifier() -> None:
    known: dict[str, Any] = {
        "born": "2025-03-09",
        "gender": "male",
        "phone": "0170 1234567",
        "street": "12 High Street",
        "city": "York",
        "code": "AB1",
    }
    first, second = patient("Baby 1 of Ann Smith", **known), patient("Baby 2 of Ann Smith", **known)
    for one, other in ((first, second), (first, first)):
        found = DEFAULT.score(one, other)
        assert (found.score, found.weight, found.grade, found.agreement) == (0.0, NEVER, None, {})
        assert set(found.levels.values()) == {"missing"}
        assert DEFAULT.weight(one, other) == NEVER
    same = DEFAULT.score(
        patient("Baby 1 of Smith", number="77", **known),
        patient("Baby 2 of Smith", number="77", **known),
    )
    assert list(same.agreement) == ["identifier"]
    assert same.grade == "probable"


def test_an_anonymous_one_matches_a_named_one_by_identifiers_alone() -> None:
    known: dict[str, Any] = {"born": "1956-04-09", "phone": "0170 1234567"}
    unknown = patient(name("Ann Smith", use="anonymous"), number="77", **known)
    assert DEFAULT.score(unknown, patient("Smith, Ann", **known)).grade is None
    assert DEFAULT.score(unknown, patient("Smith, Ann", number="78", **known)).grade is None
    found = DEFAULT.score(unknown, patient("Jones, Joan", number="77"))
    assert list(found.agreement) == ["identifier"]
    assert found.grade is not None


def test_a_newborn_may_be_the_named_child_of_the_same_day_and_home() -> None:
    known: dict[str, Any] = {
        "born": "2025-03-09",
        "phone": "0170 1234567",
        "street": "12 High Street",
        "city": "York",
    }
    assert DEFAULT.score(patient("Baby of Smith", **known), patient("Smith, Tom", **known)).grade


def _without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        for step in path[:-1]:
            model = model[step]
        del model[path[-1]]

    return change


def _with(value: object, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        for step in path[:-1]:
            model = model[step]
        model[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_without("fields", "gender"), "the file: Value error, fields must be family, given,"),
        (_without("fields", "gender", "levels", "exact"), "levels of gender must be exact, diff"),
        (_with(1.5, "fields", "gender", "levels", "exact", "m"), "gender.levels.exact.m: Input"),
        (_with(0, "fields", "gender", "levels", "exact", "u"), "gender.levels.exact.u: Input"),
        (_with({"ann": 0.1}, "fields", "gender", "frequencies"), "frequencies need `otherwise`"),
        (_without("fields", "family", "otherwise"), "frequencies need `otherwise`"),
        (_with(99.0, "thresholds", "possible"), "certain, probable and possible must not grow"),
        (_with(1, "surplus"), "surplus: Extra inputs"),
        (_without("name"), "name: Field required"),
    ],
)
def test_a_wrong_model_file_is_refused_and_says_where(
    change: Callable[[dict[str, Any]], None], why: str, tmp_path: Path
) -> None:
    file = tmp_path / "model.json"
    model = orjson.loads(DEFAULT.dump())
    change(model)
    file.write_bytes(orjson.dumps(model))
    with pytest.raises(ModelError, match="is no model: ") as refused:
        Model.load(file)
    assert why in str(refused.value)


def test_a_file_that_is_no_json_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read the model"):
        Model.load(tmp_path / "none.json")
    (tmp_path / "model.json").write_bytes(b"{")
    with pytest.raises(ModelError, match="is no model: the file: Invalid JSON"):
        Model.load(tmp_path / "model.json")


def test_a_model_reads_what_it_wrote(tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_bytes(DEFAULT.dump())
    assert Model.load(file) == DEFAULT
