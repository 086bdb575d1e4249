import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import jwt
import pytest
from typer.testing import CliRunner

from registration.api.keys import (
    ALGORITHM,
    AUDIENCE,
    ISSUER,
    ROLES,
    SCOPES,
    issue_token,
    signing_key,
)
from registration.cli import app
from registration.commands import CommandError
from registration.key_files import KeyFileError

RUN = CliRunner()


def claims(token: str, data_dir: Path) -> dict[str, object]:
    key = signing_key(data_dir)
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "JWT", "kid": key.kid}
    return jwt.decode(
        token,
        key.public,
        algorithms=[ALGORITHM],
        audience=AUDIENCE,
        issuer=ISSUER,
        options={"require": ["exp", "iat", "sub", "jti"]},
    )


def test_it_prints_the_bare_token(tmp_path: Path) -> None:
    options = ["--tenant", "north", "--facility", "ward-3", "--sub", "ada", "--ttl", "60"]
    result = RUN.invoke(app, ["token", "--role", "desk", "--data-dir", str(tmp_path), *options])
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    content = claims(result.stdout.strip(), tmp_path)
    assert content["exp"] - content["iat"] == 60  # type: ignore[operator]  # both are integers
    assert {name: content[name] for name in ("sub", "tenant", "facility", "scope")} == {
        "sub": "ada",
        "tenant": "north",
        "facility": "ward-3",
        "scope": "patient:read patient:write encounter:read encounter:write consent:write "
        "mpi:read mpi:propose sync",
    }


def test_what_is_not_said_has_a_default(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    token = issue_token(signing_key(tmp_path), role="analyst", token_id=UUID(int=7), now=now)
    assert claims(token, tmp_path) == {
        "iss": "registration-embedded",
        "aud": "registration",
        "sub": "analyst",
        "tenant": "default",
        "scope": "report:read",
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(hours=12)).timestamp()),
        "jti": str(UUID(int=7)),
    }


def test_roles_have_scopes_that_exist() -> None:
    assert {scope for scopes in ROLES.values() for scope in scopes} == set(SCOPES)
    assert len(SCOPES) == 15


def test_the_key_is_private_and_made_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        kids = {key.kid for key in pool.map(signing_key, [tmp_path / "new"] * 8)}
    assert len(kids) == 1
    assert stat.S_IMODE((tmp_path / "new" / "signing-key.pem").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["signing-key.pem"]


def test_a_damaged_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "signing-key.pem").write_text("nothing")
    with pytest.raises(KeyFileError, match=r"signing-key\.pem"):
        signing_key(tmp_path)


def test_with_an_issuer_of_its_own_the_service_prints_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRATION_JWKS_URL", "https://issuer.example/keys")
    monkeypatch.setenv("REGISTRATION_JWT_ISSUER", "https://issuer.example")
    monkeypatch.setenv("REGISTRATION_JWT_AUDIENCE", "registration")
    result = RUN.invoke(app, ["token", "--role", "desk", "--data-dir", str(tmp_path)])
    assert isinstance(result.exception, CommandError)
    assert list(tmp_path.iterdir()) == []


def test_invalid_settings_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "registration", "token", "--role", "desk"]
    result = subprocess.run(
        command,
        env={"REGISTRATION_PORT": "many"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("registration: invalid settings: port: ")
    assert result.stderr.count("\n") == 1
