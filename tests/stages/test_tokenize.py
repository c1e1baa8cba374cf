"""What tokenize makes of Ray Data's errors: those that a retry cures, and those of the data."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.core.errors import TransientError
from tasks.core.storage.store import SnapshotStore
from tasks.settings import load_settings
from tasks.stages import tokenize as module


def run(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Run the stage on no reviews; Ray Data raises the error."""

    def encoded(*_: Any) -> Iterator[Any]:
        raise error
        yield

    monkeypatch.setattr(module, "encoded", encoded)
    reviews: Any = SimpleNamespace(files=list, rows=int)
    writer = store.open_attempt("tokenize", "k")
    try:
        module.tokenize.function(reviews, config=load_settings().tokenize, out=writer)
    finally:
        store.discard(writer)


def test_a_division_by_the_cpus_of_no_node_is_worth_a_retry(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TransientError, match="no node with CPUs is left"):
        run(store, monkeypatch, ZeroDivisionError("division by zero"))


def test_a_division_by_zero_in_a_task_is_none_of_the_clusters(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OfTask(ZeroDivisionError):
        """As Ray raises a task's own error again: of a class made from it."""

    with pytest.raises(OfTask):
        run(store, monkeypatch, OfTask("in a task"))
