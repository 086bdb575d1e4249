"""Every setting of the service, read from `REGISTRATION_*` environment variables.

Command line options override the environment, the environment overrides the defaults below.
The reference in the documentation is generated from the descriptions.
"""

import json
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from registration.domain.commands import KEY
from registration.domain.consent import PORTRAIT
from registration.domain.identifiers import check_systems
from registration.eventstore.sealing import master_of

ENV_PREFIX = "REGISTRATION_"

CONSENT_FLAGS = {
    PORTRAIT: "Keeping a picture of the patient",
    "data-sharing": "Sharing the record with other providers of care",
    "research": "Use of the record for research",
    "contact-sms": "Messages to the patient's telephone",
    "contact-email": "Messages to the patient's e-mail address",
}
"""The flags of a fresh installation."""

LogLevel = Literal["debug", "info", "warning", "error"]


class Settings(BaseSettings):
    """The settings of one process. Frozen; raises `pydantic.ValidationError` when they clash."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    data_dir: Path = Field(
        Path(".registration"),
        description="Folder for what this installation keeps: the embedded PostgreSQL, the "
        "signing keys, the lock files. Created when missing.",
    )
    database_url: str | None = Field(
        None,
        description="An external PostgreSQL (15 or newer), as `postgresql://user@host/database`. "
        "Unset: a PostgreSQL is started in the data folder.",
    )
    master_key: str | None = Field(
        None,
        repr=False,
        description="What the keys of patients are wrapped with: 32 random bytes in base64, as "
        "`openssl rand -base64 32` prints. Needed with `database_url`; keep it where no copy of "
        "the database is. Unset: made in the data folder, in `master-key`.",
    )
    former_master_keys: list[str] = Field(
        default_factory=list,
        repr=False,
        description="Earlier master keys, as a JSON array, until `registration rewrap` has run.",
    )
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Anything but a loopback address needs `jwks_url`.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    workers: int = Field(1, ge=1, le=64, description="Number of processes that answer requests.")
    idempotency_ttl: int = Field(
        86400,
        ge=1,
        description="Seconds for which the stored outcome of an idempotency key is replayed.",
    )
    request_deadline: float = Field(
        4.5,
        gt=0,
        le=60,
        description="Seconds after which a request that still waits for the database is answered "
        "with 503 and `Retry-After`.",
    )
    append_queue_limit: int = Field(
        2000,
        ge=1,
        description="Commands of one tenant that may wait for the event store in one process; "
        "further ones are answered with 429 and `Retry-After`.",
    )
    body_limit: int = Field(
        1024 * 1024,
        ge=1024,
        description="Largest request body in bytes, for endpoints that name no limit of their own.",
    )
    jwks_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where the keys of the token issuer are published (JWKS). Unset: tokens are "
        "signed with a key in the data folder and printed by `registration token`.",
    )
    jwt_issuer: str | None = Field(
        None, description="The `iss` that tokens must carry. Needed with `jwks_url`."
    )
    jwt_audience: str | None = Field(
        None, description="The `aud` that tokens must carry. Needed with `jwks_url`."
    )
    identifier_systems: dict[str, str] = Field(
        default_factory=dict,
        description="Check digits: a JSON object from identifier system (URI) to the name of a "
        'python-stdnum module, such as `{"https://fhir.example/bsn": "nl.bsn"}`. Identifiers of '
        "other systems are taken as they are.",
    )
    consent_flags: dict[str, str] = Field(
        default_factory=lambda: dict(CONSENT_FLAGS),
        description="The consent flags that there are: a JSON object from flag to title. "
        "`portrait` is always among them.",
    )
    portrait_retention: dict[str, int] = Field(
        default_factory=dict,
        description="Days for which a portrait is kept: a JSON object from tenant to days, with "
        '`"*"` for all others, such as `{"*": 3650, "clinic": 365}`. Unset: as long as the '
        "consent to it lasts. A change holds for portraits set from then on.",
    )
    retention_interval: float = Field(
        60,
        ge=1,
        le=86400,
        description="Seconds between two looks at which portraits have to go.",
    )
    checkpoint_dir: Path | None = Field(
        None,
        description="Folder to which signed checkpoints of the log are written: on another disk, "
        "or one that only grows. Unset: `checkpoints` in the data folder.",
    )
    checkpoint_interval: float = Field(
        300,
        ge=1,
        le=86400,
        description="Seconds between two checkpoints. A log that did not grow gets none.",
    )
    access_log_queue: int = Field(
        50_000,
        ge=1_000,
        le=10_000_000,
        description="Reads of patient data that one process holds in memory until they are "
        "written to the access log; further ones are counted as lost. It takes a database that is "
        "away to fill it.",
    )
    access_log_days: int | None = Field(
        None,
        ge=1,
        le=73_000,
        description="Days for which the access log keeps a read. Unset: for good.",
    )
    mpi_four_eyes: bool = Field(
        default=True,
        description="Whether a merge needs two people: who proposed it cannot approve it.",
    )
    mpi_model: Path | None = Field(
        None,
        description="The model that matching compares by, as `registration mpi train` writes it. "
        "Unset: the one that ships. After a change the queue of possible duplicates is made anew.",
    )
    mpi_plural_systems: list[str] = Field(
        default_factory=list,
        description="Identifier systems of which one person may well have several values, as a "
        "JSON array of URIs, such as the record numbers of a hospital that registers people "
        "twice. In any other system two different values speak against a merge, which then needs "
        "an override with a reason.",
    )
    time_zone: str = Field(
        "UTC",
        description="IANA name of the time zone whose days the encounter board and reports show.",
    )
    report_threshold: int = Field(
        5,
        ge=1,
        le=1000,
        description="Counts below this, other than 0, are kept back in reports from callers with "
        "neither `patient:read` nor `audit:read`. 1 keeps nothing back.",
    )
    log_level: LogLevel = Field("info", description="How much is logged to standard error.")
    projector: bool = Field(
        default=True,
        description="Whether `serve` runs the read models in a child process. Turn it off to run "
        "`registration project` yourself.",
    )

    @field_validator("master_key", "former_master_keys")
    @classmethod
    def _master_keys_are_keys(cls, said: str | list[str] | None) -> str | list[str] | None:
        try:
            for text in [said] if isinstance(said, str) else said or ():
                master_of(text)
        except ValueError:
            raise ValueError("a master key is 32 bytes in base64") from None
        return said

    @field_validator("identifier_systems")
    @classmethod
    def _checks_exist(cls, systems: dict[str, str]) -> dict[str, str]:
        check_systems(systems)
        return systems

    @field_validator("consent_flags")
    @classmethod
    def _flags_are_names(cls, flags: dict[str, str]) -> dict[str, str]:
        for flag in flags:
            if not KEY.fullmatch(flag):
                raise ValueError("a flag is named in lower case letters, digits and hyphens")
        return {PORTRAIT: CONSENT_FLAGS[PORTRAIT]} | flags

    @field_validator("portrait_retention")
    @classmethod
    def _days_are_some(cls, days: dict[str, int]) -> dict[str, int]:
        if any(not 1 <= kept <= 73_000 for kept in days.values()):
            raise ValueError("a portrait is kept for 1 to 73000 days")
        return days

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("is no IANA time zone, such as Africa/Lagos") from None
        return name

    @model_validator(mode="after")
    def _tokens_fit_the_exposure(self) -> Self:
        if self.jwks_url is None:
            if not is_loopback(self.host):
                raise ValueError(
                    f"listening on {self.host} needs jwks_url: tokens signed with this "
                    "installation's own key are for the same machine only"
                )
            if self.jwt_issuer is not None or self.jwt_audience is not None:
                raise ValueError("jwt_issuer and jwt_audience need jwks_url")
        elif self.jwt_issuer is None or self.jwt_audience is None:
            raise ValueError("jwks_url needs jwt_issuer and jwt_audience")
        return self

    def portrait_keeps(self, tenant: str) -> timedelta | None:
        """How long a portrait of this tenant is kept; `None`: as long as the consent lasts."""
        days = self.portrait_retention.get(tenant, self.portrait_retention.get("*"))
        return None if days is None else timedelta(days=days)

    @property
    def checkpoints(self) -> Path:
        """The folder that checkpoints are written to."""
        return self.checkpoint_dir or self.data_dir / "checkpoints"

    def environment(self) -> dict[str, str]:
        """These settings as environment variables: a child process that gets them reads the same.

        Paths come out absolute; settings that are unset are left out.
        """
        said = {name: getattr(self, name) for name in ("data_dir", "checkpoint_dir", "mpi_model")}
        values = self.model_copy(
            update={name: path.absolute() for name, path in said.items() if path is not None}
        )
        dumped = values.model_dump(mode="json", exclude_none=True)
        return {ENV_PREFIX + name.upper(): _as_text(value) for name, value in dumped.items()}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host` (a name other than `localhost` counts as not)."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
