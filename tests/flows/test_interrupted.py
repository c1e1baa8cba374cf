"""Ctrl-C while stages run side by side: the command does not wait for them, and they change no more of the run."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.run import context
from flows.run.context import Run
from flows.run.record import RunRecord, StageRow
from flows.run.stage_task import together
from flows.run.usage import Usage
from tasks.core.errors import RunError
from tasks.settings import load_settings


class Endless:
    """A stage that goes on until it is told to end."""

    def __init__(self, name: str, *, interrupts: bool = False) -> None:
        self.name, self.interrupts, self.end = name, interrupts, threading.Event()

    def under(self, _: Any) -> Any:
        return self

    def section_of(self, _: Any) -> None:
        return None

    def __call__(self, *_: Any) -> str:
        if self.interrupts:
            os.kill(os.getpid(), signal.SIGINT)
        self.end.wait(60)
        return self.name


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    nothing = {name: lambda *_: None for name in ("keep", "close", "end", "ended", "failed")}
    none: Any = SimpleNamespace(waiting=[], send=lambda *_: True, total=Usage, **nothing)
    settings = load_settings(overrides=[f"storage.root={tmp_path}"])
    run = Run(settings, RunRecord(run_id="r"), none, none, none, none, datetime.now(UTC), 0.0, none, none)
    token = context.CURRENT.set(run)
    yield run
    context.CURRENT.reset(token)


@pytest.fixture
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.siginterrupt(signal.SIGINT, False)  # waits begin again after it, as they do once Polars is imported
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_no_stage_and_no_stage_keeps_the_process(run: Run, interruptible: None) -> None:
    stages = [Endless("train"), Endless("tune", interrupts=True)]
    try:
        with pytest.raises(KeyboardInterrupt):
            together(*((stage,) for stage in stages))
        at_work = [thread for thread in threading.enumerate() if thread.name == "stage"]
        assert len(at_work) == 2
        assert all(thread.daemon for thread in at_work)
        assert run.ended
    finally:
        for stage in stages:
            stage.end.set()


def test_what_ends_after_the_interrupt_is_noted_and_the_run_stays_interrupted(run: Run, tmp_path: Path) -> None:
    run.record.at_work = ["train", "tune"]
    run.order = ["train", "tune"]
    run.close("interrupted")
    run._failed("tune", RuntimeError("its actor died"))
    run._ended(StageRow("train", key="k"))
    written = json.loads((tmp_path / "runs" / "r.json").read_text())
    assert written["state"] == "interrupted"
    assert [row["stage"] for row in written["stages"]] == ["train"]
    assert "failed" not in written


def test_no_stage_begins_or_is_validated_after_the_end(run: Run) -> None:
    run.close("interrupted")
    nothing: Any = None
    with pytest.raises(RunError, match="the run is interrupted"):
        run.execute(SimpleNamespace(name="tune"), [], nothing)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="the run is interrupted"):
        run.validate(nothing, nothing)
    assert run.record.at_work == []
