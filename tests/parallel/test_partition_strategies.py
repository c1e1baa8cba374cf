"""The strategies in virtual time: who does what beside slow, dying, silent workers, and every chunk once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import ChunkFailed, InputError, TransientError
from tasks.parallel.chunks import Chunk
from tasks.parallel.partition_master import Master
from tasks.parallel.partition_plan import (
    STRATEGIES,
    Dynamic,
    Speeds,
    Strategy,
    balanced_shards,
    equal_runs,
    plan_of,
)
from tests.support.virtual_crew import VirtualCrew, scoring_crew


def chunks(*sizes: int) -> list[Chunk]:
    return [Chunk(i, "reviews.parquet", i, i + 1, 10 * size, size) for i, size in enumerate(sizes)]


def play(of: list[Chunk], strategy: Strategy, crew: VirtualCrew, *, shard_bytes: int = 1 << 20, **how: Any) -> Master:
    """Run to the end in virtual time."""
    master = Master(of, plan_of(strategy, of, len(crew.workers()), shard_bytes), crew, **how)
    master.run()
    return master


def assert_each_once(master: Master) -> None:
    assert master.receipts == {c.index: (c.index, c.rows) for c in master.chunks}
    assert Counter(span.chunk for span in master.spans) == Counter(c.index for c in master.chunks)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_workers_finish_together(strategy: Strategy) -> None:
    master = play(chunks(*[3] * 40), strategy, scoring_crew(4))
    assert_each_once(master)
    assert master.crew.now() == 30
    assert master.counts.sent == 40


def test_dynamic_takes_the_work_of_a_worker_slowed_four_times() -> None:
    of, slow = chunks(*[1] * 80), {0: 4.0}
    uniform = play(of, "uniform", scoring_crew(4, slowness=slow))
    dynamic = play(of, "dynamic", scoring_crew(4, slowness=slow))
    assert_each_once(dynamic)
    assert uniform.crew.now() == 80  # 20 chunks at 4 s
    assert dynamic.crew.now() <= 26  # 80 chunks at 3.25 a second are 24.6 s
    assert dynamic.counts.steals > 0


def test_an_idle_worker_repeats_the_last_chunk_of_a_straggler_only_where_that_ends_sooner() -> None:
    crew = scoring_crew(2, slowness={0: 8.0})
    master = play(chunks(1, 1, 1, 1), "dynamic", crew)
    assert_each_once(master)
    # Worker 1 does its two by 2 s, steals another and by 3 s knows that worker 0 has overrun what it needs itself.
    assert crew.now() <= 5
    assert master.counts.speculated == 1
    even = play(chunks(1, 1, 1, 1, 1), "dynamic", scoring_crew(2))
    assert even.counts.speculated == 0
    assert even.crew.now() == 3


def test_the_first_result_counts_and_the_late_one_is_counted_as_repeated() -> None:
    # Worker 1 repeats the chunk of worker 0, which is done with it while worker 2 is still at its own.
    master = play(chunks(3, 1, 100), "dynamic", scoring_crew(3, slowness={0: 10.0}))
    assert_each_once(master)
    assert (master.counts.speculated, master.counts.repeated, master.counts.sent) == (1, 1, 4)
    assert next(span for span in master.spans if span.chunk == 0).worker == 1
    assert master.crew.now() == 100


def test_a_thief_takes_the_last_chunk_of_the_run_that_would_take_longest() -> None:
    plan, speeds = Dynamic(chunks(*[1] * 9), 3), Speeds()
    for worker, seconds in enumerate((1.0, 9.0, 1.0)):
        speeds.note(worker, 1, seconds)
    taken = [plan.take(2, speeds) for _ in range(6)]
    assert [unit[0].index for unit in taken if unit] == [6, 7, 8, 5, 4, 3]
    assert plan.steals == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_failed_chunk_is_done_by_another_worker(strategy: Strategy) -> None:
    master = play(chunks(*[1] * 12), strategy, scoring_crew(3, fails=lambda worker, chunk: worker == 0 and chunk == 1))
    assert_each_once(master)
    failed = master.troubles.get(1)
    assert master.counts.failures == (failed is not None)
    if failed:
        assert failed.failed_on == [0]
        assert next(span.worker for span in master.spans if span.chunk == 1) != 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_poison_chunk_fails_by_name_after_its_tries_on_different_workers(strategy: Strategy) -> None:
    def crew() -> VirtualCrew:
        return scoring_crew(4, fails=lambda _, chunk: chunk == 7)

    with pytest.raises(ChunkFailed, match=r"chunk 7 \(reviews.parquet, row groups 7 to 7\).*3 times on 3 workers"):
        play(chunks(*[1] * 12), strategy, crew())
    master = play(chunks(*[1] * 12), strategy, crew(), poison="set-aside")
    assert sorted(master.receipts) == [i for i in range(12) if i != 7]
    trouble = master.set_aside[7]
    assert (len(set(trouble.failed_on)), trouble.error) == (3, "ValueError: it is poison")
    assert master.counts.failures == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_chunk_that_kills_its_workers_is_told_from_workers_that_die_of_themselves(strategy: Strategy) -> None:
    kills = scoring_crew(3, dies=lambda _, unit, __: any(c.index == 2 for c in unit))
    master = play(chunks(*[1] * 9), strategy, kills, poison="set-aside")
    assert sorted(master.receipts) == [i for i in range(9) if i != 2]
    assert len(master.set_aside[2].died_on) == 3
    assert master.counts.failures == 0
    bad_luck = scoring_crew(3, dies=lambda worker, _, n: worker == 1 and n == 0)
    master = play(chunks(*[1] * 9), strategy, bad_luck)
    assert_each_once(master)
    assert (master.counts.deaths, master.counts.failures, master.set_aside) == (1, 0, {})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_workers_that_keep_dying_are_a_fault_worth_a_retry(strategy: Strategy) -> None:
    with pytest.raises((TransientError, ChunkFailed), match="workers died"):
        play(chunks(*[1] * 9), strategy, scoring_crew(3, dies=lambda *_: True))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_worker_that_says_nothing_is_replaced_after_a_while(strategy: Strategy) -> None:
    crew = scoring_crew(2, silent=[1])
    master = play(chunks(*[1] * 6), strategy, crew, patience_s=100.0)
    assert_each_once(master)
    if strategy != "dynamic":  # which repeats the chunk and does not wait
        assert master.counts.deaths == 1
        assert crew.now() > 100
    else:
        assert crew.now() < 20


@given(
    sizes=st.lists(st.integers(1, 20), max_size=30),
    workers=st.integers(1, 5),
    strategy=st.sampled_from(STRATEGIES),
    slowness=st.dictionaries(st.integers(0, 4), st.integers(1, 9).map(float)),
    deaths=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=3),
    failures=st.sets(st.tuples(st.integers(0, 6), st.integers(0, 29)), max_size=4),
    poison=st.sets(st.integers(0, 29), max_size=2),
)
def test_every_chunk_is_settled_once_whatever_happens(
    sizes: list[int],
    workers: int,
    strategy: Strategy,
    slowness: dict[int, float],
    deaths: set[tuple[int, int]],
    failures: set[tuple[int, int]],
    poison: set[int],
) -> None:
    seen: Counter[tuple[int, int]] = Counter()

    def fails(worker: int, chunk: int) -> bool:
        seen[worker, chunk] += 1
        return chunk in poison or ((worker, chunk) in failures and seen[worker, chunk] == 1)

    crew = scoring_crew(
        workers, slowness=slowness, dies=lambda worker, _, number: (worker, number) in deaths, fails=fails
    )
    of = chunks(*sizes)
    master = play(of, strategy, crew, shard_bytes=25, poison="set-aside", tries=5)
    assert set(master.set_aside) == poison & {c.index for c in of}
    assert set(master.receipts) == {c.index for c in of} - poison
    assert sorted(span.chunk for span in master.spans) == sorted(master.receipts)
    assert all(master.receipts[i] == (i, of[i].rows) for i in master.receipts)
    assert master.counts.deaths <= len(deaths)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 8), st.integers(100, 400))
def test_shards_hold_every_chunk_once_within_their_bound_and_grahams(sizes: list[int], workers: int, most: int) -> None:
    of = chunks(*sizes)
    shards = balanced_shards(of, workers, most)
    assert sorted(c.index for shard in shards for c in shard) == list(range(len(sizes)))
    of_shards = [sum(c.bytes for c in shard) for shard in shards]
    assert max(of_shards) <= most
    assert of_shards == sorted(of_shards, reverse=True)
    if sum(sizes) <= most:  # one shard a worker
        best = max(max(sizes), sum(sizes) / workers)
        assert len(shards) <= workers
        assert max(of_shards) <= 2 * best  # list scheduling's bound; 4/3 holds against the optimum, which is more


def test_longest_processing_time_balances_what_equal_counts_do_not() -> None:
    of = chunks(9, 8, 7, 1, 1, 1)
    shards = balanced_shards(of, 3, 100)
    assert [sum(c.bytes for c in shard) for shard in shards] == [9, 9, 9]
    assert [sum(c.bytes for c in run) for run in equal_runs(of, 3)] == [17, 8, 2]


def test_a_chunk_that_fits_no_shard_opens_another() -> None:
    shards = balanced_shards(chunks(60, 60, 60), 1, 100)
    assert [[c.index for c in shard] for shard in shards] == [[0], [1], [2]]


def test_a_chunk_that_is_larger_than_a_shard_is_named() -> None:
    with pytest.raises(InputError, match=r"chunk 1 .*30 bytes, and a shard may have 25"):
        balanced_shards(chunks(10, 30), 2, 25)
