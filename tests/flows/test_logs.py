"""The log of a run: JSON lines for machines, and secrets that nobody can read."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

import pytest
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.run import logs
from tasks.settings import Settings, load_settings

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):  # there is no server
        yield
    logs.take_down()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("RAYMILL__TUNE__STORAGE", "postgresql://tuner:p%40ssw0rd@db/optuna")
    monkeypatch.setenv("RAYMILL__SERVICES__AUTH", "admin:correct-horse")
    return load_settings(overrides=["logging.json=true"])


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """The lines on standard error since the last call, each of which must be JSON."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_every_record_is_one_line_with_time_level_logger_and_message(settings: Settings, lines: Lines) -> None:
    logs.set_up(settings)
    logging.getLogger("raymill").info("first\nsecond %s", "π")
    logging.getLogger("some.library").warning("odd")
    first, second = lines()
    assert first["message"] == "first\nsecond π"
    assert (first["level"], first["logger"]) == ("INFO", "raymill")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(first["time"])).total_seconds()) < 60
    assert first["time"].endswith("Z")
    assert (second["level"], second["logger"], second["message"]) == ("WARNING", "some.library", "odd")
    assert {first[name] for name in ("run_id", "flow_run_id", "stage")} == {None}


def test_a_record_says_which_run_and_stage_it_is_of_also_from_a_task_thread(settings: Settings, lines: Lines) -> None:
    logs.set_up(settings)
    log = logging.getLogger("tasks.stages.clean.stage")
    with logs.about(run_id="r1", flow_run_id="f1"), ThreadPoolExecutor() as pool:
        with logs.about(stage="clean"):
            pool.submit(copy_context().run, log.info, "inside").result()
        log.info("after")
    log.info("outside")
    found = [tuple(line[name] for name in ("run_id", "flow_run_id", "stage")) for line in lines()]
    assert found == [("r1", "f1", "clean"), ("r1", "f1", None), (None, None, None)]


def test_prefects_own_records_tell_their_flow_run_and_stage(settings: Settings, lines: Lines) -> None:
    logs.set_up(settings)
    extra = {"flow_run_id": "f2", "task_name": "tune", "task_run_name": "tune"}
    logging.getLogger("prefect.task_runs").info("Finished in state Completed()", extra=extra)
    (line,) = lines()
    assert (line["flow_run_id"], line["stage"]) == ("f2", "tune")


def test_a_traceback_and_a_warning_stay_one_line_each(settings: Settings, lines: Lines) -> None:
    logs.set_up(settings)
    try:
        raise ValueError("no\nway")
    except ValueError:
        logging.getLogger("raymill").exception("it failed")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("take care", stacklevel=1)
    failed, warned = lines()
    assert failed["message"] == "it failed"
    assert failed["error"].startswith("Traceback")
    assert failed["error"].endswith("ValueError: no\nway")
    assert (warned["logger"], "take care" in warned["message"]) == ("py.warnings", True)


@pytest.mark.parametrize("json_lines", [True, False])
def test_secrets_are_masked_in_messages_arguments_and_tracebacks(
    settings: Settings, json_lines: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logs.StandardError()
    log = logging.getLogger("some.library")
    log.addHandler(handler)
    try:
        logs.set_up(
            settings.model_copy(update={"logging": settings.logging.model_copy(update={"as_json": json_lines})})
        )
        try:
            raise ConnectionError("postgresql://tuner:p%40ssw0rd@db/optuna does not answer")
        except ConnectionError:
            log.warning("tried %s, then %s", "p@ssw0rd", {"user": "admin:correct-horse"}, exc_info=True)
    finally:
        log.removeHandler(handler)
    said = capsys.readouterr().err
    assert "tuner:***@db/optuna does not answer" in said
    assert [secret for secret in ("p%40ssw0rd", "p@ssw0rd", "correct-horse") if secret in said] == []


def test_a_record_whose_arguments_do_not_fit_harms_nobody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up(settings)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logging.getLogger("raymill").info("%d of %d", "one")
    assert "%d of %d" in capsys.readouterr().err


def test_afterwards_logging_is_as_it_was(settings: Settings) -> None:
    before = list(logging.root.handlers), [list(h.filters) for h in logging.root.handlers]
    level = logging.getLogger("prefect.flow_runs").level
    logs.set_up(settings)
    logs.set_up(settings)
    logs.take_down()
    assert (list(logging.root.handlers), [list(h.filters) for h in logging.root.handlers]) == before
    assert logging.getLogger("prefect.flow_runs").level == level
