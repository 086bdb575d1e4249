"""The line to the service: requests with the person's token, and patience when none answers."""

from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any

import httpx
import orjson

from registration.client.device import Device
from registration.client.errors import ServiceAway, ServiceRefused, Unauthorised
from registration.client.session import Session

LONGEST_WAIT = 30.0
"""Seconds; whoever is told to wait longer does so without a program that hangs."""
_FIRST_WAIT = 0.5
_GATEWAY = (500, 502, 503, 504)


class Patience:
    """How long to go on asking: a number of failures in a row, each with a longer pause.

    A pause is drawn from nothing to its bound (full jitter), after what the service asked for.
    """

    def __init__(self, sleep: Callable[[float], None], random: Random, attempts: int) -> None:
        self._sleep = sleep
        self._random = random
        self._attempts = attempts
        self._failures = 0

    def lasts(self, asked: float | None = None) -> bool:
        """Note a failure and pause; ``False``, without a pause, where it is enough."""
        self._failures += 1
        if self._failures >= self._attempts or (asked or 0) > LONGEST_WAIT:
            return False
        bound = min(LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (self._failures - 1))
        self._sleep((asked or 0) + self._random.uniform(0, bound))
        return True

    def renew(self) -> None:
        """Note a success."""
        self._failures = 0


class Line:
    """Requests to one service."""

    def __init__(self, http: httpx.Client, device: Device, session: Session) -> None:
        self._http = http
        self._device = device
        self._session = session

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Return an answer that settles something: a success or a refusal of this request.

        Raises :class:`ServiceAway` where none came or the service takes nothing now
        (see :class:`Away`), and :class:`Unauthorised` for 401 and 403.
        """
        request = self._http.build_request(
            method,
            path,
            params=params,
            content=content,
            headers={"Authorization": f"Bearer {self._session.token}", **(headers or {})},
        )
        try:
            answer = self._http.send(request)
        except httpx.RequestError as error:
            raise Away(type(error).__name__, None, doubtful=True) from None
        if not _is_of_the_service(answer):
            raise Away("a stranger answers", None, doubtful=True)
        if "x-request-id" in answer.headers:  # a gateway's clock is nobody's
            self._device.learn(answer.headers.get("date"))
        if answer.status_code == 409 and refusal(answer)[1] == "IDEMPOTENCY_IN_FLIGHT":
            raise Away("IDEMPOTENCY_IN_FLIGHT", self._retry_after(answer), doubtful=True)
        if answer.status_code == 429 or answer.status_code in _GATEWAY:
            raise Away(
                refusal(answer)[1],
                self._retry_after(answer),
                doubtful=answer.status_code != 429,
            )
        if answer.status_code in (401, 403):
            raise Unauthorised(*refusal(answer))
        return answer

    def hear_the_time(self) -> None:
        """Ask for nothing but the ``Date`` of an answer. Raises :class:`ServiceAway`."""
        self.ask("GET", "/livez")

    def _retry_after(self, answer: httpx.Response) -> float | None:
        """Return the seconds that ``Retry-After`` asks for, in either of its forms (RFC 9110)."""
        said = answer.headers.get("retry-after")
        if said is None:
            return None
        if said.isdigit():
            return float(said)
        try:
            until = parsedate_to_datetime(said).astimezone(UTC)
        except ValueError:
            return None
        return max(0.0, (until - self._device.now()).total_seconds())


def _is_of_the_service(answer: httpx.Response) -> bool:
    """Whether no portal or proxy on the way made the answer; 413 may be a proxy's."""
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    known = media_type in ("application/json", "application/problem+json")
    return known or answer.status_code == 413 or answer.status_code in _GATEWAY


class Away(ServiceAway):
    """:class:`ServiceAway` with what a retry needs to know.

    ``code`` is the problem's, or the kind of failure; ``retry_after`` what the service asked for,
    in seconds; ``doubtful``: what was asked may have been done.
    """

    def __init__(self, code: str, retry_after: float | None, *, doubtful: bool) -> None:
        super().__init__(f"the service does not answer ({code})")
        self.code = code
        self.retry_after = retry_after
        self.doubtful = doubtful


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of an answer, a problem document mostly; empty where it is none."""
    try:
        found = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def refusal(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Return status, code and request id of a refusal."""
    code = problem_of(answer).get("code", "no problem document")
    return answer.status_code, str(code), answer.headers.get("x-request-id")


def accepted(answer: httpx.Response, *members: str) -> dict[str, Any]:
    """Return the body of a success, which has these members. Raises :class:`ServiceRefused`.

    A success of another shape is none of the service: then nobody answered (:class:`Away`).
    """
    if not answer.is_success:
        raise ServiceRefused(*refusal(answer))
    body = problem_of(answer)
    if not all(member in body for member in members):
        raise Away("a stranger answers", None, doubtful=True)
    return body
