"""Faults of the machine are told in words, wherever in a run they were met."""

from __future__ import annotations

import errno
import os

import httpx
import pytest

from flows.cli import snapshots
from flows.run.machine import FAULTS, as_run_error, prefect_fault
from tests.support.command import raymill


def fault(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize("number", FAULTS)
def test_each_fault_says_what_and_what_to_do(number: int) -> None:
    told = as_run_error(fault(number, "/data/part-0.parquet"))
    assert told is not None
    assert told.where == "/data/part-0.parquet"
    assert told.fix


def test_a_workers_fault_and_one_behind_another_error_are_found() -> None:
    class OfTask(Exception):
        cause = fault(errno.ENOSPC)

    assert "no space" in str(as_run_error(OfTask()))
    outer = RuntimeError("the task failed")
    outer.__cause__ = OfTask()
    assert "no space" in str(as_run_error(outer))


def test_other_errors_stay_what_they_are() -> None:
    assert as_run_error(ValueError("a bug")) is None
    assert as_run_error(fault(errno.ENOENT, "conf/base.yaml")) is None


def test_a_prefect_server_that_does_not_answer_is_named_and_other_servers_are_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    for url, named in (("http://127.0.0.1:4200/api/flow_runs/", True), ("http://127.0.0.1:9/api", False)):
        outer = RuntimeError("the flow failed")
        outer.__cause__ = httpx.ReadTimeout("timed out", request=httpx.Request("POST", url))
        told = prefect_fault(outer)
        assert (told is not None and "Prefect's server does not answer: ReadTimeout" in str(told)) == named
    assert prefect_fault(httpx.ReadTimeout("timed out")) is None
    assert prefect_fault(ValueError("a bug")) is None


def test_a_command_on_a_full_disk_ends_with_a_message_and_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise fault(errno.ENOSPC)

    monkeypatch.setattr(snapshots, "plan_gc", full)
    done = raymill("gc", "--dry-run")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no space is left on the disk")
    assert "Traceback" not in done.stderr
