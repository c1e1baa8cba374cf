"""Batches made ahead are the same ones, and the thread that makes them ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from tasks.deep.batches import Batch  # noqa: E402
from tasks.deep.loading import prefetched  # noqa: E402


def numbered(count: int, made: list[int], fails: bool = False) -> Iterator[Batch]:
    for number in range(count):
        made.append(number)
        yield {"tokens": torch.tensor([number])}
    if fails:
        raise OSError("no such block")


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_batches_come_in_order_and_an_error_in_its_turn(depth: int) -> None:
    batches = prefetched(numbered(5, [], fails=True), depth)
    assert [int(next(batches)["tokens"]) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="no such block"):
        next(batches)


def test_no_more_than_depth_are_made_ahead_and_nothing_runs_on() -> None:
    made: list[int] = []
    batches = prefetched(numbered(100, made), 2)
    next(batches)
    batches.close()
    assert len(made) <= 4  # taken, two waiting, one in hand
    assert "batches" not in [thread.name for thread in threading.enumerate()]
