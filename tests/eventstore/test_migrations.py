from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from registration.eventstore.migrations import (
    ChangedMigration,
    MigrationError,
    SchemaAhead,
    load,
    migrate,
    pending,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "0001_a.sql", "CREATE TABLE a (x int); CREATE TABLE b (x int);")
    write(tmp_path, "0002_c.sql", "SELECT pg_sleep(0.1); CREATE TABLE c (x int);")
    return tmp_path


def write(folder: Path, name: str, sql: str) -> None:
    (folder / name).write_text(sql)


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'registration'"
        )
        return {row[0] for row in rows}


def test_pending_ones_are_applied_once(empty_database_url: str, folder: Path) -> None:
    assert pending(empty_database_url, folder) == ["0001_a.sql", "0002_c.sql"]
    assert tables(empty_database_url) == set()

    assert migrate(empty_database_url, folder) == ["0001_a.sql", "0002_c.sql"]
    assert tables(empty_database_url) == {"a", "b", "c", "schema_migration"}

    assert pending(empty_database_url, folder) == []
    assert migrate(empty_database_url, folder) == []


def test_several_at_once_do_the_work_once(empty_database_url: str, folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: migrate(empty_database_url, folder), range(8)))
    assert sorted(results) == [[]] * 7 + [["0001_a.sql", "0002_c.sql"]]


def test_a_failing_one_leaves_nothing_and_those_before_it_stay(
    empty_database_url: str, folder: Path
) -> None:
    write(folder, "0003_d.sql", "CREATE TABLE d (x int); SELECT 1/0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty_database_url, folder)
    assert tables(empty_database_url) == {"a", "b", "c", "schema_migration"}
    assert pending(empty_database_url, folder) == ["0003_d.sql"]

    write(folder, "0003_d.sql", "CREATE TABLE d (x int);")
    assert migrate(empty_database_url, folder) == ["0003_d.sql"]


def test_edited_history_is_refused(empty_database_url: str, folder: Path) -> None:
    migrate(empty_database_url, folder)
    write(folder, "0001_a.sql", "CREATE TABLE a (x bigint);")
    for function in (migrate, pending):
        with pytest.raises(ChangedMigration, match=r"0001_a\.sql was changed"):
            function(empty_database_url, folder)


def test_a_database_ahead_of_the_code_is_refused(empty_database_url: str, folder: Path) -> None:
    migrate(empty_database_url, folder)
    (folder / "0002_c.sql").unlink()
    for function in (migrate, pending):
        with pytest.raises(SchemaAhead, match=r"does not know \(0002_c\.sql\)"):
            function(empty_database_url, folder)


@pytest.mark.parametrize(
    ("name", "message"), [("0002_twice.sql", "the same number"), ("3_x.sql", "not named like")]
)
def test_a_folder_that_is_ambiguous_is_refused(folder: Path, name: str, message: str) -> None:
    write(folder, name, "")
    with pytest.raises(MigrationError, match=message):
        load(folder)


def test_the_package_ships_its_own(database_url: str) -> None:
    assert load()
    assert pending(database_url) == []
