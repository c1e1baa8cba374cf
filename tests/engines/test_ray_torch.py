"""Trainings of torch on Ray Train: which errors are worth another try, and on which address ranks meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError, RankLost, RowsLost, RunError

pytest.importorskip("torch", reason="the extra deep is not installed")


def raising(error: Exception) -> Any:
    def work(_: Any) -> None:
        raise error

    return work


def test_what_all_ranks_meet_is_returned_and_what_one_meets_is_said_by_the_next_group(tmp_path: Path) -> None:
    from tasks.engines.ray_torch import work_once

    told = tmp_path / "error.json"
    given: dict[str, Any] = {"config": {}, "told": told}
    wrong = InputError("two blocks are too few")
    assert work_once({**given, "work": raising(wrong)}) is wrong
    with pytest.raises(RankLost):
        work_once({**given, "work": raising(RankLost("rank 1 is gone"))})
    assert not told.exists()
    with pytest.raises(RowsLost):
        work_once({**given, "work": raising(RowsLost("9 of 10 rows", where="text-model", fix="report it"))})
    again = work_once({**given, "work": raising(AssertionError("trained again"))})
    assert isinstance(again, RunError)
    assert str(again) == "text-model: 9 of 10 rows\n  → report it"


def test_the_interface_of_an_address_is_found() -> None:
    from tasks.engines.ray_torch import interface_of

    assert interface_of("127.0.0.1").startswith("lo")
    with pytest.raises(RunError, match=r"no network interface has Ray's address 192\.0\.2\.1"):
        interface_of("192.0.2.1")  # an address for documentation


def test_an_interrupt_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from tasks.engines import ray_private, ray_torch

    ended = threading.Event()
    monkeypatch.setattr(ray_private, "end_trainings", ended.set)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ray_torch._watched(lambda: ended.wait(60), interrupted)
    assert ended.is_set()
