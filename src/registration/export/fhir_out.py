"""Records as FHIR R4 resources: pure functions from what the wire shows, without validation.

Sources: https://hl7.org/fhir/R4/patient.html, relatedperson.html, encounter.html, consent.html.
``docs/export.md`` has the mapping as a table, with what is left out. :mod:`registration.fhir` reads
the Patient resources back.
"""

import re
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import orjson
import uuid_utils.compat as uuids

from registration.export.order import Body
from registration.fhir import ESTIMATED, NAME_LANGUAGE, NAME_SCRIPT

Resource = dict[str, Any]

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
ACT_CODE = f"{_TERMINOLOGY}v3-ActCode"
MARITAL_STATUS = f"{_TERMINOLOGY}v3-MaritalStatus"
NULL_FLAVOR = f"{_TERMINOLOGY}v3-NullFlavor"
IDENTIFIER_TYPE = f"{_TERMINOLOGY}v2-0203"
CONSENT_SCOPE = f"{_TERMINOLOGY}consentscope"
LANGUAGES = "urn:ietf:bcp:47"
URIS = "urn:ietf:rfc:3986"
LOINC = "http://loinc.org"

CONSENT_FLAG = "urn:registration:consent-flag"
"""System of the flags that an installation names."""
EXTENSION_SCHEMA = "urn:registration:extension-schema:"
"""What the URL of an extension begins with; the schema's name and version follow."""
POST_MORTEM = "urn:registration:post-mortem"
PLANNED_START = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Encounter.plannedStartDate"
"""R5 has the element; this is its name as an extension of earlier versions."""

_MARITAL_CODES = frozenset("ACDILMPSTUW")
# the value set identifier-type of R4, and what else of v2-0203 is common
_TYPE_CODES = frozenset(
    {
        *("DL", "PPN", "BRN", "MR", "MCN", "EN", "TAX", "NIIP", "PRN", "MD", "DR", "ACSN", "UDI"),
        *("SNO", "SB", "AN", "HC", "JHN", "MB", "NH", "NI", "PI", "PT", "SS", "VN"),
    }
)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+", re.ASCII)
_NAME_PARTS = ("use", "text", "family", "given", "prefix", "suffix")
_CONSENT_STATUS = {"granted": "active", "refused": "rejected", "withdrawn": "inactive"}
_PATIENT_CONSENT = {"coding": [{"system": LOINC, "code": "59284-0"}]}


def deletion(kind: str, its_id: UUID) -> Resource:
    """Return a Bundle that deletes what was made of a record that was erased."""
    request = {"method": "DELETE", "url": f"{kind.capitalize()}/{its_id}"}
    return {"resourceType": "Bundle", "type": "transaction", "entry": [{"request": request}]}


def patient(body: Body) -> Resource:
    """Return a Patient."""
    resource: Resource = {"resourceType": "Patient", "id": body["id"], "meta": _meta(body)}
    if body.get("extensions"):
        resource["extension"] = [_extension(held) for held in body["extensions"]]
    if body["identifiers"]:
        resource["identifier"] = [_identifier(held) for held in body["identifiers"]]
    resource["active"] = body["active"]
    resource["name"] = [_name(name) for name in body["names"]]
    _put(resource, "telecom", body["telecom"])
    resource["gender"] = body["gender"]
    _birth_date(body, resource)
    if "deceased" in body:
        resource["deceasedDateTime"] = body["deceased"]["deceasedAt"]
    _put(resource, "address", _filled(body["addresses"]))
    if "maritalStatus" in body:
        resource["maritalStatus"] = _marital_status(body["maritalStatus"])
    if body["nextOfKin"]:
        resource["contact"] = [_contact(kin) for kin in body["nextOfKin"]]
    if "preferredLanguage" in body:
        language = {"coding": [{"system": LANGUAGES, "code": body["preferredLanguage"]}]}
        resource["communication"] = [{"language": language, "preferred": True}]
    if "facility" in body:
        resource["managingOrganization"] = _organization(body["facility"])
    if body["links"]:
        resource["link"] = [
            {"other": _of_patient(link["patientId"]), "type": link["type"]}
            for link in body["links"]
        ]
    return resource


def related_persons(body: Body) -> list[Resource]:
    """Return a RelatedPerson for each next of kin of a patient."""
    return [_related_person(kin, body) for kin in body["nextOfKin"]]


def encounter(body: Body) -> Resource:
    """Return an Encounter."""
    resource: Resource = {"resourceType": "Encounter", "id": body["id"], "meta": _meta(body)}
    _put(resource, "extension", _said_of_encounter(body))
    resource["status"] = body["status"]
    resource["statusHistory"] = _status_history(body["statusHistory"])
    resource["class"] = {"system": ACT_CODE, "code": body["class"]}
    resource["subject"] = _of_patient(body["patientId"])
    _put(resource, "period", body["period"])
    reason = body["statusHistory"][0].get("reason")
    if reason:
        resource["reasonCode"] = [{"text": reason}]
    if "facility" in body:
        resource["serviceProvider"] = _organization(body["facility"])
    return resource


def consents(body: Body) -> list[Resource]:
    """Return a Consent for each flag of a patient that something was decided about."""
    return [_consent(said, body["id"]) for said in body["consents"]]


def consent_id(patient_id: str, flag: str) -> str:
    """Return the id of what a patient said to a flag: the same, whatever is decided later."""
    return str(uuids.uuid5(UUID(patient_id), flag))


