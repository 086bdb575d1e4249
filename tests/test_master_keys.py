"""The master key: without the right one nothing starts, and nothing ever tells it."""

import os
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from unittest.mock import patch

import pytest
from pydantic import ValidationError
from tests.conftest import MASTER_KEY
from tests.service import Service, as_service, running

from registration.eventstore.sealing import Keyring, MasterKeyError, master_of
from registration.master_keys import FILE, _master_key, rewrap, secret_of, unlock
from registration.settings import Settings

ANOTHER = b64encode(b"another key, of thirty-two bytes").decode()


def unlocked(settings: Settings) -> Keyring:
    """Return what a process of its own holds that uses the database of some settings."""
    assert settings.database_url is not None
    with patch("registration.master_keys.KEYRING", Keyring()) as keyring:
        unlock(settings, settings.database_url)
    return keyring


def serve(url: str, folder: Path, **environment: str | None) -> tuple[int, str]:
    """Return the exit code of a service that cannot start, and what it said."""
    variables = {**os.environ, "REGISTRATION_MASTER_KEY": None} | environment
    command = [sys.executable, "-m", "registration", "serve", "--port", "0"]
    ended = subprocess.run(
        [*command, "--database-url", url, "--data-dir", str(folder)],
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_the_first_key_is_the_databases_and_another_is_refused(
    database_url: str, tmp_path: Path
) -> None:
    url = as_service(database_url)
    settings = Settings(database_url=url, data_dir=tmp_path, master_key=MASTER_KEY)
    unlocked(settings)
    unlocked(settings)
    other = settings.model_copy(update={"master_key": ANOTHER})
    with pytest.raises(MasterKeyError, match="sealed with another master key"):
        unlocked(other)
    unlocked(other.model_copy(update={"former_master_keys": [MASTER_KEY]}))


def test_a_service_with_another_key_says_so_and_ends(database_url: str, tmp_path: Path) -> None:
    url = as_service(database_url)
    unlocked(Settings(database_url=url, data_dir=tmp_path, master_key=MASTER_KEY))
    code, said = serve(url, tmp_path, REGISTRATION_MASTER_KEY=ANOTHER)
    assert (code, "sealed with another master key" in said) == (2, True), said
    assert "Traceback" not in said
    assert ANOTHER not in said


def test_an_external_database_needs_one(database_url: str, tmp_path: Path) -> None:
    code, said = serve(as_service(database_url), tmp_path)
    assert (code, "needs REGISTRATION_MASTER_KEY" in said) == (2, True), said
    assert "Traceback" not in said
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("wrong", ["hunter2hunter2", MASTER_KEY[:-5], MASTER_KEY + "AAAA", "é"])
def test_what_is_no_key_is_refused_and_not_repeated(
    database_url: str, tmp_path: Path, wrong: str
) -> None:
    for given in ({"master_key": wrong}, {"former_master_keys": [MASTER_KEY, wrong]}):
        with pytest.raises(ValidationError, match="32 bytes in base64") as caught:
            Settings(**given)
        assert wrong not in str(caught.value)
        assert MASTER_KEY not in str(caught.value)


def test_a_service_does_not_repeat_it_either(database_url: str, tmp_path: Path) -> None:
    for name, wrong in (
        ("MASTER_KEY", "hunter2hunter2"),
        ("FORMER_MASTER_KEYS", "hunter2hunter2"),
        ("FORMER_MASTER_KEYS", '["hunter2hunter2"]'),
    ):
        code, said = serve(database_url, tmp_path, **{f"REGISTRATION_{name}": wrong})
        assert (code, "hunter2" in said, "Traceback" in said) == (2, False, False), said


def test_the_key_of_the_data_folder_is_made_once_and_is_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REGISTRATION_MASTER_KEY")
    settings = Settings(data_dir=tmp_path)
    made = _master_key(settings, is_new=True)
    assert _master_key(settings, is_new=False) == made == master_of((tmp_path / FILE).read_text())
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    (tmp_path / FILE).write_text("spoilt")
    with pytest.raises(MasterKeyError, match="cannot use the master key in") as caught:
        _master_key(settings, is_new=False)
    assert "spoilt" not in str(caught.value)


def test_a_lost_key_of_the_data_folder_is_missed_and_not_replaced(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REGISTRATION_MASTER_KEY")
    settings = Settings(data_dir=tmp_path)
    unlock(settings, database_url)
    (tmp_path / FILE).unlink()
    with pytest.raises(MasterKeyError, match=f"put {tmp_path / FILE} back"):
        unlock(settings, database_url)
    assert not (tmp_path / FILE).exists()


def test_a_tenant_has_one_secret_and_keeps_it_through_a_change_of_the_master_key(
    database_url: str,
) -> None:
    unlock(Settings(master_key=MASTER_KEY), database_url)
    secret = secret_of(database_url, "a")
    assert (len(secret), secret_of(database_url, "a")) == (32, secret)
    assert secret_of(database_url, "b") != secret
    unlock(Settings(master_key=ANOTHER, former_master_keys=[MASTER_KEY]), database_url)
    assert rewrap(database_url) == 2
    assert secret_of(database_url, "a") == secret


def test_nothing_tells_it(database_url: str, tmp_path: Path) -> None:
    keys = {"master_key": MASTER_KEY, "former_master_keys": [ANOTHER]}
    with running(database_url, tmp_path, **keys) as service:
        assert told(service) == []


def told(service: Service) -> list[str]:
    """Return where a master key can be read."""
    desk = service.desk(role="admin")
    desk.given_patient()
    said = {
        "the settings": repr(service.settings) + str(service.settings),
        "the log": b"\n".join(service.lines).decode(),
        **{
            path: desk.get(path).text
            for path in ("/metrics", "/openapi.json", "/readyz", "/", "/problems")
        },
    }
    return [name for name, text in said.items() if MASTER_KEY[:20] in text or ANOTHER[:20] in text]
