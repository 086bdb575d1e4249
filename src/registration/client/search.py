"""Finding patients on the device: by names in any script, birth date and identifiers.

Each patient has rows of a word and their id. A name gives its folded words, and of each the keys
under which other scripts find it; a birth date is ``@1984-03-02``, an identifier ``#`` and its
letters and digits. The rows of the service's records go by their scope, those of a person's own
changes by the person, and stand for the former.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from registration.client.cache import PATIENT
from registration.client.store import Store
from registration.client.views import Views
from registration.domain import search_keys

_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?", re.ASCII)
_FOREIGN = ("_", "^")
_END = "\U0010ffff"
_EXACT, _BEGUN, _ALIKE = 1.0, 0.9, 0.6
_MOST_COMPARED = 300

Scores = dict[str, float]
"""How well each patient meets a word, by id."""


def words_of(patient: Mapping[str, Any]) -> set[str]:
    """Return all that a patient is found by, as the wire shows them."""
    found = set()
    for name in patient["names"]:
        shown = search_keys.Shown(
            name.get("family"), tuple(name.get("given", ())), name.get("text"), name["script"]
        )
        for word, _ in search_keys.words_of(shown):
            found.add(word)
            found |= search_keys.skeleton_keys(word)
    if patient.get("birthDate"):
        found.add("@" + patient["birthDate"])
    found |= {_number(identifier["value"]) for identifier in patient["identifiers"]}
    return found


class Index:
    """The rows of one scope and one person."""

    def __init__(self, store: Store, scope: str, subject: str) -> None:
        self._store = store
        self._scope = f"scope {scope}"
        self._subject = f"subject {subject}"

    def note_pulled(self, patient_id: str, patient: Mapping[str, Any] | None) -> None:
        """Index a patient as the service shows it; ``None``: it is not there any more."""
        self._note(self._scope, patient_id, patient)

    def note_changed(self, patient_id: str, patient: Mapping[str, Any] | None) -> None:
        """Index a patient with one's own changes; ``None``: there are none any more."""
        self._note(self._subject, patient_id, patient)

    def erase(self, patient_id: str) -> None:
        """Forget what a patient was found by, whoever could."""
        self._store.run("DELETE FROM word WHERE patient = ?", (patient_id,))

    def _note(self, owner: str, patient_id: str, patient: Mapping[str, Any] | None) -> None:
        self._store.run("DELETE FROM word WHERE owner = ? AND patient = ?", (owner, patient_id))
        if patient is not None:
            rows = ((owner, word, patient_id) for word in words_of(patient))
            self._store.run_many("INSERT INTO word VALUES (?, ?, ?)", rows)

    def find(self, text: str, changed: frozenset[str]) -> list[tuple[float, str]]:
        """Return score and id of the patients that meet every word, best first.

        ``changed`` are those whose own rows stand for the service's.
        """
        wanted = _wanted(text)
        if not wanted:
            return []
        met: Scores | None = None
        for word in wanted:
            scores = self._scores(word, changed)
            met = scores if met is None else _both(met, scores)
            if not met:
                return []
        return sorted(((score, its_id) for its_id, score in (met or {}).items()), key=_best_first)

    def _scores(self, word: str, changed: frozenset[str]) -> Scores:
        """Return who meets a word: exactly, by its beginning, or in another script."""
        scores: Scores = {}
        # four digits may be a year or a number, letters and digits a number or a name
        other = "#" + word.lstrip("@") if word[0] != "#" else word[1:]
        begun = self._rows("word >= ? AND word < ?", (word, word + _END))
        number = self._rows("word >= ? AND word < ?", (other, other + _END))
        foreign: Iterable[tuple[str, str, str]] = ()
        if word[0] not in "@#":
            keys = sorted(search_keys.foreign_keys(word))
            marks = ", ".join("?" * len(keys))
            foreign = self._rows(f"word IN ({marks})", tuple(keys))
        for rows, score in ((foreign, _ALIKE), (number, _BEGUN), (begun, _BEGUN)):
            for owner, its_id, met in rows:
                if owner == self._subject or its_id not in changed:
                    exact = met in (word, other)
                    scores[its_id] = max(scores.get(its_id, 0), _EXACT if exact else score)
        return scores

    def _rows(self, condition: str, values: tuple[str, ...]) -> Iterable[tuple[str, str, str]]:
        query = f"SELECT owner, patient, word FROM word WHERE owner = ? AND {condition}"  # noqa: S608
        for owner in (self._scope, self._subject):
            for row in self._store.all(query, (owner, *values)):
                yield row[0], row[1], row[2]


def _both(left: Scores, right: Scores) -> Scores:
    """Return who meets both: the worse decides, the other one tells equals apart."""
    few, many = sorted((left, right), key=len)
    return {
        its_id: min(score, many[its_id]) + max(score, many[its_id]) / 1000
        for its_id, score in few.items()
        if its_id in many
    }


def _best_first(found: tuple[float, str]) -> tuple[float, str]:
    return -found[0], found[1]


def _wanted(text: str) -> list[str]:
    wanted: list[str] = []
    names: list[str] = []
    for part in text.split():
        if _DATE.fullmatch(part):
            wanted.append("@" + part)
        elif any(letter.isdigit() for letter in part):
            wanted.append(_number(part))
        else:
            names.append(part)
    folded = search_keys.asked_words(" ".join(names))
    return wanted + ([w for w in folded if w not in search_keys.OPTIONAL] or folded)


def _number(value: str) -> str:
    return "#" + "".join(letter for letter in value.casefold() if letter.isalnum())


def ranked(views: Views, found: list[tuple[float, str]], text: str) -> list[UUID]:
    """Return the ids of what was found, what is written in another script by its likeness."""
    asked = [word for word in _wanted(text) if word[0] not in "@#"]
    scored = []
    for score, its_id in found[:_MOST_COMPARED]:
        view = None if score >= _BEGUN else views.view(PATIENT, UUID(its_id))
        if view is not None:
            words = [word for word in words_of(view.body) if word[0] not in "@#_^"]
            scored.append(
                (score + min((_likeness(w, words) for w in asked), default=0) / 4, its_id)
            )
        else:
            scored.append((score, its_id))
    return [UUID(its_id) for _, its_id in sorted(scored, key=_best_first)]


def _likeness(asked: str, words: Iterable[str]) -> float:
    return max((search_keys.likeness(asked, word) for word in words), default=0.0)
