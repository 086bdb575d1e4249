"""Laws of the search keys."""

from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import OSA

from registration.domain.search_keys import (
    LONGEST_WORD,
    fold,
    foreign_keys,
    keys_of,
    likeness,
    misspelling,
    skeleton_keys,
    typo_keys,
)

letters = st.sampled_from("abcdeéñßøا محمدИваноב王")
words = st.text("abcdef", min_size=2, max_size=8)


@given(st.text(max_size=30) | st.text(letters, max_size=30))
def test_folding_what_is_folded_changes_nothing(text: str) -> None:
    for word in fold(text):
        assert fold(word)[:1] == (word,)
        assert 0 < len(word) <= LONGEST_WORD


@given(st.text(letters, max_size=30))
def test_case_and_composition_do_not_matter(text: str) -> None:
    assert fold(text.upper()) == fold(text) == fold(text.lower())


@given(words, st.integers(0, 7), st.sampled_from("abcdefz"), st.sampled_from("dics"))
def test_words_within_one_typo_share_a_key(word: str, at: int, letter: str, kind: str) -> None:
    at %= len(word)
    typed = {
        "d": word[:at] + word[at + 1 :],
        "i": word[:at] + letter + word[at:],
        "c": word[:at] + letter + word[at + 1 :],
        "s": word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
    }[kind]

    assert typo_keys(word) & typo_keys(typed)
    cost = misspelling(typed, word)
    assert cost is not None
    assert cost <= 1
    assert OSA.distance(typed, word) <= 1


@given(st.text(max_size=20))
def test_any_text_has_keys_without_surprises(text: str) -> None:
    for word in fold(text):
        assert "=" + word in keys_of(word)
        assert all("\x00" not in key for key in keys_of(word) | foreign_keys(word))


def test_words_of_two_scripts_share_a_skeleton() -> None:
    for one, other in [
        ("mohammed", "محمد"),
        ("muhammad", "محمد"),
        ("محمد", "мухаммед"),
        ("ivanov", "иванов"),
        ("cohen", "כהן"),
        ("youssef", "يوسف"),
    ]:
        (left,), (right,) = fold(one), fold(other)
        assert foreign_keys(left) & skeleton_keys(right), (one, other)
        assert foreign_keys(right) & skeleton_keys(left), (one, other)
        assert likeness(left, right) >= 0.6, (one, other)
