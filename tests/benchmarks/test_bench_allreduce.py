"""The bench of all-reduce: ranks check their own sums, and what they report is the whole trial."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import allreduce_ranks
from benchmarks.allreduce_ranks import Run, bus_bandwidth, measure, trials
from tasks.core.errors import RunError
from tasks.parallel.comm import Comm, run_threads


def measured(comm: Comm, run: Run) -> list[allreduce_ranks.Ended]:
    comm.kind = "shared memory"
    return measure(comm, run)


@pytest.mark.parametrize("algorithm", ["auto", "ring", "hierarchical"])
@pytest.mark.parametrize("elements", [2, 1 << 16])
def test_every_trial_has_its_own_inputs_and_a_checked_sum(algorithm: str, elements: int) -> None:
    run = Run(algorithm, "shared memory", elements, [1, 2, 3], per_node=2)
    seconds, digests = trials(run_threads(measured, [(run,)] * 3), run.repeats)
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert len(set(digests)) == 3


def test_all_algorithms_give_the_same_digests() -> None:
    runs = [Run(name, "shared memory", 100, [4, 5]) for name in ("direct", "naive", "rabenseifner")]
    assert len({tuple(trials(run_threads(measured, [(run,)] * 3))[1]) for run in runs}) == 1


def test_a_wrong_sum_ends_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets_one(comm: Comm, flat: np.ndarray, combine: np.ufunc) -> None:
        """Rank 0's array is all that anyone gets."""

    monkeypatch.setitem(allreduce_ranks.ALGORITHMS, "ring", forgets_one)
    with pytest.raises(RunError, match="ring gave wrong sums on rank"):
        run_threads(measured, [(Run("ring", "shared memory", 10, [1]),)] * 2)


def test_ranks_that_differ_end_the_bench() -> None:
    with pytest.raises(RunError, match="differ"):
        trials([[(0.0, 1.0, 7)], [(0.0, 1.0, 8)]])


def test_a_trial_lasts_from_the_first_start_to_the_last_end() -> None:
    assert trials([[(1.0, 2.0, 7)], [(0.5, 1.5, 7)]], repeats=3)[0] == [0.5]


def test_bus_bandwidth_is_the_least_traffic_over_time() -> None:
    assert bus_bandwidth(8, 1000, 0.5) == 3500
