"""What differs between two plain resources, down to the field."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registration.domain.differences import differences, differing

NAME = {"id": "n1", "family": "Okoro", "given": ["Ada"]}


def told(before: dict[str, Any], after: dict[str, Any], *ignoring: str) -> list[tuple[Any, ...]]:
    return [tuple(each) for each in differences(before, after, frozenset(ignoring))]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"gender": "female"}, {"gender": "female"}, []),
        ({"gender": "female"}, {"gender": "other"}, [("/gender", "female", "other")]),
        ({}, {"birthDate": "1984"}, [("/birthDate", None, "1984")]),
        ({"birthDate": "1984"}, {}, [("/birthDate", "1984", None)]),
        # an entry is named by what identifies it, wherever it stands in the list
        (
            {"names": [NAME]},
            {"names": [{"id": "n0"}, NAME | {"family": "Bello"}]},
            [("/names/n1/family", "Okoro", "Bello"), ("/names/n0", None, {"id": "n0"})],
        ),
        ({"names": [NAME]}, {"names": []}, [("/names/n1", NAME, None)]),
        ({"names": [NAME, {"id": "n2"}]}, {"names": [{"id": "n2"}, NAME]}, []),
        # how often an entry was recorded is nothing that was said
        (
            {"consents": [{"flag": "research", "version": 1, "decision": "granted"}]},
            {"consents": [{"flag": "research", "version": 2, "decision": "withdrawn"}]},
            [("/consents/research/decision", "granted", "withdrawn")],
        ),
        # what has no identity is compared whole
        (
            {"telecom": [{"system": "phone", "value": "1"}]},
            {"telecom": [{"system": "phone", "value": "2"}]},
            [
                (
                    "/telecom",
                    [{"system": "phone", "value": "1"}],
                    [{"system": "phone", "value": "2"}],
                )
            ],
        ),
        ({"given": ["Ada"]}, {"given": ["Ada", "Joy"]}, [("/given", ["Ada"], ["Ada", "Joy"])]),
        # nothing by another word
        ({}, {"links": []}, []),
        # true is not 1
        ({"data": {"a": 1}}, {"data": {"a": True}}, [("/data/a", 1, True)]),
        # names that a JSON Pointer escapes
        ({"data": {"a/b": 1}}, {"data": {"a/b": 2}}, [("/data/a~1b", 1, 2)]),
        ({"data": {"~": 1}}, {"data": {"~": {"deep": 2}}}, [("/data/~0", 1, {"deep": 2})]),
        # two entries of one id: the list is compared whole
        (
            {"data": [{"id": "x", "n": 1}, {"id": "x", "n": 2}]},
            {"data": []},
            [("/data", [{"id": "x", "n": 1}, {"id": "x", "n": 2}], [])],
        ),
    ],
)
def test_each_field_that_differs_is_told_with_both_values(before, after, expected):
    assert told(before, after) == expected


def test_members_that_say_nothing_are_left_out():
    assert told({"version": 1, "gender": "male"}, {"version": 2, "gender": "male"}, "version") == []


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "a", "b", "c/d"]), inner, max_size=3)
    ),
    max_leaves=12,
)
RESOURCES = st.dictionaries(st.sampled_from(["names", "data", "gender"]), PLAIN, max_size=3)


@given(RESOURCES, RESOURCES)
def test_it_names_no_member_that_is_the_same_and_the_other_way_round_is_its_mirror(one, other):
    before = copy.deepcopy((one, other))
    there = told(one, other)
    back = told(other, one)
    assert {path.split("/")[1] for path, _, _ in there} <= differing(one, other)
    mirrored = [(path, has, was) for path, was, has in back]
    assert sorted(mirrored, key=repr) == sorted(there, key=repr)
    assert (one, other) == before


@given(RESOURCES)
def test_a_resource_does_not_differ_from_itself(one):
    assert told(one, copy.deepcopy(one)) == []
