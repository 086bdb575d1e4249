"""The pages for people: what runs here, what each problem means, the API document.

Rendered on the server, with one inline stylesheet and no script; they load nothing from elsewhere.
Everything that is put into a template is escaped.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from registration.api.charts import words
from registration.api.problems import PROBLEMS

_REF = "#/components/schemas/"
_METHODS = ("get", "post", "put", "patch", "delete")
_QUOTED = re.compile(r"`([^`]+)`")


HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
}
"""Of pages that show what not everybody may see: kept nowhere, and in nobody's frame."""


def index(version: str) -> str:
    """Return the front page: what this service is, and where to go on."""
    return rendered("index.html", version=version)


def problem_list() -> str:
    """Return the page that lists every code, by status."""
    return rendered("problem_list.html", problems=sorted(PROBLEMS.items(), key=_by_status))


def problem(code: str) -> str:
    """Return the page that explains one code. Raises ``KeyError`` for what is no code."""
    return rendered("problem.html", code=code, problem=PROBLEMS[code])


def api_docs(openapi: Mapping[str, Any]) -> str:
    """Return an OpenAPI 3.1 document as a page: operations by tag, then the schemas.

    The page of the last document is kept: making it takes long enough to hold up other requests.
    """
    if _last and _last[0][0] is openapi:
        return _last[0][1]
    _last[:] = [(openapi, _api_docs(openapi))]
    return _last[0][1]


_last: list[tuple[Mapping[str, Any], str]] = []


def _api_docs(openapi: Mapping[str, Any]) -> str:
    schemas = openapi.get("components", {}).get("schemas", {})
    return rendered(
        "api_docs.html",
        info=openapi["info"],
        groups=_groups(openapi),
        schemas=[
            Shape(name, schema.get("description", ""), _members(schema, schemas), schema)
            for name, schema in sorted(schemas.items())
        ],
    )


class Piece(NamedTuple):
    """A part of a type's description; ``schema`` names the schema that it links to."""

    text: str
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a JSON object, or one parameter."""

    name: str
    place: str
    required: bool
    pieces: Sequence[Piece]
    limits: Sequence[str]
    description: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A schema of the document, with the members of its object."""

    name: str
    description: str
    members: Sequence[Member]
    schema: Mapping[str, Any]

    @property
    def pieces(self) -> Sequence[Piece]:
        """What it is, where it is no object."""
        return _pieces(self.schema)


@dataclass(frozen=True, slots=True)
class Body:
    """What a request or a response carries: media types, the schema, and its members."""

    media_types: Sequence[str]
    pieces: Sequence[Piece]
    members: Sequence[Member]


@dataclass(frozen=True, slots=True)
class Answer:
    """One status of an operation."""

    status: str
    description: str
    headers: Sequence[Member]
    body: Body | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation of the document."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    rules: Sequence[tuple[str, str]]
    parameters: Sequence[Member]
    body: Body | None
    answers: Sequence[Answer] = field(repr=False)


def _groups(openapi: Mapping[str, Any]) -> list[tuple[str, list[Entry]]]:
    """Return each tag with its operations, in the document's order; untagged ones come last."""
    groups: dict[str, list[Entry]] = {tag["name"]: [] for tag in openapi.get("tags", ())}
    schemas = openapi.get("components", {}).get("schemas", {})
    for path, item in openapi["paths"].items():
        for method in _METHODS:
            if method in item:
                entry = _entry(method, path, item[method], schemas)
                tag = next(iter(item[method].get("tags", ())), "other")
                groups.setdefault(tag, []).append(entry)
    return [(tag, sorted(entries, key=_by_path)) for tag, entries in groups.items() if entries]


