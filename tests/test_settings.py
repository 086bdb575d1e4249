from pathlib import Path

import pytest
from pydantic import ValidationError

from registration.settings import Settings, is_loopback


def test_defaults_are_safe_for_one_machine() -> None:
    settings = Settings()
    assert settings.data_dir == Path(".registration")
    assert settings.database_url is None
    assert is_loopback(settings.host)
    assert settings.idempotency_ttl == 24 * 60 * 60


def test_the_environment_overrides_defaults_and_options_override_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REGISTRATION_PORT", "9000")
    monkeypatch.setenv("REGISTRATION_WORKERS", "2")
    settings = Settings(port=9001)
    assert (settings.port, settings.workers) == (9001, 2)


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_child_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        data_dir=Path("somewhere"),
        host="0.0.0.0",
        jwks_url="https://issuer.example/keys",
        jwt_issuer="https://issuer.example",
        jwt_audience="registration",
        identifier_systems={"https://fhir.example/bsn": "nl.bsn", "urn:luhn": "luhn"},
        projector=False,
        request_deadline=2.5,
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings.model_copy(update={"data_dir": Path.cwd() / "somewhere"})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "clinic.example"])
def test_an_address_that_others_reach_needs_an_issuer(host: str) -> None:
    with pytest.raises(ValidationError, match="needs jwks_url"):
        Settings(host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_addresses_do_not(host: str) -> None:
    assert Settings(host=host).host == host


def test_an_issuer_is_named_in_full() -> None:
    with pytest.raises(ValidationError, match="jwks_url needs jwt_issuer and jwt_audience"):
        Settings(jwks_url="https://issuer.example/keys", jwt_issuer="https://issuer.example")
    with pytest.raises(ValidationError, match="need jwks_url"):
        Settings(jwt_audience="registration")


@pytest.mark.parametrize("check", ["nl.nothing", "os", "../luhn", "", "exceptions"])
def test_an_unknown_check_is_refused(check: str) -> None:
    with pytest.raises(ValidationError, match="identifier system"):
        Settings(identifier_systems={"urn:x": check})


def test_errors_do_not_repeat_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRATION_DATABASE_URL", "postgresql://me:secret@db/x")
    with pytest.raises(ValidationError) as caught:
        Settings(port=70000)
    assert "secret" not in str(caught.value)
