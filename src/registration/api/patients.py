"""Reading patients: one, as it is or as it stood; its parts; its history; the search."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from registration.api.auth import Caller
from registration.api.cursors import decode_cursor, encode_cursor
from registration.api.requests import authenticated, path_id, services
from registration.domain.errors import DomainError, invalid, not_found
from registration.domain.patient_resource import Patient
from registration.eventstore.records import RecordedEvent
from registration.eventstore.store import LoadRequest
from registration.projections.runner import wait_for
from registration.projections.search import NAME as SEARCH
from registration.projections.search import SearchQuery, search

_READ_DEADLINE = 2.0
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
