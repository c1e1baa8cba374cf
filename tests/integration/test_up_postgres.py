"""`raymill up` with Prefect's and MLflow's databases on PostgreSQL, and what happens when that goes away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Postgres, postgres
from tests.support.up_place import Place, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        for name in ("prefect", "mlflow"):
            server.create(name)
        yield server


@pytest.fixture
def place(tmp_path: Path, database: Postgres) -> Place:
    urls = {
        "RAYMILL__SERVICES__PREFECT_DATABASE": database.url("postgresql+asyncpg", "prefect"),
        "RAYMILL__SERVICES__MLFLOW_DATABASE": database.url("postgresql+psycopg", "mlflow"),
    }
    return Place(tmp_path, urls)


@pytest.mark.nightly
def test_both_on_postgresql_and_the_database_goes_away_and_comes_back(place: Place, database: Postgres) -> None:
    process = place.up()
    assert place.status()["well"]
    database.stop()
    try:
        told = place.status()
        assert not told["well"]
        assert {name for name, about in told["services"].items() if about["problem"]} >= {"prefect"}
    finally:
        database.start()
    wait_for(lambda: place.status()["well"], 90, "all is well again")
    process.terminate()
    process.wait(30)
    assert process.returncode == 0, place.output
    assert database.password not in place.output + place.log


def test_a_database_that_is_down_at_the_start_is_told_before_anything_starts(place: Place, database: Postgres) -> None:
    database.stop()
    try:
        done = place.shell("up")
    finally:
        database.start()
    assert done.returncode == 1
    assert "the database does not let us in" in done.stderr
    assert database.password not in done.stderr
    assert not (place.services / "state.json").exists()


def test_a_wrong_password_is_told(place: Place, database: Postgres) -> None:
    wrong = database.url("postgresql+asyncpg", "prefect").replace(database.password, "guessed")
    place.more["RAYMILL__SERVICES__PREFECT_DATABASE"] = wrong
    done = place.shell("up")
    assert done.returncode == 1
    assert "password authentication failed" in done.stderr
    assert "guessed" not in done.stderr
