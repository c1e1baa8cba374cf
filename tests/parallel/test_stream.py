"""Streams in virtual time: arrivals that do not wait, bounded queues, latencies from the arrival, the highest rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import InputError, TransientError
from tasks.parallel import stream
from tasks.parallel.stream import Batch, Limits, Scored
from tasks.parallel.stream_arrivals import Replay, arrival_times
from tasks.parallel.stream_report import ERRORS, OPEN_S, Meter, Report, Sample, highest_rate, is_sustained
from tests.support.virtual_crew import VirtualCrew

ROWS = pa.table({"row": range(7)})


def scored(_: int, batch: Batch) -> Scored:
    rows = pa.ipc.open_stream(batch.rows).read_all()["row"].to_pylist()
    assert rows == [i % 7 for i in range(batch.first, batch.end)]
    return Scored(receipt=len(rows))


def crew(workers: int, per_batch: float, per_record: float, **more: Any) -> VirtualCrew:
    return VirtualCrew(workers, lambda b: per_batch + per_record * (b.end - b.first), **{"answer": scored, **more})


def play(
    rate: float,
    seconds: float,
    with_crew: VirtualCrew,
    *,
    capacity: int = 1 << 30,
    batch: int = 1 << 20,
    on_full: Literal["wait", "drop"] = "drop",
    kind: Literal["even", "poisson"] = "even",
    give_up_s: float | None = None,
    seen: list[tuple[int, int, Any]] | None = None,
) -> Report:
    limits = Limits(capacity, batch, on_full, deadline_s=1.0, give_up_s=give_up_s)
    note = (lambda first, end, receipt: seen.append((first, end, receipt))) if seen is not None else None
    return stream.run(Replay(ROWS, rate, seconds, start=10.0, kind=kind), with_crew, limits, note)


def test_every_record_is_scored_once_at_the_configured_rate() -> None:
    seen: list[tuple[int, int, Any]] = []
    report = play(1000, 5, crew(2, 0.01, 0.0005), batch=64, seen=seen)
    assert [i for first, end, _ in sorted(seen) for i in range(first, end)] == list(range(5000))
    assert all(receipt == end - first <= 64 for first, end, receipt in seen)
    assert (report.arrived, report.scored, report.dropped, report.failed) == (5000, 5000, 0, 0)
    assert report.arrival_rate == pytest.approx(1000)
    assert report.worst_second < 0.01
    assert report.lag_s <= stream.TICK_S + 1e-9
    assert report.goodput == pytest.approx(1000, rel=0.05)


def test_a_stall_shows_in_latencies_from_the_arrival_and_hides_in_those_from_sending() -> None:
    # 10 ms a record and a batch of one; record 100 takes 5 s, in which 250 more are due.
    slow = VirtualCrew(1, lambda batch: 5.0 if batch.first == 100 else 0.01, scored)
    report = play(50, 20, slow, batch=1)
    assert report.scored == 1000
    assert report.after_sending["p99"] < 0.05  # coordinated omission: one bad record of a thousand
    assert report.latency["p99"] > 4.5
    assert report.goodput < 50 * (1 - 200 / 1000)


def test_a_queue_of_poisson_arrivals_waits_as_long_as_theory_says() -> None:
    # M/D/1: the mean time is s + s rho / (2 (1 - rho)) (Pollaczek and Khinchine).
    rho, service = 0.6, 1.0
    latencies: list[float] = []
    source = Replay(ROWS, rho / service, 6000, start=0.0, kind="poisson", seed=3)
    ends: dict[int, float] = {}
    with_crew = crew(1, service, 0.0)
    stream.run(
        source, with_crew, Limits(10_000, 1, "drop", 1.0), lambda first, _, __: ends.update({first: with_crew.now()})
    )
    latencies = [end - float(source.times(first, first + 1)[0]) for first, end in ends.items()]
    assert np.mean(latencies) == pytest.approx(service + service * rho / (2 * (1 - rho)), rel=0.1)


def test_a_full_queue_drops_and_counts_or_makes_the_arrivals_wait() -> None:
    overloaded = {"rate": 100.0, "seconds": 10.0, "capacity": 50, "batch": 10}
    dropping = play(with_crew=crew(1, 0.0, 0.02), on_full="drop", **overloaded)  # type: ignore[arg-type]
    assert dropping.arrived == 1000
    assert dropping.dropped == pytest.approx(500 - 50 - 20, abs=15)
    assert dropping.scored == 1000 - dropping.dropped
    assert dropping.latency["max"] < 1.6  # what waits in the queue and at the worker
    assert dropping.arrival_rate == pytest.approx(100, rel=0.01)
    waiting = play(with_crew=crew(1, 0.0, 0.02), on_full="wait", **overloaded)  # type: ignore[arg-type]
    assert (waiting.arrived, waiting.scored, waiting.dropped) == (1000, 1000, 0)
    assert waiting.latency["max"] == pytest.approx(10, rel=0.05)
    assert max(dropping.most_waiting, waiting.most_waiting) <= 50


def test_a_stream_that_falls_behind_is_given_up_when_asked_to() -> None:
    report = play(100, 1000, crew(1, 0.0, 0.02), batch=10, give_up_s=2.0)
    assert report.gave_up
    assert report.seconds < 10
    assert not is_sustained(report, 1.0)


def test_a_batch_that_fails_is_told_and_the_stream_goes_on() -> None:
    def answer(worker: int, batch: Batch) -> Scored:
        return Scored(error="ValueError: no stars") if batch.first <= 5 < batch.end else scored(worker, batch)

    report = play(10, 3, crew(1, 0.01, 0.0, answer=answer), batch=1)
    assert (report.scored, report.failed) == (29, 1)
    assert report.errors == ["records 5 to 5: ValueError: no stars"]


def test_the_batch_of_a_worker_that_died_is_scored_by_another() -> None:
    seen: list[tuple[int, int, Any]] = []
    died = crew(2, 0.05, 0.001, dies=lambda worker, _, number: worker == 0 and number == 3)
    report = play(200, 5, died, batch=16, seen=seen)
    assert report.deaths == 1
    assert sorted(i for first, end, _ in seen for i in range(first, end)) == list(range(1000))
    with pytest.raises(TransientError, match="4 workers died"):
        play(200, 60, crew(2, 0.05, 0.001, dies=lambda *_: True), batch=16)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_death_at_a_full_queue_drops_no_record_twice(workers: int) -> None:
    died = crew(workers, 0.0, 0.02 * workers, dies=lambda worker, _, number: worker == 0 and number == 19)
    report = play(100, 10, died, capacity=50, batch=10)
    assert report.deaths == 1
    assert report.arrived == 1000 == report.scored + report.dropped


class Noting(Replay):
    """A source that notes what it is told."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.told: list[int] = []

    def done(self, end: int) -> None:
        self.told.append(end)