def _meta(body: Body) -> Resource:
    return {"versionId": str(body["version"]), "lastUpdated": body["lastUpdated"]}


def _put(resource: Resource, element: str, value: Any) -> None:
    """Set an element that has something in it: FHIR knows no empty lists and objects."""
    if value:
        resource[element] = value


def _filled(entries: Iterable[Resource]) -> list[Resource]:
    """Return the entries without what is empty in them, and without those that are all empty."""
    return [full for full in ({k: v for k, v in entry.items() if v} for entry in entries) if full]


def _extension(held: Body) -> Resource:
    data = orjson.dumps(held.get("data")).decode()
    url = f"{EXTENSION_SCHEMA}{held['schema']}:{held['schemaVersion']}"
    return {"url": url, "valueString": data}


def _identifier(held: Body) -> Resource:
    identifier = {"system": held["system"], "value": held["value"]}
    if "use" in held:
        identifier["use"] = held["use"]
    if "type" in held:
        code = held["type"]
        coding = {"system": IDENTIFIER_TYPE, "code": code}
        identifier["type"] = {"coding": [coding if code in _TYPE_CODES else {"code": code}]}
    return identifier


def _name(name: Body) -> Resource:
    human: Resource = {part: name[part] for part in _NAME_PARTS if name.get(part)}
    human["extension"] = [{"url": NAME_SCRIPT, "valueCode": name["script"]}]
    if "language" in name:
        human["extension"].append({"url": NAME_LANGUAGE, "valueCode": name["language"]})
    return human


def _birth_date(body: Body, resource: Resource) -> None:
    if "birthDate" in body:
        resource["birthDate"] = body["birthDate"]
    if body["birthDateEstimated"]:
        resource["_birthDate"] = {"extension": [{"url": ESTIMATED, "valueBoolean": True}]}


def _marital_status(code: str) -> Resource:
    """Return a code of FHIR's as such; another is of no system, and stands as text."""
    if code in _MARITAL_CODES:
        return {"coding": [{"system": MARITAL_STATUS, "code": code}]}
    if code == "UNK":
        return {"coding": [{"system": NULL_FLAVOR, "code": code}]}
    return {"text": code}


def _contact(kin: Body) -> Resource:
    contact: Resource = {
        "relationship": [{"text": kin["relationship"]}],
        "name": {"text": kin["name"]},
    }
    _reached(kin, contact)
    return contact


def _related_person(kin: Body, body: Body) -> Resource:
    resource: Resource = {
        "resourceType": "RelatedPerson",
        # a client chose it, and it is this patient's alone: another's may have the same
        "id": str(uuids.uuid5(UUID(body["id"]), kin["id"])),
        "meta": {"lastUpdated": body["lastUpdated"]},
        "identifier": [{"system": URIS, "value": f"urn:uuid:{kin['id']}"}],
        "patient": _of_patient(body["id"]),
        "relationship": [{"text": kin["relationship"]}],
        "name": [{"text": kin["name"]}],
    }
    _reached(kin, resource)
    if "address" in resource:
        resource["address"] = [resource["address"]]
    return resource


def _reached(kin: Body, resource: Resource) -> None:
    _put(resource, "telecom", kin["telecom"])
    for address in _filled([kin.get("address", {})]):
        resource["address"] = address


def _organization(facility: str) -> Resource:
    return {"reference": f"Organization/{facility}"}


def _of_patient(patient_id: str) -> Resource:
    return {"reference": f"Patient/{patient_id}"}


def _said_of_encounter(body: Body) -> list[Resource]:
    said: list[Resource] = []
    if "plannedStart" in body:
        said.append({"url": PLANNED_START, "valueDateTime": body["plannedStart"]})
    if body["postMortem"]:
        said.append({"url": POST_MORTEM, "valueBoolean": True})
    return said


def _status_history(steps: list[Body]) -> list[Resource]:
    """Return every status with its period; that of the last one has no end."""
    history = [{"status": step["status"], "period": {"start": step["at"]}} for step in steps]
    for past, following in zip(history, steps[1:], strict=False):
        past["period"]["end"] = following["at"]
    return history


def _consent(said: Body, patient_id: str) -> Resource:
    flag = said["flag"]
    resource: Resource = {
        "resourceType": "Consent",
        "id": consent_id(patient_id, flag),
        "meta": {"versionId": str(said["version"]), "lastUpdated": said["recordedAt"]},
        "status": _CONSENT_STATUS[said["decision"]],
        "scope": {
            "coding": [
                {
                    "system": CONSENT_SCOPE,
                    "code": "research" if flag == "research" else "patient-privacy",
                }
            ]
        },
        "category": [_PATIENT_CONSENT, {"coding": [{"system": CONSENT_FLAG, "code": flag}]}],
        "patient": _of_patient(patient_id),
        "dateTime": said["recordedAt"],
    }
    policy = said.get("policy", "")
    if _URI.fullmatch(policy):
        resource["policy"] = [{"uri": policy}]
    else:
        resource["policyRule"] = {"text": policy} if policy else _opted(said["decision"])
    bounds = (("start", said.get("validFrom")), ("end", said.get("validUntil")))
    period = {bound: moment for bound, moment in bounds if moment}
    if period:
        resource["provision"] = {"period": period}
    return resource


def _opted(decision: str) -> Resource:
    """Return the rule of a decision that names no policy: FHIR wants one (ppc-1)."""
    code = "OPTIN" if decision == "granted" else "OPTOUT"
    return {"coding": [{"system": ACT_CODE, "code": code}]}
