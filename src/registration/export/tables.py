"""Records as rows of flat tables: the columns, and pure functions that fill them.

``docs/export.md`` shows the tables. Types: ``string``, ``category`` (a string of few values),
``int32``, ``int64``, ``bool``, and ``timestamp`` (UTC, microseconds), which stands in a row as the
wire has it, RFC 3339.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from registration.export.fhir_out import consent_id
from registration.export.order import Body

Row = tuple[Any, ...]


class Table(NamedTuple):
    """Which kind has to be asked for, of which records it is made, the columns, and the rows."""

    kind: str
    source: str
    columns: dict[str, str]
    rows: Callable[[int, Body], Iterable[Row]]


_ADDRESS = {
    "address_line": "string",
    "city": "string",
    "district": "string",
    "state": "string",
    "postal_code": "string",
    "country": "category",
}
_REACHED = {"phone": "string", "email": "string", **_ADDRESS}


def _patient(position: int, body: Body) -> Iterator[Row]:
    birth_date = body.get("birthDate")
    default = body["display"]["default"] or {}
    links = {link["type"]: link["patientId"] for link in body["links"]}
    deceased = body.get("deceased")
    yield (
        body["id"],
        body["version"],
        position,
        body["active"],
        default.get("text"),
        default.get("script"),
        body["gender"],
        birth_date,
        birth_date and int(birth_date[:4]),
        body["birthDateEstimated"],
        deceased and deceased["deceasedAt"],
        body.get("maritalStatus"),
        body.get("preferredLanguage"),
        body.get("facility"),
        *_reached(body["telecom"], body["addresses"]),
        links.get("replaced-by"),
        _extensions(body["extensions"]),
        body["registeredAt"],
        body["lastUpdated"],
    )


def _extensions(held: list[Body]) -> str | None:
    """Return the data of all instances as one JSON object, by schema and version."""
    if not held:
        return None
    data = {f"{one['schema']}:{one['schemaVersion']}": one.get("data") for one in held}
    return orjson.dumps(data).decode()


def _reached(telecom: list[Body], addresses: list[Body]) -> Row:
    """Return the first telephone, the first e-mail address, and the first postal address."""
    first: dict[str, str] = {}
    for point in telecom:
        first.setdefault(point["system"], point["value"])
    address = addresses[0] if addresses else {}
    line = ", ".join(address.get("line", ())) or address.get("text")
    places = ("city", "district", "state", "postalCode", "country")
    return first.get("phone"), first.get("email"), line, *map(address.get, places)


def _names(position: int, body: Body) -> Iterator[Row]:
    for name in body["names"]:
        yield (
            name["id"],
            body["id"],
            position,
            name["use"],
            name.get("family"),
            *(" ".join(name[part]) or None for part in ("given", "prefix", "suffix")),
            name.get("text"),
            name["script"],
            name.get("language"),
        )


def _identifiers(position: int, body: Body) -> Iterator[Row]:
    members = ("system", "value", "type", "use", "mergedFrom")
    for held in body["identifiers"]:
        yield held["id"], body["id"], position, *map(held.get, members)


def _next_of_kin(position: int, body: Body) -> Iterator[Row]:
    for kin in body["nextOfKin"]:
        addresses = [kin["address"]] if "address" in kin else []
        reached = _reached(kin["telecom"], addresses)
        yield kin["id"], body["id"], position, kin["name"], kin["relationship"], *reached


def _consents(position: int, body: Body) -> Iterator[Row]:
    for said in body["consents"]:
        yield (
            consent_id(body["id"], said["flag"]),
            body["id"],
            position,
            said["flag"],
            said["version"],
            said["decision"],
            said.get("policy"),
            said["evidence"]["kind"],
            said.get("validFrom"),
            said.get("validUntil"),
            said["recordedAt"],
        )


def _encounter(position: int, body: Body) -> Iterator[Row]:
    steps = body["statusHistory"]
    began = next((step["at"] for step in steps if step["status"] == "in-progress"), None)
    yield (
        body["id"],
        body["version"],
        position,
        body["patientId"],
        body["class"],
        body["status"],
        body.get("plannedStart"),
        body["period"].get("start"),
        began,
        body["period"].get("end"),
        body.get("facility"),
        body["postMortem"],
        steps[0].get("reason"),
        body["openedAt"],
        body["lastUpdated"],
    )


_OF_PATIENT = {"id": "string", "patient_id": "string", "position": "int64"}

TABLES: dict[str, Table] = {
    "patient": Table(
        "patient",
        "patient",
        {
            "id": "string",
            "version": "int32",
            "position": "int64",
            "active": "bool",
            "display_name": "string",
            "display_script": "category",
            "gender": "category",
            "birth_date": "string",
            "birth_year": "int32",
            "birth_date_estimated": "bool",
            "deceased_at": "timestamp",
            "marital_status": "category",
            "preferred_language": "category",
            "facility": "category",
            **_REACHED,
            "replaced_by": "string",
            "extensions": "string",
            "registered_at": "timestamp",
            "last_updated": "timestamp",
        },
        _patient,
    ),
    "name": Table(
        "patient",
        "patient",
        {
            **_OF_PATIENT,
            "use": "category",
            "family": "string",
            "given": "string",
            "prefix": "string",
            "suffix": "string",
            "text": "string",
            "script": "category",
            "language": "category",
        },
        _names,
    ),
    "identifier": Table(
        "patient",
        "patient",
        {
            **_OF_PATIENT,
            "system": "category",
            "value": "string",
            "type": "category",
            "use": "category",
            "merged_from": "string",
        },
        _identifiers,
    ),
    "next_of_kin": Table(
        "next_of_kin",
        "patient",
        {**_OF_PATIENT, "name": "string", "relationship": "category", **_REACHED},
        _next_of_kin,
    ),
    "consent": Table(
        "consent",
        "patient",
        {
            **_OF_PATIENT,
            "flag": "category",
            "version": "int32",
            "decision": "category",
            "policy": "string",
            "evidence_kind": "category",
            "valid_from": "timestamp",
            "valid_until": "timestamp",
            "recorded_at": "timestamp",
        },
        _consents,
    ),
    "encounter": Table(
        "encounter",
        "encounter",
        {
            "id": "string",
            "version": "int32",
            "position": "int64",
            "patient_id": "string",
            "class": "category",
            "status": "category",
            "planned_start": "timestamp",
            "period_start": "timestamp",
            "care_started_at": "timestamp",
            "period_end": "timestamp",
            "facility": "category",
            "post_mortem": "bool",
            "reason": "string",
            "opened_at": "timestamp",
            "last_updated": "timestamp",
        },
        _encounter,
    ),
}
