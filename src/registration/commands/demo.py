"""`registration demo`: some minutes of a clinic against the running service, told as it goes."""

import importlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Annotated, Any
from uuid import uuid4

import httpx
import orjson
import typer
from rich.console import Console
from rich.text import Text

from registration.api.keys import KEY_FILE, issue_token, signing_key
from registration.commands import CommandError, app
from registration.commands.common import DataDir, load_settings

NATIONAL_ID = "urn:example:demo:national-id"
CATCH_UP_SECONDS = 30.0
"""How long the search may take to show what was just registered."""


@app.command()
def demo(
    url: Annotated[str, typer.Option(help="Where the service runs.")] = "http://127.0.0.1:8000",
    pause: Annotated[float, typer.Option(min=0, help="Seconds between steps.")] = 2.0,
    fast: Annotated[bool, typer.Option("--fast", help="Do not pause.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Play some minutes of a clinic against the running service, and tell what happens and why.

    It registers a few made-up people in a tenant of its own, a new one each time. The signing key
    in the data folder of the service makes the tokens.

    Exit code 0: the service did what the story says. 1: it answered something else, and the last
    line says where. 2: the service cannot be reached, or takes no tokens of that folder.
    """
    settings = load_settings(data_dir=data_dir)
    if settings.jwks_url is not None:
        raise CommandError("the demo makes its own tokens, which a service with jwks_url refuses")
    if not (settings.data_dir / KEY_FILE).exists():
        raise CommandError(
            f"there is no {KEY_FILE} in {settings.data_dir}: start the service with `make run`, or "
            "name the data folder of the one that runs with --data-dir"
        )
    with httpx.Client(base_url=url, timeout=10) as http:
        story = Story(http, settings.data_dir, 0 if fast else pause)
        try:
            for scene in (*SCENES, _check_digit(settings.identifier_systems)):
                scene(story)
        except httpx.TransportError as error:
            raise CommandError(
                f"the service at {url} does not answer ({type(error).__name__}): start it with "
                "`make run`, or say where it runs with --url"
            ) from error
        except Surprise as surprise:
            story.say(f"This is not what should happen: {surprise}", "bold red")
            raise typer.Exit(1) from None
    story.say(f"All as promised. The people are in the tenant {story.tenant}.", "bold green")


class Surprise(Exception):
    """The service answered something else than the story says."""


@dataclass
class Story:
    """The narrator: who takes part, what was said, and whether it came out as told."""

    http: httpx.Client
    data_dir: Path
    pause: float
    tenant: str = field(default_factory=lambda: f"demo-{uuid4().hex[:12]}")
    known: dict[str, Any] = field(default_factory=dict)
    """What later scenes need of earlier ones: ids and versions."""
    _console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    _scene: str = ""

    def scene(self, title: str) -> None:
        """Begin a scene."""
        self._scene = title
        self._console.print()
        self.say(title, "bold")

    def say(self, text: str, style: str = "") -> None:
        """Tell something, and leave time to read it."""
        self._console.print(Text(text, style))
        time.sleep(self.pause)

    def expect(self, holds: bool, what: str) -> None:
        """Check what the story says. Raises `Surprise`, naming the scene."""
        if not holds:
            raise Surprise(f"in the scene “{self._scene}”: {what}")

    def ask(
        self,
        who: "Person",
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        status: int,
        params: Mapping[str, str] | None = None,
        **headers: str,
    ) -> httpx.Response:
        """Send a request, show it and its answer in short, and check the answer's status."""
        request = who.request(self.http, method, path, body, params, headers)
        return self.tell(who, request, self.http.send(request), status)

    def tell(
        self, who: "Person", request: httpx.Request, response: httpx.Response, status: int
    ) -> httpx.Response:
        """Show one exchange, and check the answer's status."""
        shown = "".join(
            f"  {name}: {request.headers[name]}"
            for name in ("If-Match", "Idempotency-Key")
            if name in request.headers
        )
        path = _path(request.url)
        self._console.print(Text(f"  {who.name} → {request.method} {path}{shown}", "cyan"))
        if request.content:
            self._console.print(Text(f"    {request.content.decode()}", "dim"))
        self._console.print(Text(f"  ← {_short(response)}", _style(response)))
        code = "" if response.is_success else f" {_json(response).get('code', '')}"
        self.expect(
            response.status_code == status,
            f"{request.method} {path} answered {response.status_code}{code} instead of {status}",
        )
        time.sleep(self.pause)
        return response


@dataclass(frozen=True)
class Person:
    """Somebody with a token."""

    name: str
    token: str

    def request(
        self,
        http: httpx.Client,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Request:
        """Build a request with the token; header names are written with underscores."""
        sent = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        sent["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        content = None if body is None else orjson.dumps(body)
        return http.build_request(method, path, params=params, headers=sent, content=content)


def _person(story: Story, name: str, facility: str, tenant: str | None = None) -> Person:
    token = issue_token(
        signing_key(story.data_dir),
        role="desk",
        token_id=uuid4(),
        now=datetime.now(UTC),
        ttl=timedelta(hours=1),
        subject=name.lower(),
        tenant=tenant or story.tenant,
        facility=facility,
    )
    return Person(name, token)


def _opening(story: Story) -> None:
    story.scene("The clinic opens")
    story.known["amal"] = amal = _person(story, "Amal", "north")
    story.known["boris"] = _person(story, "Boris", "south")
    story.say("Amal sits at the desk of the north wing, Boris at the one in the south.")
    answer = story.http.send(amal.request(story.http, "GET", "/v1/patients"))
    if answer.status_code == 401:
        raise CommandError(
            "the service refuses tokens signed with the key of this data folder: name the folder "
            "that it runs on with --data-dir"
        )


def _family(story: Story) -> None:
    story.scene("A family arrives, with names in two scripts")
    amal = story.known["amal"]
    mother = {
        "names": [
            {"use": "official", "family": "حداد", "given": ["سلمى"]},
            {"use": "official", "family": "Haddad", "given": ["Salma"]},
        ],
        "gender": "female",
        "birthDate": "1988-03-14",
        "identifiers": [{"system": NATIONAL_ID, "value": "88031400123"}],
        "telecom": [{"system": "phone", "value": "+962 79 5550101", "use": "mobile"}],
    }
    answer = story.ask(amal, "POST", "/v1/patients", mother, status=201)
    salma = _json(answer)
    scripts = set(salma["display"]["byScript"])
    story.expect(scripts == {"Arab", "Latn"}, f"the names are in {sorted(scripts)}")
    story.say("The server found out the scripts by itself, and says which name to show in each.")
    story.known |= {"salma": salma["id"], "registered": salma["registeredAt"]}


def _lost_answer(story: Story) -> None:
    story.scene("The answer is lost, and the tablet sends it again")
    amal = story.known["amal"]
    child = {
        "names": [
            {"use": "official", "family": "حداد", "given": ["يوسف"]},
            {"use": "official", "family": "Haddad", "given": ["Youssef"]},
        ],
        "gender": "male",
        "birthDate": "2019-11",
        "nextOfKin": [{"name": "Salma Haddad", "relationship": "mother"}],
    }
    key = f"tablet-{uuid4()}"
    first = story.ask(amal, "POST", "/v1/patients", child, status=201, Idempotency_Key=key)
    story.say("Suppose that this answer never reached the tablet: it cannot know, and tries again.")
    again = story.ask(amal, "POST", "/v1/patients", child, status=201, Idempotency_Key=key)
    story.expect(again.headers.get("Idempotency-Replayed") == "true", "it was not a replay")
    story.expect(_json(first)["id"] == _json(again)["id"], "there is a second patient")
    story.expect(_position(first) == _position(again), "the log grew")
    story.say("The same answer as the first time: one child, one record.")


def _two_desks(story: Story) -> None:
    story.scene("Two desks edit the same record")
    amal, boris = story.known["amal"], story.known["boris"]
    path = f"/v1/patients/{story.known['salma']}"
    seen = story.ask(amal, "GET", path, status=200).headers["ETag"]
    story.say(f"Both have version {seen} on their screens. Boris is faster:")
    edit, demographics = _phone("+962 79 5550202"), f"{path}/demographics"
    story.ask(boris, "PATCH", demographics, edit, status=200, If_Match=seen)
    story.say("Amal, who has not seen that, saves another number:")
    edit = _phone("+962 79 5550303")
    refused = story.ask(amal, "PATCH", demographics, edit, status=412, If_Match=seen)
    conflict = _json(refused)
    story.expect(conflict["code"] == "OPTIMISTIC_LOCK_CONFLICT", f"it said {conflict['code']}")
    sides = {entry["path"]: entry for entry in conflict["fields"]}
    story.expect("/telecom" in sides, "the conflict does not name /telecom")
    for side in ("base", "theirs", "yours"):
        numbers = ", ".join(point["value"] for point in sides["/telecom"][side])
        story.say(f"    {side:>6}: {numbers}", "yellow")
    changed = conflict["changes"][-1]
    story.expect(changed["actor"] == "boris", f"it names {changed['actor']} as who changed it")
    story.say(f"Nothing was overwritten. Amal sees both sides, and who it was: {changed['actor']}.")
    story.say("She asks Salma, who says that both numbers are hers. Amal sends what is right:")
    current = f'"{conflict["currentVersion"]}"'
    edit = _phone("+962 79 5550202", "+962 79 5550303")
    story.ask(amal, "PATCH", demographics, edit, status=200, If_Match=current)


def _next_of_kin(story: Story) -> None:
    story.scene("What does not collide does not get in the way")
    amal, boris = story.known["amal"], story.known["boris"]
    path = f"/v1/patients/{story.known['salma']}"
    seen = story.ask(amal, "GET", path, status=200).headers["ETag"]
    kin = {"name": "Karim Haddad", "relationship": "husband"}
    story.say(f"Amal looks at version {seen}. Meanwhile Boris notes the husband:")
    story.ask(boris, "POST", f"{path}/next-of-kin", kin, status=201)
    story.say("Amal's version is no longer the last. But nobody touched what she changes:")
    edit = {"preferredLanguage": "ar", "maritalStatus": "M"}
    done = story.ask(amal, "PATCH", f"{path}/demographics", edit, status=200, If_Match=seen)
    names = [entry["name"] for entry in _json(done)["nextOfKin"]]
    story.expect(names == ["Karim Haddad"], f"the next of kin are {names}")
    story.say("Both are in, and nobody was asked a needless question.")


def _same_number(story: Story) -> None:
    story.scene("Two desks register the same national number, at the same instant")
    both = (story.known["amal"], story.known["boris"])
    requests = [
        who.request(
            story.http,
            "POST",
            "/v1/patients",
            {
                "names": [{"use": "official", "family": "Petrova", "given": [given]}],
                "gender": "female",
                "identifiers": [{"system": NATIONAL_ID, "value": "79050500456"}],
            },
        )
        for who, given in zip(both, ("Olga", "Olha"), strict=True)
    ]
    start = Barrier(len(requests))

    def send(request: httpx.Request) -> httpx.Response:
        start.wait()
        return story.http.send(request)

    with ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(send, requests))
    statuses = sorted(answer.status_code for answer in answers)
    story.expect(statuses == [201, 409], f"they were answered {statuses}")
    for who, request, answer in zip(both, requests, answers, strict=True):
        story.tell(who, request, answer, answer.status_code)
    won = next(_json(answer)["id"] for answer in answers if answer.status_code == 201)
    lost = next(_json(answer) for answer in answers if answer.status_code == 409)
    story.expect(lost["code"] == "IDENTIFIER_CONFLICT", f"the loser was told {lost['code']}")
    story.expect(lost["patientId"] == won, "the loser was not told who holds the number")
    story.say("Exactly one wins, and the other is told whose record to open.")


def _search(story: Story) -> None:
    story.scene("Finding Salma again")
    amal = story.known["amal"]
    for text, fuzzy, why in (
        ("حداد سلمى", False, "by her Arabic name, family name first:"),
        ("salma haddad", False, "by the Latin one, in small letters:"),
        ("Salma Hadad", True, "with a letter missing:"),
    ):
        story.say(why)
        answer = _found(story, amal, {"name": text} | ({"fuzzy": "true"} if fuzzy else {}))
        ids = [item["id"] for item in answer]
        story.expect(story.known["salma"] in ids, f"a search for {text} does not find her")


def _found(story: Story, who: Person, params: dict[str, str]) -> list[dict[str, Any]]:
    """Search, once the read model has what was registered."""
    asked = params | {"minPosition": str(_last_position(story))}
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while True:
        request = who.request(story.http, "GET", "/v1/patients", params=asked)
        answer = story.http.send(request)
        if answer.status_code != 503 or time.monotonic() > deadline:
            items: list[dict[str, Any]] = _json(story.tell(who, request, answer, 200))["items"]
            return items
        time.sleep(0.2)


def _last_position(story: Story) -> int:
    path = f"/v1/patients/{story.known['salma']}/history"
    answer = story.http.send(story.known["amal"].request(story.http, "GET", path))
    return int(_json(answer)["items"][-1]["position"])


def _history(story: Story) -> None:
    story.scene("What happened to the record, and how it stood before")
    amal = story.known["amal"]
    path = f"/v1/patients/{story.known['salma']}"
    events = _json(story.ask(amal, "GET", f"{path}/history", status=200))["items"]
    for event in events:
        story.say(f"    version {event['version']}: {event['type']} by {event['actor']}", "yellow")
    told = [(event["type"], event["actor"]) for event in events]
    story.expect(told == TOLD, f"the history is {told}")
    as_of = {"asOf": story.known["registered"]}
    before = _json(story.ask(amal, "GET", path, status=200, params=as_of))
    numbers = [point["value"] for point in before["telecom"]]
    story.expect(numbers == ["+962 79 5550101"], f"she had the numbers {numbers}")
    story.expect(before["version"] == 1, f"that was version {before['version']}")
    story.say("As she was registered: one phone number, nobody else known.")


TOLD = [
    ("patient.registered", "amal"),
    ("patient.demographics-corrected", "boris"),
    ("patient.demographics-corrected", "amal"),
    ("patient.next-of-kin-added", "boris"),
    ("patient.demographics-corrected", "amal"),
]
"""What the scenes do to Salma's record, as its history has to tell it."""


def _outsider(story: Story) -> None:
    story.scene("Somebody from another hospital looks")
    other = _person(story, "Mallory", "elsewhere", f"{story.tenant}-other")
    story.ask(other, "GET", f"/v1/patients/{story.known['salma']}", status=404)
    request = other.request(story.http, "GET", "/v1/patients", params={"name": "Haddad"})
    found = _json(story.tell(other, request, story.http.send(request), 200))["items"]
    story.expect(found == [], f"the outsider finds {len(found)} patients")
    story.say("A valid token, another tenant: for them Salma does not exist.")


def _check_digit(systems: Mapping[str, str]) -> Callable[[Story], None]:
    """Return the scene for the first system with a check; an empty one where there is none."""

    def scene(story: Story) -> None:
        if not systems:
            return
        system, check = next(iter(systems.items()))
        story.scene("A slip of the finger in a number with a check digit")
        person = {
            "names": [{"use": "official", "family": "Silva", "given": ["João"]}],
            "gender": "male",
            "identifiers": [{"system": system, "value": _wrong_number(check)}],
        }
        refused = story.ask(story.known["amal"], "POST", "/v1/patients", person, status=422)
        code = _json(refused)["code"]
        story.expect(code == "IDENTIFIER_INVALID", f"it said {code}")
        story.say("Caught at the desk, where it can still be asked for again.")

    return scene


def _wrong_number(check: str) -> str:
    module = importlib.import_module(f"stdnum.{check}")
    numbers = (str(number) for number in range(1_234_567_890, 1_234_567_990))
    return next(number for number in numbers if not module.is_valid(number))


SCENES: tuple[Callable[[Story], None], ...] = (
    _opening,
    _family,
    _lost_answer,
    _two_desks,
    _next_of_kin,
    _same_number,
    _search,
    _history,
    _outsider,
)


def _phone(*numbers: str) -> dict[str, Any]:
    return {"telecom": [{"system": "phone", "value": n, "use": "mobile"} for n in numbers]}


def _position(response: httpx.Response) -> str:
    return str(response.headers.get("X-Log-Position"))


def _json(response: httpx.Response) -> dict[str, Any]:
    """Return the body of an answer. Raises `Surprise` where it is no JSON object."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Surprise(f"{response.request.url.path} did not answer with a JSON object")
    return body


def _path(url: httpx.URL) -> str:
    """Return path and query as a person would write them."""
    query = "&".join(f"{name}={value}" for name, value in url.params.multi_items())
    return f"{url.path}?{query}" if query else url.path


def _short(response: httpx.Response) -> str:
    """Return an answer in one line: its status, and what a person would look at first."""
    said = [str(response.status_code)]
    if "ETag" in response.headers:
        said.append(f"version {response.headers['ETag']}")
    if "Idempotency-Replayed" in response.headers:
        said.append("replayed")
    body = _json(response)
    if "code" in body:
        said.append(f"{body['code']}: {body['detail']}")
    elif "display" in body:
        said += [name["text"] for name in body["display"]["byScript"].values()]
    elif "items" in body:
        said.append(f"{len(body['items'])} items")
        said += [
            " / ".join(name["text"] for name in item["display"]["byScript"].values())
            for item in body["items"][:3]
            if "display" in item
        ]
    return "  ".join(said)


def _style(response: httpx.Response) -> str:
    return "green" if response.is_success else "yellow"
