"""FHIR R4 Patient resources as registrations: a pure mapping, and what it leaves out.

Source: https://hl7.org/fhir/R4/patient.html. What a resource may say falls into three groups:

- *Mapped*: ``name``, ``identifier``, ``telecom``, ``address``, ``gender`` (``unknown`` where
  absent), ``birthDate``, ``contact`` (as next of kin), ``maritalStatus`` (its v3 code),
  ``communication`` (the preferred language, or the only one) and ``managingOrganization`` (the
  last part of its reference, as facility). Of extensions: those that our own export writes, the
  script and language of a name, and that a birth date is estimated.
- *Left out and counted*: what has no place here (``photo``, ``extension``, every ``period``, ...),
  and single entries that cannot stand: an identifier without a system (its uniqueness would mean
  nothing) or without a value, one that stands twice, a name without any text, a telecom without
  value or system, a contact without a name (an organisation).
- *Refused* as ``NOT_REPRESENTABLE``: what would turn into its opposite when left out. These are
  FHIR's modifier elements: ``active: false``, ``deceased[x]``, ``link`` of type ``replaced-by``,
  ``modifierExtension``, ``implicitRules``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from registration.domain.errors import DomainError, invalid

NOT_A_PATIENT = "NOT_A_PATIENT"
NOT_REPRESENTABLE = "NOT_REPRESENTABLE"

NAME_LANGUAGE = "http://hl7.org/fhir/StructureDefinition/language"
"""The extension of a name that says its language (BCP 47)."""
NAME_SCRIPT = "urn:registration:name-script"
"""The extension of a name that says its script (ISO 15924)."""
ESTIMATED = "urn:registration:birth-date-estimated"
"""The extension of a birth date that says that it is an estimate."""

_MARITAL_STATUS_SYSTEMS = frozenset(
    {
        "http://terminology.hl7.org/CodeSystem/v3-MaritalStatus",
        "http://terminology.hl7.org/CodeSystem/v3-NullFlavor",
        "http://hl7.org/fhir/v3/MaritalStatus",
        "http://hl7.org/fhir/v3/NullFlavor",
    }
)
_CODE = re.compile(r"[A-Za-z0-9._:/-]{1,64}", re.ASCII)
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", re.ASCII)
_FACILITY = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

_NAME = frozenset({"use", "family", "given", "prefix", "suffix", "text"})
_IDENTIFIER = frozenset({"use", "system", "value"})
_TELECOM = frozenset({"system", "value", "use"})
_ADDRESS = frozenset({"use", "text", "line", "city", "district", "state", "postalCode", "country"})
_CONTACT = frozenset({"name", "relationship", "telecom", "address"})
_LISTS = frozenset({"given", "prefix", "suffix", "line"})
_NOTHING: frozenset[str] = frozenset()

_MAPPED = frozenset(
    {
        *("resourceType", "id", "meta", "active", "name", "identifier", "telecom", "address"),
        *("gender", "birthDate", "contact", "maritalStatus", "communication"),
        *("managingOrganization", "deceasedBoolean", "deceasedDateTime", "_birthDate"),
    }
)
# Names that may show up in a summary. Any other is unknown: a source can put anything there.
_ELEMENTS = _MAPPED | frozenset(
    {
        *("text", "contained", "extension", "language", "photo", "multipleBirthBoolean"),
        *("multipleBirthInteger", "generalPractitioner", "link", "period", "rank", "type"),
        *("assigner", "organization", "relationship", "use", "system", "value", "family"),
        *("given", "prefix", "suffix", "line", "city", "district", "state", "postalCode"),
        *("country", "tag", "security", "profile"),
    }
)
_NAME_EXTENSIONS = {
    NAME_LANGUAGE: ("language", re.compile(rf"(?=.{{2,35}}\Z){_LANGUAGE.pattern}", re.ASCII)),
    NAME_SCRIPT: ("script", re.compile(r"[A-Z][a-z]{3}", re.ASCII)),
}
_UNCOUNTED_META = frozenset({"versionId", "lastUpdated", "source"})
_FHIR_NAMES = {
    "names": "name",
    "identifiers": "identifier",
    "addresses": "address",
    "nextOfKin": "contact",
    "preferredLanguage": "communication",
    "facility": "managingOrganization",
}


@dataclass(slots=True)
class Mapped:
    """What came of a resource.

    ``said`` is the payload of ``patient.register`` as JSON has it, still to be validated.
    ``left_out`` names the FHIR elements that found no place, each once.
    """

    said: dict[str, Any] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    _places: dict[str, str] = field(default_factory=dict)

    def place(self, path: str) -> str:
        """Return where in the FHIR resource a JSON Pointer into the payload came from."""
        prefix, rest = path, ""
        while prefix not in self._places:
            prefix, slash, last = prefix.rpartition("/")
            if not slash:
                first, _, below = path[1:].partition("/")
                return f"/{_FHIR_NAMES.get(first, first)}" + (below and f"/{below}")
            rest = f"/{last}{rest}"
        return self._places[prefix] + rest

    def add(self, collection: str, entry: dict[str, Any], source: str) -> str:
        """Add an entry to a collection of the payload; returns its JSON Pointer."""
        entries = self.said.setdefault(collection, [])
        path = f"/{collection}/{len(entries)}"
        entries.append(entry)
        self._places[path] = source
        return path

    def came_from(self, path: str, source: str) -> None:
        """Note where a nested entry of the payload came from."""
        self._places[path] = source


def map_patient(resource: object) -> Mapped:
    """Return the registration that a Patient resource stands for.

    Raises :class:`DomainError`: ``NOT_A_PATIENT``, ``NOT_REPRESENTABLE``, and ``VALIDATION_FAILED``
    where the resource is not built as FHIR has it, or has no name. Paths are those of the resource.
    """
    if not isinstance(resource, dict) or resource.get("resourceType") != "Patient":
        raise DomainError(NOT_A_PATIENT, "This is not a FHIR Patient resource.")
    _refuse_modifiers(resource)
    mapped = Mapped()
    _names(resource, mapped)
    _identifiers(resource, mapped)
    for source, contact_point in _telecom(resource, "", mapped):
        mapped.add("telecom", contact_point, source)
    for source, entry in _entries(resource, "address"):
        mapped.add("addresses", _take(entry, _ADDRESS, "address", mapped), source)
    _contacts(resource, mapped)
    mapped.said["gender"] = resource.get("gender", "unknown")
    if resource.get("birthDate") is not None:
        mapped.said["birthDate"] = resource["birthDate"]
    _estimated(resource, mapped)
    _marital_status(resource, mapped)
    _language(resource, mapped)
    _facility(resource, mapped)
    _count_the_rest(resource, mapped)
    return mapped


def _refuse_modifiers(resource: Mapping[str, Any]) -> None:
    if resource.get("active", True) is not True:
        raise _not_representable("/active", "the record is not in use")
    if resource.get("deceasedBoolean", False) is not False:
        raise _not_representable("/deceasedBoolean", "the person is dead")
    if "deceasedDateTime" in resource:
        raise _not_representable("/deceasedDateTime", "the person is dead")
    for element in ("modifierExtension", "implicitRules"):
        if element in resource:
            raise _not_representable(f"/{element}", "it changes the meaning of the record")
    for source, link in _entries(resource, "link"):
        if link.get("type") == "replaced-by":
            raise _not_representable(source, "another record replaces this one")


def _not_representable(path: str, why: str) -> DomainError:
    return DomainError(
        NOT_REPRESENTABLE,
        "The service cannot hold such a record yet.",
        {"errors": [{"path": path, "message": f"not representable yet: {why}"}]},
    )


def _names(resource: Mapping[str, Any], mapped: Mapped) -> None:
    for source, entry in _entries(resource, "name"):
        name = _take(entry, _NAME, "name", mapped, also=frozenset({"extension"}))
        name |= _name_extensions(entry, mapped)
        if not any(name.get(member) for member in ("family", "given", "text")):
            mapped.left_out.add("name (without any text)")
            continue
        if name.get("use") == "anonymous" and "text" not in name:
            name["text"] = _line(name, source)
        mapped.add("names", name, source)
    if "names" not in mapped.said:
        raise invalid("/name", "A patient needs a name with a family name, a given name or a text.")


def _name_extensions(name: Mapping[str, Any], mapped: Mapped) -> Iterator[tuple[str, str]]:
    """Yield (member, code) for each extension of a name that is known and well-formed."""
    entries = name.get("extension")
    for entry in entries if isinstance(entries, list) else [entries]:
        url, code = (
            (entry.get("url"), entry.get("valueCode")) if isinstance(entry, dict) else (None, None)
        )
        form = _NAME_EXTENSIONS.get(url) if isinstance(url, str) else None
        if form and isinstance(code, str) and form[1].fullmatch(code):
            yield form[0], code
        elif entry is not None:
            mapped.left_out.add("name.extension")


def _estimated(resource: Mapping[str, Any], mapped: Mapped) -> None:
    beside = resource.get("_birthDate")
    if beside == {"extension": [{"url": ESTIMATED, "valueBoolean": True}]}:
        mapped.said["birthDateEstimated"] = True
    elif beside is not None:
        mapped.left_out.add("_birthDate")


def _identifiers(resource: Mapping[str, Any], mapped: Mapped) -> None:
    seen = set()
    for source, entry in _entries(resource, "identifier"):
        identifier = _take(entry, _IDENTIFIER, "identifier", mapped, also=frozenset({"type"}))
        missing = next((name for name in ("value", "system") if name not in identifier), None)
        number = (str(identifier.get("system")), str(identifier.get("value")))
        if missing is not None or number in seen:
            mapped.left_out.add(f"identifier ({f'without {missing}' if missing else 'repeated'})")
            continue
        seen.add(number)
        if "type" in entry:
            code = _coded(entry["type"], f"{source}/type", _CODE)
            if code is None:
                mapped.left_out.add("identifier.type")
            else:
                identifier["type"] = code
        mapped.add("identifiers", identifier, source)


def _telecom(
    parent: Mapping[str, Any], above: str, mapped: Mapped
) -> Iterator[tuple[str, dict[str, Any]]]:
    for source, entry in _entries(parent, "telecom", above):
        contact_point = _take(entry, _TELECOM, "telecom", mapped)
        missing = next((name for name in ("value", "system") if name not in contact_point), None)
        if missing is None:
            yield source, contact_point
        else:
            mapped.left_out.add(f"telecom (without {missing})")


def _contacts(resource: Mapping[str, Any], mapped: Mapped) -> None:
    for source, entry in _entries(resource, "contact"):
        kin = _take(entry, _NOTHING, "contact", mapped, also=_CONTACT)
        name = _object(entry.get("name"), f"{source}/name")
        kin["name"] = _line(_take(name, _NAME, "contact.name", mapped), f"{source}/name")
        if not kin["name"]:
            mapped.left_out.add("contact (without a name)")
            continue
        kin["relationship"] = _relationship(entry, source) or "unknown"
        if "address" in entry:
            address = _object(entry["address"], f"{source}/address")
            kin["address"] = _take(address, _ADDRESS, "address", mapped)
        telecom = list(_telecom(entry, source, mapped))
        kin["telecom"] = [contact_point for _, contact_point in telecom]
        path = mapped.add("nextOfKin", kin, source)
        for index, (origin, _) in enumerate(telecom):
            mapped.came_from(f"{path}/telecom/{index}", origin)


def _relationship(contact: Mapping[str, Any], source: str) -> Any:
    """Return how the contact is related, in the plainest words that the source has for it."""
    for _, concept in _entries(contact, "relationship", source):
        codings = [coding for _, coding in _entries(concept, "coding", f"{source}/relationship")]
        said = [concept.get("text"), *(coding.get("display") for coding in codings)]
        said += [coding.get("code") for coding in codings]
        for text in said:
            if text:
                return text
    return None


def _marital_status(resource: Mapping[str, Any], mapped: Mapped) -> None:
    if "maritalStatus" in resource:
        code = _coded(resource["maritalStatus"], "/maritalStatus", _CODE, _MARITAL_STATUS_SYSTEMS)
        if code is None:
            mapped.left_out.add("maritalStatus")
        else:
            mapped.said["maritalStatus"] = code


def _language(resource: Mapping[str, Any], mapped: Mapped) -> None:
    spoken = [entry for _, entry in _entries(resource, "communication")]
    preferred = [entry for entry in spoken if entry.get("preferred") is True]
    chosen = preferred[0] if preferred else spoken[0] if len(spoken) == 1 else None
    code = chosen and _coded(chosen.get("language"), "/communication/0/language", _LANGUAGE)
    if code is not None:
        mapped.said["preferredLanguage"] = code
    if len(spoken) > (code is not None):
        mapped.left_out.add("communication")


def _facility(resource: Mapping[str, Any], mapped: Mapped) -> None:
    if "managingOrganization" not in resource:
        return
    organization = _object(resource["managingOrganization"], "/managingOrganization")
    reference = organization.get("reference")
    last = ""
    if isinstance(reference, str) and not reference.startswith("#"):
        last = re.split(r"[/:]", reference.partition("/_history/")[0])[-1]
    if _FACILITY.fullmatch(last):
        mapped.said["facility"] = last
    else:
        mapped.left_out.add("managingOrganization")


def _count_the_rest(resource: Mapping[str, Any], mapped: Mapped) -> None:
    for element in resource.keys() - _MAPPED:
        mapped.left_out.add(_shown(element))
    for element in _object(resource.get("meta"), "/meta").keys() - _UNCOUNTED_META:
        mapped.left_out.add(f"meta.{_shown(element)}")


def _take(
    entry: Mapping[str, Any],
    members: frozenset[str],
    kind: str,
    mapped: Mapped,
    also: frozenset[str] = _NOTHING,
) -> dict[str, Any]:
    """Return the members that have a place; the others, but for ``also``, count as left out."""
    taken = {}
    for member, value in entry.items():
        if member in members:
            if value is not None:
                taken[member] = _without_nulls(value) if member in _LISTS else value
        elif member not in also:
            mapped.left_out.add(f"{kind}.{_shown(member)}")
    return taken


def _without_nulls(parts: object) -> object:
    """Leave out the nulls that stand for primitives of which only extensions are known."""
    return [part for part in parts if part is not None] if isinstance(parts, list) else parts


def _shown(element: str) -> str:
    """Return the name of an element as a summary may show it: nothing but what FHIR defines."""
    return element if element.removeprefix("_") in _ELEMENTS else "(unknown)"


def _entries(
    parent: Mapping[str, Any], element: str, above: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of a repeating element with its JSON Pointer."""
    entries = parent.get(element)
    if entries is None:
        return
    path = f"{above}/{element}"
    if not isinstance(entries, list):
        raise invalid(path, "must be a list")
    for index, entry in enumerate(entries):
        yield f"{path}/{index}", _object(entry, f"{path}/{index}")


def _object(value: object, path: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(path, "must be an object")
    return value


def _coded(
    concept: object, path: str, form: re.Pattern[str], systems: frozenset[str] | None = None
) -> str | None:
    """Return the first code of a CodeableConcept that has the form, and one of the systems."""
    for _, coding in _entries(_object(concept, path), "coding", path):
        code, system = coding.get("code"), coding.get("system")
        known = systems is None or (isinstance(system, str) and system in systems)
        if known and isinstance(code, str) and form.fullmatch(code):
            return code
    return None


def _line(name: Mapping[str, Any], path: str) -> str:
    """Return a HumanName as one line: its text, or its parts in FHIR's order of display."""
    if name.get("text"):
        return _text(name["text"], f"{path}/text")
    parts = []
    for member in ("prefix", "given", "family", "suffix"):
        value = name.get(member) or []
        texts = [value] if member == "family" else value
        if not isinstance(texts, list):
            raise invalid(f"{path}/{member}", "must be a list")
        parts += [_text(text, f"{path}/{member}") for text in texts if text]
    return " ".join(parts)


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise invalid(path, "must be a text")
    return value
