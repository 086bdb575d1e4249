"""Every command as a row: method, path, operation. The routes, OpenAPI and the pages read it."""

from dataclasses import dataclass

from registration.domain.commands import Reason
from registration.domain.contract import Operation
from registration.domain.handlers import HANDLERS
from registration.domain.resources import Model

JSON = frozenset({"application/json"})
MERGE_PATCH = frozenset({"application/merge-patch+json", "application/json"})
IMAGES = frozenset({"image/jpeg", "image/png", "image/webp"})


@dataclass(frozen=True, slots=True)
class CommandRoute:
    """Where an operation is found.

    ``entry`` names the path parameter of the entry it is about. A DELETE takes its payload from
    the query. ``body_optional``: no body at all says as much as ``{}``. ``body`` is what is said,
    where the payload holds more than that. ``answers`` is the status of the answer where it does
    not follow from the operation: something may be stored for the first time, and not be new.
    """

    method: str
    path: str
    operation: Operation
    summary: str
    entry: str | None = None
    media_types: frozenset[str] = JSON
    body_optional: bool = False
    body: type[Model] | None = None
    answers: int | None = None

    @property
    def payload(self) -> type[Model]:
        """What a client says."""
        return self.body or HANDLERS[self.operation].payload

    @property
    def status(self) -> int:
        """The status of a success."""
        return self.answers or (201 if HANDLERS[self.operation].makes else 200)

    @property
    def has_body(self) -> bool:
        """Whether the payload is the body."""
        return self.method != "DELETE"


_PATIENT = "/v1/patients/{id}"
_MERGE = "/v1/mpi/merges/{id}"
_ERASURE = "/v1/erasures/{id}"

COMMAND_ROUTES: tuple[CommandRoute, ...] = (
    CommandRoute("POST", "/v1/patients", Operation.REGISTER_PATIENT, "Register a patient"),
    CommandRoute(
        "PATCH",
        f"{_PATIENT}/demographics",
        Operation.UPDATE_DEMOGRAPHICS,
        "Correct demographics",
        media_types=MERGE_PATCH,
    ),
    CommandRoute("POST", f"{_PATIENT}/names", Operation.ADD_NAME, "Add a name"),
    CommandRoute(
        "PUT", f"{_PATIENT}/names/{{nameId}}", Operation.REPLACE_NAME, "Replace a name", "nameId"
    ),
    CommandRoute(
        "POST",
        f"{_PATIENT}/names/{{nameId}}/retirement",
        Operation.RETIRE_NAME,
        "Retire a name",
        "nameId",
    ),
    CommandRoute("POST", f"{_PATIENT}/identifiers", Operation.ADD_IDENTIFIER, "Add an identifier"),
    CommandRoute(
        "POST",
        f"{_PATIENT}/identifiers/{{identifierId}}/retirement",
        Operation.RETIRE_IDENTIFIER,
        "Retire an identifier",
        "identifierId",
    ),
    CommandRoute("POST", f"{_PATIENT}/next-of-kin", Operation.ADD_NEXT_OF_KIN, "Add a next of kin"),
    CommandRoute(
        "POST",
        f"{_PATIENT}/next-of-kin/{{nokId}}/removal",
        Operation.REMOVE_NEXT_OF_KIN,
        "Remove a next of kin",
        "nokId",
    ),
    CommandRoute(
        "PUT",
        f"{_PATIENT}/consents/{{flag}}",
        Operation.SET_CONSENT,
        "Record what a person said to a consent flag",
        "flag",
    ),
    CommandRoute(
        "PUT",
        f"{_PATIENT}/portrait",
        Operation.SET_PORTRAIT,
        "Set the portrait",
        media_types=IMAGES,
    ),
    CommandRoute(
        "DELETE", f"{_PATIENT}/portrait", Operation.REMOVE_PORTRAIT, "Remove the portrait for good"
    ),
    CommandRoute(
        "PUT",
        f"{_PATIENT}/extensions/{{schema}}",
        Operation.SET_EXTENSION,
        "Set the data under an extension schema",
        "schema",
    ),
    CommandRoute(
        "DELETE",
        f"{_PATIENT}/extensions/{{schema}}",
        Operation.REMOVE_EXTENSION,
        "Remove the data under an extension schema",
        "schema",
    ),
    CommandRoute("POST", f"{_PATIENT}/death", Operation.RECORD_DEATH, "Record a death"),
    CommandRoute(
        "POST", f"{_PATIENT}/death/reversal", Operation.REVERSE_DEATH, "Reverse a recorded death"
    ),
    CommandRoute("POST", "/v1/encounters", Operation.OPEN_ENCOUNTER, "Open an encounter"),
    CommandRoute(
        "POST",
        "/v1/encounters/{id}/transitions",
        Operation.TRANSITION_ENCOUNTER,
        "Move an encounter on",
    ),
    CommandRoute(
        "POST", "/v1/mpi/merges", Operation.PROPOSE_MERGE, "Propose to merge two patients"
    ),
    CommandRoute(
        "POST",
        f"{_MERGE}/approval",
        Operation.APPROVE_MERGE,
        "Approve a proposed merge, which carries it out",
        body_optional=True,
    ),
    CommandRoute(
        "POST", f"{_MERGE}/rejection", Operation.REJECT_MERGE, "Turn a proposed merge down"
    ),
    CommandRoute("POST", f"{_MERGE}/unmerge", Operation.UNMERGE, "Undo a merge"),
    CommandRoute(
        "POST",
        "/v1/mpi/candidates/{id}/dismissal",
        Operation.DISMISS_CANDIDATE,
        "Find a possible duplicate to be two persons",
        body=Reason,
        answers=200,
    ),
    CommandRoute(
        "POST",
        "/v1/extension-schemas/{schema}/versions",
        Operation.PUBLISH_SCHEMA,
        "Publish a version of an extension schema",
        "schema",
    ),
    CommandRoute(
        "POST", "/v1/erasures", Operation.REQUEST_ERASURE, "Request that a patient be erased"
    ),
    CommandRoute(
        "POST",
        f"{_ERASURE}/approval",
        Operation.APPROVE_ERASURE,
        "Approve the erasure of a patient, which carries it out for good",
        body_optional=True,
    ),
    CommandRoute(
        "POST", f"{_ERASURE}/refusal", Operation.REFUSE_ERASURE, "Refuse to erase a patient"
    ),
)
