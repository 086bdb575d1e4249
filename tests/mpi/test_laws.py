"""What holds for any records."""

from hypothesis import assume, given
from hypothesis import strategies as st
from tests.mpi.given import MRN, NATIONAL, NOT_ESTIMATED

from registration.domain.resources import Address, ContactPoint, IdentifierInput, NameInput
from registration.mpi.blocking import block_keys
from registration.mpi.model import NEVER, Model
from registration.mpi.record import MatchRecord, decode, encode, record_of

MODEL = Model.default()

# Few values, alike ones: so that records agree, half agree and miss each other often.
_WORDS = st.sampled_from(
    [
        *("Smith", "Smyth", "Ann", "Anna Maria", "Maria", "William", "Bill", "Haddad", "Al Haddad"),
        *("حداد", "محمد", "Mohammed", "Иванова", "王", "小明", "Wang", "김", "שרה", "J", "Neumann"),
    ]
)
_NAMES = st.one_of(
    st.builds(NameInput, family=st.none() | _WORDS, given=st.lists(_WORDS, min_size=1, max_size=2)),
    st.builds(NameInput, family=_WORDS),
    st.builds(NameInput, text=st.sampled_from(["Baby of Smith", "Ann Smith", "王小明", "Smith"])),
    st.builds(NameInput, use=st.just("anonymous"), text=_WORDS),
)
_DATES = st.sampled_from(
    ["1956-04-09", "1956-09-04", "1956-04-08", "1956-01-01", "1956-04", "1956", "1957"]
)
_NUMBERS = st.sampled_from(["1234567", "1234576", "7654321"])
_TEXTS = st.sampled_from(["12 High Street", "12 Hihg Street", "York", "Main Road 7", "Yorck"])
_ADDRESSES = st.builds(
    Address,
    line=st.lists(_TEXTS, max_size=2),
    city=st.none() | _TEXTS,
    postal_code=st.none() | st.sampled_from(["12345", "12354", "54321"]),
    state=st.none() | st.sampled_from(["nsw", "vic"]),
)
_RECORDS = st.builds(
    record_of,
    st.lists(_NAMES, max_size=3),
    st.sampled_from(["male", "female", "other"]),
    st.none() | _DATES,
    st.booleans(),
    st.lists(
        st.builds(IdentifierInput, system=st.sampled_from([NATIONAL, MRN]), value=_NUMBERS),
        max_size=2,
    ),
    st.lists(st.builds(ContactPoint, system=st.just("phone"), value=_NUMBERS), max_size=2),
    st.lists(_ADDRESSES, max_size=2),
)


@given(_RECORDS, _RECORDS)
def test_the_order_of_a_pair_does_not_matter(a: MatchRecord, b: MatchRecord) -> None:
    assert MODEL.score(a, b) == MODEL.score(b, a)


@given(_RECORDS, _RECORDS)
def test_no_record_is_more_like_a_record_than_itself(a: MatchRecord, b: MatchRecord) -> None:
    assume(not a.unnamed)  # two unnamed records are compared by identifier alone, even if equal
    itself, other = MODEL.weight(a, a), MODEL.weight(a, b)
    assert other <= itself + 1e-9 or itself == NEVER


@given(_RECORDS, _RECORDS)
def test_a_comparison_adds_up(a: MatchRecord, b: MatchRecord) -> None:
    found = MODEL.score(a, b)
    assert 0 <= found.score <= 1
    assert set(found.agreement) - {"household"} == {
        field for field, level in found.levels.items() if level != "missing"
    }
    assert found.weight == round(MODEL.weight(a, b), 3)
    if found.weight != NEVER:
        assert abs(MODEL.prior + sum(found.agreement.values()) - found.weight) < 0.01


@given(_RECORDS)
def test_a_record_comes_back_from_its_bytes(record: MatchRecord) -> None:
    again = decode(encode(record))
    assert again == record
    assert block_keys(again) == block_keys(record)


@given(st.lists(_NAMES, min_size=1, max_size=3), _DATES)
def test_the_order_of_names_does_not_matter(names: list[NameInput], born: str) -> None:
    one = record_of(names, "female", born, NOT_ESTIMATED, [], [], [])
    other = record_of(names[::-1], "female", born, NOT_ESTIMATED, [], [], [])
    assert block_keys(one) == block_keys(other)
    assert MODEL.weight(one, other) == MODEL.weight(one, one)
