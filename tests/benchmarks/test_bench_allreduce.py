"""The bench of all-reduce: ranks check their own sums, and what they report is the whole trial."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks import allreduce_ranks, allreduce_sizes
from benchmarks.allreduce_ranks import Run, bus_bandwidth, measure, trials
from benchmarks.cases import allreduce as cases
from benchmarks.harness import Timed
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


class Threads:
    """An ActorGroup of threads."""

    def __init__(self, size: int, *_: Any) -> None:
        self.size = size

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, work: Any, arguments: list[Any]) -> list[Any]:
        return run_threads(as_shared_memory, [(work, *given) for given in arguments])


def as_shared_memory(comm: Comm, work: Any, *given: Any) -> Any:
    comm.kind = "shared memory"
    return work(comm, *given)


def test_the_case_checks_and_reports_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "ActorGroup", Threads)
    monkeypatch.setattr(allreduce_sizes, "ELEMENTS", (2, 300))
    monkeypatch.setitem(allreduce_sizes.SIDES, "gloo", ())  # threads have no gloo
    job = cases.Job(elements=3000, group=Threads(cases.RANKS))  # type: ignore[arg-type]
    first, other = (cases.side(name, algorithm, "shared memory") for name, algorithm in (("a", "auto"), ("b", "ring")))
    ours, theirs = first(job), other(job)
    assert "same bits" in cases.check(job, ours.output, {"b": theirs.output})
    with pytest.raises(AssertionError, match="differ"):
        cases.check(job, first(job).output, {"b": theirs.output})  # of other inputs
    found = cases.details(job, {"ours": [Timed(ours.wall_s, ours.output)], "gloo": [Timed(1.0, theirs.output)]})
    rows = json.loads(json.dumps(found))["ours"]["by_size"]
    assert {(row["world"], row["nbytes"]) for row in rows} == {(2, 8), (2, 1200), (8, 8), (8, 1200)}
    assert {row["trials"] for row in rows} == {cases.TRIALS}
    machines = allreduce_sizes.fitted(rows, found["ours"]["gamma_s_a_byte"])
    assert set(machines) == {"shared memory", "direct"}


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
