"""A front desk in the terminal: one command a line, from a person or from a script."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from rich.console import Console, RenderableType
from rich.text import Text

from registration.client import tables
from registration.client.client import Client
from registration.client.errors import ClientError
from registration.client.mutation import Mutation
from registration.client.review import ReviewItem
from registration.client.views import View
from registration.domain.encounter import TERMINAL
from registration.domain.errors import DomainError

HELP = """\
register family=Okoro given=Ada gender=female [birth=1984-03-02] [phone=...] [id=SYSTEM|VALUE]
search TEXT                     names in any script, birth dates, identifiers
show P                          P is a number of the last list, or an id
follow P                        go on with the record that P was merged into
correct P [gender=...] [birth=...] [phone=...]
kin P name=Chidi relationship=brother
consent P FLAG granted|refused|withdrawn [evidence=verbal]
arrive P [class=AMB]            who was planned has arrived; else a new encounter
move P STATUS [reason=...]      the encounter that is open goes on
sync                            send what is unsent, take in what is new
review                          what the service refused, both sides
resubmit N [birth=... ...]      send change N again, on what the review shows
survivor N [birth=... ...]      send change N to the record that its patient was merged into
discard N REASON [all|detach]   give change N up, and what builds on it: all, or detach it
confirm N                       do change N online
status | history | help | quit"""


class Quit(Exception):
    """The person is done."""


class Mistake(Exception):
    """A command that cannot be meant so; the message says why."""


class Terminal:
    """The commands over one client."""

    def __init__(self, client: Client, console: Console) -> None:
        self._client = client
        self._console = console
        self._listed: list[UUID] = []
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "register": self._register,
            "search": self._search,
            "show": self._show,
            "follow": self._follow,
            "correct": self._correct,
            "kin": self._kin,
            "consent": self._consent,
            "arrive": self._arrive,
            "move": self._move,
            "sync": self._sync,
            "review": self._review,
            "resubmit": lambda said: self._send_again(said, self._client.resubmit),
            "survivor": lambda said: self._send_again(said, self._client.apply_to_survivor),
            "discard": self._discard,
            "confirm": self._confirm,
            "status": self._status,
            "history": self._history,
            "help": lambda _: self._say(Text(HELP)),
            "quit": self._quit,
        }

    @property
    def prompt(self) -> str:
        """The status line before each command."""
        return tables.prompt(self._client.status(), self._client.now())

    def run(self, lines: Iterable[str]) -> int:
        """Carry out commands until ``quit`` or the end; returns how many failed."""
        failed = 0
        for line in lines:
            try:
                failed += not self.do(line)
            except Quit:
                break
        return failed

    def do(self, line: str) -> bool:
        """Carry out one command; returns whether it did what it says. Raises :class:`Quit`."""
        try:
            name, *arguments = _words(line) or [""]
            if name:
                self._command(name)(arguments)
        except DomainError as refusal:
            self._say(Text(f"{refusal.code}: {refusal.detail}", "red"))
            for each in refusal.extra.get("errors", ()):
                self._say(Text(f"  {each['path'] or '/'}: {each['message']}", "red"))
            if "survivorId" in refusal.extra:
                self._say(Text(f"  go on with {refusal.extra['survivorId']}", "red"))
            return False
        except (ClientError, Mistake, ValueError) as error:
            self._say(Text(str(error), "red"))
            return False
        return True

    def _command(self, name: str) -> Callable[[list[str]], None]:
        if name not in self._commands:
            raise Mistake(f"there is no command {name!r}; try help")
        return self._commands[name]

    def _register(self, arguments: list[str]) -> None:
        said = _members(arguments)
        given = said.pop("given", None)
        name = {"family": said.pop("family", None), "given": given.split() if given else None}
        name["text"] = said.pop("name", None)
        patient = {"names": [_present(name)], "gender": said.pop("gender", "unknown")}
        identifiers = [_identifier(said.pop("id"))] if "id" in said else []
        patient |= {"identifiers": identifiers} | _demographics(said)
        self._list([self._client.register(patient)])

    def _search(self, arguments: list[str]) -> None:
        self._list(self._client.search(" ".join(arguments)))

    def _show(self, arguments: list[str]) -> None:
        view = self._patient(arguments)
        for part in tables.patient(view, self._client.encounters(view.id)):
            self._say(part)

    def _follow(self, arguments: list[str]) -> None:
        view = self._patient(arguments)
        current = self._client.current(view.id)
        if current is None or current.id == view.id:
            raise Mistake("this record was not merged into one that is known here")
        self._list([current])

    def _correct(self, arguments: list[str]) -> None:
        view = self._patient(arguments)
        said = _members(arguments[1:])
        patch = _present({"gender": said.pop("gender", None)}) | _demographics(said)
        if not patch:
            raise Mistake("correct P gender=... birth=... phone=...")
        self._list([self._client.update_demographics(view.id, patch)])

    def _kin(self, arguments: list[str]) -> None:
        view = self._patient(arguments)
        said = _members(arguments[1:])
        self._list([self._client.add_next_of_kin(view.id, said)])

    def _consent(self, arguments: list[str]) -> None:
        view = self._patient(arguments)
        words, said = _parsed(arguments[1:])
        if len(words) != 2:
            raise Mistake("consent P FLAG granted|refused|withdrawn")
        evidence = {"kind": said.get("evidence", "verbal")}
        decision = {"decision": words[1], "evidence": evidence}
        self._list([self._client.set_consent(view.id, words[0], decision)])

    def _arrive(self, arguments: list[str]) -> None:
        view = self._patient(arguments)
        said = _members(arguments[1:])
        planned = [e for e in self._client.encounters(view.id) if e.body["status"] == "planned"]
        if planned:
            self._client.transition(planned[0].id, "arrived")
        else:
            opened = {"class": said.get("class", "AMB"), "status": "arrived"}
            self._client.open_encounter(view.id, opened)
        self._show([str(view.id)])

    def _move(self, arguments: list[str]) -> None:
        view = self._patient(arguments)
        words, said = _parsed(arguments[1:])
        running = [e for e in self._client.encounters(view.id) if e.body["status"] not in TERMINAL]
        if not words or not running:
            raise Mistake("move P STATUS, of a patient with an open encounter")
        self._client.transition(running[0].id, words[0], said.get("reason"))
        self._show([str(view.id)])

    def _sync(self, _arguments: list[str]) -> None:
        self._say(Text(tables.report(self._client.sync())))

    def _review(self, _arguments: list[str]) -> None:
        items = self._client.review()
        if not items:
            self._say(Text("nothing waits for you"))
        for part in tables.conflicts(items):
            self._say(part)

    def _send_again(self, arguments: list[str], send: Callable[..., Mutation]) -> None:
        item = self._item(arguments)
        said = _members(arguments[1:])
        payload = None
        if said:
            changed = _present({"gender": said.pop("gender", None)})
            payload = {**item.mutation.payload, **changed, **_demographics(said)}
        made = send(item, payload)
        self._say(Text(f"queued as change {made.number}"))

    def _discard(self, arguments: list[str]) -> None:
        item = self._item(arguments)
        reason, *how = arguments[1:] or [""]
        chosen: dict[str, Any] = {"all": "discard", "detach": "detach"}
        if len(how) > 1 or not set(how) <= chosen.keys():
            raise Mistake('discard N "REASON" [all|detach]')
        self._client.discard(item, reason, chosen[how[0]] if how else None)
        self._say(Text(f"change {item.number} is discarded"))

    def _confirm(self, arguments: list[str]) -> None:
        made = self._client.confirm(self._item(arguments))
        self._say(Text(f"change {made.number} is {made.state}"))

    def _status(self, _arguments: list[str]) -> None:
        self._say(Text(self.prompt))

    def _history(self, _arguments: list[str]) -> None:
        self._say(tables.history(self._client.history()))

    def _quit(self, _arguments: list[str]) -> None:
        raise Quit

    def _patient(self, arguments: list[str]) -> View:
        said = arguments[0] if arguments else ""
        if said.isdigit() and 0 < int(said) <= len(self._listed):
            found = self._client.patient(self._listed[int(said) - 1])
        else:
            found = self._client.patient(_id(said))
        if found is None:
            raise Mistake("no such patient is known here")
        return found

    def _item(self, arguments: list[str]) -> ReviewItem:
        said = arguments[0] if arguments else ""
        waiting = list(self._client.review())
        for item in waiting:
            if str(item.number) == said:
                return item
            waiting.extend(item.blocked)
        raise Mistake("no such change is under review")

    def _list(self, found: Sequence[View]) -> None:
        self._listed = [view.id for view in found]
        self._say(tables.patients(found) if found else Text("nobody"))

    def _say(self, what: RenderableType) -> None:
        self._console.print(what)


def _parsed(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Tell words from ``name=value``."""
    words = [each for each in arguments if "=" not in each]
    pairs = (each.partition("=") for each in arguments if "=" in each)
    return words, {name: value for name, _, value in pairs}


def _members(arguments: Sequence[str]) -> dict[str, str]:
    """Return the ``name=value`` of a command that takes nothing else."""
    words, members = _parsed(arguments)
    if words:
        raise Mistake(f"what is {words[0]}? A value with spaces stands in quotes: name='Ada Obi'")
    return members


def _words(line: str) -> list[str]:
    """Return the words of a line; one that begins with # is a remark."""
    return [] if line.lstrip().startswith("#") else shlex.split(line)


def _demographics(said: dict[str, str]) -> dict[str, Any]:
    """Return what is left of a command's members as the wire has them."""
    made: dict[str, Any] = {}
    if "birth" in said:
        made["birthDate"] = said.pop("birth")
    if "phone" in said:
        made["telecom"] = [{"system": "phone", "value": said.pop("phone")}]
    if said:
        raise Mistake(f"this takes no {', '.join(sorted(said))}")
    return made


def _present(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _identifier(said: str) -> dict[str, str]:
    system, _, value = said.rpartition("|")
    return {"system": system, "value": value}


def _id(said: str) -> UUID:
    try:
        return UUID(said)
    except ValueError:
        raise Mistake("name a patient by its number in the last list, or by its id") from None
