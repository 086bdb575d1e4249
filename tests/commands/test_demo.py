"""`registration demo` against a running service."""

import socket
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from tests.service import SYSTEMS, Service, running
from typer.testing import CliRunner, Result

from registration.api.keys import signing_key
from registration.commands import CommandError, app, demo

RUN = CliRunner()


@pytest.fixture(scope="module")
def service(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with running(module_database_url, tmp_path_factory.mktemp("demo")) as found:
        yield found


def play(url: str, folder: Path) -> Result:
    return RUN.invoke(app, ["demo", "--fast", "--url", url, "--data-dir", str(folder)])


def test_the_story_comes_out_as_told_each_time(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRATION_IDENTIFIER_SYSTEMS", orjson.dumps(SYSTEMS).decode())
    for _ in range(2):
        result = play(service.url, service.settings.data_dir)
        assert result.exit_code == 0, result.output
        told = result.stdout
        assert "412  OPTIMISTIC_LOCK_CONFLICT" in told
        assert "409  IDENTIFIER_CONFLICT" in told
        assert "422  IDENTIFIER_INVALID" in told
        assert '201  version "1"  replayed' in told
        assert "GET /v1/patients?name=حداد سلمى" in told
        assert told.splitlines()[-1].startswith("All as promised. The people are in the tenant ")
        assert result.stderr == ""


def test_a_service_that_does_otherwise_fails_it_and_the_scene_is_named(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "TOLD", demo.TOLD[:-1])
    result = play(service.url, service.settings.data_dir)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith(
        "This is not what should happen: in the scene “What happened to the record, and how it "
        "stood before”: the history is [("
    )


def test_no_service_is_a_message_with_its_cure(tmp_path: Path) -> None:
    signing_key(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = play(f"http://127.0.0.1:{port}", tmp_path)
    assert isinstance(result.exception, CommandError)
    assert "start it with `make run`" in str(result.exception)


def test_no_key_is_a_message_with_its_cure(tmp_path: Path) -> None:
    result = play("http://127.0.0.1:1", tmp_path)
    assert isinstance(result.exception, CommandError)
    assert "start the service with `make run`" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_key_of_another_service_is_a_message_with_its_cure(
    service: Service, tmp_path: Path
) -> None:
    signing_key(tmp_path)
    result = play(service.url, tmp_path)
    assert isinstance(result.exception, CommandError)
    assert "--data-dir" in str(result.exception)
