"""`tune.storage` on PostgreSQL, as the pages write its address: two machines find each other's trials there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.errors import RunError
from tasks.settings import load_settings
from tasks.stages.tune.settings import TuneConfig
from tasks.stages.tune.study import Study
from tests.support.postgres import Postgres, postgres

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        server.create("optuna")
        yield server


def config(url: str) -> TuneConfig:
    return load_settings(overrides=["tune.trials=2", f"tune.storage={url}"]).tune


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_second_machine_sees_the_trials_of_the_first(database: Postgres, scheme: str) -> None:
    given = config(database.url(scheme, "optuna"))
    one, two = (Study(given, f"study-{scheme}", Path("unused")) for _ in range(2))
    try:
        params = one.ask("trial")
        one.tell("trial", [2.0, 1.0], whole=True)
        assert [(ended.params, ended.curve) for ended in two.ended()] == [(params, [2.0, 1.0])]
        assert two.missing() == 1
    finally:
        one.close()
        two.close()


def test_a_wrong_password_is_reported_and_not_shown(database: Postgres) -> None:
    wrong = database.url("postgresql", "optuna").replace(database.password, "guessed-wrong")
    with pytest.raises(RunError, match="the study cannot be opened") as caught:
        Study(config(wrong), "study", Path("unused"))
    assert "password authentication failed" in str(caught.value)
    assert "guessed-wrong" not in str(caught.value)