def test_a_source_hears_of_records_only_when_all_before_them_are_done() -> None:
    source = Noting(ROWS, 100, 3, 0.0)
    open_now: set[int] = set(range(300))

    def note(first: int, end: int, _: Any) -> None:
        open_now.difference_update(range(first, end))
        assert max(source.told, default=0) <= min(open_now, default=300)

    slow_first = crew(2, 0.1, 0.0, slowness={0: 7.0})
    stream.run(source, slow_first, Limits(1000, 16, "wait", 1.0), note)
    assert source.told == sorted(source.told)
    assert source.told[-1] == 300


@given(st.floats(1.0, 1000.0), st.floats(0.01, 0.2))
def test_bisection_finds_the_highest_rate_that_is_borne(limit: float, within: float) -> None:
    rate, trials = highest_rate(lambda rate: rate <= limit, 1.0, 2000.0, within=within)
    assert rate <= limit <= rate * (1 + within) * 1.0001
    assert len(trials) <= 40
    assert highest_rate(lambda rate: rate <= limit, 0.5, limit)[0] == limit


def test_the_highest_rate_of_a_known_service_is_its_capacity() -> None:
    # Batches of at most 100 in 0.2 + 0.008 * 100 s: 100 a second.
    reports: list[Report] = []

    def is_borne(rate: float) -> bool:
        reports.append(play(rate, 40, crew(1, 0.2, 0.008), batch=100, give_up_s=8.0))
        return is_sustained(reports[-1], 4.0)

    rate, _ = highest_rate(is_borne, 20, 400)
    assert rate == pytest.approx(100, rel=0.12)


def test_a_rate_that_is_never_borne_is_an_error() -> None:
    with pytest.raises(InputError, match="not even 10 a second"):
        highest_rate(lambda _: False, 10, 20)


@pytest.mark.parametrize("kind", ["even", "poisson"])
def test_arrival_times_keep_the_rate_and_ascend(kind: Literal["even", "poisson"]) -> None:
    times = arrival_times(2000, 30, kind)
    assert len(times) == pytest.approx(60_000, rel=0.0 if kind == "even" else 0.02)
    assert (np.diff(times) >= 0).all()
    assert 0 <= times[0] <= times[-1] < 30
    assert np.array_equal(times, arrival_times(2000, 30, kind))
    for rate, seconds in ((0.0, 1.0), (1.0, 0.0)):
        with pytest.raises(InputError, match="a rate of"):
            arrival_times(rate, seconds)


def rows_seen(batches: Sequence[pa.Table]) -> list[int]:
    return [row for batch in batches for row in batch["row"].to_pylist()]


def test_replayed_rows_begin_again_after_the_last() -> None:
    source = Replay(ROWS, 10, 5, 0.0)
    assert rows_seen([source.take(5, 16)]) == [5, 6, 0, 1, 2, 3, 4, 5, 6, 0, 1]
    with pytest.raises(InputError, match="no rows to replay"):
        Replay(ROWS.slice(0, 0), 10, 5, 0.0)


def test_a_stream_without_end_keeps_a_bounded_sample() -> None:
    meter, rng = Meter(1.0, 0.0), np.random.default_rng(1)
    sample = Sample(1000)
    meter._latency = sample
    every = rng.exponential(1.0, (3 * OPEN_S, 200))
    for second, latencies in enumerate(every):
        due = second + np.linspace(0, 0.99, 200)
        meter.arrive(second + 1.0 if second == 5 else second + 0.995, due)
        sample.add(latencies)
        meter.errors.append(str(second))
    report = meter.report(4.0 * OPEN_S, gave_up=False)
    assert len(sample._kept) == 1000
    assert report.latency["max"] == every.max()
    assert report.latency["p50"] == pytest.approx(np.log(2), rel=0.15)
    assert report.worst_second == 1.0  # second 5 was noticed in second 6
    assert max(len(meter._due), len(meter._noticed)) <= OPEN_S + 3
    assert report.errors == [str(second) for second in range(3 * OPEN_S - ERRORS, 3 * OPEN_S)]


@given(st.lists(st.integers(0, 5), max_size=8), st.integers(1, 8))
def test_a_sample_that_need_not_choose_is_all(sizes: list[int], first: int) -> None:
    sample, values = Sample(50), np.arange(float(first + sum(sizes)))
    for piece in np.split(values, np.cumsum([first, *sizes]))[:-1]:
        sample.add(piece)
    assert sorted(sample._kept[: sample._seen]) == values.tolist()
    assert sample.percentiles()["max"] == values[-1]
