"""Fault points: nothing without the variable, once with a marker, a signal or an error by name."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from tasks.core import faults
from tasks.core.snapshot_files import FileSink


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals that were sent, instead of sending them."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    return found


def test_without_the_variable_or_elsewhere_nothing_happens(
    sent: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.point("clean", "after-run")
    monkeypatch.setenv("RAYMILL_KILL_AT", "clean:before-run")
    faults.point("clean", "after-run")
    faults.point("clean", "before-run", 1)
    assert sent == []


@pytest.mark.parametrize(("fault", "number"), [("", signal.SIGKILL), ("SIGTERM", signal.SIGTERM)])
def test_the_process_gets_the_signal_once_and_leaves_its_id(
    sent: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str, number: int
) -> None:
    monkeypatch.setenv("RAYMILL_KILL_AT", "train:round:3")
    monkeypatch.setenv("RAYMILL_KILL_ONCE", str(tmp_path / "struck"))
    if fault:
        monkeypatch.setenv("RAYMILL_FAULT", fault)
    for _ in range(2):
        faults.point("train", "round", 3)
    assert sent == [(os.getpid(), number)]
    assert (tmp_path / "struck").read_text() == str(os.getpid())


def test_a_file_that_cannot_be_written_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAYMILL_KILL_AT", "files:written")
    monkeypatch.setenv("RAYMILL_FAULT", "ENOSPC")
    with pytest.raises(OSError, match="No space left") as raised:
        FileSink(str(tmp_path)).write_bytes("model.ubj", b"a model")
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
