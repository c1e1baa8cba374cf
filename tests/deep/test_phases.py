"""Errors say in which phase of which step, and what to lower."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from tasks.core.errors import InputError, RankLost, RunError  # noqa: E402
from tasks.deep.phases import during  # noqa: E402


@pytest.mark.parametrize(
    ("phase", "lower"),
    [("forward", "recompute=true"), ("optimizer step", "parallel.zero"), ("backward", "fewer rows a step")],
)
def test_where_memory_ends_the_error_says_what_takes_it_and_what_to_lower(phase: str, lower: str) -> None:
    with pytest.raises(RunError, match=f"rank 1, step 7, {phase}: out of memory") as error, during(1, 7, phase):
        torch.empty(1 << 55, dtype=torch.float32)  # more than any machine has
    assert lower in error.value.fix


def test_a_closed_connection_is_a_lost_rank_also_within_another_error() -> None:
    def fail() -> None:
        try:
            raise RuntimeError("[pair.cc] Connection closed by peer [127.0.0.1]:4711")
        except RuntimeError as error:
            raise RuntimeError("stage 1 failed to run forward") from error

    gone = r"rank 0, step 2, forward: another rank is gone .*Connection closed"
    with pytest.raises(RankLost, match=gone), during(0, 2, "forward"):
        fail()


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(InputError, match="too long"), during(0, 0, "forward"):
        raise InputError("too long")
    with pytest.raises(RuntimeError, match="shapes"), during(0, 0, "forward"):
        raise RuntimeError("shapes do not match")