def _entry(
    method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> Entry:
    return Entry(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        rules=list(_rules(operation)),
        parameters=[_parameter(parameter) for parameter in operation.get("parameters", ())],
        body=_body(operation.get("requestBody"), schemas),
        answers=[
            Answer(
                status,
                response.get("description", ""),
                [_header(name, header) for name, header in response.get("headers", {}).items()],
                _body(response, schemas),
            )
            for status, response in sorted(operation.get("responses", {}).items())
        ],
    )


_RULES = (
    ("x-required-scope", "scope"),
    ("x-conflict-policy", "conflict policy"),
    ("x-version-required", "version (If-Match) needed"),
    ("x-offline", "offline"),
)


def _rules(operation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if operation.get("security"):
        yield "token", "bearer"
    for name, label in _RULES:
        value = operation.get(name)
        if isinstance(value, bool):
            yield label, "yes" if value else "no"
        elif isinstance(value, list):
            yield label, " / ".join(dict.fromkeys(map(str, value)))
        elif value is not None:
            yield label, str(value)


def _parameter(parameter: Mapping[str, Any]) -> Member:
    schema = parameter.get("schema", {})
    choices = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    if choices:  # what is absent cannot be null in a URL or a header
        schema = {**schema, "anyOf": choices}
    return _member(
        parameter["name"],
        schema,
        place=parameter["in"],
        required=bool(parameter.get("required")),
        description=parameter.get("description", ""),
    )


def _header(name: str, header: Mapping[str, Any]) -> Member:
    return _member(
        name,
        header.get("schema", {}),
        place="header",
        required=False,
        description=header.get("description", ""),
    )


def _body(holder: Mapping[str, Any] | None, schemas: Mapping[str, Any]) -> Body | None:
    """Return the body of a request or response; of several media types the schema is one."""
    content = (holder or {}).get("content")
    if not content:
        return None
    schema = next(iter(content.values())).get("schema", {})
    return Body(sorted(content), _pieces(schema), _members(schema, schemas))


def _members(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[Member]:
    """Return the members of an object's schema, following one reference."""
    if "$ref" in schema:
        schema = schemas.get(schema["$ref"].removeprefix(_REF), {})
    required = schema.get("required", ())
    return [
        _member(name, member, required=name in required)
        for name, member in schema.get("properties", {}).items()
    ]


def _member(
    name: str,
    schema: Mapping[str, Any],
    *,
    required: bool,
    place: str = "",
    description: str | None = None,
) -> Member:
    return Member(
        name,
        place,
        required,
        _pieces(schema),
        list(dict.fromkeys(_limits(schema))),
        schema.get("description", "") if description is None else description,
    )


def _pieces(schema: Mapping[str, Any]) -> list[Piece]:
    """Say in words what kind of value a schema takes."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        return [Piece(name, name)]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return _joined(schema[choice])
    if "const" in schema:
        return [Piece(str(schema["const"]))]
    if "enum" in schema:
        return [Piece(" | ".join(map(str, schema["enum"])))]
    kind = schema.get("type", "any value")
    if kind == "array":
        return [Piece("list of "), *_pieces(schema.get("items", {}))]
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return [Piece("object of "), *_pieces(schema["additionalProperties"])]
    return [Piece(schema.get("format", kind) if kind == "string" else str(kind))]


def _joined(choices: Sequence[Mapping[str, Any]]) -> list[Piece]:
    pieces: list[Piece] = []
    for choice in choices:
        if pieces:
            pieces.append(Piece(" or "))
        pieces.extend(_pieces(choice))
    return pieces


_RANGES = (
    ("minLength", "maxLength", "characters"),
    ("minimum", "maximum", ""),
    ("minItems", "maxItems", "items"),
)


def _limits(schema: Mapping[str, Any]) -> Iterator[str]:
    for least, most, of_what in _RANGES:
        if most in schema:
            yield f"{schema.get(least, 'up')} to {schema[most]} {of_what}".rstrip()
        elif least in schema:
            yield f"{schema[least]} or more {of_what}".rstrip()
    if "exclusiveMaximum" in schema:
        yield f"below {schema['exclusiveMaximum']}"
    if "pattern" in schema:
        yield f"`{schema['pattern']}`"
    if schema.get("default") not in (None, [], ()):
        default = schema["default"]
        yield f"default {str(default).lower() if isinstance(default, bool) else default}"
    for choice in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(choice, ()):
            yield from _limits(part)


def _by_status(item: tuple[str, Any]) -> tuple[int, str]:
    return item[1].status, item[0]


def _by_path(entry: Entry) -> tuple[str, int]:
    return entry.path, _METHODS.index(entry.method.lower())


def _prose(text: str) -> Markup:
    """Return running text with what is in backticks as code, a problem's code as a link."""
    parts = _QUOTED.split(text.replace("``", "`"))
    return Markup("").join(_code(part) if at % 2 else escape(part) for at, part in enumerate(parts))


def _code(text: str) -> Markup:
    shown = Markup("<code>{}</code>").format(text)
    if text in PROBLEMS:
        return Markup('<a href="/problems/{}">{}</a>').format(text, shown)
    return shown


def rendered(template: str, **values: Any) -> str:
    """Return a template with these values, each escaped; a value that is missing is an error."""
    return _ENVIRONMENT.get_template(template).render(values)


_ENVIRONMENT = Environment(
    loader=PackageLoader("registration.api"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_ENVIRONMENT.filters["prose"] = _prose
_ENVIRONMENT.filters["words"] = words
