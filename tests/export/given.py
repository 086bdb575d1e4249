"""Whoever exports, what is exported, and what a FHIR R4 resource has to be like.

``fhir.resources`` has no R4 any more. Its R4B is right: the four resource types have the same
elements in both. It checks types, required elements and forms; not codes, and it takes empty lists
and objects: that is done here.
"""

import asyncio
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from fhir.resources.R4B import get_fhir_model_class
from pydantic import BaseModel
from tests.domain.given import STAMP
from typer.testing import CliRunner, Result

from registration.commands import CommandError, app
from registration.commands.sample import AS_OF, patients
from registration.domain.aggregate import Aggregate, Stamp
from registration.domain.events import Event
from registration.export import run
from registration.export.order import Order
from registration.projections import changes
from registration.projections.rebuild import rebuild

RUN = CliRunner()
TENANT = "clinic"
PER_FILE = 50
Resource = dict[str, Any]


def valid(resource: Resource) -> Resource:
    """Return a resource that FHIR R4 allows; insist on that."""
    model = get_fhir_model_class(resource["resourceType"])
    read = model.model_validate(resource)
    assert orjson.loads(read.model_dump_json()) == resource
    _insist_on_codes(read)
    _insist_on_content(resource)
    return resource


def _insist_on_codes(element: BaseModel) -> None:
    for name, field in type(element).model_fields.items():
        value = getattr(element, name)
        extra = field.json_schema_extra
        codes = extra.get("enum_values") if isinstance(extra, dict) else None
        if value is not None and isinstance(codes, list):
            # of a longer list the library tells the beginning
            assert value in codes or ("+" in codes and value == "entered-in-error"), name
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, BaseModel):
                _insist_on_codes(part)


def _insist_on_content(value: object) -> None:
    """No empty list, object or text, and no null (ele-1 and the JSON format)."""
    assert value not in (None, "", [], {})
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            _insist_on_content(part)


def shown(aggregate: Aggregate[Any], *happened: Event) -> Resource:
    """Return a record as the wire shows it after what happened."""
    for event in happened:
        aggregate.apply(event, Stamp(aggregate.version + 1, STAMP.at, "desk-1"))
    body: Resource = orjson.loads(changes.body_of(aggregate))
    return body


@dataclass
class Analyst:
    """Somebody who exports a tenant's records."""

    url: str
    tenant: str
    folder: Path

    def tries(self, *options: str, name: str = "export") -> Result:
        """Run the command; what it ends with is in the result."""
        return RUN.invoke(
            app,
            [
                *("export", "--database-url", self.url, "--tenant", self.tenant),
                *("--output", str(self.folder / name), *options),
            ],
        )

    def exports(self, *options: str, name: str = "export") -> "Export":
        """Return an export that was made."""
        result = self.tries(*options, name=name)
        if result.exception is not None:
            raise result.exception
        return Export(self.folder / name)

    def is_refused(self, *options: str, name: str = "export") -> str:
        """Return why there is no export."""
        error = self.tries(*options, name=name).exception
        assert isinstance(error, CommandError), error
        return str(error)


@dataclass
class Export:
    """A folder that holds a whole export."""

    path: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """What the manifest says."""
        said: dict[str, Any] = orjson.loads((self.path / "manifest.json").read_bytes())
        return said

    @property
    def position(self) -> str:
        """What to say as ``--since`` next time."""
        return str(self.manifest["position"])

    def all(self, kind: str) -> list[Resource]:
        """Return the resources of a type; insist that the manifest counts them."""
        found = []
        for file in self.manifest["output"]:
            if file["type"] == kind:
                lines = (self.path / file["url"]).read_bytes().splitlines()
                assert len(lines) == file["count"]
                found += [orjson.loads(line) for line in lines]
        return found

    def resources(self) -> Iterator[Resource]:
        """Yield every resource."""
        for kind in dict.fromkeys(file["type"] for file in self.manifest["output"]):
            yield from self.all(kind)

    def one(self, kind: str, its_id: str) -> Resource:
        """Return the one resource with an id."""
        (found,) = [resource for resource in self.all(kind) if resource["id"] == its_id]
        return found

    def files(self) -> dict[str, bytes]:
        """Return every file in the folder."""
        return {path.name: path.read_bytes() for path in self.path.iterdir()}

    def modes(self) -> set[int]:
        """Return the permissions of the files."""
        return {stat.S_IMODE(path.stat().st_mode) for path in self.path.iterdir()}


def imported(url: str, tenant: str, folder: Path, count: int) -> None:
    """Register made-up patients without a service, and build the read model."""
    file = folder / f"{tenant}.ndjson"
    resources = patients(count, 3, 0.1, AS_OF.date())
    file.write_bytes(b"".join(orjson.dumps(resource) + b"\n" for resource in resources))
    result = RUN.invoke(app, ["import", str(file), "--database-url", url, "--tenant", tenant])
    assert result.exit_code == 0, result.output
    asyncio.run(rebuild(url, changes.NAME))


def silent(_what: str, _done: int, _total: int) -> None:
    """Tell nobody how far it is."""


def names_in(path: Path) -> set[str]:
    """Return what is in a folder, if it is there."""
    return {each.name for each in path.iterdir()} if path.exists() else set()


def order_of(form: str = "ndjson", **members: Any) -> Order:
    """Return an order in small chunks."""
    return Order(TENANT, form, per_file=PER_FILE)._replace(**members)


def made(url: str, path: Path, order: Order) -> dict[str, bytes]:
    """Return the files of an export that nothing disturbs."""
    run.export(url, order, path, silent)
    return Export(path).files()
